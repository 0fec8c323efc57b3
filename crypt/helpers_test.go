package crypt_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/varvebackup/varve/crypt"
	"golang.org/x/crypto/chacha20poly1305"
)

var (
	ctx   = context.Background()
	roles = []crypt.Role{crypt.Writer, crypt.Maintainer, crypt.Owner}
	kinds = []crypt.Kind{crypt.KindConfig, crypt.KindSegment, crypt.KindRewritten, crypt.KindSnapshot, crypt.KindVoid,
		crypt.KindCandidates, crypt.KindVerdict, crypt.KindDone, crypt.KindForgotten}
)

func try[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nameOf returns the name under which object, of that kind, is put, and the name to seal it with.
func nameOf(kind crypt.Kind, object []byte) (name, sealAs string) {
	switch kind {
	case crypt.KindSegment, crypt.KindRewritten:
		return "index/" + hash(object), ""
	}
	const session = "20261120T031500123Z-00112233445566aa-8899aabbccddeeff"
	name = map[crypt.Kind]string{
		crypt.KindConfig:     "config/1",
		crypt.KindSnapshot:   "snapshots/8899aabbccddeeff/" + session,
		crypt.KindVoid:       "snapshots/8899aabbccddeeff/" + session,
		crypt.KindCandidates: "gc/1",
		crypt.KindVerdict:    "gc/1.free",
		crypt.KindDone:       "gc/1.done",
		crypt.KindForgotten:  "forgotten/" + session,
	}[kind]
	return name, name
}

// seal returns an object of that kind and its name.
func seal(t testing.TB, k *crypt.Keys, kind crypt.Kind, payload []byte) (name string, object []byte) {
	t.Helper()
	_, as := nameOf(kind, nil)
	object, err := k.Seal(kind, as, payload)
	if err != nil {
		t.Fatal(err)
	}
	name, _ = nameOf(kind, object)
	return name, object
}

// hash returns the hex BLAKE3-256 of b.
func hash(b []byte) string { return hex.EncodeToString(crypt.AppendHash(b[:len(b):len(b)])[len(b):]) }

// rehash gives a changed object the hash, and the name, that fit it: what anyone can do who has no key.
func rehash(kind crypt.Kind, object []byte) (name string, again []byte) {
	if kind == crypt.KindSegment || kind == crypt.KindRewritten {
		name, _ = nameOf(kind, object)
		return name, object
	}
	name, _ = nameOf(kind, nil)
	n := max(0, len(object)-32)
	return name, crypt.AppendHash(object[:n:n])
}

// unlocked returns the keys of a role as they come out of a slot, made by an owner.
func unlocked(t testing.TB, owner *crypt.Keys, r crypt.Role) *crypt.Keys {
	t.Helper()
	restricted, err := owner.Restrict(r)
	if err != nil {
		t.Fatal(err)
	}
	key := try(crypt.NewKey())
	made, object, err := restricted.NewSlot(ctx, key, "test")
	if err != nil {
		t.Fatal(err)
	}
	slot, err := crypt.ParseSlot(made.Name(), object)
	if err != nil {
		t.Fatal(err)
	}
	k, err := slot.Unlock(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// custom is an Unlocker without a kind of its own. It is handed to the code as a key service would be, and binds aad
// only if asked to.
type custom struct {
	key  crypt.RawKey
	lax  bool
	row  []byte // the last one wrapped
	fail error
}

func (c *custom) Wrap(ctx context.Context, row, aad []byte) ([]byte, error) {
	c.row = append([]byte(nil), row...)
	if c.lax {
		aad = nil
	}
	return c.key.Wrap(ctx, row, aad)
}

func (c *custom) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if c.fail != nil {
		return nil, c.fail
	}
	if c.lax {
		aad = nil
	}
	return c.key.Unwrap(ctx, wrapped, aad)
}

// testRow returns the encoded row of a role in a new repository.
func testRow(t testing.TB, r crypt.Role) []byte {
	t.Helper()
	return crypt.RowOf(try(try(crypt.NewKeys()).Restrict(r)))
}

func rowMap(t testing.TB, row []byte) map[int]any {
	t.Helper()
	var m map[int]any
	if err := cbor.Unmarshal(row, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := mode.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func frameCipher(t testing.TB, aead uint8, key []byte) cipher.AEAD {
	t.Helper()
	if aead == 1 {
		return try(chacha20poly1305.New(key))
	}
	return try(cipher.NewGCM(try(aes.NewCipher(key))))
}

// refused fails the test unless err is one of the errors for bad bytes.
func refused(t testing.TB, what string, err error) {
	t.Helper()
	var future *crypt.VersionError
	if !errors.Is(err, crypt.ErrDamaged) && !errors.Is(err, crypt.ErrWrongKey) && !errors.As(err, &future) {
		t.Errorf("%s: error %v", what, err)
	}
}
