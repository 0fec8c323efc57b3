package index_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

var update = flag.Bool("update", false, "write testdata/segments-v1.txt instead of comparing with it")

const (
	goldenFile   = "testdata/segments-v1.txt"
	goldenHeader = `# Payloads of index segments of format version 1: kind of the object and bytes in hex. They describe the packs of goldenPacks.
# Written by: go test ./repo/internal/index -run TestGolden -update
`
)

// goldenPacks are two packs, out of order, with all that a segment can say.
func goldenPacks(rewritten bool) []index.Pack {
	a, b, c, d := pack.ID{0xa}, pack.ID{0xb}, pack.ID{0xc}, pack.ID{0xd}
	second := packOf(2, frame(b, a, a), delta(1, []pack.ID{a, b}, frame(c)), delta(8, []pack.ID{c}, frame(d, b)))
	second.Dir.Sections = append(second.Dir.Sections, pack.Section{Kind: 2, AEAD: 2, Key: key(7)})
	second.Dir.Frames[0].Section = 1
	second.Dir.Frames[1].Counter = 1<<64 - 2
	first := packOf(1, frame(a))
	if rewritten {
		first.Births, second.Births = []int64{1_800_000_000}, []int64{0, -1, 1<<63 - 1}
	}
	return []index.Pack{second, first}
}

func golden(t testing.TB) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 {
			m[f[0]] = append(m[f[0]], try(hex.DecodeString(f[1]))...)
		}
	}
	return m
}

// Programs of today write what the golden file says, byte for byte.
func TestGoldenWrite(t *testing.T) {
	text := goldenHeader
	want := map[string][]byte{}
	if !*update {
		want = golden(t)
	}
	for _, kind := range []string{"2", "3"} {
		b := index.EncodeSegment(session, goldenPacks(kind == "3"))
		if !*update && !bytes.Equal(b, want[kind]) {
			t.Errorf("kind %s\n got %x\nwant %x", kind, b, want[kind])
		}
		for len(b) > 0 {
			n := min(60, len(b))
			text += fmt.Sprintf("%s %x\n", kind, b[:n])
			b = b[n:]
		}
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Programs of all times read what the golden file holds.
func TestGoldenRead(t *testing.T) {
	for kind, b := range golden(t) {
		bl := index.NewBuilder(nil)
		if err := bl.Add(b, 500, kind == "3"); err != nil {
			t.Fatal(err)
		}
		segs := []seg{{packs: goldenPacks(kind == "3"), stored: 500, rewritten: kind == "3"}}
		agree(t, bl.Index(), modelOf(func(pack.ID) index.State { return index.Live }, segs), []pack.ID{{0xa}, {0xb}, {0xc}, {0xd}, {0xe}})
	}
}

// TestFormatByHand reads the golden file with nothing but docs/FORMAT.md.
func TestFormatByHand(t *testing.T) {
	le := binary.LittleEndian
	for kind, b := range golden(t) {
		if string(b[:53]) != session || string(b[53:56]) != "\x00\x00\x00" {
			t.Fatalf("head %q", b[:56])
		}
		var n [5]int
		for i := range n {
			n[i] = int(le.Uint32(b[56+4*i:]))
		}
		if n != [5]int{2, 3, 4, 3, 7} {
			t.Fatalf("counts %v", n)
		}
		b = b[76:]
		take := func(n int) (r []byte) {
			r, b = b[:n], b[n:]
			return r
		}
		packs, sections, frames, bases, blobs := take(2*44), take(3*1124), take(4*36), take(3*32), take(7*44)
		if len(b) != 0 || packs[0] != 1 || packs[44] != 2 || le.Uint32(packs[32:]) != 1050 || le.Uint32(packs[44+32:]) != 1150 ||
			le.Uint32(packs[36:]) != 1 || le.Uint32(packs[40:]) != 1 || le.Uint32(packs[44+36:]) != 2 || le.Uint32(packs[44+40:]) != 3 {
			t.Errorf("packs %x, left %x", packs, b)
		}
		if !bytes.Equal(sections[2*1124:], append([]byte{2, 2, 0, 0}, key(7)...)) || !bytes.Equal(sections[:1124], append([]byte{1, 1, 0, 0}, key(0)...)) {
			t.Errorf("sections %x", sections)
		}
		births := [4]uint64{}
		if kind == "3" {
			births = [4]uint64{1_800_000_000, 0, 1<<64 - 1, 1<<63 - 1}
		}
		for i, want := range []struct {
			section, codec, depth byte
			offset, stored, plain uint32
			counter               uint64
			bases                 uint32
		}{
			{0, 1, 0, 0, 50, 100, 1, 0},
			{1, 1, 0, 0, 50, 300, 1, 0},
			{0, 2, 1, 50, 50, 100, 1<<64 - 2, 2},
			{0, 2, 8, 100, 50, 200, 3, 1},
		} {
			r := []byte{want.section, want.codec, want.depth, 0}
			r = le.AppendUint32(r, want.offset)
			r = le.AppendUint32(r, want.stored)
			r = le.AppendUint32(r, want.plain)
			r = le.AppendUint64(r, want.counter)
			r = le.AppendUint64(r, births[i])
			r = le.AppendUint32(r, want.bases)
			if got := frames[36*i : 36*i+36]; !bytes.Equal(got, r) {
				t.Errorf("frame %d: %x, want %x", i, got, r)
			}
		}
		if bases[0] != 0xa || bases[32] != 0xb || bases[64] != 0xc {
			t.Errorf("bases %x", bases)
		}
		for i, want := range [][4]uint32{{0xa, 0, 0, 100}, {0xa, 1, 100, 100}, {0xa, 1, 200, 100}, {0xb, 1, 0, 100}, {0xb, 3, 100, 100}, {0xc, 2, 0, 100}, {0xd, 3, 0, 100}} {
			r := blobs[44*i:]
			if got := [4]uint32{uint32(r[0]), le.Uint32(r[32:]), le.Uint32(r[36:]), le.Uint32(r[40:])}; got != want {
				t.Errorf("blob %d: %v, want %v", i, got, want)
			}
		}
	}
}

// Payloads that EncodeSegment does not make.
func TestHostileSegments(t *testing.T) {
	le := binary.LittleEndian
	const (
		packs    = 76
		sections = packs + 2*44
		frames   = sections + 3*1124
		bases    = frames + 4*36
		blobs    = bases + 3*32
	)
	add := func(b []byte, at, n int) []byte { le.PutUint32(b[at:], le.Uint32(b[at:])+uint32(n)); return b }
	set := func(b []byte, at int, n uint32) []byte { le.PutUint32(b[at:], n); return b }
	swap := func(b []byte, at, size int) []byte {
		x := bytes.Clone(b[at : at+size])
		copy(b[at:], b[at+size:at+2*size])
		copy(b[at+size:], x)
		return b
	}
	for name, change := range map[string]func(b []byte) []byte{
		"nothing":                          func(b []byte) []byte { return nil },
		"half a head":                      func(b []byte) []byte { return b[:75] },
		"a head alone":                     func(b []byte) []byte { return b[:76] },
		"cut":                              func(b []byte) []byte { return b[:len(b)-1] },
		"longer":                           func(b []byte) []byte { return append(b, 0) },
		"reserved bytes of the head":       func(b []byte) []byte { b[54] = 1; return b },
		"most packs":                       func(b []byte) []byte { return set(b, 56, 1<<32-1) },
		"most of all":                      func(b []byte) []byte { copy(b[56:], bytes.Repeat([]byte{255}, 20)); return b },
		"a pack more":                      func(b []byte) []byte { return add(b, 56, 1) },
		"packs for frames":                 func(b []byte) []byte { return add(add(b, 56, 9), 64, -11) }, // 9 × 44 = 11 × 36
		"frames for blobs":                 func(b []byte) []byte { return add(add(b, 64, 11), 72, -9) },
		"blobs for frames":                 func(b []byte) []byte { return append(add(add(b, 64, -4), 72, 4), make([]byte, 4*(44-36))...) },
		"a section without pack":           func(b []byte) []byte { return add(b, packs+36, -1) },
		"a section more":                   func(b []byte) []byte { return add(b, packs+36, 1) },
		"256 sections":                     func(b []byte) []byte { return set(b, packs+36, 256) },
		"most sections":                    func(b []byte) []byte { return set(b, packs+36, 1<<32-1) },
		"a frame without pack":             func(b []byte) []byte { return add(b, packs+44+40, -1) },
		"a frame more":                     func(b []byte) []byte { return add(b, packs+44+40, 1) },
		"most frames":                      func(b []byte) []byte { return set(b, packs+40, 1<<32-1) },
		"packs out of order":               func(b []byte) []byte { return swap(b, packs, 44) },
		"a pack twice":                     func(b []byte) []byte { copy(b[packs+44:], b[packs:packs+32]); return b },
		"a pack beyond its limit":          func(b []byte) []byte { return set(b, packs+32, pack.MaxSize+1) },
		"a pack smaller than its frames":   func(b []byte) []byte { return set(b, packs+32, 49) },
		"a section of no kind":             func(b []byte) []byte { b[sections] = 0; return b },
		"a section of a fourth kind":       func(b []byte) []byte { b[sections+1124] = 4; return b },
		"reserved bytes of a section":      func(b []byte) []byte { b[sections+1124+3] = 1; return b },
		"a section out of range":           func(b []byte) []byte { b[frames] = 1; return b },
		"a codec of the future":            func(b []byte) []byte { b[frames+1] = 3; return b },
		"a plain frame with depth":         func(b []byte) []byte { b[frames+2] = 1; return b },
		"a delta that says it is none":     func(b []byte) []byte { b[frames+2*36+1] = 1; return b },
		"a delta of depth 0":               func(b []byte) []byte { b[frames+2*36+2] = 0; return b },
		"a delta of depth 9":               func(b []byte) []byte { b[frames+2*36+2] = 9; return b },
		"reserved byte of a frame":         func(b []byte) []byte { b[frames+3] = 1; return b },
		"overlapping frames":               func(b []byte) []byte { return add(b, frames+2*36+4, -1) },
		"frames out of order":              func(b []byte) []byte { return add(b, frames+36+4, 1000) },
		"a frame beyond its pack":          func(b []byte) []byte { return set(b, frames+4, 1001) },
		"a frame beyond 2^32":              func(b []byte) []byte { return set(b, frames+4, 1<<32-1) },
		"a frame of nothing":               func(b []byte) []byte { return set(b, frames+8, 16) },
		"a frame of no plaintext":          func(b []byte) []byte { return set(b, frames+12, 0) },
		"a frame of too much":              func(b []byte) []byte { return set(b, frames+12, pack.MaxPlain+1) },
		"a delta without bases":            func(b []byte) []byte { return set(b, frames+2*36+32, 0) },
		"a plain frame with bases":         func(b []byte) []byte { return add(add(b, frames+32, 1), frames+2*36+32, -1) },
		"more bases than there are":        func(b []byte) []byte { return add(b, frames+3*36+32, 1) },
		"most bases":                       func(b []byte) []byte { return set(b, frames+3*36+32, 1<<32-1) },
		"a base without frame":             func(b []byte) []byte { return add(b, frames+2*36+32, -1) },
		"blobs out of order":               func(b []byte) []byte { return swap(b, blobs+2*44, 44) },
		"blobs of one id out of order":     func(b []byte) []byte { return swap(b, blobs, 44) },
		"a blob twice":                     func(b []byte) []byte { copy(b[blobs+44:], b[blobs:blobs+44]); return b },
		"a blob twice, of other length":    func(b []byte) []byte { copy(b[blobs+44:], b[blobs:blobs+44]); return add(b, blobs+40, -1) },
		"a blob in no frame":               func(b []byte) []byte { return set(b, blobs+6*44+32, 4) },
		"a blob in frame 2^32-1":           func(b []byte) []byte { return set(b, blobs+6*44+32, 1<<32-1) },
		"an empty blob":                    func(b []byte) []byte { return set(b, blobs+40, 0) },
		"a blob beyond its frame":          func(b []byte) []byte { return add(b, blobs+40, 1) },
		"a blob that begins beyond":        func(b []byte) []byte { return set(b, blobs+6*44+36, 1<<32-1) },
		"a blob that ends where it begins": func(b []byte) []byte { return set(set(b, blobs+6*44+36, 1<<32-1), blobs+6*44+40, 1) },
	} {
		for kind, b := range golden(t) {
			bad := change(bytes.Clone(b))
			if _, err := index.CheckSegment(bad, kind == "3"); !errors.Is(err, index.ErrDamaged) {
				t.Errorf("kind %s, %s: %v", kind, name, err)
			}
			if err := index.NewBuilder(nil).Add(bad, 0, kind == "3"); !errors.Is(err, index.ErrDamaged) {
				t.Errorf("kind %s, %s: Add: %v", kind, name, err)
			}
		}
	}
	// A session's own segment tells no births: they are the store's to tell.
	if _, err := index.CheckSegment(golden(t)["3"], false); !errors.Is(err, index.ErrDamaged) {
		t.Error(err)
	}
	if s, err := index.CheckSegment(golden(t)["2"], true); err != nil || s != session || len(s) != index.SessionSize {
		t.Error(s, err)
	}
}

func TestEncodeSegmentMisuse(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a session id of 5 bytes")
		}
	}()
	index.EncodeSegment("short", nil)
}

func TestSegmentSize(t *testing.T) {
	packs := goldenPacks(false)
	if n, m := index.SegmentSize(packs), len(index.EncodeSegment(session, packs)); n != m {
		t.Errorf("%d, really %d", n, m)
	}
	if n := packs[1].BlobCount(); n != 6 { // EncodeSegment has sorted them
		t.Errorf("%d blobs", n)
	}
	if b := index.EncodeSegment(session, nil); len(b) != 76 {
		t.Errorf("%d bytes for no packs", len(b))
	} else if _, err := index.CheckSegment(b, false); err != nil {
		t.Error(err)
	}
}

// FuzzCheckSegment: a payload is refused, or can be added, and every blob in it is found.
func FuzzCheckSegment(f *testing.F) {
	for kind, b := range golden(f) {
		f.Add(b, kind == "3")
	}
	f.Add(index.EncodeSegment(session, nil), false)
	f.Add(index.EncodeSegment(session, []index.Pack{packOf(1, frame(pack.ID{1}), frame(pack.ID{1}), delta(1, []pack.ID{{1}}, frame(pack.ID{2})))}), true)
	f.Fuzz(func(t *testing.T, b []byte, rewritten bool) {
		s, err := index.CheckSegment(b, rewritten)
		bl := index.NewBuilder(func(id pack.ID) index.State { return index.State(id[31] % 3) })
		if err != nil {
			if !errors.Is(err, index.ErrDamaged) || !errors.Is(bl.Add(b, 5, rewritten), index.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if s != string(b[:53]) {
			t.Fatalf("session %q", s)
		}
		for range 2 {
			if err := bl.Add(b, 5, rewritten); err != nil {
				t.Fatal(err)
			}
		}
		x := bl.Index()
		le := binary.LittleEndian
		if n := int(le.Uint32(b[72:])); x.Len() != n || x.Frames() != 2*int(le.Uint32(b[64:])) || x.Packs() != 2*int(le.Uint32(b[56:])) {
			t.Fatalf("%d copies, want %d; %d frames, %d packs", x.Len(), n, x.Frames(), x.Packs())
		}
		for id, c := range x.All() {
			fr := x.Frame(c.Frame)
			if uint64(c.Offset)+uint64(c.Length) > uint64(fr.Plain) || uint64(fr.Offset)+uint64(fr.Stored) > uint64(x.Pack(fr.Pack).Size) {
				t.Fatalf("%+v in %+v", c, fr)
			}
			ok := false
			for _, d := range x.Find(nil, id, x.Kind(c.Frame)) {
				ok = ok || d == c
			}
			if !ok || x.Present(c.Frame) && !x.Has(id, x.Kind(c.Frame), c.Length) {
				t.Fatalf("%x: %+v is not found", id, c)
			}
		}
	})
}
