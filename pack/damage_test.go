package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

// allKeys are what a reader has, real or of a test.
type allKeys interface {
	pack.Opener
	pack.DirectoryOpener
}

// reader reads damaged packs that were once good ones.
type reader struct {
	k      allKeys
	good   *pack.Directory
	frames []sealedFrame
	open   []*pack.SectionKey
	dec    *pack.Decoder
}

// check reads object, fails at a wrong byte or an error that is not ErrDamaged, and tells whether something was found wrong.
func (r *reader) check(t *testing.T, what string, at int, object []byte, size int64) (found bool) {
	t.Helper()
	dir, err := pack.ReadDirectory(r.k, bytes.NewReader(object), size)
	if err != nil {
		if !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("%s %d: %v", what, at, err)
		}
		return true
	}
	if !reflect.DeepEqual(dir, r.good) {
		t.Errorf("%s %d: another directory", what, at)
		return true
	}
	for i := range dir.Frames {
		f := &dir.Frames[i]
		plain, err := r.dec.Decode(nil, r.open[f.Section], f, object[f.Offset:f.Offset+f.Stored], r.frames[i].dict)
		switch {
		case errors.Is(err, pack.ErrDamaged):
			found = true
		case err != nil || !bytes.Equal(plain, r.frames[i].plain):
			t.Errorf("%s %d: frame %d: wrong bytes, %v", what, at, i, err)
		}
	}
	return found
}

// Every flipped bit and every cut is found.
func TestDamage(t *testing.T) {
	owner := try(crypt.NewKeys())
	frames := sample(t, owner, 80)[:4]
	_, object, dir := write(t, owner, frames)
	r := &reader{k: owner, good: dir, frames: frames, dec: pack.NewDecoder()}
	defer r.dec.Close()
	for _, s := range dir.Sections {
		r.open = append(r.open, try(pack.OpenSectionKey(owner, s)))
	}
	if r.check(t, "whole", 0, object, int64(len(object))) {
		t.Fatal("the whole pack is damaged")
	}
	bad := bytes.Clone(object)
	for i := range object {
		for bit := range 8 {
			bad[i] ^= 1 << bit
			if !r.check(t, "bit", i*8+bit, bad, int64(len(bad))) {
				t.Errorf("bit %d of byte %d: nothing is found", bit, i)
			}
			bad[i] = object[i]
		}
	}
	for n := range object {
		if !r.check(t, "cut to", n, object[:n], int64(n)) || !r.check(t, "cut, unnoticed, to", n, object[:n], int64(len(object))) ||
			!r.check(t, "without the first", n, object[n+1:], int64(len(object)-n-1)) {
			t.Errorf("cut at %d: nothing is found", n)
		}
	}
	for _, more := range [][]byte{{0}, object, make([]byte, 72)} {
		if longer := append(bytes.Clone(object), more...); !r.check(t, "longer by", len(more), longer, int64(len(longer))) {
			t.Error("longer: nothing is found")
		}
	}
	// Another repository's keys, and parts of two packs of one repository.
	if _, err := pack.ReadDirectory(try(crypt.NewKeys()), bytes.NewReader(object), int64(len(object))); !errors.Is(err, pack.ErrDamaged) {
		t.Error(err)
	}
	_, second, _ := write(t, owner, sample(t, owner, 80)[:4])
	if len(second) != len(object) {
		t.Fatal("packs of different size")
	}
	mixed := append(bytes.Clone(object[:len(object)-72]), second[len(second)-72:]...)
	if r.check(t, "trailer of another pack", 0, mixed, int64(len(mixed))) {
		t.Error("trailers of packs of one size say the same")
	}
}

// What a trailer may say.
func TestTrailer(t *testing.T) {
	k := newKeys()
	_, object, dir := write(t, k, sample(t, k, 100))
	var frames int
	for _, f := range dir.Frames {
		frames += int(f.Stored)
	}
	b := pad(frames, directoryBytes(dir))
	read := func(change func(t []byte)) error {
		tr := trailer(len(b))
		change(tr)
		p := sealPack(k, object[:frames], b, tr)
		_, err := pack.ReadDirectory(k, bytes.NewReader(p), int64(len(p)))
		return err
	}
	le := binary.LittleEndian
	if err := read(func(t []byte) {}); err != nil {
		t.Fatal(err)
	}
	if err := read(func(t []byte) { le.PutUint32(t[8:], 1<<31) }); err != nil {
		t.Error("optional features:", err)
	}
	for _, c := range []struct {
		change func(t []byte)
		want   pack.VersionError
	}{
		{func(t []byte) { t[0] = 2 }, pack.VersionError{Version: 2}},
		{func(t []byte) { t[0] = 255; t[1] = 9; le.PutUint32(t[4:], 6) }, pack.VersionError{Version: 255, Features: 6}},
		{func(t []byte) { le.PutUint32(t[4:], 1<<31) }, pack.VersionError{Version: 1, Features: 1 << 31}},
		{func(t []byte) { le.PutUint32(t[12:], 7) }, pack.VersionError{Version: 1, Epoch: 7}},
	} {
		err := read(c.change)
		var v *pack.VersionError
		if !errors.As(err, &v) || *v != c.want || errors.Is(err, pack.ErrDamaged) {
			t.Errorf("%v, want %+v", err, c.want)
		}
	}
	for i := range 32 {
		if i == 0 || i >= 4 && i < 20 {
			continue
		}
		if err := read(func(t []byte) { t[i] = 1 }); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("reserved byte %d: %v", i, err)
		}
	}
	if err := read(func(t []byte) { t[0] = 0 }); !errors.Is(err, pack.ErrDamaged) {
		t.Error("version 0:", err)
	}
	for _, n := range []int64{0, 1, 39, 40, 55, int64(len(b)) + 39, int64(len(b)) + 41, int64(len(object)) - 72, int64(len(object)) - 71, int64(len(object)), 1 << 31, 1<<32 - 1} {
		if err := read(func(t []byte) { le.PutUint32(t[16:], uint32(n)) }); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("a directory of %d bytes: %v", n, err)
		}
	}
}

// Directories that only somebody with the directory key can make, and no Writer does.
func TestHostileDirectories(t *testing.T) {
	k := newKeys()
	_, object, dir := write(t, k, sample(t, k, 100))
	frames := int(dir.Frames[4].Offset + dir.Frames[4].Stored)
	good := directoryBytes(dir)
	le := binary.LittleEndian
	const frame0 = 16 + 2*sectionSize
	blob0 := frame0 + 5*32
	add := func(b []byte, at int, n int) { le.PutUint32(b[at:], le.Uint32(b[at:])+uint32(n)) }
	read := func(directory []byte) error {
		p := sealPack(k, object[:frames], directory, trailer(len(directory)))
		_, err := pack.ReadDirectory(k, bytes.NewReader(p), int64(len(p)))
		return err
	}
	if err := read(pad(frames, good)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"nothing":                     func(b []byte) []byte { return nil },
		"half a head":                 func(b []byte) []byte { return b[:8] },
		"more sections":               func(b []byte) []byte { add(b, 0, 1); return b },
		"fewer sections":              func(b []byte) []byte { add(b, 0, -1); return b },
		"256 sections":                func(b []byte) []byte { le.PutUint32(b, 256); return append(b, make([]byte, 256*sectionSize)...) },
		"most sections":               func(b []byte) []byte { le.PutUint32(b, 1<<32-1); return b },
		"most of all":                 func(b []byte) []byte { copy(b, bytes.Repeat([]byte{255}, 16)); return b },
		"no frames":                   func(b []byte) []byte { add(b, 4, -5); return append(b[:frame0:frame0], b[blob0:]...) },
		"nothing at all":              func(b []byte) []byte { return make([]byte, 16) },
		"fewer frames":                func(b []byte) []byte { add(b, 4, -1); return b },
		"more frames":                 func(b []byte) []byte { add(b, 4, 1); return b },
		"most frames":                 func(b []byte) []byte { le.PutUint32(b[4:], 1<<32-1); return b },
		"more blobs":                  func(b []byte) []byte { add(b, 8, 1); return append(b, make([]byte, 36)...) },
		"most blobs":                  func(b []byte) []byte { le.PutUint32(b[8:], 1<<32-1); return b },
		"more bases":                  func(b []byte) []byte { add(b, 12, 1); return append(b, make([]byte, 32)...) },
		"most bases":                  func(b []byte) []byte { le.PutUint32(b[12:], 1<<32-1); return b },
		"a section of no kind":        func(b []byte) []byte { b[16] = 0; return b },
		"a section of a fourth kind":  func(b []byte) []byte { b[16] = 4; return b },
		"reserved bytes of a section": func(b []byte) []byte { b[16+2] = 1; return b },
		"and the second":              func(b []byte) []byte { b[16+sectionSize+3] = 1; return b },
		"section out of range":        func(b []byte) []byte { b[frame0] = 2; return b },
		"reserved byte of a frame":    func(b []byte) []byte { b[frame0+3] = 1; return b },
		"a codec of the future":       func(b []byte) []byte { b[frame0+1] = 3; return b },
		"a depth without bases":       func(b []byte) []byte { b[frame0+2] = 1; return b },
		"a delta of depth 0":          func(b []byte) []byte { b[frame0+2*32+2] = 0; return b },
		"a delta of depth 9":          func(b []byte) []byte { b[frame0+2*32+2] = 9; return b },
		"a gap before the first":      func(b []byte) []byte { add(b, frame0+4, 1); return b },
		"a gap":                       func(b []byte) []byte { add(b, frame0+32+4, 1); return b },
		"an overlap":                  func(b []byte) []byte { add(b, frame0+32+4, -1); return b },
		"a frame of other size":       func(b []byte) []byte { add(b, frame0+8, 1); return b },
		"a frame beyond the end":      func(b []byte) []byte { le.PutUint32(b[frame0+4*32+8:], 1<<32-1); return b },
		"a frame up to 2^32": func(b []byte) []byte {
			le.PutUint32(b[frame0+8:], -le.Uint32(b[frame0+32+8:]))
			return b
		},
		"frames that end early":     func(b []byte) []byte { add(b, frame0+4*32+8, -1); return b },
		"an empty frame":            func(b []byte) []byte { le.PutUint32(b[frame0+12:], 0); return b },
		"a frame of other plain":    func(b []byte) []byte { add(b, frame0+32+12, 1); return b },
		"a frame beyond MaxPlain":   func(b []byte) []byte { le.PutUint32(b[frame0+32+12:], pack.MaxPlain+1); return b },
		"a frame with fewer blobs":  func(b []byte) []byte { add(b, frame0+24, -1); return b },
		"a frame with most blobs":   func(b []byte) []byte { le.PutUint32(b[frame0+24:], 1<<32-1); return b },
		"a frame without blobs":     func(b []byte) []byte { le.PutUint32(b[frame0+24:], 0); return b },
		"a delta with fewer bases":  func(b []byte) []byte { add(b, frame0+2*32+28, -1); return b },
		"a delta with most bases":   func(b []byte) []byte { le.PutUint32(b[frame0+2*32+28:], 1<<32-1); return b },
		"bases of a plain frame":    func(b []byte) []byte { add(b, frame0+28, 1); return b },
		"an empty blob":             func(b []byte) []byte { le.PutUint32(b[blob0+32:], 0); return b },
		"blobs that do not add up":  func(b []byte) []byte { add(b, blob0+32, 1); return b },
		"blobs that add up to 2^32": func(b []byte) []byte { add(b, blob0+32, -1<<31); add(b, blob0+36+32, -1<<31); return b },
	} {
		if err := read(pad(frames, change(bytes.Clone(good)))); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	padded := pad(frames, good)
	if len(padded) < len(good)+2 {
		t.Fatal("no padding to change")
	}
	for name, b := range map[string][]byte{
		"no padding":         good,
		"less padding":       padded[:len(padded)-1],
		"more padding":       append(bytes.Clone(padded), 0),
		"much more padding":  append(bytes.Clone(padded), make([]byte, 1<<20)...),
		"padding not zero":   append(bytes.Clone(padded[:len(padded)-1]), 1),
		"padding that holds": append(append(bytes.Clone(good), 1), padded[len(good)+1:]...),
	} {
		if err := read(b); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A directory may claim much, but costs memory only for what it holds.
func TestDirectoryMemory(t *testing.T) {
	k := newKeys()
	b := make([]byte, 16)
	for i := range b {
		b[i] = 0xff
	}
	p := sealPack(k, nil, pad(0, b), trailer(len(pad(0, b))))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := pack.ReadDirectory(k, bytes.NewReader(p), int64(len(p)))
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, pack.ErrDamaged) || n > 256<<10 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// FuzzReadDirectory seals whatever comes as a directory, behind as many bytes of frames as fit it. The reader refuses it, or it is what a Writer writes.
func FuzzReadDirectory(f *testing.F) {
	k := newKeys()
	for _, n := range []int{80, 1000} {
		_, _, dir := write(f, k, sample(f, k, n))
		f.Add(directoryBytes(dir), int(dir.Frames[4].Offset+dir.Frames[4].Stored), true)
	}
	f.Add([]byte{}, 0, false)
	f.Fuzz(func(t *testing.T, b []byte, frames int, padded bool) {
		if frames < 0 || frames > 1<<16 || len(b) > 1<<20 {
			return
		}
		if padded {
			b = pad(frames, b)
		}
		p := sealPack(k, make([]byte, frames), b, trailer(len(b)))
		dir, err := pack.ReadDirectory(k, bytes.NewReader(p), int64(len(p)))
		if err != nil {
			if !errors.Is(err, pack.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if again := pad(frames, directoryBytes(dir)); !bytes.Equal(again, b) {
			t.Fatalf("%x\nis read as %+v\nwhich is %x", b, dir, again)
		}
		for i := range dir.Frames {
			if err := dir.Frames[i].Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzDecode seals whatever comes as a frame. It is refused, or opens to as many bytes as it says.
func FuzzDecode(f *testing.F) {
	k := newKeys()
	key := try(pack.NewSectionKey(k, 1))
	d := pack.NewDecoder()
	f.Cleanup(d.Close)
	f.Add([]byte("plain"), uint8(0), uint32(5), []byte{})
	f.Add([]byte("\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00plain"), uint8(1), uint32(5), []byte{})
	f.Add([]byte("\x28\xb5\x2f\xfd\x21\x01\x05\x29\x00\x00plain"), uint8(2), uint32(5), []byte("dictionary"))
	f.Fuzz(func(t *testing.T, data []byte, codec uint8, plain uint32, dict []byte) {
		if plain > 1<<20 {
			return
		}
		fr := pack.Frame{Codec: codec, Plain: plain}
		if codec == pack.ZstdDelta {
			fr.Depth, fr.Bases = 1, make([]pack.ID, 1)
		}
		sealed := sealFrame(k, key.Section, &fr, data)
		got, err := d.Decode(make([]byte, 3, 10), key, &fr, sealed, dict)
		switch {
		case err != nil:
			if !errors.Is(err, pack.ErrDamaged) || got != nil {
				t.Fatal(err)
			}
		case len(got) != 3+int(plain) || codec == pack.Stored && !bytes.Equal(got[3:], data):
			t.Fatalf("%d bytes, %d expected", len(got)-3, plain)
		}
	})
}

// FuzzReadPack reads whatever comes as a pack: without the key nobody makes one.
func FuzzReadPack(f *testing.F) {
	k := newKeys()
	_, object, _ := write(f, k, sample(f, k, 100))
	f.Add(object[:len(object)-1], int64(len(object)))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if bytes.Equal(b, object) || size > 1<<24 {
			return
		}
		if _, err := pack.ReadDirectory(k, bytes.NewReader(b), size); !errors.Is(err, pack.ErrDamaged) || errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}
