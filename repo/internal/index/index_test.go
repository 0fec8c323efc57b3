package index_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"pgregory.net/rapid"
)

// drawPack draws a pack of blobs of a few ids, so that they meet others.
func drawPack(t *rapid.T, n int, ids []pack.ID) index.Pack {
	p := index.Pack{ID: pack.ID{byte(n), 7}, Dir: &pack.Directory{}}
	for range rapid.IntRange(1, 3).Draw(t, "sections") {
		k := rapid.IntRange(1, 4).Draw(t, "section")
		p.Dir.Sections = append(p.Dir.Sections, pack.Section{Kind: uint8(k%2 + 1), AEAD: uint8(k / 3), Key: key(k)})
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "frames") {
		f := pack.Frame{Section: rapid.IntRange(0, len(p.Dir.Sections)-1).Draw(t, "in"), Codec: pack.Zstd, Offset: p.Size, Counter: uint64(100*n + i),
			Stored: uint32(rapid.IntRange(17, 30).Draw(t, "stored"))}
		p.Size += f.Stored
		for range rapid.IntRange(1, 4).Draw(t, "blobs") {
			b := pack.Blob{ID: rapid.SampledFrom(ids).Draw(t, "blob"), Length: uint32(rapid.IntRange(1, 3).Draw(t, "length"))}
			f.Plain += b.Length
			f.Blobs = append(f.Blobs, b)
		}
		if rapid.Bool().Draw(t, "delta") {
			f.Codec, f.Depth = pack.ZstdDelta, uint8(rapid.IntRange(1, 8).Draw(t, "depth"))
			f.Bases = rapid.SliceOfN(rapid.SampledFrom(ids), 1, 3).Draw(t, "bases")
		}
		p.Dir.Frames = append(p.Dir.Frames, f)
	}
	return p
}

// An Index says what the model does: for any packs, in any segments, in any states, rewritten and not, and also when segments contradict each
// other. The order in which segments are added changes nothing.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		ids := make([]pack.ID, rapid.IntRange(1, 30).Draw(t, "ids"))
		for i := range ids {
			if ids[i] = uniform(r); i%3 == 1 {
				copy(ids[i][:], ids[i-1][:8]) // ids that differ late
			}
		}
		states := map[pack.ID]index.State{}
		var packs []index.Pack
		for i := range rapid.IntRange(0, 8).Draw(t, "packs") {
			packs = append(packs, drawPack(t, i, ids))
			states[packs[i].ID] = rapid.SampledFrom([]index.State{index.Live, index.Live, index.Live, index.Condemned, index.Freed}).Draw(t, "state")
		}
		state := func(id pack.ID) index.State { return states[id] }
		var segs []seg
		for range rapid.IntRange(0, 6).Draw(t, "segments") {
			s := seg{stored: int64(rapid.IntRange(-2, 20).Draw(t, "time")), rewritten: rapid.Bool().Draw(t, "rewritten")}
			for i := range packs {
				if !rapid.Bool().Draw(t, "holds") {
					continue
				}
				p := packs[i]
				if rapid.IntRange(0, 9).Draw(t, "lies") == 0 {
					p = drawPack(t, i, ids)
				}
				for range p.Dir.Frames {
					if s.rewritten {
						p.Births = append(p.Births, int64(rapid.IntRange(-2, 20).Draw(t, "birth")))
					}
				}
				s.packs = append(s.packs, p)
			}
			segs = append(segs, s)
		}
		x := build2(t, state, segs)
		agree(t, x, modelOf(state, segs), append(ids, pack.ID{}, uniform(r)))

		r.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
		y := build2(t, state, segs)
		for _, id := range ids {
			for kind := uint8(1); kind <= 2; kind++ {
				if a, b := found(x, id, kind), found(y, id, kind); !slices.Equal(a, b) {
					t.Fatalf("the order of segments matters:\n%+v\n%+v", a, b)
				}
			}
		}
	})
}

func build2(t *rapid.T, state func(pack.ID) index.State, segs []seg) *index.Index {
	b := index.NewBuilder(state)
	packs := 0
	for _, s := range segs {
		payload := index.EncodeSegment(session, slices.Clone(s.packs))
		if len(payload) != index.SegmentSize(s.packs) {
			t.Fatalf("%d bytes, SegmentSize says %d", len(payload), index.SegmentSize(s.packs))
		}
		if err := b.Add(payload, s.stored, s.rewritten); err != nil {
			t.Fatal(err)
		}
		packs += len(s.packs)
	}
	x := b.Index()
	if x.Packs() != packs {
		t.Fatalf("%d packs, want %d", x.Packs(), packs)
	}
	return x
}

// When a blob may be relied upon.
func TestPresent(t *testing.T) {
	a, b, c, d, e := pack.ID{1}, pack.ID{2}, pack.ID{3}, pack.ID{4}, pack.ID{5}
	ids := func(ids ...pack.ID) []pack.ID { return ids }
	tree := packOf(9, frame(a))
	tree.Dir.Sections[0].Kind = 2
	for name, s := range map[string]struct {
		packs []index.Pack
		state map[byte]index.State
		id    pack.ID
		want  bool
	}{
		"live":                           {[]index.Pack{packOf(1, frame(a))}, nil, a, true},
		"condemned":                      {[]index.Pack{packOf(1, frame(a))}, map[byte]index.State{1: index.Condemned}, a, false},
		"freed":                          {[]index.Pack{packOf(1, frame(a))}, map[byte]index.State{1: index.Freed}, a, false},
		"a live copy and a freed one":    {[]index.Pack{packOf(1, frame(a)), packOf(2, frame(a))}, map[byte]index.State{1: index.Freed}, a, true},
		"a delta over a live base":       {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)))}, nil, b, true},
		"a delta over a condemned base":  {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)))}, map[byte]index.State{1: index.Condemned}, b, false},
		"a delta over nothing":           {[]index.Pack{packOf(2, delta(1, ids(a), frame(b)))}, nil, b, false},
		"one base of two":                {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a, c), frame(b)))}, nil, b, false},
		"a base of another kind":         {[]index.Pack{tree, packOf(2, delta(1, ids(a), frame(b)))}, nil, b, false},
		"a base in the same frame":       {[]index.Pack{packOf(2, delta(1, ids(b), frame(b)))}, nil, b, false},
		"a base at equal depth":          {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)), delta(1, ids(b), frame(c)))}, nil, c, false},
		"a base at lower depth":          {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)), delta(2, ids(b), frame(c)))}, nil, c, true},
		"a depth is left out":            {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(8, ids(a), frame(b)))}, nil, b, true},
		"a base too deep, another not":   {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)), frame(b), delta(1, ids(b), frame(c)))}, nil, c, true},
		"a circle":                       {[]index.Pack{packOf(1, delta(2, ids(b), frame(a)), delta(1, ids(a), frame(b)))}, nil, a, false},
		"the root of a chain is freed":   {[]index.Pack{packOf(1, frame(a)), packOf(2, delta(1, ids(a), frame(b)), delta(2, ids(b), frame(c)), delta(3, ids(c), frame(d)), delta(4, ids(d), frame(e)))}, map[byte]index.State{1: index.Freed}, e, false},
		"the root of a chain is double":  {[]index.Pack{packOf(1, frame(a)), packOf(3, frame(a)), packOf(2, delta(1, ids(a), frame(b)), delta(2, ids(b), frame(c)), delta(3, ids(c), frame(d)), delta(4, ids(d), frame(e)))}, map[byte]index.State{1: index.Freed}, e, true},
		"a chain given backwards":        {[]index.Pack{packOf(1, delta(4, ids(d), frame(e)), delta(3, ids(c), frame(d)), delta(2, ids(b), frame(c)), delta(1, ids(a), frame(b)), frame(a))}, nil, e, true},
		"only a doubtful copy of a base": {[]index.Pack{packOf(1, delta(1, ids(e), frame(a))), packOf(2, delta(2, ids(a), frame(b)))}, nil, b, false},
	} {
		x := build(t, func(id pack.ID) index.State { return s.state[id[0]] }, seg{packs: s.packs})
		if got := x.Has(s.id, 1, 100); got != s.want {
			t.Errorf("%s: Has = %v", name, got)
		}
		if got := x.HasAny(s.id, 1); got != s.want {
			t.Errorf("%s: HasAny = %v", name, got)
		}
		if copies := x.Find(nil, s.id, 1); len(copies) == 0 || x.Present(copies[0].Frame) != s.want {
			t.Errorf("%s: Find = %+v", name, copies)
		}
		if x.Has(s.id, 1, 99) || x.Has(s.id, 2, 100) || x.HasAny(s.id, 2) {
			t.Errorf("%s: of another length or kind", name)
		}
	}
}

// Find prefers what is present, and of that the oldest; it appends.
func TestFindOrder(t *testing.T) {
	a := pack.ID{1}
	var segs []seg
	for i, birth := range []int64{5, 3, 9, 1, 3} {
		segs = append(segs, seg{packs: []index.Pack{packOf(byte(10+i), frame(a))}, stored: birth})
	}
	x := build(t, func(id pack.ID) index.State {
		if id[0] == 13 {
			return index.Condemned
		}
		return index.Live
	}, segs...)
	before := []index.Copy{{Ordinal: 77}}
	copies := x.Find(before, a, 1)
	var got []string
	for _, c := range copies[1:] {
		f := x.Frame(c.Frame)
		got = append(got, fmt.Sprint(x.Pack(f.Pack).ID[0], f.Birth, x.Pack(f.Pack).State))
	}
	if want := []string{"11 3 0", "14 3 0", "10 5 0", "12 9 0", "13 1 1"}; !slices.Equal(got, want) || copies[0] != before[0] {
		t.Errorf("%v, want %v", got, want)
	}
}

// A rewritten segment beside the old one: each copy counts once, with its oldest birth, whichever comes first.
func TestRewritten(t *testing.T) {
	a, b := pack.ID{1}, pack.ID{2}
	old := seg{packs: []index.Pack{packOf(1, frame(a), delta(1, []pack.ID{a}, frame(b, a))), packOf(2, frame(a))}, stored: 100}
	one := old.packs[0]
	one.Births = []int64{50, 150}
	again := seg{packs: []index.Pack{one}, stored: 999, rewritten: true}
	for _, segs := range [][]seg{{old, again}, {again, old}, {again, old, again, old}} {
		x := build(t, nil, segs...)
		if x.Len() != 4 {
			t.Errorf("%d copies", x.Len())
		}
		var births []int64
		for _, c := range x.Find(nil, a, 1) {
			births = append(births, x.Frame(c.Frame).Birth)
		}
		if want := []int64{50, 100, 100}; !slices.Equal(births, want) {
			t.Errorf("births %v, want %v", births, want)
		}
		agree(t, x, modelOf(func(pack.ID) index.State { return index.Live }, segs), []pack.ID{a, b})
	}
}

// Who describes a frame again, with other blobs in it, gives these his own date and not the frame's.
func TestClaimedFrames(t *testing.T) {
	a, b, c := pack.ID{1}, pack.ID{2}, pack.ID{3}
	old := seg{packs: []index.Pack{packOf(1, frame(a, b))}, stored: 100}
	honest := seg{packs: []index.Pack{packOf(2, frame(c))}, stored: 200}
	claim := seg{packs: []index.Pack{packOf(1, frame(a, c))}, stored: 300}
	for _, segs := range [][]seg{{old, honest, claim}, {claim, old, honest, claim}} {
		x := build(t, nil, segs...)
		for id, want := range map[pack.ID][]int64{a: {100}, b: {100}, c: {200, 300}} {
			var births []int64
			for _, c := range x.Find(nil, id, 1) {
				births = append(births, x.Frame(c.Frame).Birth)
			}
			if !slices.Equal(births, want) {
				t.Errorf("births of %x: %v, want %v", id[:1], births, want)
			}
		}
		agree(t, x, modelOf(func(pack.ID) index.State { return index.Live }, segs), []pack.ID{a, b, c})
	}
}

// Ids that are not uniform: writers are not to be trusted with that.
func TestHostileIDs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	with := func(prefix []byte, n int) (ids []pack.ID) {
		for range n {
			id := uniform(r)
			copy(id[:], prefix)
			ids = append(ids, id)
		}
		return ids
	}
	ff := bytes.Repeat([]byte{255}, 32)
	var steps []pack.ID
	for i := range 2000 {
		steps = append(steps, pack.ID{31: byte(i), 30: byte(i >> 8)})
	}
	var powers []pack.ID
	for i := range 256 {
		for j := range 8 {
			var id pack.ID
			id[i/8] = 1 << (7 - i%8)
			id[31] |= byte(j)
			powers = append(powers, id)
		}
	}
	for name, ids := range map[string][]pack.ID{
		"none":                   nil,
		"one":                    with(nil, 1),
		"uniform":                with(nil, 5000),
		"8 bytes the same":       with([]byte("prefixes"), 3000),
		"8 bytes 0":              with(make([]byte, 8), 3000),
		"8 bytes 255":            with(ff[:8], 3000),
		"7 bytes the same":       with([]byte("prefixe"), 3000),
		"one byte the same":      with([]byte{9}, 40_000),
		"steps":                  steps,
		"powers":                 powers,
		"a crowd among few":      append(with([]byte{128, 0, 0, 0, 0, 0, 0}, 3000), with(nil, 20)...),
		"a crowd and both ends":  append(with([]byte("prefixes"), 3000), pack.ID{}, pack.ID(ff)),
		"two crowds":             append(with(make([]byte, 8), 2000), with(ff[:8], 2000)...),
		"crowds of 12 bytes":     append(with([]byte("prefixes1234"), 100), with([]byte("prefixes1235"), 2000)...),
		"each byte the same":     slices.Repeat([]pack.ID{{5, 5, 5}}, 3000),
		"the same among uniform": append(slices.Repeat([]pack.ID{{5, 5, 5}}, 3000), with(nil, 20_000)...),
	} {
		var segs []seg
		want := map[pack.ID]int{}
		for i := 0; i < len(ids); i += 1000 {
			part := ids[i:min(i+1000, len(ids))]
			segs = append(segs, seg{packs: []index.Pack{packOf(byte(len(segs)), frame(part...))}})
		}
		for _, id := range ids {
			want[id]++
		}
		x := build(t, nil, segs...)
		probe := func(id pack.ID) {
			if n := want[id]; n > 10 && r.IntN(100) > 0 {
				return
			}
			if got := len(x.Find(nil, id, 1)); got != want[id] {
				t.Fatalf("%s: %x is found %d times, want %d", name, id, got, want[id])
			}
			if x.HasAny(id, 1) != (want[id] > 0) || x.Has(id, 1, 100) != (want[id] > 0) {
				t.Fatalf("%s: Has(%x)", name, id)
			}
		}
		for id := range want {
			probe(id)
			for _, i := range []int{31, 8, 7, 0} {
				id[i]++
				probe(id)
				id[i] -= 2
				probe(id)
				id[i]++
			}
		}
		probe(pack.ID{})
		probe(pack.ID(ff))
		sorted := slices.SortedFunc(slices.Values(ids), func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
		i := 0
		for id := range x.All() {
			if id != sorted[i] {
				t.Fatalf("%s: ordinal %d is %x, want %x", name, i, id, sorted[i])
			}
			i++
		}
		if i != len(ids) || x.Len() != i {
			t.Fatalf("%s: %d copies", name, i)
		}
	}
}

// Many copies of one blob, in one segment and in several, take no longer to join than as many blobs.
func TestManyCopies(t *testing.T) {
	n := 100_000
	one := frame(slices.Repeat([]pack.ID{{5}}, n)...)
	start := time.Now()
	x := build(t, nil, seg{packs: []index.Pack{packOf(1, one)}}, seg{packs: []index.Pack{packOf(1, one)}, stored: 1}, seg{packs: []index.Pack{packOf(2, one)}})
	if x.Len() != 2*n || len(x.Find(nil, pack.ID{5}, 1)) != 2*n {
		t.Errorf("%d copies", x.Len())
	}
	t.Log(time.Since(start)) // minutes, if each is compared with all others
}

// After an error a Builder is as it was.
func TestAddRefuses(t *testing.T) {
	a := pack.ID{1}
	good := index.EncodeSegment(session, []index.Pack{packOf(1, frame(a))})
	b := index.NewBuilder(nil)
	bad := bytes.Clone(good)
	bad[len(bad)-1] = 255 // the blob's length
	for range 2 {
		if err := b.Add(bad, 1, false); !errors.Is(err, index.ErrDamaged) {
			t.Error(err)
		}
		if err := b.Add(good, 1, false); err != nil {
			t.Error(err)
		}
	}
	x := b.Index()
	if x.Len() != 1 || x.Frames() != 2 || x.Packs() != 2 || x.Pack(1).Segment != 1 {
		t.Errorf("%d copies, %d frames, %d packs, %+v", x.Len(), x.Frames(), x.Packs(), x.Pack(1))
	}
	if index.NewBuilder(nil).Index().Len() != 0 {
		t.Error("an empty Index")
	}
}

// The same section is the same pointer, in whatever pack and segment.
func TestSections(t *testing.T) {
	p, q := packOf(1, frame(pack.ID{1})), packOf(2, frame(pack.ID{2}))
	other := packOf(3, frame(pack.ID{3}))
	other.Dir.Sections[0].Key = key(1)
	x := build(t, nil, seg{packs: []index.Pack{p, other}}, seg{packs: []index.Pack{q}})
	s := map[*pack.Section]int{}
	for i := range uint32(3) {
		s[x.Section(i)]++
	}
	if len(s) != 2 {
		t.Errorf("%d sections", len(s))
	}
}

func TestSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		var s index.Set
		want := map[pack.ID]bool{}
		hostile := rapid.Bool().Draw(t, "all in one slot")
		n := rapid.SampledFrom([]int{0, 1, 10, 500, 5000}).Draw(t, "n")
		if hostile {
			n = min(n, 500)
		}
		var all []pack.ID
		for range n {
			id := uniform(r)
			if hostile {
				copy(id[8:16], "12345678")
			}
			if len(all) > 0 && r.IntN(4) == 0 {
				id = all[r.IntN(len(all))]
			}
			if s.Has(id) != want[id] || s.Add(id) == want[id] || !s.Has(id) {
				t.Fatalf("%x: a surprise", id)
			}
			want[id] = true
			all = append(all, id)
			if s.Len() != len(want) {
				t.Fatalf("Len = %d, want %d", s.Len(), len(want))
			}
			if s.Has(uniform(r)) {
				t.Fatal("an id that nobody added")
			}
		}
		for id := range want {
			if !s.Has(id) {
				t.Fatalf("%x is gone", id)
			}
		}
	})
}
