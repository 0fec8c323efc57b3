package pack

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// dictionaryID is the Dictionary_ID in the zstd header of a delta frame. Raw content has no id of its own.
const dictionaryID = 1

// An Encoder compresses and seals frames. It is for one goroutine and keeps about 2 MiB and the largest frame that it compressed; after its
// first delta frame as much again, and the largest dictionary.
type Encoder struct {
	plain *zstd.Encoder
	delta *zstd.Encoder // has a dictionary and checksums; made at the first call of EncodeDelta, as the Decoder is
	dec   *Decoder      // opens what EncodeDelta made
	data  []byte        // compressed, not yet sealed
	back  []byte        // opened again
	aad   []byte
}

// NewEncoder returns an Encoder that compresses at zstd's fastest level.
func NewEncoder() *Encoder { return &Encoder{plain: newZstd(false)} }

func newZstd(checksum bool) *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(checksum), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("pack: " + err.Error()) // the options are constants
	}
	return z
}

// Encode compresses plain and seals it under s. Data that zstd's match finder gives up on (it does so at several GB/s), and what would gain less than
// a fiftieth, is stored as it is, so that reading it costs no decompression. The sealed frame is appended to dst[:0], whose memory is used
// when its capacity allows len(plain)+Overhead; it does not overlap plain. The caller sets Blobs of the returned Frame; Writer.Add sets Section and Offset.
//
// plain must have 1 to MaxPlain bytes, else Encode panics.
func (e *Encoder) Encode(dst []byte, s *SectionKey, plain []byte) (Frame, []byte) {
	f := Frame{Codec: Zstd, Plain: size(plain)}
	e.data = e.plain.EncodeAll(plain, e.data[:0])
	if pays(e.data, plain) {
		return f, e.seal(dst, s, &f, e.data)
	}
	f.Codec = Stored
	return f, e.seal(dst, s, &f, plain)
}

// EncodeDelta compresses plain with the joined plaintexts of bases as dictionary; depth is one more than the depth of the deepest frame
// that holds a base. The frame keeps bases. It opens the frame again and compares before it returns. ok is false, and nothing else counts, when the dictionary
// does not pay: the caller then uses Encode.
//
// plain must have 1 to MaxPlain bytes, dict 1 to MaxChainPlain, and depth and bases must be possible, else EncodeDelta panics.
func (e *Encoder) EncodeDelta(dst []byte, s *SectionKey, plain []byte, depth uint8, bases []ID, dict []byte) (f Frame, sealed []byte, ok bool, err error) {
	if depth < 1 || depth > MaxDepth || len(bases) == 0 || len(dict) < 1 || len(dict) > MaxChainPlain {
		panic(fmt.Sprintf("pack: a delta frame of depth %d over %d bases of %d bytes", depth, len(bases), len(dict)))
	}
	f = Frame{Codec: ZstdDelta, Depth: depth, Plain: size(plain), Bases: bases}
	if e.delta == nil {
		e.delta, e.dec = newZstd(true), NewDecoder()
	}
	if err := e.delta.ResetWithOptions(nil, zstd.WithEncoderDictRaw(dictionaryID, dict)); err != nil {
		panic("pack: " + err.Error()) // the option may be changed on reset
	}
	if e.data = e.delta.EncodeAll(plain, e.data[:0]); !pays(e.data, plain) {
		return Frame{}, nil, false, nil
	}
	sealed = e.seal(dst, s, &f, e.data)
	if e.back, err = e.dec.Decode(e.back[:0], s, &f, sealed, dict); err != nil {
		return Frame{}, nil, false, fmt.Errorf("pack: a delta frame does not open again: %w", err)
	}
	if !bytes.Equal(e.back, plain) {
		return Frame{}, nil, false, errors.New("pack: a delta frame opens to other bytes than went in")
	}
	return f, sealed, true, nil
}

// pays tells whether compression gained a fiftieth.
func pays(data, plain []byte) bool { return len(data) <= len(plain)-len(plain)/50 }

// seal seals data, which becomes f, into dst[:0].
func (e *Encoder) seal(dst []byte, s *SectionKey, f *Frame, data []byte) []byte {
	f.Counter = s.next()
	f.Stored = uint32(len(data) + s.aead.Overhead())
	e.aad = s.additional(e.aad[:0], f)
	n := nonce(f.Counter)
	return s.aead.Seal(dst[:0], n[:], data, e.aad)
}

func size(plain []byte) uint32 {
	if len(plain) < 1 || len(plain) > MaxPlain {
		panic(fmt.Sprintf("pack: a frame of %d bytes", len(plain)))
	}
	return uint32(len(plain))
}

// A Decoder opens frames. It is for one goroutine.
type Decoder struct {
	zstd *zstd.Decoder
	dict bool
	aad  []byte
	data []byte // opened, still compressed
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxPlain), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("pack: " + err.Error()) // the options are constants
	}
	return &Decoder{zstd: z}
}

// Close ends the Decoder's goroutines, if it has any.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode opens the sealed bytes of f and appends the plaintext of its blobs, joined, to dst. dict is the joined plaintexts of f.Bases. Of f it uses
// Codec, Depth, Plain, Stored, Counter and Bases. The error is ErrDamaged.
func (d *Decoder) Decode(dst []byte, s *SectionKey, f *Frame, sealed, dict []byte) ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	if len(sealed) != int(f.Stored) {
		return nil, damaged("a frame of %d bytes, %d expected", len(sealed), f.Stored)
	}
	d.aad = s.additional(d.aad[:0], f)
	n := nonce(f.Counter)
	start := len(dst)
	if f.Codec == Stored {
		out, err := s.aead.Open(dst, n[:], sealed, d.aad)
		if err != nil {
			return nil, damaged("a frame does not authenticate")
		}
		return out, nil
	}
	var err error
	if d.data, err = s.aead.Open(d.data[:0], n[:], sealed, d.aad); err != nil {
		return nil, damaged("a frame does not authenticate")
	}
	switch {
	case f.Codec == ZstdDelta:
		err = d.zstd.ResetWithOptions(nil, zstd.WithDecoderDictRaw(dictionaryID, dict))
		d.dict = true
	case d.dict:
		err = d.zstd.ResetWithOptions(nil, zstd.WithDecoderDictDelete())
		d.dict = false
	}
	if err != nil {
		return nil, err
	}
	// The capacity is the limit: a frame that expands to more than it claims is an error, not memory.
	want := start + int(f.Plain)
	if cap(dst) < want {
		dst = append(make([]byte, 0, want), dst...)
	}
	out, err := d.zstd.DecodeAll(d.data, dst[:start:want])
	if err != nil {
		return nil, damaged("a frame does not decompress: %v", err)
	}
	if len(out) != want {
		return nil, damaged("a frame of %d plain bytes, %d expected", len(out)-start, f.Plain)
	}
	return out, nil
}

// check tells whether the numbers of f, but for those of its pack, are possible.
func (f *Frame) check() error {
	switch {
	case f.Plain < 1 || f.Plain > MaxPlain:
		return damaged("a frame of %d plain bytes", f.Plain)
	case f.Stored <= Overhead:
		return damaged("a frame of %d stored bytes", f.Stored)
	case f.Codec > ZstdDelta:
		return damaged("a frame with unknown codec %d", f.Codec)
	case f.Codec == Stored && f.Stored != f.Plain+Overhead:
		return damaged("a stored frame of %d bytes for %d", f.Stored, f.Plain)
	case f.Codec == ZstdDelta && (f.Depth < 1 || f.Depth > MaxDepth || len(f.Bases) == 0):
		return damaged("a delta frame of depth %d over %d bases", f.Depth, len(f.Bases))
	case f.Codec != ZstdDelta && (f.Depth != 0 || len(f.Bases) != 0):
		return damaged("a plain frame of depth %d over %d bases", f.Depth, len(f.Bases))
	}
	return nil
}

// Check tells whether the numbers of f are possible: sizes, codec, depth, and blobs that add up. The error is ErrDamaged. Section and
// Offset are not looked at.
func (f *Frame) Check() error {
	if err := f.check(); err != nil {
		return err
	}
	var sum uint64
	for i := range f.Blobs {
		if f.Blobs[i].Length == 0 {
			return damaged("an empty blob")
		}
		sum += uint64(f.Blobs[i].Length)
	}
	if sum != uint64(f.Plain) {
		return damaged("blobs of %d bytes in a frame of %d", sum, f.Plain)
	}
	return nil
}
