package crypt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// What Argon2id costs: as written, and the bounds within which a reader believes a slot. Memory is in KiB.
const (
	argonPasses, argonMinPasses, argonMaxPasses = 3, 1, 16
	argonMemory, argonMinMemory, argonMaxMemory = 64 << 10, 8 << 10, 1 << 20
	argonLanes, argonMinLanes, argonMaxLanes    = 4, 1, 16
)

// Passphrase returns an Unlocker, of kind "passphrase", that stretches p with Argon2id: 64 MiB and 3 passes for each
// Wrap and Unwrap, during which a context isn't looked at. The bytes of p count as they are, without normalization.
// An empty passphrase is an error when used.
func Passphrase(p string) Unlocker { return &passphrase{p} }

type passphrase struct{ text string }

// wrappedByPassphrase is the CBOR array of FORMAT section 3.
type wrappedByPassphrase struct {
	_                     struct{} `cbor:",toarray"`
	Passes, Memory, Lanes uint64
	Salt, Nonce, Sealed   []byte
}

var errNoPassphrase = errors.New("crypt: empty passphrase")

func (p *passphrase) Kind() string { return "passphrase" }

func (p *passphrase) Wrap(ctx context.Context, row, aad []byte) ([]byte, error) {
	if p.text == "" {
		return nil, errNoPassphrase
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := wrappedByPassphrase{Passes: argonPasses, Memory: argonMemory, Lanes: argonLanes, Salt: make([]byte, 16)}
	rand.Read(w.Salt)
	w.Nonce, w.Sealed = sealRow(p.key(&w), row, aad)
	return encode(w), nil
}

func (p *passphrase) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if p.text == "" {
		return nil, errNoPassphrase
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var w wrappedByPassphrase
	if err := decode(wrapped, &w); err != nil || len(w.Salt) != 16 {
		return nil, fmt.Errorf("malformed passphrase slot: %w", ErrDamaged)
	}
	if w.Passes < argonMinPasses || w.Passes > argonMaxPasses ||
		w.Memory < argonMinMemory || w.Memory > argonMaxMemory ||
		w.Lanes < argonMinLanes || w.Lanes > argonMaxLanes {
		return nil, fmt.Errorf("Argon2id with %d passes, %d KiB and %d lanes is out of bounds: %w", w.Passes, w.Memory, w.Lanes, ErrDamaged)
	}
	return openRow(p.key(&w), w.Nonce, w.Sealed, aad)
}

func (p *passphrase) key(w *wrappedByPassphrase) []byte {
	return argon2.IDKey([]byte(p.text), w.Salt, uint32(w.Passes), uint32(w.Memory), uint8(w.Lanes), 32)
}

// Format keeps the passphrase out of logs.
func (p *passphrase) Format(s fmt.State, _ rune) { io.WriteString(s, "crypt.Passphrase(redacted)") }

// sealRow and openRow are the XChaCha20-Poly1305 under a passphrase's or a raw key's slot key (32 bytes).
func sealRow(key, row, aad []byte) (nonce, sealed []byte) {
	nonce = make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return nonce, must(chacha20poly1305.NewX(key)).Seal(nil, nonce, row, aad)
}

func openRow(key, nonce, sealed, aad []byte) ([]byte, error) {
	if len(nonce) != chacha20poly1305.NonceSizeX || len(sealed) < chacha20poly1305.Overhead {
		return nil, fmt.Errorf("malformed slot: %w", ErrDamaged)
	}
	row, err := must(chacha20poly1305.NewX(key)).Open(nil, nonce, sealed, aad)
	if err != nil {
		return nil, ErrWrongKey
	}
	return row, nil
}
