package crypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Unlocker wraps the secret of a slot and unwraps it again: a [Passphrase], a [RawKey], or a caller's own, such as a
// key management service. It must bind aad, so that a secret doesn't unwrap with another; neither row nor aad may
// be kept, and both results belong to the caller.
//
// An Unlocker may have a method Kind() string that names its slots' kind; without it, the kind is "custom". Only
// slots of its kind are tried.
type Unlocker interface {
	Wrap(ctx context.Context, row, aad []byte) ([]byte, error)
	// Unwrap returns ErrWrongKey, wrapped or not, if wrapped does not open.
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}

func kindOf(u Unlocker) string {
	if k, ok := u.(interface{ Kind() string }); ok {
		return k.Kind()
	}
	return "custom"
}

// Slot is one way to the keys: the public part of an object under keys/. Its fields are for reading.
type Slot struct {
	ID         string // 32 hex digits
	Role       Role   // of the keys in it
	Kind       string // of the Unlocker: passphrase, key, or the caller's
	Label      string // for people
	Created    time.Time
	Repository [16]byte

	content slotContent
}

// slotContent is the CBOR map of a slot object (FORMAT section 3).
type slotContent struct {
	Repository []byte    `cbor:"1,keyasint"`
	Role       Role      `cbor:"2,keyasint"`
	Kind       string    `cbor:"3,keyasint"`
	Label      string    `cbor:"4,keyasint"`
	Created    timestamp `cbor:"5,keyasint"`
	Epoch      uint32    `cbor:"6,keyasint"`
	Wrapped    []byte    `cbor:"7,keyasint,omitempty"`
}

type timestamp struct {
	_    struct{} `cbor:",toarray"`
	Sec  int64
	Nsec uint32
}

const (
	slotMagic   = "VRVS"
	maxSlotSize = 64 << 10

	minSeconds = -62135596800 // 0001-01-01T00:00:00Z
	maxSeconds = 253402300799 // 9999-12-31T23:59:59Z
)

// NewSlot makes a slot that opens exactly these keys; for a lesser role, [Keys.Restrict] them first. It returns the
// slot and the object to put under [Slot.Name]. The label is for people, and as public as the slot.
func (k *Keys) NewSlot(ctx context.Context, u Unlocker, label string) (*Slot, []byte, error) {
	kind := kindOf(u)
	if kind == "" || !utf8.ValidString(kind) || !utf8.ValidString(label) {
		return nil, nil, errors.New("crypt: new slot: kind and label must be UTF-8, and kind not empty")
	}
	var random [16]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	content := slotContent{
		Repository: k.repository[:],
		Role:       k.role,
		Kind:       kind,
		Label:      label,
		Created:    timestamp{Sec: time.Now().Unix()},
		Epoch:      epoch,
	}
	w, err := k.row(k.role)
	if err != nil {
		return nil, nil, err
	}
	if content.Wrapped, err = u.Wrap(ctx, encode(w), content.aad(id)); err != nil {
		return nil, nil, fmt.Errorf("crypt: new slot: %w", err)
	}
	object := append([]byte(slotMagic), version)
	object = AppendHash(append(object, encode(content)...))
	// What ParseSlot would refuse must not be written.
	s, err := ParseSlot("keys/"+id, object)
	if err != nil {
		return nil, nil, fmt.Errorf("crypt: new slot: %w", err)
	}
	return s, object, nil
}

// ParseSlot reads a slot, found under that name, without unlocking it: until then, what it says is only what the store
// says. It returns ErrDamaged or a *VersionError. It doesn't keep object.
func ParseSlot(name string, object []byte) (*Slot, error) {
	id, ok := strings.CutPrefix(name, "keys/")
	if raw, err := hex.DecodeString(id); !ok || err != nil || len(raw) != 16 || hex.EncodeToString(raw) != id {
		return nil, damaged(name, "no name of a slot")
	}
	if len(object) > maxSlotSize {
		return nil, damaged(name, "too large for a slot")
	}
	if err := Verify(name, object); err != nil {
		return nil, err
	}
	b := object[:len(object)-hashSize]
	if len(b) <= len(slotMagic) || string(b[:len(slotMagic)]) != slotMagic {
		return nil, damaged(name, "not a slot")
	}
	if v := b[len(slotMagic)]; v > version {
		return nil, &VersionError{Object: name, Version: int(v)}
	} else if v != version {
		return nil, damaged(name, "no version")
	}
	var c slotContent
	if err := decode(b[len(slotMagic)+1:], &c); err != nil {
		return nil, damaged(name, "malformed slot: "+err.Error())
	}
	switch {
	case len(c.Repository) != 16:
		return nil, damaged(name, "malformed repository id")
	case !c.Role.valid():
		return nil, damaged(name, "no role")
	case c.Kind == "":
		return nil, damaged(name, "no kind")
	case c.Created.Sec < minSeconds || c.Created.Sec > maxSeconds || c.Created.Nsec >= 1e9:
		return nil, damaged(name, "malformed time")
	case c.Epoch != epoch:
		return nil, &VersionError{Object: name, Version: version, Epoch: c.Epoch}
	case len(c.Wrapped) == 0:
		return nil, damaged(name, "no keys in it")
	}
	return &Slot{
		ID:         id,
		Role:       c.Role,
		Kind:       c.Kind,
		Label:      c.Label,
		Created:    time.Unix(c.Created.Sec, int64(c.Created.Nsec)).UTC(),
		Repository: [16]byte(c.Repository),
		content:    c,
	}, nil
}

// aad returns what binds a wrapped row to its slot: the slot's id and its map without the row.
func (c slotContent) aad(id string) []byte {
	c.Wrapped = nil
	return append(append([]byte("varve v1 slot\x00"), id...), encode(c)...)
}

// Name returns the name of the slot's object.
func (s *Slot) Name() string { return "keys/" + s.ID }

// Unlock returns the keys in the slot. It returns ErrWrongKey if u does not open it or is for slots of another kind,
// ErrDamaged or a *VersionError for what is in it, and else whatever u returned.
func (s *Slot) Unlock(ctx context.Context, u Unlocker) (*Keys, error) {
	name, c := s.Name(), s.content
	if c.Wrapped == nil {
		panic("crypt: Unlock: not a slot from ParseSlot or NewSlot")
	}
	if kind := kindOf(u); kind != c.Kind {
		return nil, fmt.Errorf("crypt: %s: opens with a %s, not a %s: %w", name, c.Kind, kind, ErrWrongKey)
	}
	b, err := u.Unwrap(ctx, bytes.Clone(c.Wrapped), c.aad(s.ID))
	if err != nil {
		return nil, fmt.Errorf("crypt: %s: %w", name, err)
	}
	r, err := parseRow(name, b)
	if err != nil {
		return nil, err
	}
	if r.Role != c.Role || !bytes.Equal(r.Repository, c.Repository) {
		return nil, damaged(name, "holds keys of another role or repository than it says")
	}
	k, err := r.keys()
	if err != nil {
		return nil, damaged(name, err.Error())
	}
	return k, nil
}
