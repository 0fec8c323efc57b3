// Package pack is the only place that knows the bytes of frames and pack files.
//
// A frame is some blobs of one kind, compressed and sealed together. A pack is frames, then a sealed directory that says
// what they hold, then a sealed trailer of fixed size that finds the directory. The layout is specified byte for byte in
// docs/FORMAT.md, section 4.
//
// Writing: an [Encoder] turns plaintext into a sealed frame under a [SectionKey], a [Writer] puts sealed frames into a pack:
//
//	key, err := pack.NewSectionKey(keys, kind)
//	f, sealed, err := encoder.Encode(nil, key, plaintext)
//	f.Blobs = []pack.Blob{{ID: id, Length: uint32(len(plaintext))}}
//	err = writer.Add(key.Section, f, sealed)
//	id, object, err := writer.Close()
//
// Reading: [ReadDirectory] reads what a pack holds, a [Decoder] opens one frame of it from its range of bytes.
//
// A sealed frame is bound to its repository, kind and content, not to its pack or place in it: what was read from one pack can be given to the
// Writer of another as it is, with its section, by a key that cannot read it. That is how a repack copies.
//
// The package promises that damaged or hostile bytes give an error that is [ErrDamaged], never a panic, never more memory than
// the limits below allow, and never a wrong byte from a frame.
package pack

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"math/bits"
)

const (
	// MaxSize is the most bytes that a pack may have.
	MaxSize = 64 << 20
	// MaxPlain is the most plaintext that a frame may hold.
	MaxPlain = 16 << 20
	// MaxDepth is the deepest that a delta frame may lie.
	MaxDepth = 8

	// MaxChainFrames and MaxChainPlain bound what one frame may need through all depths, itself included.
	MaxChainFrames = 64
	MaxChainPlain  = 32 << 20

	// KeySize is the size of a section's encapsulated key.
	KeySize = 1120
	// Overhead is what sealing adds to a frame.
	Overhead = 16

	// MaxKind is the last kind of sections; the first is 1.
	MaxKind = 3

	maxSections = 255
)

// Codecs of frames.
const (
	Stored    uint8 = 0 // as it is
	Zstd      uint8 = 1
	ZstdDelta uint8 = 2 // zstd with the bases' plaintexts as dictionary
)

// ErrDamaged says that bytes are not what a writer of this format wrote: cut, changed, sealed by another key, or made up.
var ErrDamaged = errors.New("pack: damaged")

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}

// A VersionError says that a pack was written in a format that this package does not know.
type VersionError struct {
	Version  int
	Features uint32 // required features that are not known
	Epoch    uint32 // key epoch
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("pack: format version %d, required features %#x, key epoch %d: this program knows version %d, no features and epoch 0; use a newer one",
		e.Version, e.Features, e.Epoch, version)
}

// ID names a blob or a pack.
type ID [32]byte

func (id ID) String() string { return fmt.Sprintf("%x", id[:]) }

// Blob is one piece of plaintext in a frame.
type Blob struct {
	ID     ID
	Length uint32
}

// Section is one encapsulated frame key, as it is stored. Key has KeySize bytes and is not modified.
type Section struct {
	Kind, AEAD uint8
	Key        []byte
}

// Frame describes one sealed frame.
type Frame struct {
	Section      int // index in the pack's Directory
	Codec, Depth uint8
	Offset       uint32 // in the pack
	Stored       uint32 // sealed bytes, Overhead included
	Plain        uint32 // bytes of plaintext
	Counter      uint64 // the nonce; not used twice under one section key
	Blobs        []Blob // in the order of the plaintext
	Bases        []ID   // the dictionary, in order; empty but for ZstdDelta
}

// Directory is what a pack holds.
type Directory struct {
	Sections []Section
	Frames   []Frame
}

// Sealer is what writing needs of the keys. It is safe for concurrent use.
type Sealer interface {
	Repository() [16]byte
	// NewSection makes a fresh frame key and encapsulates it to the public key of kind.
	NewSection(kind uint8) (aead uint8, key []byte, c cipher.AEAD, err error)
	DirectoryAEAD() cipher.AEAD
}

// Opener is what reading needs of the keys. It is safe for concurrent use.
type Opener interface {
	Repository() [16]byte
	// OpenSection recovers a frame key with the private key of kind.
	OpenSection(kind, aead uint8, key []byte) (cipher.AEAD, error)
}

// DirectoryOpener is what reading a directory needs of the keys.
type DirectoryOpener interface {
	Repository() [16]byte
	DirectoryAEAD() cipher.AEAD
}

// padme returns the padded size of a pack of n bytes: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files
// and Communication with PURBs", PETS 2019.
func padme(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}
