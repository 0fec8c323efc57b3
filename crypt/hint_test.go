package crypt_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/varvebackup/varve/crypt"
)

// Every role opens a section of hints, of its own repository alone, and as nothing else.
func TestHintSections(t *testing.T) {
	owner, other := try(crypt.NewKeys()), try(crypt.NewKeys())
	nonce := make([]byte, 12)
	for _, by := range []crypt.Role{crypt.Writer, crypt.Maintainer, crypt.Owner} {
		aead, enc, c, err := try(owner.Restrict(by)).NewSection(crypt.SectionHint)
		if err != nil || len(enc) != 1120 {
			t.Fatal(len(enc), err)
		}
		frame := c.Seal(nil, nonce, []byte("frame"), nil)
		for _, r := range []crypt.Role{crypt.Writer, crypt.Maintainer, crypt.Owner} {
			k := try(owner.Restrict(r))
			c, err := k.OpenSection(crypt.SectionHint, aead, enc)
			if err != nil {
				t.Fatalf("a %v of a %v's: %v", r, by, err)
			}
			if p, err := c.Open(nil, nonce, frame, nil); err != nil || string(p) != "frame" {
				t.Errorf("a %v reads %q, %v", r, p, err)
			}
			if k.HintKey("shop") != owner.HintKey("shop") || k.Namer().Hint([]byte("x")) != owner.Namer().Hint([]byte("x")) {
				t.Errorf("a %v names otherwise", r)
			}
		}
		bad := func(what string, k *crypt.Keys, kind, aead uint8, enc []byte) {
			t.Helper()
			if _, err := k.OpenSection(kind, aead, enc); !errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("%s: %v", what, err)
			}
		}
		bad("another repository", other, crypt.SectionHint, aead, enc)
		bad("the other cipher", owner, crypt.SectionHint, 3-aead, enc)
		bad("an unknown cipher", owner, crypt.SectionHint, 3, enc)
		bad("an unknown kind", owner, 4, aead, enc)
		bad("short", owner, crypt.SectionHint, aead, enc[:1119])
		for i := range enc {
			flip := bytes.Clone(enc)
			flip[i] ^= 1
			bad("a changed byte", owner, crypt.SectionHint, aead, flip)
		}
	}
	k := owner.Namer()
	if id := k.Hint([]byte("x")); id == k.Tree([]byte("x")) || id == k.Content([]byte("x")) {
		t.Error("a hint has the id of something else")
	}
	if owner.HintKey("shop") == owner.HintKey("mail") || owner.HintKey("shop") == other.HintKey("shop") {
		t.Error("two series have one key")
	}
}
