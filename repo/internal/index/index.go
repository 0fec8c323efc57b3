package index

import (
	"bytes"
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

// PackInfo is one pack of the Index. The same pack may stand there twice when two segments contradict each other about it.
type PackInfo struct {
	ID       pack.ID
	Size     uint32
	State    State
	Segment  uint32 // number of the first segment that described it, in the order of Add
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
	present  []uint8 // by frame: whether it can be relied upon
}

type frameRec struct {
	counter              uint64
	birth                int64
	offset, stored       uint32
	plain                uint32
	pack                 uint32
	bases, nbases        uint32
	section, codec, deep uint8
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
	// A segment and its rewritten form say the same of a frame: one of the two is enough, the one with the older birth.
	kept := x.recs[:0]
	for _, r := range x.recs {
		same := false
		for j := len(kept) - 1; j >= 0 && kept[j].id == r.id; j-- {
			if o := &kept[j]; o.off == r.off && o.len == r.len && x.sameFrame(o.frame, r.frame) {
				if x.frames[r.frame].birth < x.frames[o.frame].birth {
					o.frame = r.frame
				}
				same = true
				break
			}
		}
		if !same {
			kept = append(kept, r)
		}
	}
	clear(x.recs[len(kept):])
	x.recs = kept
	x.settle()
	return x
}

func (x *Index) sameFrame(a, b uint32) bool {
	f, g := &x.frames[a], &x.frames[b]
	p, q := &x.packs[f.pack], &x.packs[g.pack]
	return p.ID == q.ID && p.Size == q.Size && f.offset == g.offset && f.stored == g.stored && f.counter == g.counter && f.plain == g.plain && f.codec == g.codec &&
		f.deep == g.deep && p.Sections[f.section] == q.Sections[g.section] && slices.Equal(x.basesOf(f), x.basesOf(g))
}

func (x *Index) basesOf(f *frameRec) []pack.ID { return x.bases[f.bases : f.bases+f.nbases] }

// Len returns the number of copies; ordinals are below it.
func (x *Index) Len() int { return len(x.recs) }

// Frames returns the number of frames.
func (x *Index) Frames() int { return len(x.frames) }

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
func (x *Index) Present(n uint32) bool { return x.present[n] == isPresent }

// Kind returns the kind of the section of frame n.
func (x *Index) Kind(n uint32) uint8 { return x.Section(n).Kind }

func (x *Index) copyAt(i int) Copy {
	r := &x.recs[i]
	return Copy{Ordinal: uint32(i), Frame: r.frame, Offset: r.off, Length: r.len}
}

// search returns the place of the first record that is not below id. Ids are uniform, so interpolation finds it in two or three steps (Perl, Itai
// and Avni 1978); a few steps of it leave a range so small that bisection ends it, whatever a hostile segment holds.
func (x *Index) search(id *pack.ID) int {
	lo, hi := 0, len(x.recs)
	key := binary.BigEndian.Uint64(id[:8])
	klo, khi := uint64(0), uint64(math.MaxUint64)
	for step := 0; hi-lo > 8 && step < 6; step++ {
		if key < klo || key > khi || khi == klo {
			break
		}
		mid := lo + int(float64(key-klo)/float64(khi-klo)*float64(hi-lo))
		mid = min(max(mid, lo), hi-1)
		k := binary.BigEndian.Uint64(x.recs[mid].id[:8])
		switch {
		case k < key:
			lo, klo = mid+1, k
		default:
			hi, khi = mid, k
		}
	}
	return lo + sort.Search(hi-lo, func(i int) bool { return bytes.Compare(x.recs[lo+i].id[:], id[:]) >= 0 })
}

// Find appends all copies of a blob of one kind to dst, the better first: those that are present, of these the oldest birth.
func (x *Index) Find(dst []Copy, id pack.ID, kind uint8) []Copy {
	start := len(dst)
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if x.Kind(x.recs[i].frame) == kind {
			dst = append(dst, x.copyAt(i))
		}
	}
	if found := dst[start:]; len(found) > 1 {
		slices.SortStableFunc(found, func(a, b Copy) int {
			if p, q := x.present[a.Frame], x.present[b.Frame]; p != q {
				return int(p) - int(q)
			}
			switch p, q := x.frames[a.Frame].birth, x.frames[b.Frame].birth; {
			case p < q:
				return -1
			case p > q:
				return 1
			}
			return 0
		})
	}
	return dst
}

// Has tells whether a present copy of a blob of this kind and length is there: one that a new snapshot may build upon.
func (x *Index) Has(id pack.ID, kind uint8, length uint32) bool {
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if f := x.recs[i].frame; x.recs[i].len == length && x.present[f] == isPresent && x.Kind(f) == kind {
			return true
		}
	}
	return false
}

// HasAny is Has for a caller that does not know the length.
func (x *Index) HasAny(id pack.ID, kind uint8) bool {
	for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id; i++ {
		if f := x.recs[i].frame; x.present[f] == isPresent && x.Kind(f) == kind {
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
	x.present = make([]uint8, len(x.frames))
	for n := range x.frames {
		if x.packs[x.frames[n].pack].State != Live {
			x.present[n] = isDoubtful
		} else if x.frames[n].nbases > 0 {
			x.present[n] = isUnknown
		}
	}
	for n := range x.frames {
		x.visit(uint32(n))
	}
}

// visit settles a frame over bases. Depth falls with each step, so it ends; a base at no lower depth does not count.
func (x *Index) visit(n uint32) bool {
	if x.present[n] != isUnknown {
		return x.present[n] == isPresent
	}
	x.present[n] = isVisited
	f := &x.frames[n]
	for _, id := range x.basesOf(f) {
		found := false
		for i := x.search(&id); i < len(x.recs) && x.recs[i].id == id && !found; i++ {
			b := x.recs[i].frame
			found = x.frames[b].deep < f.deep && x.Kind(b) == x.Kind(n) && x.visit(b)
		}
		if !found {
			x.present[n] = isDoubtful
			return false
		}
	}
	x.present[n] = isPresent
	return true
}
