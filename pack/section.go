package pack

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math"
	"sync/atomic"
)

// SectionKey is a section with its key open: frames are sealed and opened under it. Safe for concurrent use.
type SectionKey struct {
	Section
	repo    [16]byte
	aead    cipher.AEAD
	counter atomic.Uint64 // frames sealed so far; only of a key that NewSectionKey made
	fresh   bool
}

// NewSectionKey begins a section of the given kind. Its frames may go to several packs.
func NewSectionKey(k Sealer, kind uint8) (*SectionKey, error) {
	id, key, aead, err := k.NewSection(kind)
	if err != nil {
		return nil, err
	}
	if len(key) != KeySize {
		return nil, errors.New("pack: the sealer's encapsulated key has a wrong size")
	}
	return &SectionKey{Section: Section{Kind: kind, AEAD: id, Key: key}, repo: k.Repository(), aead: aead, fresh: true}, nil
}

// OpenSectionKey opens a section that was read. The error is the Opener's: not allowed for this role, or damaged.
func OpenSectionKey(k Opener, s Section) (*SectionKey, error) {
	aead, err := k.OpenSection(s.Kind, s.AEAD, s.Key)
	if err != nil {
		return nil, err
	}
	return &SectionKey{Section: s, repo: k.Repository(), aead: aead}, nil
}

// next takes the next nonce. Sealing under an opened section would use a nonce again: that is a bug of the caller.
func (s *SectionKey) next() uint64 {
	if !s.fresh {
		panic("pack: sealing under a section that was not begun here")
	}
	n := s.counter.Add(1)
	if n == math.MaxUint64 {
		panic("pack: a section's counter is used up")
	}
	return n
}

const frameLabel = "varve v1 frame"

// additional appends the additional data that f is sealed with.
func (s *SectionKey) additional(dst []byte, f *Frame) []byte {
	dst = append(dst, frameLabel...)
	dst = append(dst, s.repo[:]...)
	dst = append(dst, s.Kind, f.Codec, f.Depth)
	dst = binary.LittleEndian.AppendUint32(dst, f.Plain)
	dst = binary.LittleEndian.AppendUint32(dst, f.Stored)
	dst = binary.LittleEndian.AppendUint64(dst, f.Counter)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.Bases)))
	for i := range f.Bases {
		dst = append(dst, f.Bases[i][:]...)
	}
	return dst
}

func nonce(counter uint64) (n [12]byte) {
	binary.LittleEndian.PutUint64(n[4:], counter)
	return n
}
