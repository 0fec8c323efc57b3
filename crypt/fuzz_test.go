package crypt_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/varvebackup/varve/crypt"
)

// What is read as a slot is written as the same bytes; no slot but the golden ones opens.
func FuzzParseSlot(f *testing.F) {
	golden := map[string]bool{}
	for label, e := range readGolden(f) {
		if strings.HasPrefix(label, "slot-") {
			golden[e.name+string(e.bytes)] = true
			f.Add(e.name, e.bytes[:len(e.bytes)-32])
		}
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		object := crypt.AppendHash(bytes.Clone(b)) // so that the fuzzer gets past the hash
		s, err := crypt.ParseSlot(name, object)
		if err != nil {
			refused(t, "slot", err)
			return
		}
		if s.Name() != name || !bytes.Equal(s.Encode(), object) {
			t.Errorf("%x\nencodes to\n%x", object, s.Encode())
		}
		var u crypt.Unlocker = posing{goldenKey(), s.Kind}
		k, err := s.Unlock(ctx, u)
		if err == nil && (k.Role() != s.Role || !golden[name+string(object)]) {
			t.Errorf("unlocked %v", k)
		} else if err != nil {
			refused(t, "unlock", err)
		}
	})
}

// No bytes but the golden ones open, and those say what they said.
func FuzzOpenObject(f *testing.F) {
	golden := map[string]bool{}
	for label, e := range readGolden(f) {
		if strings.HasPrefix(label, "object-") {
			golden[string(e.bytes)] = true
			f.Add(e.name, e.bytes)
		}
	}
	k := goldenOwner(f)
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		n := max(0, len(b)-32)
		for _, c := range []struct {
			name   string
			object []byte
		}{{name, b}, {name, crypt.AppendHash(bytes.Clone(b[:n]))}, {"index/" + hash(b), b}} {
			kind, payload, err := k.Open(c.name, c.object, kinds...)
			if err != nil {
				refused(t, "object", err)
			} else if !golden[string(c.object)] || string(payload) != kind.String() {
				t.Errorf("%s: %v %q", c.name, kind, payload)
			}
		}
	})
}

// Rows decode and encode to the same bytes, and so do the keys made of them.
func FuzzRow(f *testing.F) {
	owner := goldenOwner(f)
	for _, r := range roles {
		f.Add(crypt.RowOf(try(owner.Restrict(r))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := crypt.RecodeRow(b)
		if err != nil {
			refused(t, "row", err)
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x\nencodes to\n%x", b, again)
		}
		if k, err := crypt.RowKeys(b); err == nil && !bytes.Equal(crypt.RowOf(k), b) {
			t.Errorf("%x\nis the row of keys with the row\n%x", b, crypt.RowOf(k))
		}
	})
}

// What is read as a key is one way to write that key.
func FuzzParseKey(f *testing.F) {
	f.Add(goldenKey().Text())
	f.Add(strings.ToUpper(goldenKey().Text()))
	f.Add("varve-key-aaaa")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := crypt.ParseKey(text)
		if err != nil {
			return
		}
		plain := func(s string) string {
			return strings.ReplaceAll(strings.Join(strings.Fields(strings.ToLower(s)), ""), "-", "")
		}
		if plain(k.Text()) != plain(text) {
			t.Errorf("%q is %q", text, k.Text())
		}
	})
}
