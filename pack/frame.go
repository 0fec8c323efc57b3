package pack

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// dictionaryID is the Dictionary_ID in the zstd header of a delta frame. Raw content has no id of its own.
const dictionaryID = 1

// An Encoder compresses and seals frames. It is for one goroutine and keeps about 2 MiB.
type Encoder struct {
	zstd *zstd.Encoder
	dict bool // the zstd encoder still has a dictionary
	aad  []byte
	dec  *Decoder // opens what EncodeDelta made; made at its first call
}

// NewEncoder returns an Encoder that compresses at zstd's fastest level.
func NewEncoder() *Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("pack: " + err.Error()) // the options are constants
	}
	return &Encoder{zstd: z}
}

// Encode compresses plain and seals it under s. Data that zstd's match finder gives up on (it does so at several GB/s), and what would gain less than
// a fiftieth, is stored as it is, so that reading it costs no decompression. The sealed frame is appended to dst[:0], whose memory is used
// when its capacity allows len(plain)+Overhead. The caller sets Blobs of the returned Frame; Writer.Add sets Section and Offset.
//
// plain must have 1 to MaxPlain bytes, else Encode panics.
func (e *Encoder) Encode(dst []byte, s *SectionKey, plain []byte) (Frame, []byte) {
	f := Frame{Codec: Zstd, Plain: size(plain)}
	if e.dict {
		e.reset(zstd.WithEncoderDictDelete())
		e.dict = false
	}
	dst = e.zstd.EncodeAll(plain, dst[:0])
	if len(dst) > len(plain)-len(plain)/50 {
		f.Codec = Stored
		dst = append(dst[:0], plain...)
	}
	return f, e.seal(dst, s, &f)
}

// EncodeDelta compresses plain with the joined plaintexts of bases as dictionary; depth is one more than the depth of the deepest frame
// that holds a base. It opens the frame again and compares before it returns. ok is false, and nothing else counts, when the dictionary
// does not pay: the caller then uses Encode.
func (e *Encoder) EncodeDelta(dst []byte, s *SectionKey, plain []byte, depth uint8, bases []ID, dict []byte) (f Frame, sealed []byte, ok bool, err error) {
	if depth < 1 || depth > MaxDepth || len(bases) == 0 || len(dict) > MaxChainPlain {
		panic(fmt.Sprintf("pack: a delta frame of depth %d over %d bases of %d bytes", depth, len(bases), len(dict)))
	}
	f = Frame{Codec: ZstdDelta, Depth: depth, Plain: size(plain), Bases: bases}
	e.reset(zstd.WithEncoderDictRaw(dictionaryID, dict))
	e.dict = true
	dst = e.zstd.EncodeAll(plain, dst[:0])
	if len(dst) > len(plain)-len(plain)/50 {
		return Frame{}, nil, false, nil
	}
	sealed = e.seal(dst, s, &f)
	if e.dec == nil {
		e.dec = NewDecoder()
	}
	back, err := e.dec.Decode(make([]byte, 0, len(plain)), s, &f, sealed, dict)
	if err != nil {
		return Frame{}, nil, false, fmt.Errorf("pack: a delta frame does not open again: %w", err)
	}
	if !bytes.Equal(back, plain) {
		return Frame{}, nil, false, errors.New("pack: a delta frame opens to other bytes than went in")
	}
	return f, sealed, true, nil
}

func (e *Encoder) reset(o zstd.EOption) {
	if err := e.zstd.ResetWithOptions(nil, o); err != nil {
		panic("pack: " + err.Error()) // the option may be changed on reset
	}
}

// seal seals data in place.
func (e *Encoder) seal(data []byte, s *SectionKey, f *Frame) []byte {
	f.Counter = s.next()
	f.Stored = uint32(len(data) + s.aead.Overhead())
	e.aad = s.additional(e.aad[:0], f)
	n := nonce(f.Counter)
	return s.aead.Seal(data[:0], n[:], data, e.aad)
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
