package pack_test

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/zeebo/blake3"
	"go.uber.org/goleak"
	"golang.org/x/crypto/chacha20poly1305"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func try[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keys are the simplest keys that there can be: they are known to the tests, which seal by hand what no Writer would.
type keys struct {
	repo     [16]byte
	sections atomic.Uint32
}

func newKeys() *keys { return &keys{repo: [16]byte([]byte("repository of 16"))} }

func (k *keys) Repository() [16]byte { return k.repo }

func (k *keys) DirectoryAEAD() cipher.AEAD {
	key := blake3.Sum256([]byte("directory"))
	return try(chacha20poly1305.NewX(key[:]))
}

func (k *keys) NewSection(kind uint8) (uint8, []byte, cipher.AEAD, error) {
	enc := make([]byte, pack.KeySize)
	binary.LittleEndian.PutUint32(enc, k.sections.Add(1))
	c, err := k.OpenSection(kind, 1, enc)
	return 1, enc, c, err
}

func (k *keys) OpenSection(kind, aead uint8, enc []byte) (cipher.AEAD, error) {
	if aead != 1 || len(enc) != pack.KeySize {
		return nil, errors.New("no such cipher")
	}
	key := blake3.Sum256(append([]byte{kind}, enc...))
	return chacha20poly1305.New(key[:])
}

// text is compressible, noise is not. Both depend on n and seed alone.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := []string{"INSERT", "INTO", "orders", "VALUES", "(", ")", "customer", "2026-11-20", "NULL", "shipped", "0.00", ","}
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))])
		b.WriteByte(' ')
		if r.IntN(4) == 0 {
			b.WriteByte(byte('0' + r.IntN(10)))
		}
	}
	return b.Bytes()[:n]
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	var k [32]byte
	binary.LittleEndian.PutUint64(k[:], seed)
	rand.NewChaCha8(k).Read(b)
	return b
}

func idOf(b []byte) pack.ID { return blake3.Sum256(b) }

// blobsOf cuts plain into blobs at the given places.
func blobsOf(plain []byte, at ...int) (blobs []pack.Blob) {
	start := 0
	for _, end := range append(at, len(plain)) {
		blobs = append(blobs, pack.Blob{ID: idOf(plain[start:end]), Length: uint32(end - start)})
		start = end
	}
	return blobs
}

// A sealed frame with all that belongs to it.
type sealedFrame struct {
	section pack.Section
	frame   pack.Frame
	sealed  []byte
	plain   []byte
	dict    []byte
}

// sample returns a frame of each codec: a stored and a zstd one, a tree, and two deltas, one over the other.
func sample(t testing.TB, k pack.Sealer, n int) (frames []sealedFrame) {
	t.Helper()
	content, tree := try(pack.NewSectionKey(k, crypt.SectionContent)), try(pack.NewSectionKey(k, crypt.SectionTree))
	e := pack.NewEncoder()
	add := func(key *pack.SectionKey, codec uint8, plain []byte) {
		f, sealed := e.Encode(nil, key, plain)
		if f.Codec != codec {
			t.Fatalf("codec %d for a frame of codec %d", f.Codec, codec)
		}
		f.Blobs = blobsOf(plain, n/3, n/2)
		frames = append(frames, sealedFrame{key.Section, f, sealed, plain, nil})
	}
	add(content, pack.Stored, noise(n, 1))
	add(content, pack.Zstd, text(n, 2))
	add(tree, pack.Zstd, text(n+7, 3))
	for depth := uint8(1); depth <= 2; depth++ {
		base := frames[depth*2-2] // the noise, then the delta over it
		plain := append(append(noise(60, uint64(depth)+10), base.plain...), byte(depth))
		f, sealed, ok, err := e.EncodeDelta(nil, content, plain, depth, ids(base.frame.Blobs), base.plain)
		if err != nil || !ok {
			t.Fatalf("delta of depth %d: %v, %v", depth, ok, err)
		}
		f.Blobs = blobsOf(plain, 1)
		frames = append(frames, sealedFrame{content.Section, f, sealed, plain, base.plain})
		if depth == 1 { // so that frames[2] is what the second is made over
			frames[2], frames[3] = frames[3], frames[2]
		}
	}
	return frames
}

func ids(blobs []pack.Blob) (ids []pack.ID) {
	for _, b := range blobs {
		ids = append(ids, b.ID)
	}
	return ids
}

// write makes a pack of frames.
func write(t testing.TB, k pack.Sealer, frames []sealedFrame) (pack.ID, []byte, *pack.Directory) {
	t.Helper()
	w := pack.NewWriter(k, nil)
	for _, f := range frames {
		if err := w.Add(f.section, f.frame, f.sealed); err != nil {
			t.Fatal(err)
		}
	}
	id, object, dir, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return id, object, dir
}

// The rest is docs/FORMAT.md, section 4, a second time.

func padme(n int) int {
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	unit := 1 << (e - s)
	return (n + unit - 1) / unit * unit
}

// directoryBytes encodes a directory without its padding.
func directoryBytes(d *pack.Directory) []byte {
	le := binary.LittleEndian
	var sections, frames, blobs, bases []byte
	var nblobs, nbases uint32
	for _, s := range d.Sections {
		sections = append(append(sections, s.Kind, s.AEAD, 0, 0), s.Key...)
	}
	for _, f := range d.Frames {
		frames = append(frames, byte(f.Section), f.Codec, f.Depth, 0)
		frames = le.AppendUint32(frames, f.Offset)
		frames = le.AppendUint32(frames, f.Stored)
		frames = le.AppendUint32(frames, f.Plain)
		frames = le.AppendUint64(frames, f.Counter)
		frames = le.AppendUint32(frames, uint32(len(f.Blobs)))
		frames = le.AppendUint32(frames, uint32(len(f.Bases)))
		for _, b := range f.Blobs {
			blobs = le.AppendUint32(append(blobs, b.ID[:]...), b.Length)
			nblobs++
		}
		for _, b := range f.Bases {
			bases = append(bases, b[:]...)
			nbases++
		}
	}
	var b []byte
	for _, n := range []uint32{uint32(len(d.Sections)), uint32(len(d.Frames)), nblobs, nbases} {
		b = le.AppendUint32(b, n)
	}
	return append(append(append(append(b, sections...), frames...), blobs...), bases...)
}

// pad adds the zeros that a writer adds to a directory behind frames of so many bytes.
func pad(frames int, directory []byte) []byte {
	bare := frames + 40 + len(directory) + 72
	return append(directory[:len(directory):len(directory)], make([]byte, padme(bare)-bare)...)
}

func trailer(directory int) []byte {
	t := make([]byte, 32)
	t[0] = 1
	binary.LittleEndian.PutUint32(t[16:], uint32(directory+40))
	return t
}

// sealPack makes a pack of frames, a padded directory and a trailer, whatever they are.
func sealPack(k pack.DirectoryOpener, frames, directory, trailer []byte) []byte {
	repo, aead := k.Repository(), k.DirectoryAEAD()
	b := append([]byte(nil), frames...)
	n := noise(24, 5)
	b = aead.Seal(append(b, n...), n, directory, []byte("varve v1 pack directory"+string(repo[:])))
	ad := binary.LittleEndian.AppendUint64([]byte("varve v1 pack trailer"+string(repo[:])), uint64(len(b)+24+len(trailer)+16))
	n = noise(24, 6)
	return aead.Seal(append(b, n...), n, trailer, ad)
}

// sealFrame seals data as frame f, whatever it is, and completes f.
func sealFrame(k *keys, s pack.Section, f *pack.Frame, data []byte) []byte {
	le := binary.LittleEndian
	f.Stored = uint32(len(data) + 16)
	ad := []byte("varve v1 frame" + string(k.repo[:]) + string([]byte{s.Kind, f.Codec, f.Depth}))
	ad = le.AppendUint32(ad, f.Plain)
	ad = le.AppendUint32(ad, f.Stored)
	ad = le.AppendUint64(ad, f.Counter)
	ad = le.AppendUint32(ad, uint32(len(f.Bases)))
	for _, id := range f.Bases {
		ad = append(ad, id[:]...)
	}
	n := le.AppendUint64(make([]byte, 4), f.Counter)
	return try(k.OpenSection(s.Kind, s.AEAD, s.Key)).Seal(nil, n, data, ad)
}
