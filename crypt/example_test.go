package crypt_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvebackup/varve/crypt"
)

// A new repository, a slot to its keys, and an object sealed and opened.
func Example() {
	ctx := context.Background()
	owner, err := crypt.NewKeys()
	if err != nil {
		panic(err)
	}
	recovery, err := crypt.NewKey() // recovery.Text() goes on paper
	if err != nil {
		panic(err)
	}
	made, object, err := owner.NewSlot(ctx, recovery, "recovery key")
	if err != nil {
		panic(err)
	}
	// object is put under made.Name(). Later:
	slot, err := crypt.ParseSlot(made.Name(), object)
	if err != nil {
		panic(err)
	}
	keys, err := slot.Unlock(ctx, recovery)
	if err != nil {
		panic(err)
	}
	fmt.Println(slot.Label, "of an", keys.Role())

	sealed, err := keys.Seal(crypt.KindConfig, "config/1", []byte("parameters"))
	if err != nil {
		panic(err)
	}
	kind, payload, err := keys.Open("config/1", sealed, crypt.KindConfig)
	fmt.Println(kind, string(payload), err)

	sealed[50] ^= 1
	_, _, err = keys.Open("config/1", sealed, crypt.KindConfig)
	fmt.Println(err)
	// Output:
	// recovery key of an owner
	// config parameters <nil>
	// crypt: config/1: does not match its hash: damaged
}

// A writer seals what it can't open.
func ExampleKeys_Restrict() {
	owner, err := crypt.NewKeys()
	if err != nil {
		panic(err)
	}
	writer, err := owner.Restrict(crypt.Writer)
	if err != nil {
		panic(err)
	}
	aead, enc, frames, err := writer.NewSection(crypt.SectionContent)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, frames.NonceSize())
	frame := frames.Seal(nil, nonce, []byte("a chunk"), nil)

	_, err = writer.OpenSection(crypt.SectionContent, aead, enc)
	fmt.Println(err, errors.Is(err, crypt.ErrRole))

	frames, err = owner.OpenSection(crypt.SectionContent, aead, enc)
	if err != nil {
		panic(err)
	}
	chunk, err := frames.Open(nil, nonce, frame, nil)
	fmt.Println(string(chunk), err)
	// Output:
	// crypt: a writer opens no section of kind 1: not allowed for this key's role true
	// a chunk <nil>
}

func ExamplePassphrase() {
	ctx := context.Background()
	owner, err := crypt.NewKeys()
	if err != nil {
		panic(err)
	}
	slot, _, err := owner.NewSlot(ctx, crypt.Passphrase("correct horse battery staple"), "alice")
	if err != nil {
		panic(err)
	}
	_, err = slot.Unlock(ctx, crypt.Passphrase("correct horse"))
	fmt.Println(slot.Kind, slot.Role, errors.Is(err, crypt.ErrWrongKey))
	// Output: passphrase owner true
}

func ExampleParseKey() {
	key, err := crypt.ParseKey("VARVE-KEY- aaaqeayeau daocajbifq ydiob4ibce qtcqkrmfyy denbwha5dy pzjetlqi")
	fmt.Println(key, err) // a key is never printed but by Text
	fmt.Println(key.Text())

	_, err = crypt.ParseKey("varve-key-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypzjetlqa")
	fmt.Println(err)
	// Output:
	// crypt.RawKey(redacted) <nil>
	// varve-key-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypzjetlqi
	// crypt: not a key: its checksum does not match, so there is a typing error in it
}

// Anyone can tell a good copy from a damaged one.
func ExampleVerify() {
	marker := crypt.AppendHash([]byte("began"))
	fmt.Println(crypt.Verify("sessions/s", marker))
	marker[0]++
	fmt.Println(crypt.Verify("sessions/s", marker))
	// Output:
	// <nil>
	// crypt: sessions/s: does not match its hash: damaged
}
