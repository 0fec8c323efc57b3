package pack_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/varvebackup/varve/pack"
)

func TestCodecs(t *testing.T) {
	k := newKeys()
	key, e := try(pack.NewSectionKey(k, 1)), pack.NewEncoder()
	mixed := append(noise(98_500, 1), make([]byte, 1500)...)
	for _, c := range []struct {
		name  string
		plain []byte
		codec uint8
	}{
		{"one byte", []byte{7}, pack.Stored},
		{"few bytes", []byte("abcdefgh"), pack.Stored},
		{"noise", noise(512<<10, 1), pack.Stored},
		{"what gains less than a fiftieth", mixed, pack.Stored},
		{"zeros", make([]byte, 512<<10), pack.Zstd},
		{"text", text(512<<10, 1), pack.Zstd},
		{"short text", text(300, 1), pack.Zstd},
		{"as much as a frame holds", bytes.Repeat(text(1<<20, 1), pack.MaxPlain>>20), pack.Zstd},
	} {
		f, sealed := e.Encode(nil, key, c.plain)
		if f.Codec != c.codec || int(f.Plain) != len(c.plain) || int(f.Stored) != len(sealed) || len(sealed) > len(c.plain)+pack.Overhead {
			t.Errorf("%s: %d bytes become %+v", c.name, len(c.plain), f)
		}
		checkDecode(t, c.name, key, &f, sealed, nil, c.plain)
	}
}

// checkDecode fails unless f opens to want, in whatever memory it is given.
func checkDecode(t *testing.T, name string, key *pack.SectionKey, f *pack.Frame, sealed, dict, want []byte) {
	t.Helper()
	d := pack.NewDecoder()
	defer d.Close()
	before := []byte("before")
	rooms := []int{0, 1, len(want) - 1, len(want), len(want) + 100}
	if len(want) > 1<<20 {
		rooms = rooms[2:4]
	}
	for _, room := range rooms {
		dst := append(make([]byte, 0, len(before)+room), before...)
		got, err := d.Decode(dst, key, f, bytes.Clone(sealed), dict)
		if err != nil || !bytes.HasPrefix(got, before) || !bytes.Equal(got[len(before):], want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got)-len(before), len(want), err)
		}
		if room >= len(want) && err == nil && &got[0] != &dst[0] {
			t.Errorf("%s: the memory that was given is not used", name)
		}
	}
}

// Encode uses the memory that it is given when that has the room it asks for, whatever the data.
func TestEncodeMemory(t *testing.T) {
	key, e := try(pack.NewSectionKey(newKeys(), 1)), pack.NewEncoder()
	for _, plain := range [][]byte{noise(512<<10, 1), text(512<<10, 1), {1}} {
		dst := make([]byte, 0, len(plain)+pack.Overhead)
		e.Encode(dst, key, plain)
		if _, sealed := e.Encode(dst, key, plain); &sealed[0] != &dst[:1][0] {
			t.Error("the memory that was given is not used")
		}
		if n := testing.AllocsPerRun(10, func() { e.Encode(dst, key, plain) }); n > 2 {
			t.Errorf("%v allocations a frame", n)
		}
	}
}

func TestDelta(t *testing.T) {
	key, e := try(pack.NewSectionKey(newKeys(), 1)), pack.NewEncoder()
	bases := []pack.ID{{1}, {2}}
	for _, n := range []int{1, 7, 8, 9, 100, 1024, 128 << 10, 512 << 10, 5 << 20} {
		old := noise(n, 1)
		plain := append(append(append([]byte("new"), old...), old[:n/2]...), "new"...)
		f, sealed, ok, err := e.EncodeDelta(nil, key, plain, 3, bases, old)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !ok {
			if n >= 100 && n <= 512<<10 {
				t.Errorf("%d bytes: no gain", n)
			}
			continue
		}
		if f.Codec != pack.ZstdDelta || f.Depth != 3 || len(f.Bases) != 2 {
			t.Errorf("%+v", f)
		}
		if n >= 1024 && n <= 128<<10 && len(sealed) > n/10+200 {
			t.Errorf("%d bytes: a delta of %d", n, len(sealed))
		}
		checkDecode(t, fmt.Sprint(n), key, &f, sealed, old, plain)
	}
	// Between deltas an Encoder forgets the dictionary.
	old := noise(50_000, 2)
	if _, _, ok, err := e.EncodeDelta(nil, key, old, 1, bases, old); !ok || err != nil {
		t.Fatal(ok, err)
	}
	f, sealed := e.Encode(nil, key, old)
	if f.Codec != pack.Stored {
		t.Errorf("%+v", f)
	}
	if _, _, ok, err := e.EncodeDelta(nil, key, old, 1, bases, noise(50_000, 3)); ok || err != nil {
		t.Errorf("a dictionary of other noise pays: %v", err)
	}
	checkDecode(t, "plain", key, &f, sealed, nil, old)
}

// A delta over another dictionary is an error, not other bytes.
func TestWrongDictionary(t *testing.T) {
	key, e, d := try(pack.NewSectionKey(newKeys(), 1)), pack.NewEncoder(), pack.NewDecoder()
	defer d.Close()
	for _, old := range [][]byte{text(100_000, 1), noise(100_000, 1)} {
		plain := append([]byte("new"), old...)
		f, sealed, ok, err := e.EncodeDelta(nil, key, plain, 1, make([]pack.ID, 1), old)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		flipped := bytes.Clone(old)
		flipped[50_000] ^= 1
		for name, dict := range map[string][]byte{"none": nil, "empty": {}, "shorter": old[1:], "longer": append([]byte{0}, old...), "half": old[:50_000],
			"other": noise(100_000, 2), "a bit": flipped} {
			got, err := d.Decode(nil, key, &f, sealed, dict)
			if err == nil && bytes.Equal(got, plain) && (name == "shorter" || name == "longer") {
				continue // offsets count from its end, and the byte is not needed
			}
			if !errors.Is(err, pack.ErrDamaged) {
				t.Errorf("%s: %d bytes (equal: %v), %v", name, len(got), bytes.Equal(got, plain), err)
			}
		}
		if got, err := d.Decode(nil, key, &f, sealed, old); err != nil || !bytes.Equal(got, plain) {
			t.Error(err)
		}
	}
}

// A frame opens as what it was sealed as, and as nothing else.
func TestFrameIsBound(t *testing.T) {
	k := newKeys()
	other := newKeys()
	other.repo[0]++
	d := pack.NewDecoder()
	defer d.Close()
	for i, s := range sample(t, k, 1000) {
		for _, c := range []struct {
			name   string
			change func(s *sealedFrame)
		}{
			{"kind", func(s *sealedFrame) { s.section.Kind ^= 3 }},
			{"section", func(s *sealedFrame) { s.section.Key = bytes.Clone(s.section.Key); s.section.Key[700]++ }},
			{"codec", func(s *sealedFrame) {
				if s.frame.Codec ^= 1; s.frame.Codec == 3 {
					s.frame.Codec, s.frame.Depth, s.frame.Bases = 1, 0, nil
				}
			}},
			{"zstd as stored", func(s *sealedFrame) {
				if s.frame.Codec == pack.Stored {
					s.frame.Counter++
				}
				s.frame.Codec, s.frame.Plain, s.frame.Depth, s.frame.Bases = pack.Stored, s.frame.Stored-16, 0, nil
			}},
			{"stored as delta", func(s *sealedFrame) { s.frame.Codec, s.frame.Depth, s.frame.Bases = 2, 7, make([]pack.ID, 1) }},
			{"depth", func(s *sealedFrame) { s.frame.Depth ^= 3 }},
			{"plain", func(s *sealedFrame) { s.frame.Plain++ }},
			{"stored", func(s *sealedFrame) { s.frame.Stored-- }},
			{"stored and its bytes", func(s *sealedFrame) { s.frame.Stored--; s.sealed = s.sealed[:len(s.sealed)-1] }},
			{"counter", func(s *sealedFrame) { s.frame.Counter++ }},
			{"counter's highest byte", func(s *sealedFrame) { s.frame.Counter ^= 1 << 63 }},
			{"bases", func(s *sealedFrame) {
				s.frame.Bases = append(s.frame.Bases[:len(s.frame.Bases):len(s.frame.Bases)], pack.ID{})
			}},
			{"base", func(s *sealedFrame) {
				s.frame.Bases = append([]pack.ID{{1}}, s.frame.Bases...)[:max(1, len(s.frame.Bases))]
			}},
			{"order of bases", func(s *sealedFrame) {
				if b := s.frame.Bases; len(b) > 1 {
					s.frame.Bases = append([]pack.ID{b[1], b[0]}, b[2:]...)
				} else {
					s.frame.Counter = 0
				}
			}},
			{"no bytes", func(s *sealedFrame) { s.sealed = nil }},
		} {
			bad := s
			c.change(&bad)
			got, err := d.Decode(nil, try(pack.OpenSectionKey(k, bad.section)), &bad.frame, bad.sealed, bad.dict)
			if !errors.Is(err, pack.ErrDamaged) {
				t.Errorf("frame %d, %s: %d bytes, %v", i, c.name, len(got), err)
			}
		}
		if got, err := d.Decode(nil, try(pack.OpenSectionKey(other, s.section)), &s.frame, s.sealed, s.dict); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("frame %d, repository: %d bytes, %v", i, len(got), err)
		}
		// Pack, place and section number are not bound.
		s.frame.Offset, s.frame.Section, s.frame.Blobs = 17, 9, nil
		if got, err := d.Decode(nil, try(pack.OpenSectionKey(k, s.section)), &s.frame, s.sealed, s.dict); err != nil || !bytes.Equal(got, s.plain) {
			t.Errorf("frame %d: %v", i, err)
		}
	}
}

// A frame that expands to more or less than it claims is an error, and costs no more memory than it claims.
func TestBombs(t *testing.T) {
	k := newKeys()
	key := try(pack.NewSectionKey(k, 1))
	zeros := make([]byte, 64<<20)
	all := try(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)))
	defer all.Close()
	var streamed bytes.Buffer // does not say how much it expands to
	w := try(zstd.NewWriter(&streamed, zstd.WithEncoderConcurrency(1)))
	w.Write(zeros)
	w.Close()
	small := all.EncodeAll(zeros[:1000], nil)
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 1, 0, 0} // the largest window that a header can name, one empty block
	for _, c := range []struct {
		name  string
		data  []byte
		plain uint32
	}{
		{"64 MiB in one frame", all.EncodeAll(zeros, nil), 1000},
		{"64 MiB as the most that a frame may hold", all.EncodeAll(zeros, nil), pack.MaxPlain},
		{"64 MiB without a size", streamed.Bytes(), 1000},
		{"many frames", bytes.Repeat(small, 1000), 1000},
		{"one byte more", all.EncodeAll(zeros[:1001], nil), 1000},
		{"one byte less", all.EncodeAll(zeros[:999], nil), 1000},
		{"nothing", nil, 1000},
		{"a skippable frame", []byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, 1000},
		{"a huge window", window, 1000},
		{"a cut frame", small[:len(small)-1], 1000},
		{"more behind the frame", append(bytes.Clone(small), 0), 1000},
		{"no zstd", []byte("plain text"), 10},
	} {
		for _, codec := range []uint8{pack.Zstd, pack.ZstdDelta} {
			f := pack.Frame{Codec: codec, Plain: c.plain, Counter: 1}
			if codec == pack.ZstdDelta {
				f.Depth, f.Bases = 1, make([]pack.ID, 1)
			}
			if len(c.data) == 0 {
				f.Stored = 16
			}
			sealed := sealFrame(k, key.Section, &f, c.data)
			d := pack.NewDecoder()
			d.Decode(nil, key, &f, sealed, zeros[:10]) // its tables
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := d.Decode(nil, key, &f, sealed, zeros[:10])
			runtime.ReadMemStats(&after)
			d.Close()
			if !errors.Is(err, pack.ErrDamaged) {
				t.Errorf("%s, codec %d: %d bytes, %v", c.name, codec, len(got), err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > uint64(c.plain)+1<<20 {
				t.Errorf("%s, codec %d: %d bytes of memory", c.name, codec, n)
			}
		}
	}
}

func TestDecodeChecksNumbers(t *testing.T) {
	k := newKeys()
	key := try(pack.NewSectionKey(k, 1))
	d := pack.NewDecoder()
	defer d.Close()
	for _, f := range []pack.Frame{
		{},
		{Plain: 1},
		{Plain: pack.MaxPlain + 1},
		{Codec: pack.Zstd, Plain: 1<<32 - 1},
		{Codec: 3, Plain: 5},
		{Codec: 255, Plain: 5},
		{Codec: pack.Zstd, Plain: 5, Depth: 1},
		{Codec: pack.ZstdDelta, Plain: 5},
		{Codec: pack.ZstdDelta, Plain: 5, Depth: 9, Bases: make([]pack.ID, 1)},
		{Codec: pack.ZstdDelta, Plain: 5, Depth: 1},
		{Plain: 6},
		{Plain: 4},
	} {
		sealed := sealFrame(k, key.Section, &f, []byte("plain"))
		if got, err := d.Decode(nil, key, &f, sealed, nil); !errors.Is(err, pack.ErrDamaged) {
			t.Errorf("%+v: %q, %v", f, got, err)
		}
	}
	// As it is by the book, it opens.
	f := pack.Frame{Plain: 5}
	if got, err := d.Decode(nil, key, &f, sealFrame(k, key.Section, &f, []byte("plain")), nil); string(got) != "plain" {
		t.Error(err)
	}
}

// Under one section no counter is used twice, however many goroutines seal.
func TestNoncesAreUsedOnce(t *testing.T) {
	key := try(pack.NewSectionKey(newKeys(), 1))
	var mu sync.Mutex
	used := map[uint64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			e, plain := pack.NewEncoder(), text(200, 1)
			for range 100 {
				f, _ := e.Encode(nil, key, plain)
				g, _, ok, err := e.EncodeDelta(nil, key, plain, 1, make([]pack.ID, 1), plain)
				mu.Lock()
				if !ok || err != nil || used[f.Counter] || used[g.Counter] || f.Counter == g.Counter {
					t.Errorf("counters %d and %d, %v, %v", f.Counter, g.Counter, ok, err)
				}
				used[f.Counter], used[g.Counter] = true, true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(used) != 1600 {
		t.Errorf("%d counters", len(used))
	}
}

// A Decoder may go from a frame of any codec to one of any other.
func TestDecoderIsReusable(t *testing.T) {
	k := newKeys()
	frames := sample(t, k, 3000)
	d := pack.NewDecoder()
	defer d.Close()
	for i := range frames {
		for j := range frames {
			for _, s := range []sealedFrame{frames[i], frames[j]} {
				got, err := d.Decode(nil, try(pack.OpenSectionKey(k, s.section)), &s.frame, s.sealed, s.dict)
				if err != nil || !bytes.Equal(got, s.plain) {
					t.Fatalf("%d after %d: %v", j, i, err)
				}
			}
		}
	}
}
