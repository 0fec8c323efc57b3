package crypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"github.com/zeebo/blake3"
)

// RawKey is an Unlocker, of kind "key", made of 32 random bytes: for programs, and as a recovery key on paper. It is
// printed by [RawKey.Text] alone.
type RawKey [32]byte

const (
	rawKeyPrefix   = "varve-key-"
	rawKeyDigits   = 58
	rawKeyChecksum = 4
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKey returns a random key.
func NewKey() (RawKey, error) {
	var k RawKey
	_, err := rand.Read(k[:])
	return k, err
}

// Text returns the key as text: "varve-key-" and 58 letters and digits, the last few of which are a checksum.
func (k RawKey) Text() string {
	return rawKeyPrefix + base32Lower.EncodeToString(append(k[:], k.checksum()...))
}

func (k RawKey) checksum() []byte {
	h := blake3.Sum256(append([]byte("varve v1 raw key"), k[:]...))
	return h[:rawKeyChecksum]
}

// ParseKey is the inverse of [RawKey.Text]. It ignores case, white space, and hyphens after the prefix. An error says
// what is wrong with the text, without repeating it.
func ParseKey(text string) (RawKey, error) {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return -1
		case 'A' <= r && r <= 'Z': // not unicode.ToLower, which makes a k of the Kelvin sign
			return r - 'A' + 'a'
		}
		return r
	}, text)
	digits, ok := strings.CutPrefix(text, rawKeyPrefix)
	if !ok {
		return RawKey{}, errors.New("crypt: not a key: it does not begin with " + rawKeyPrefix)
	}
	digits = strings.ReplaceAll(digits, "-", "")
	if len(digits) != rawKeyDigits {
		return RawKey{}, fmt.Errorf("crypt: not a key: %d letters and digits after %s, not %d", len(digits), rawKeyPrefix, rawKeyDigits)
	}
	b, err := base32Lower.DecodeString(digits)
	if err != nil {
		return RawKey{}, errors.New("crypt: not a key: only the letters a to z and the digits 2 to 7 occur in one")
	}
	k := RawKey(b[:32])
	// The decoder ignores the last digit's two unused bits, so the text is compared, too.
	if !bytes.Equal(b[32:], k.checksum()) || k.Text() != rawKeyPrefix+digits {
		return RawKey{}, errors.New("crypt: not a key: its checksum does not match, so there is a typing error in it")
	}
	return k, nil
}

// wrappedByRawKey is the CBOR array of FORMAT section 3.
type wrappedByRawKey struct {
	_             struct{} `cbor:",toarray"`
	Nonce, Sealed []byte
}

// Kind returns "key".
func (k RawKey) Kind() string { return "key" }

// Wrap implements [Unlocker]. A key of zeros, which nobody has made, is an error.
func (k RawKey) Wrap(_ context.Context, row, aad []byte) ([]byte, error) {
	if k == (RawKey{}) {
		return nil, errors.New("crypt: the key is all zeros")
	}
	var w wrappedByRawKey
	w.Nonce, w.Sealed = sealRow(k.slotKey(), row, aad)
	return encode(w), nil
}

// Unwrap implements [Unlocker].
func (k RawKey) Unwrap(_ context.Context, wrapped, aad []byte) ([]byte, error) {
	var w wrappedByRawKey
	if err := decode(wrapped, &w); err != nil {
		return nil, fmt.Errorf("malformed key slot: %w", ErrDamaged)
	}
	return openRow(k.slotKey(), w.Nonce, w.Sealed, aad)
}

func (k RawKey) slotKey() []byte {
	key := derive("varve v1 2026 raw key slot", k[:])
	return key[:]
}

// Format keeps the key out of whatever is printed.
func (k RawKey) Format(s fmt.State, _ rune) { io.WriteString(s, "crypt.RawKey(redacted)") }

// LogValue keeps the key out of structured logs.
func (k RawKey) LogValue() slog.Value { return slog.StringValue("crypt.RawKey(redacted)") }
