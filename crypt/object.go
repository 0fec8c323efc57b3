package crypt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// Kind is what a sealed object is.
type Kind uint8

const (
	KindConfig     Kind = 1
	KindSegment    Kind = 2 // as a session writes it
	KindRewritten  Kind = 3 // as maintenance rewrites it
	KindSnapshot   Kind = 4
	KindVoid       Kind = 5 // in the place of a snapshot
	KindCandidates Kind = 6
	KindVerdict    Kind = 7
	KindDone       Kind = 8
	KindForgotten  Kind = 9
)

var kindNames = [...]string{
	KindConfig: "config", KindSegment: "segment", KindRewritten: "rewritten segment", KindSnapshot: "snapshot",
	KindVoid: "void", KindCandidates: "gc candidates", KindVerdict: "gc verdict", KindDone: "gc done", KindForgotten: "forgotten",
}

// String returns the kind's name.
func (kind Kind) String() string {
	if kind.valid() {
		return kindNames[kind]
	}
	return fmt.Sprintf("kind(%d)", uint8(kind))
}

// Signed reports whether objects of this kind count only with a signature of maintenance.
func (kind Kind) Signed() bool {
	return kind.valid() && kind != KindSegment && kind != KindSnapshot
}

func (kind Kind) valid() bool { return KindConfig <= kind && kind <= KindForgotten }

// segment reports whether objects of this kind are named by their hash, under index/.
func (kind Kind) segment() bool { return kind == KindSegment || kind == KindRewritten }

// The header of a sealed object: magic, version, kind, zero, required and optional features, key epoch.
const (
	magic        = "VRVE"
	headerSize   = 20
	payloadStart = headerSize + chacha20poly1305.NonceSizeX
	hashSize     = 32
)

// Seal makes the object of that kind and name from its payload: sealed, signed if the kind is a signed one, and with
// its hash at the end, unless it is a segment. A segment is named by the hash of what Seal returns, so name must be
// empty then, and only then. Seal returns ErrRole if it would have to sign and k can't.
// It doesn't keep or change payload. A name or a kind that can't be panics.
func (k *Keys) Seal(kind Kind, name string, payload []byte) ([]byte, error) {
	if !kind.valid() || kind.segment() != (name == "") || len(name) > math.MaxUint16 || strings.HasPrefix(name, "index/") {
		panic(fmt.Sprintf("crypt: Seal: a %v named %.100q", kind, name))
	}
	if kind.Signed() && k.maintenance == nil {
		return nil, fmt.Errorf("crypt: a %s signs no %v: %w", k.role, kind, ErrRole)
	}
	b := make([]byte, 0, payloadStart+len(payload)+ed25519.SignatureSize+chacha20poly1305.Overhead+hashSize)
	b = append(b, magic...)
	b = append(b, version, byte(kind), 0, 0)
	b = binary.LittleEndian.AppendUint32(b, 0) // required features
	b = binary.LittleEndian.AppendUint32(b, 0) // optional features
	b = binary.LittleEndian.AppendUint32(b, epoch)
	b = b[:payloadStart]
	rand.Read(b[headerSize:])

	plain := append(b[payloadStart:], payload...)
	if kind.Signed() {
		plain = append(plain, ed25519.Sign(k.maintenance, k.signedMessage(b[:headerSize], name, payload))...)
	}
	// In place: plain lies where the ciphertext goes, and b has room for all that follows.
	b = k.objectAEAD.Seal(b, b[headerSize:], plain, k.objectAAD(b[:headerSize], name))
	if kind.segment() {
		return b, nil
	}
	return AppendHash(b), nil
}

// Open is the inverse of Seal: it returns what object, found under that name, is and says. The payload is the
// caller's; the object isn't kept or changed. The outcomes are a payload of one of the wanted kinds, a
// *VersionError, ErrSignature, or else ErrDamaged: also when the object belongs to another repository, name or kind.
// To want no kind at all panics.
func (k *Keys) Open(name string, object []byte, want ...Kind) (Kind, []byte, error) {
	if len(want) == 0 {
		panic("crypt: Open: no kind wanted")
	}
	// The hash comes first: it tells damage from a format of the future.
	if err := Verify(name, object); err != nil {
		return 0, nil, err
	}
	sealed, segment := object, strings.HasPrefix(name, "index/")
	if !segment {
		sealed = object[:len(object)-hashSize]
	}
	if len(name) > math.MaxUint16 || len(sealed) < payloadStart+chacha20poly1305.Overhead || string(sealed[:4]) != magic {
		return 0, nil, damaged(name, "not a sealed object")
	}
	header := sealed[:headerSize]
	kind := Kind(header[5])
	required := binary.LittleEndian.Uint32(header[8:])
	epochOf := binary.LittleEndian.Uint32(header[16:])
	switch v := header[4]; {
	case v > version || v == version && (required != 0 || epochOf != epoch):
		return 0, nil, &VersionError{Object: name, Version: int(v), Features: required, Epoch: epochOf}
	case v != version || header[6] != 0 || header[7] != 0:
		return 0, nil, damaged(name, "malformed header")
	}
	if !slices.Contains(want, kind) || !kind.valid() || kind.segment() != segment {
		return 0, nil, damaged(name, fmt.Sprintf("a %v where none belongs", kind))
	}
	bound := name
	if segment {
		bound = ""
	}
	payload, err := k.objectAEAD.Open(nil, sealed[headerSize:payloadStart], sealed[payloadStart:], k.objectAAD(header, bound))
	if err != nil {
		return 0, nil, damaged(name, "its seal does not fit name, repository and content")
	}
	if kind.Signed() {
		n := len(payload) - ed25519.SignatureSize
		if n < 0 || !ed25519.Verify(k.maintenancePublic, k.signedMessage(header, bound, payload[:n]), payload[n:]) {
			return 0, nil, fmt.Errorf("crypt: %s: %v %w", name, kind, ErrSignature)
		}
		payload = payload[:n:n]
	}
	return kind, payload, nil
}

func (k *Keys) objectAAD(header []byte, name string) []byte {
	aad := make([]byte, 0, headerSize+len(k.repository)+len(name))
	aad = append(aad, header...)
	aad = append(aad, k.repository[:]...)
	return append(aad, name...)
}

// signedMessage covers the header, kind, features and all: else a writer could seal a signed body anew as one to be
// read otherwise.
func (k *Keys) signedMessage(header []byte, name string, body []byte) []byte {
	const context = "varve v1 signed object\x00"
	m := make([]byte, 0, len(context)+len(header)+len(k.repository)+2+len(name)+len(body))
	m = append(m, context...)
	m = append(m, header...)
	m = append(m, k.repository[:]...)
	m = binary.LittleEndian.AppendUint16(m, uint16(len(name)))
	m = append(m, name...)
	return append(m, body...)
}

// Verify says, without a key, whether object is what was put under that name: packs and segments are named by their
// hash, all others end in it. It returns ErrDamaged if not. That the right people wrote it, Verify can't say.
func Verify(name string, object []byte) error {
	if id, ok := strings.CutPrefix(name, "packs/"); ok {
		return verifyID(name, id, object, true)
	}
	if id, ok := strings.CutPrefix(name, "index/"); ok {
		return verifyID(name, id, object, false)
	}
	n := len(object) - hashSize
	if n < 0 {
		return damaged(name, "too short")
	}
	if h := blake3.Sum256(object[:n]); !bytes.Equal(h[:], object[n:]) {
		return damaged(name, "does not match its hash")
	}
	return nil
}

func verifyID(name, id string, object []byte, folder bool) error {
	h := blake3.Sum256(object)
	want := hex.EncodeToString(h[:])
	if folder {
		want = want[:2] + "/" + want
	}
	if id != want {
		return damaged(name, "does not match its name")
	}
	return nil
}

// AppendHash appends the BLAKE3-256 of b to b: the end of every object that isn't named by its hash.
func AppendHash(b []byte) []byte {
	h := blake3.Sum256(b)
	return append(b, h[:]...)
}
