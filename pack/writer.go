package pack

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

const (
	version      = 1
	nonceSize    = 24
	directoryAD  = "varve v1 pack directory"
	trailerAD    = "varve v1 pack trailer"
	trailerPlain = 32
	trailerSize  = nonceSize + trailerPlain + 16

	headSize    = 16
	sectionSize = 4 + KeySize
	frameSize   = 32
	blobSize    = 36
	idSize      = 32
)

// A Writer assembles one pack in memory. It is for one goroutine.
type Writer struct {
	keys   Sealer
	buf    []byte
	dir    Directory
	nblobs int
	nbases int
	hash   *blake3.Hasher
	closed bool
}

// NewWriter begins a pack in the memory of buf[:0], which the Writer owns until the caller is done with what Close returned.
func NewWriter(k Sealer, buf []byte) *Writer {
	return &Writer{keys: k, buf: buf[:0], hash: blake3.New()}
}

// Frames returns the number of frames added so far.
func (w *Writer) Frames() int { return len(w.dir.Frames) }

// SizeWith returns the size of the pack, before padding, if f were added with a section of its own.
func (w *Writer) SizeWith(f *Frame) int {
	return w.size(1, 1, len(f.Blobs), len(f.Bases)) + int(f.Stored)
}

func (w *Writer) size(sections, frames, blobs, bases int) int {
	return len(w.buf) + nonceSize + headSize + (len(w.dir.Sections)+sections)*sectionSize + (len(w.dir.Frames)+frames)*frameSize +
		(w.nblobs+blobs)*blobSize + (w.nbases+bases)*idSize + 16 + trailerSize
}

// Add appends a sealed frame that s was used for: one that was just encoded, or one copied from another pack. It sets Section and Offset itself, keeps f.Blobs
// and f.Bases, and copies sealed. An error means that f is no frame that a reader would take, or that the pack would be too large, and leaves the Writer as it was.
func (w *Writer) Add(s Section, f Frame, sealed []byte) error {
	if w.closed {
		panic("pack: Add to a Writer that was closed")
	}
	if err := f.Check(); err != nil {
		return err
	}
	if len(sealed) != int(f.Stored) {
		return fmt.Errorf("pack: a frame of %d bytes says %d", len(sealed), f.Stored)
	}
	if n := w.SizeWith(&f); padme(n) > MaxSize {
		return fmt.Errorf("pack: %d bytes are more than a pack may have", n)
	}
	f.Section = -1
	for i := range w.dir.Sections {
		o := &w.dir.Sections[i]
		if o.Kind == s.Kind && o.AEAD == s.AEAD && bytes.Equal(o.Key, s.Key) {
			f.Section = i
		}
	}
	if f.Section < 0 {
		if s.Kind < 1 || s.Kind > MaxKind {
			return fmt.Errorf("pack: a section of kind %d", s.Kind)
		}
		if len(s.Key) != KeySize || len(w.dir.Sections) == maxSections {
			return fmt.Errorf("pack: section %d with a key of %d bytes", len(w.dir.Sections), len(s.Key))
		}
		f.Section = len(w.dir.Sections)
		w.dir.Sections = append(w.dir.Sections, s)
	}
	f.Offset = uint32(len(w.buf))
	w.buf = append(w.buf, sealed...)
	w.hash.Write(sealed)
	w.dir.Frames = append(w.dir.Frames, f)
	w.nblobs += len(f.Blobs)
	w.nbases += len(f.Bases)
	return nil
}

// Close appends directory and trailer and returns the pack's id, its bytes (in the Writer's memory) and what it holds. The Writer is then done.
// A pack without frames is an error.
func (w *Writer) Close() (ID, []byte, *Directory, error) {
	if w.closed {
		panic("pack: Close of a Writer that was closed")
	}
	if len(w.dir.Frames) == 0 {
		return ID{}, nil, nil, errors.New("pack: no frames")
	}
	w.closed = true
	bare := w.size(0, 0, 0, 0)
	d := w.dir.append(make([]byte, 0, bare-len(w.buf)), w.nblobs, w.nbases)
	d = append(d, make([]byte, padme(bare)-bare)...)

	repo, aead, start := w.keys.Repository(), w.keys.DirectoryAEAD(), len(w.buf)
	w.seal(d, append([]byte(directoryAD), repo[:]...), aead.Seal)
	t := make([]byte, trailerPlain)
	t[0] = version
	binary.LittleEndian.PutUint32(t[16:], uint32(len(w.buf)-start))
	w.seal(t, trailerAdditional(repo, int64(len(w.buf)+trailerSize)), aead.Seal)

	w.hash.Write(w.buf[start:])
	var id ID
	w.hash.Sum(id[:0])
	return id, w.buf, &w.dir, nil
}

func (w *Writer) seal(plain, aad []byte, seal func(dst, nonce, plain, aad []byte) []byte) {
	var n [nonceSize]byte
	rand.Read(n[:])
	w.buf = append(w.buf, n[:]...)
	w.buf = seal(w.buf, n[:], plain, aad)
}

func trailerAdditional(repo [16]byte, size int64) []byte {
	return binary.LittleEndian.AppendUint64(append([]byte(trailerAD), repo[:]...), uint64(size))
}

func (d *Directory) append(b []byte, blobs, bases int) []byte {
	le := binary.LittleEndian
	for _, n := range []int{len(d.Sections), len(d.Frames), blobs, bases} {
		b = le.AppendUint32(b, uint32(n))
	}
	for _, s := range d.Sections {
		b = append(b, s.Kind, s.AEAD, 0, 0)
		b = append(b, s.Key...)
	}
	for i := range d.Frames {
		f := &d.Frames[i]
		b = append(b, uint8(f.Section), f.Codec, f.Depth, 0)
		b = le.AppendUint32(b, f.Offset)
		b = le.AppendUint32(b, f.Stored)
		b = le.AppendUint32(b, f.Plain)
		b = le.AppendUint64(b, f.Counter)
		b = le.AppendUint32(b, uint32(len(f.Blobs)))
		b = le.AppendUint32(b, uint32(len(f.Bases)))
	}
	for i := range d.Frames {
		for _, blob := range d.Frames[i].Blobs {
			b = append(b, blob.ID[:]...)
			b = le.AppendUint32(b, blob.Length)
		}
	}
	for i := range d.Frames {
		for _, id := range d.Frames[i].Bases {
			b = append(b, id[:]...)
		}
	}
	return b
}
