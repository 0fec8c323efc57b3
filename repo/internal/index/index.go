package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"iter"
	"math"
	"slices"
	"sort"

	"github.com/varvebackup/varve/pack"
)

// State is what maintenance said of a pack.
type State uint8

const (
	Live      State = iota
	Condemned       // a candidate of a collection that is not done: it may vanish
	Freed           // named by a verdict: it is gone, or will be
)

// Copy is one stored copy of a blob.
type Copy struct {
	Ordinal        uint32 // of this copy, among all copies of the Index in order of ids
	Frame          uint32
	Offset, Length uint32 // in the frame's plaintext
}

// Frame is one frame of the Index. Blobs is empty, Section counts within the pack.
type Frame struct {
	pack.Frame
	Pack  uint32
	Birth int64 // Unix seconds by the store's clock
}

// PackInfo is one pack of the Index. A pack that several segments describe stands there for each; what they agree upon is found in one of them only.
type PackInfo struct {
	ID       pack.ID
	Size     uint32
	State    State
	Segment  uint32 // number of the segment that described it, in the order of Add
	Sections []*pack.Section
}

// An Index finds blobs in the segments that were added to it. Once built it is fixed: ordinals, frames and packs keep their numbers, so sets of them are bitmaps.
// It is then safe for concurrent use.
//
// It takes 44 bytes a copy, about 2 bytes more for its frame at 16 KiB a blob, and one allocation a pack.
type Index struct {
	recs     []rec
	frames   []frameRec
	bases    []pack.ID
	packs    []PackInfo
	sections map[string]*pack.Section
}

type frameRec struct {
	counter              uint64
	birth                int64
	offset, stored       uint32
	plain                uint32
	pack                 uint32
	bases, nbases        uint32
	section, codec, deep uint8
	kind                 uint8 // of its section
	present              uint8 // whether it can be relied upon
}

// A Builder collects segments into an Index.
type Builder struct {
	x        *Index
	state    func(pack.ID) State
	segments uint32
}

// NewBuilder returns a Builder; state says what maintenance said of a pack, nil that it said nothing.
func NewBuilder(state func(pack.ID) State) *Builder {
	if state == nil {
		state = func(pack.ID) State { return Live }
	}
	return &Builder{x: &Index{sections: map[string]*pack.Section{}}, state: state}
}

// Expect says how many bytes of segments will come, so that the table of a common index is allocated once: growing it would take it twice. The
// number is the store's word, so it is believed only within bounds.
func (b *Builder) Expect(bytes int64) {
	const most = 16 << 20
	b.x.recs = slices.Grow(b.x.recs, int(min(max(bytes, 0)/blobSize, most)))
}

// Add adds the payload of a segment whose object the store dates to stored (Unix seconds). rewritten: it is one of maintenance's. The payload is not kept.
// After an error (ErrDamaged) nothing of it was added.
func (b *Builder) Add(payload []byte, stored int64, rewritten bool) error {
	s, err := parse(payload, rewritten)
	if err != nil {
		return err
	}
	x, le := b.x, binary.LittleEndian
	number := b.segments
	b.segments++
	firstFrame := uint32(len(x.frames))
	section, frame, base := 0, 0, 0
	for i := range count(s.packs, packSize) {
		r := s.packs[i*packSize:]
		p := PackInfo{ID: pack.ID(r[:32]), Size: le.Uint32(r[32:]), Segment: number}
		p.State = b.state(p.ID)
		for range le.Uint32(r[36:]) {
			r := s.sections[section*sectionSize:][:sectionSize]
			// Sections span packs, so most of these are known.
			sec := x.sections[string(r)]
			if sec == nil {
				sec = &pack.Section{Kind: r[0], AEAD: r[1], Key: bytes.Clone(r[4:])}
				x.sections[string(r)] = sec
			}
			p.Sections = append(p.Sections, sec)
			section++
		}
		for range le.Uint32(r[40:]) {
			r := s.frames[frame*frameSize:]
			f := frameRec{section: r[0], codec: r[1], deep: r[2], offset: le.Uint32(r[4:]), stored: le.Uint32(r[8:]), plain: le.Uint32(r[12:]),
				counter: le.Uint64(r[16:]), birth: stored, pack: uint32(len(x.packs)), bases: uint32(len(x.bases)), nbases: le.Uint32(r[32:])}
			if rewritten {
				f.birth = int64(le.Uint64(r[24:]))
			}
			f.kind = p.Sections[f.section].Kind
			for range f.nbases {
				x.bases = append(x.bases, pack.ID(s.bases[base*baseSize:]))
				base++
			}
			x.frames = append(x.frames, f)
			frame++
		}
		x.packs = append(x.packs, p)
	}
	n := count(s.blobs, blobSize)
	x.recs = slices.Grow(x.recs, n)
	for i := range n {
		r := recAt(s.blobs[i*blobSize:])
		r.frame += firstFrame
		x.recs = append(x.recs, r)
	}
	return nil
}

// Index returns what was added. The Builder is then done.
func (b *Builder) Index() *Index {
	x := b.x
	sortRecs(x.recs)
	x.unify()
	x.recs = slices.Compact(x.recs)
	x.settle()
	return x
}

// unify lets copies that are the same, in frames that are, stand in one of these, the one with the oldest birth: a segment and its rewritten form say the same of a frame. Only packs
// that more than one segment describes have such frames. Records are sorted.
//
// A copy has the birth only of frames that were said to hold it. If it were enough that all else is right, whatever was stored after a frame could be claimed to be in it, and older than it is.
func (x *Index) unify() {
	first, twice := make(map[pack.ID]int, len(x.packs)), make([]bool, len(x.packs))
	found := false
	for i := range x.packs {
		if j, ok := first[x.packs[i].ID]; ok {
			twice[i], twice[j], found = true, true, true
		} else {
			first[x.packs[i].ID] = i
		}
	}
	if !found {
		return
	}
	var same []uint32
	for n := range x.frames {
		if twice[x.frames[n].pack] {
			same = append(same, uint32(n))
		}
	}
	slices.SortFunc(same, func(a, b uint32) int {
		return cmp.Or(x.compareFrames(a, b), cmp.Compare(x.frames[a].birth, x.frames[b].birth), cmp.Compare(a, b))
	})
	// Of frames that are the same, each stands at its place among them, the oldest first.
	place := make([]int32, len(x.frames)) // from 1; 0: nowhere
	begin := make([]int, len(same)+1)     // where those begin that are the same as the one at a place
	for i, n := range same {
		i++
		place[n] = int32(i)
		if begin[i] = i; i > 1 && x.compareFrames(same[i-2], n) == 0 {
			begin[i] = begin[i-1]
		}
	}
	for from, to := 0, 0; from < len(x.recs); from = to {
		for to = from + 1; to < len(x.recs) && x.recs[to].id == x.recs[from].id; to++ {
		}
		copies := x.recs[from:to]
		if len(copies) == 1 {
			continue
		}
		slices.SortFunc(copies, func(a, b rec) int {
			return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.len, b.len), cmp.Compare(place[a.frame], place[b.frame]), a.compare(&b))
		})
		for i := 1; i < len(copies); i++ {
			a, b := &copies[i-1], &copies[i]
			if j, k := place[a.frame], place[b.frame]; a.off == b.off && a.len == b.len && j > 0 && k > 0 && begin[j] == begin[k] {
				b.frame = a.frame
			}
		}
		slices.SortFunc(copies, func(a, b rec) int { return a.compare(&b) })
	}
}

// compareFrames orders frames by all that segments say of them but their birth and their blobs.
func (x *Index) compareFrames(a, b uint32) int {
	f, g := &x.frames[a], &x.frames[b]
	p, q := &x.packs[f.pack], &x.packs[g.pack]
	if c := cmp.Or(bytes.Compare(p.ID[:], q.ID[:]), cmp.Compare(f.offset, g.offset), cmp.Compare(p.Size, q.Size), cmp.Compare(f.stored, g.stored),
		cmp.Compare(f.plain, g.plain), cmp.Compare(f.counter, g.counter), cmp.Compare(f.codec, g.codec), cmp.Compare(f.deep, g.deep)); c != 0 {
		return c
	}
	if s, t := p.Sections[f.section], q.Sections[g.section]; s != t {
		return cmp.Or(cmp.Compare(s.Kind, t.Kind), cmp.Compare(s.AEAD, t.AEAD), bytes.Compare(s.Key, t.Key))
	}
	return slices.CompareFunc(x.basesOf(f), x.basesOf(g), func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
}

func (x *Index) basesOf(f *frameRec) []pack.ID { return x.bases[f.bases : f.bases+f.nbases] }

// Len returns the number of copies; ordinals are below it.
func (x *Index) Len() int { return len(x.recs) }

// Frames returns the number of frames.
func (x *Index) Frames() int { return len(x.frames) }

// Deltas tells whether any frame has bases.
func (x *Index) Deltas() bool { return len(x.bases) > 0 }

// Packs returns the number of packs.
func (x *Index) Packs() int { return len(x.packs) }

// Pack returns a pack. The caller does not modify it.
func (x *Index) Pack(n uint32) *PackInfo { return &x.packs[n] }

// Frame returns a frame.
func (x *Index) Frame(n uint32) Frame {
	f := &x.frames[n]
	return Frame{Pack: f.pack, Birth: f.birth, Frame: pack.Frame{Section: int(f.section), Codec: f.codec, Depth: f.deep, Offset: f.offset, Stored: f.stored,
		Plain: f.plain, Counter: f.counter, Bases: x.basesOf(f)}}
}

// Section returns the section that frame n was sealed under. It is the same pointer for the same section.
func (x *Index) Section(n uint32) *pack.Section {
	f := &x.frames[n]
	return x.packs[f.pack].Sections[f.section]
}

// Present tells whether frame n can be relied upon: neither its pack nor, through all depths, that of any base is condemned or freed.
func (x *Index) Present(n uint32) bool { return x.frames[n].present == isPresent }

// Kind returns the kind of the section of frame n.
func (x *Index) Kind(n uint32) uint8 { return x.frames[n].kind }

func (x *Index) copyAt(i int) Copy {
	r := &x.recs[i]
	return Copy{Ordinal: uint32(i), Frame: r.frame, Offset: r.off, Length: r.len}
}

// search returns the place of the first record that is not below id. Ids are uniform, so interpolation finds it in two or three steps (Perl, Itai
// and Avni 1978); a few steps of it leave a range so small that bisection ends it, whatever a hostile segment holds.
func (x *Index) search(id *pack.ID) int {
	lo, hi := 0, len(x.recs) // all before lo are below, none from hi on
	key := binary.BigEndian.Uint64(id[:8])
	klo, khi := uint64(0), uint64(math.MaxUint64)
	for step := 0; hi-lo > 8 && step < 6 && klo < khi; step++ {
		mid := lo + int(float64(key-klo)/float64(khi-klo)*float64(hi-lo))
		mid = min(max(mid, lo), hi-1)
		r := &x.recs[mid].id
		k := binary.BigEndian.Uint64(r[:8])
		// Ids that begin alike are told apart by the rest.
		if k < key || k == key && bytes.Compare(r[:], id[:]) < 0 {
			lo, klo = mid+1, k
		} else {
			hi, khi = mid, k
		}
	}
	return lo + sort.Search(hi-lo, func(i int) bool { return bytes.Compare(x.recs[lo+i].id[:], id[:]) >= 0 })
}

// Find appends all copies of a blob of one kind to dst, the better first: those that are present, of these the oldest birth. The order of copies that
// are equally good depends on what they are alone, not on the order in which segments were added.
func (x *Index) Find(dst []Copy, id pack.ID, kind uint8) []Copy {
	start := len(dst)
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if x.Kind(x.recs[i].frame) == kind {
			dst = append(dst, x.copyAt(i))
		}
	}
	if found := dst[start:]; len(found) > 1 {
		slices.SortFunc(found, func(a, b Copy) int {
			f, g := &x.frames[a.Frame], &x.frames[b.Frame]
			if c := cmp.Or(cmp.Compare(f.present, g.present), cmp.Compare(f.birth, g.birth)); c != 0 || a.Frame == b.Frame {
				return cmp.Or(c, cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length))
			}
			return cmp.Or(x.compareFrames(a.Frame, b.Frame), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Length, b.Length))
		})
	}
	return dst
}

// Has tells whether a present copy of a blob of this kind and length is there: one that a new snapshot may build upon.
func (x *Index) Has(id pack.ID, kind uint8, length uint32) bool {
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if f := x.recs[i].frame; x.recs[i].len == length && x.Present(f) && x.Kind(f) == kind {
			return true
		}
	}
	return false
}

// HasAny is Has for a caller that does not know the length.
func (x *Index) HasAny(id pack.ID, kind uint8) bool {
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if f := x.recs[i].frame; x.Present(f) && x.Kind(f) == kind {
			return true
		}
	}
	return false
}

// All yields every copy in order of ids.
func (x *Index) All() iter.Seq2[pack.ID, Copy] {
	return func(yield func(pack.ID, Copy) bool) {
		for i := range x.recs {
			if !yield(x.recs[i].id, x.copyAt(i)) {
				return
			}
		}
	}
}

const (
	isPresent uint8 = iota
	isDoubtful
	isUnknown
	isVisited
)

// settle decides for each frame whether it is present.
func (x *Index) settle() {
	for n := range x.frames {
		if f := &x.frames[n]; x.packs[f.pack].State != Live {
			f.present = isDoubtful
		} else if f.nbases > 0 {
			f.present = isUnknown
		}
	}
	for n := range x.frames {
		x.visit(uint32(n))
	}
}

// visit settles a frame over bases. Depth falls with each step, so it ends; a base at no lower depth does not count.
func (x *Index) visit(n uint32) bool {
	f := &x.frames[n]
	if f.present != isUnknown {
		return f.present == isPresent
	}
	f.present = isVisited
	for _, id := range x.basesOf(f) {
		found := false
		for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id && !found; i++ {
			b := x.recs[i].frame
			found = x.frames[b].deep < f.deep && x.frames[b].kind == f.kind && x.visit(b)
		}
		if !found {
			f.present = isDoubtful
			return false
		}
	}
	f.present = isPresent
	return true
}
