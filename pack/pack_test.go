package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"pgregory.net/rapid"
)

// What went in comes out, under real keys, also after every frame was copied into another pack by keys that can't read it.
func TestRoundTrip(t *testing.T) {
	owner := try(crypt.NewKeys())
	writer := try(owner.Restrict(crypt.Writer))
	for _, n := range []int{64, 5000, 500 << 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			frames := sample(t, writer, n)
			id, object, written := write(t, writer, frames)
			if id != idOf(object) {
				t.Error("the id is not the BLAKE3 of the pack")
			}
			dir := readAll(t, owner, object, frames)
			if !reflect.DeepEqual(dir, written) {
				t.Errorf("Close said\n%+v\nReadDirectory\n%+v", written, dir)
			}
			if len(dir.Sections) != 2 {
				t.Errorf("%d sections", len(dir.Sections))
			}

			// A repack: every second frame, verbatim, by a writer's keys.
			var copied []sealedFrame
			w := pack.NewWriter(writer, nil)
			dir = try(pack.ReadDirectory(writer, bytes.NewReader(object), int64(len(object))))
			for i, f := range dir.Frames {
				if i%2 == 0 {
					if err := w.Add(dir.Sections[f.Section], f, object[f.Offset:f.Offset+f.Stored]); err != nil {
						t.Fatal(err)
					}
					copied = append(copied, frames[i])
				}
			}
			id2, object2, _, err := w.Close()
			if err != nil || id2 == id {
				t.Fatal(id2, err)
			}
			readAll(t, owner, object2, copied)
			if _, err := pack.OpenSectionKey(writer, dir.Sections[0]); !errors.Is(err, crypt.ErrRole) {
				t.Errorf("a writer opens a section: %v", err)
			}
		})
	}
}

// readAll reads a pack and fails unless it holds exactly these frames.
func readAll(t *testing.T, k interface {
	pack.Opener
	pack.DirectoryOpener
}, object []byte, frames []sealedFrame) *pack.Directory {
	t.Helper()
	dir, err := pack.ReadDirectory(k, bytes.NewReader(object), int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	if len(dir.Frames) != len(frames) {
		t.Fatalf("%d frames, want %d", len(dir.Frames), len(frames))
	}
	d := pack.NewDecoder()
	defer d.Close()
	for i, f := range dir.Frames {
		want := frames[i]
		want.frame.Section, want.frame.Offset = f.Section, f.Offset
		if !reflect.DeepEqual(f, want.frame) || !reflect.DeepEqual(dir.Sections[f.Section], want.section) {
			t.Errorf("frame %d: %+v, want %+v", i, f, want.frame)
		}
		key, err := pack.OpenSectionKey(k, dir.Sections[f.Section])
		if err != nil {
			t.Fatal(err)
		}
		sealed := object[f.Offset : f.Offset+f.Stored]
		plain, err := d.Decode([]byte("before"), key, &f, sealed, want.dict)
		if err != nil || string(plain) != "before"+string(want.plain) {
			t.Errorf("frame %d: %d bytes, %v", i, len(plain), err)
		}
	}
	return dir
}

// Any list of frames is a pack that reads back as it was, of a Padmé size, and encoded as FORMAT.md says.
func TestAnyPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKeys()
		var secs []*pack.SectionKey
		for i := range rapid.IntRange(1, 5).Draw(t, "sections") {
			secs = append(secs, try(pack.NewSectionKey(k, uint8(i%2+1))))
		}
		w, e := pack.NewWriter(k, make([]byte, 3, 100)), pack.NewEncoder()
		var frames []byte
		for i := range rapid.IntRange(1, 20).Draw(t, "frames") {
			plain := rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(t, "plain")
			s := rapid.SampledFrom(secs).Draw(t, "section")
			f, sealed := e.Encode(nil, s, plain)
			if rapid.Bool().Draw(t, "delta") {
				bases := make([]pack.ID, rapid.IntRange(1, 4).Draw(t, "bases"))
				if df, ds, ok, err := e.EncodeDelta(nil, s, plain, uint8(i%8+1), bases, append(plain, 1)); err != nil {
					t.Fatal(err)
				} else if ok {
					f, sealed = df, ds
				}
			}
			f.Blobs = blobsOf(plain)
			if n := rapid.IntRange(0, len(plain)-1).Draw(t, "cut"); n > 0 {
				f.Blobs = blobsOf(plain, n)
			}
			if err := w.Add(s.Section, f, sealed); err != nil {
				t.Fatal(err)
			}
			frames = append(frames, sealed...)
			if w.Frames() != i+1 {
				t.Fatalf("Frames() = %d", w.Frames())
			}
		}
		_, object, written, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(object, frames) || padme(len(object)) != len(object) {
			t.Fatalf("a pack of %d bytes", len(object))
		}
		dir, err := pack.ReadDirectory(k, bytes.NewReader(object), int64(len(object)))
		if err != nil || !reflect.DeepEqual(dir, written) {
			t.Fatalf("%+v, want %+v: %v", dir, written, err)
		}
		b := pad(len(frames), directoryBytes(dir))
		if again := sealPack(k, frames, b, trailer(len(b))); len(again) != len(object) {
			t.Fatalf("%d bytes, by the format %d", len(object), len(again))
		}
	})
}

func TestWriterRefuses(t *testing.T) {
	k := newKeys()
	good := sample(t, k, 100)
	for _, c := range []struct {
		name   string
		change func(*sealedFrame)
	}{
		{"fewer sealed bytes", func(f *sealedFrame) { f.sealed = f.sealed[1:] }},
		{"no blobs", func(f *sealedFrame) { f.frame.Blobs = nil }},
		{"blobs that do not add up", func(f *sealedFrame) { f.frame.Blobs = f.frame.Blobs[:1] }},
		{"an empty blob", func(f *sealedFrame) {
			f.frame.Blobs = append(f.frame.Blobs[:1:1], append([]pack.Blob{{}}, f.frame.Blobs[1:]...)...)
		}},
		{"lengths that overflow", func(f *sealedFrame) {
			f.frame.Blobs = append([]pack.Blob{{Length: 1<<32 - 1}, {Length: 1}}, f.frame.Blobs...)
		}},
		{"a codec of the future", func(f *sealedFrame) { f.frame.Codec = 3 }},
		{"bases of a plain frame", func(f *sealedFrame) { f.frame.Bases = make([]pack.ID, 1) }},
		{"a plain frame with depth", func(f *sealedFrame) { f.frame.Depth = 1 }},
		{"a short encapsulated key", func(f *sealedFrame) { f.section.Key = f.section.Key[1:] }},
	} {
		w := pack.NewWriter(k, nil)
		f := good[1]
		c.change(&f)
		if err := w.Add(f.section, f.frame, f.sealed); err == nil {
			t.Errorf("%s: taken", c.name)
		}
		// The Writer is as it was.
		if err := w.Add(good[0].section, good[0].frame, good[0].sealed); err != nil {
			t.Error(c.name, err)
		}
		if _, object, _, err := w.Close(); err != nil {
			t.Error(c.name, err)
		} else {
			readAll(t, k, object, good[:1])
		}
	}
}

func TestLimits(t *testing.T) {
	k := newKeys()
	key := try(pack.NewSectionKey(k, 1))
	plain := make([]byte, pack.MaxPlain)
	copy(plain, noise(len(plain), 1))
	f, sealed := pack.NewEncoder().Encode(nil, key, plain)
	f.Blobs = blobsOf(plain)
	w := pack.NewWriter(k, nil)
	n := 0
	for ; w.Add(key.Section, f, sealed) == nil; n++ {
	}
	if n != 3 {
		t.Errorf("%d frames of 16 MiB in a pack", n)
	}
	_, object, _, err := w.Close()
	if err != nil || len(object) > pack.MaxSize {
		t.Fatal(len(object), err)
	}
	if dir, err := pack.ReadDirectory(k, bytes.NewReader(object), int64(len(object))); err != nil || len(dir.Frames) != n {
		t.Error(err)
	}

	// The last byte that a pack takes, and one more.
	for _, over := range []int{0, 1} {
		w := pack.NewWriter(k, nil)
		for range 3 {
			if err := w.Add(key.Section, f, sealed); err != nil {
				t.Fatal(err)
			}
		}
		g := pack.Frame{Blobs: make([]pack.Blob, 1)}
		short := noise(pack.MaxSize-w.SizeWith(&g)-pack.Overhead+sectionSize+over, 2) // SizeWith counts a section that is there
		short = short[:len(short)-sectionSize]
		g, s := pack.NewEncoder().Encode(nil, key, short)
		g.Blobs = blobsOf(short)
		if n := w.SizeWith(&g); n != pack.MaxSize+over {
			t.Fatalf("a pack of %d bytes", n)
		}
		if err := w.Add(key.Section, g, s); (err == nil) != (over == 0) {
			t.Errorf("%d bytes over: %v", over, err)
		}
		if _, object, _, err = w.Close(); err != nil || len(object) > pack.MaxSize {
			t.Errorf("%d bytes, %v", len(object), err)
		}
	}

	if _, err := pack.ReadDirectory(k, zeros{}, pack.MaxSize+1); !errors.Is(err, pack.ErrDamaged) {
		t.Error(err)
	}
	for _, size := range []int64{-1, 0, 71} {
		if _, err := pack.ReadDirectory(k, zeros{}, size); !errors.Is(err, pack.ErrDamaged) {
			t.Error(err)
		}
	}
}

const sectionSize = 4 + pack.KeySize

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

func TestSections(t *testing.T) {
	k := newKeys()
	w, e := pack.NewWriter(k, nil), pack.NewEncoder()
	var frames []sealedFrame
	for i := range 256 {
		key := try(pack.NewSectionKey(k, 1))
		plain := []byte("plain")
		f, sealed := e.Encode(nil, key, plain)
		f.Blobs = blobsOf(plain)
		err := w.Add(key.Section, f, sealed)
		if (err == nil) != (i < 255) {
			t.Fatalf("section %d: %v", i, err)
		}
		if err == nil {
			frames = append(frames, sealedFrame{key.Section, f, sealed, plain, nil})
		}
	}
	_, object, _, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, k, object, frames)
}

func TestPadding(t *testing.T) {
	k := newKeys()
	key, e := try(pack.NewSectionKey(k, 1)), pack.NewEncoder()
	sizes := map[int]bool{}
	for n := 1; n < 3000; n += 13 {
		plain := noise(n, 1)
		f, sealed := e.Encode(nil, key, plain)
		f.Blobs = blobsOf(plain)
		w := pack.NewWriter(k, nil)
		bare := w.SizeWith(&f)
		if err := w.Add(key.Section, f, sealed); err != nil {
			t.Fatal(err)
		}
		_, object, _, err := w.Close()
		if err != nil || len(object) != padme(bare) {
			t.Fatalf("%d bytes for %d: %v", len(object), bare, err)
		}
		sizes[len(object)] = true
	}
	// 3,000 bytes from about 1,400 on are two octaves of at most 16 sizes each.
	if len(sizes) > 32 {
		t.Errorf("%d sizes of packs", len(sizes))
	}
}

func TestMisuse(t *testing.T) {
	k := newKeys()
	key := try(pack.NewSectionKey(k, 1))
	opened := try(pack.OpenSectionKey(k, key.Section))
	e, plain := pack.NewEncoder(), []byte("plain")
	f, sealed := e.Encode(nil, key, plain)
	f.Blobs = blobsOf(plain)
	closed := pack.NewWriter(k, nil)
	if _, _, _, err := closed.Close(); err == nil {
		t.Error("a pack without frames")
	}
	if err := closed.Add(key.Section, f, sealed); err != nil {
		t.Error(err)
	}
	if _, _, _, err := closed.Close(); err != nil {
		t.Error(err)
	}
	one := make([]pack.ID, 1)
	for name, f := range map[string]func(){
		"an empty frame":               func() { e.Encode(nil, key, nil) },
		"a frame too long":             func() { e.Encode(nil, key, make([]byte, pack.MaxPlain+1)) },
		"an empty delta":               func() { e.EncodeDelta(nil, key, nil, 1, one, plain) },
		"a delta without bases":        func() { e.EncodeDelta(nil, key, plain, 1, nil, plain) },
		"a delta without a dictionary": func() { e.EncodeDelta(nil, key, plain, 1, one, nil) },
		"a delta of depth 0":           func() { e.EncodeDelta(nil, key, plain, 0, one, plain) },
		"a delta of depth 9":           func() { e.EncodeDelta(nil, key, plain, 9, one, plain) },
		"a dictionary too long":        func() { e.EncodeDelta(nil, key, plain, 1, one, make([]byte, pack.MaxChainPlain+1)) },
		"an opened section":            func() { e.Encode(nil, opened, plain) },
		"Add after Close":              func() { closed.Add(key.Section, f, sealed) },
		"Close after Close":            func() { closed.Close() },
	} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "pack: ") {
					t.Errorf("%s: %v", name, r)
				}
			}()
			f()
		}()
	}
}

// What the reader fails with comes through; what it cannot give is damage.
func TestReadErrors(t *testing.T) {
	k := newKeys()
	_, object, _ := write(t, k, sample(t, k, 100))
	broken := errors.New("broken")
	for _, calls := range []int{0, 1} {
		r := &failing{r: bytes.NewReader(object), after: calls, err: broken}
		if _, err := pack.ReadDirectory(k, r, int64(len(object))); !errors.Is(err, broken) || errors.Is(err, pack.ErrDamaged) {
			t.Errorf("after %d reads: %v", calls, err)
		}
		r = &failing{r: bytes.NewReader(object), after: calls, err: io.ErrUnexpectedEOF}
		if _, err := pack.ReadDirectory(k, r, int64(len(object))); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("after %d reads: %v", calls, err)
		}
	}
	if r := (&failing{r: bytes.NewReader(object), after: 2, err: broken}); true {
		if _, err := pack.ReadDirectory(k, r, int64(len(object))); err != nil {
			t.Errorf("more than two reads: %v", err)
		}
	}
}

type failing struct {
	r     io.ReaderAt
	after int
	err   error
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.after--; f.after < 0 {
		return 0, f.err
	}
	return f.r.ReadAt(p, off)
}
