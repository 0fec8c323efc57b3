package index_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const session = "20261120T031500123Z-00112233445566aa-8899aabbccddeeff"

func try[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// key is an encapsulated key that is known by its number.
func key(n int) []byte {
	k := make([]byte, pack.KeySize)
	binary.LittleEndian.PutUint32(k, uint32(n))
	return k
}

func uniform(r *rand.Rand) (id pack.ID) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

// frame returns a frame of one blob of 100 bytes for each id.
func frame(ids ...pack.ID) pack.Frame {
	f := pack.Frame{Codec: pack.Zstd, Stored: 50, Plain: uint32(100 * len(ids)), Counter: 1}
	for _, id := range ids {
		f.Blobs = append(f.Blobs, pack.Blob{ID: id, Length: 100})
	}
	return f
}

// delta makes f a delta frame.
func delta(depth uint8, bases []pack.ID, f pack.Frame) pack.Frame {
	f.Codec, f.Depth, f.Bases = pack.ZstdDelta, depth, bases
	return f
}

// packOf returns a pack of these frames, in one content section.
func packOf(id byte, frames ...pack.Frame) index.Pack {
	p := index.Pack{ID: pack.ID{id}, Dir: &pack.Directory{Sections: []pack.Section{{Kind: 1, AEAD: 1, Key: key(0)}}}}
	for i, f := range frames {
		f.Offset = p.Size
		f.Counter = uint64(i + 1)
		p.Size += f.Stored
		p.Dir.Frames = append(p.Dir.Frames, f)
	}
	p.Size += 1000
	return p
}

// seg is a segment as a store has it.
type seg struct {
	packs     []index.Pack
	stored    int64
	rewritten bool
}

func build(t testing.TB, state func(pack.ID) index.State, segs ...seg) *index.Index {
	t.Helper()
	b := index.NewBuilder(state)
	for _, s := range segs {
		payload := index.EncodeSegment(session, slices.Clone(s.packs))
		if got, err := index.CheckSegment(payload, s.rewritten); err != nil || got != session {
			t.Fatalf("%q, %v", got, err)
		}
		if err := b.Add(payload, s.stored, s.rewritten); err != nil {
			t.Fatal(err)
		}
		clear(payload) // is not kept
	}
	return b.Index()
}

// A copy as a model has it: all that can be known of it, as text, but for birth and presence.
type copyOf struct {
	what    string
	birth   int64
	present bool
	kind    uint8
	length  uint32
}

// model is what an Index is, in the simplest form: every copy of every blob.
type model map[pack.ID][]copyOf

func describe(p pack.ID, size uint32, s *pack.Section, f *pack.Frame, off, length uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "pack %x of %d, section %d %d %x, frame %d %d %d %d %d %d over %x, blob %d+%d", p[:2], size, s.Kind, s.AEAD, s.Key[:4],
		f.Codec, f.Depth, f.Offset, f.Stored, f.Plain, f.Counter, f.Bases, off, length)
	return b.String()
}

func modelOf(state func(pack.ID) index.State, segs []seg) model {
	type place struct {
		pack  *index.Pack
		frame *pack.Frame
	}
	holders := map[pack.ID][]place{}
	for i := range segs {
		for j := range segs[i].packs {
			p := &segs[i].packs[j]
			for k := range p.Dir.Frames {
				for _, b := range p.Dir.Frames[k].Blobs {
					holders[b.ID] = append(holders[b.ID], place{p, &p.Dir.Frames[k]})
				}
			}
		}
	}
	known := map[*pack.Frame]bool{}
	var present func(pl place) bool
	present = func(pl place) bool {
		if v, ok := known[pl.frame]; ok {
			return v
		}
		v := state(pl.pack.ID) == index.Live
		for _, id := range pl.frame.Bases {
			v = v && slices.ContainsFunc(holders[id], func(h place) bool {
				return h.frame.Depth < pl.frame.Depth && h.pack.Dir.Sections[h.frame.Section].Kind == pl.pack.Dir.Sections[pl.frame.Section].Kind && present(h)
			})
		}
		known[pl.frame] = v
		return v
	}
	m := model{}
	for _, s := range segs {
		for i := range s.packs {
			p := &s.packs[i]
			for j := range p.Dir.Frames {
				f := &p.Dir.Frames[j]
				sec := &p.Dir.Sections[f.Section]
				birth := s.stored
				if s.rewritten {
					birth = p.Births[j]
				}
				var off uint32
				for _, b := range f.Blobs {
					c := copyOf{describe(p.ID, p.Size, sec, f, off, b.Length), birth, present(place{p, f}), sec.Kind, b.Length}
					off += b.Length
					if k := slices.IndexFunc(m[b.ID], func(o copyOf) bool { return o.what == c.what }); k >= 0 {
						m[b.ID][k].birth = min(birth, m[b.ID][k].birth)
					} else {
						m[b.ID] = append(m[b.ID], c)
					}
				}
			}
		}
	}
	return m
}

// found is what Find says of a blob, in the words of the model.
func found(x *index.Index, id pack.ID, kind uint8) (copies []copyOf) {
	for _, c := range x.Find(nil, id, kind) {
		f := x.Frame(c.Frame)
		p := x.Pack(f.Pack)
		copies = append(copies, copyOf{describe(p.ID, p.Size, x.Section(c.Frame), &f.Frame, c.Offset, c.Length), f.Birth, x.Present(c.Frame), x.Kind(c.Frame), c.Length})
	}
	return copies
}

func sorted(copies []copyOf) []copyOf {
	copies = slices.Clone(copies)
	slices.SortFunc(copies, func(a, b copyOf) int { return cmp.Compare(a.what, b.what) })
	return copies
}

// agree fails unless x says of these blobs what m does.
func agree(t interface {
	Helper()
	Fatalf(string, ...any)
}, x *index.Index, m model, ids []pack.ID) {
	t.Helper()
	total := 0
	for _, id := range ids {
		for kind := uint8(0); kind <= 3; kind++ {
			var want []copyOf
			any := false
			has := map[uint32]bool{1: false, 1 << 30: false}
			for _, c := range m[id] {
				if c.kind == kind {
					want = append(want, c)
					any = any || c.present
					has[c.length] = has[c.length] || c.present
				}
			}
			got := found(x, id, kind)
			if !slices.Equal(sorted(got), sorted(want)) {
				t.Fatalf("blob %x of kind %d:\n got %+v\nwant %+v", id[:2], kind, sorted(got), sorted(want))
			}
			if !slices.IsSortedFunc(got, func(a, b copyOf) int {
				if a.present != b.present {
					if a.present {
						return -1
					}
					return 1
				}
				return cmp.Compare(a.birth, b.birth)
			}) {
				t.Fatalf("blob %x: not the best first: %+v", id[:2], got)
			}
			for length, want := range has {
				if got := x.Has(id, kind, length); got != want {
					t.Fatalf("Has(%x, %d, %d) = %v", id[:2], kind, length, got)
				}
			}
			if got := x.HasAny(id, kind); got != any {
				t.Fatalf("HasAny(%x, %d) = %v", id[:2], kind, got)
			}
		}
	}
	for _, copies := range m {
		total += len(copies)
	}
	if x.Len() != total {
		t.Fatalf("%d copies, want %d", x.Len(), total)
	}
	var last pack.ID
	n := 0
	for id, c := range x.All() {
		if again, d := x.At(c.Ordinal); int(c.Ordinal) != n || bytes.Compare(last[:], id[:]) > 0 || again != id || d != c {
			t.Fatalf("ordinal %d: %+v of %x after %x; %+v of %x", n, c, id[:2], last[:2], d, again[:2])
		}
		if !slices.Contains(x.Find(nil, id, x.Kind(c.Frame)), c) {
			t.Fatalf("%+v of %x is not found", c, id[:2])
		}
		last = id
		n++
	}
	if n != total {
		t.Fatalf("All yields %d copies, want %d", n, total)
	}
}
