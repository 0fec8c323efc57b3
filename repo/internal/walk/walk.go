// Package walk finds what a set of snapshots needs, as a bitmap over the index. Check reports what is missing of it; whatever deletes keeps it.
package walk

import (
	"context"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Kinds of blobs, as sections have them.
const (
	Content uint8 = 1
	Tree    uint8 = 2
	Hint    uint8 = 3
)

// Bitmap is a set of ordinals of an Index.
type Bitmap []uint64

// NewBitmap returns an empty set of numbers below n.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+63)/64) }

// Has tells whether i is in the set.
func (b Bitmap) Has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }

// Set adds i and tells whether it is new.
func (b Bitmap) Set(i uint32) bool {
	w, bit := &b[i/64], uint64(1)<<(i%64)
	old := *w
	*w |= bit
	return old&bit == 0
}

// Union returns the elements of two sets of the same Index.
func Union(a, b Bitmap) Bitmap {
	u := slices.Clone(a)
	for i := range u {
		u[i] |= b[i]
	}
	return u
}

// All yields the elements in ascending order.
func (b Bitmap) All() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(uint32(i*64 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// Missing is a blob that is needed and of which the index knows no copy; a base that a copy of one is compressed with, of which it knows none that lies less deep; a chunk
// of which it knows none of the length that its list says; or a tree node that cannot be read.
type Missing struct {
	ID   pack.ID
	Kind uint8
	Base bool  // it is needed only as a base of some copy: another copy of the same blob may do without
	Err  error // why a node cannot be read, or tree.ErrDamaged for a chunk; nil for what is not in the index
}

// Result is what a walk found.
type Result struct {
	// Needed has every copy of every needed blob, and of every base that one of those copies needs, through all depths.
	Needed Bitmap
	// Reached has, of every blob that a tree names, one copy: the first that Find returns of the length that it has: that of content the tree says, that of a node shows when it is read, for
	// of several copies one may be somebody's claim. What is needed only as a base is not in it, nor a node that cannot be read. Whoever deletes chooses which copies stay.
	Reached Bitmap
	// Missing is what could not be followed: what lies below a node in it is not in Needed. Whoever deletes must not when Gone tells of something.
	Missing []Missing
}

// Gone returns something that is missing whatever copies are chosen; nil if there is nothing. Whether what only bases lack is lost, the choice of copies tells.
func (r *Result) Gone() *Missing {
	for i := range r.Missing {
		if !r.Missing[i].Base {
			return &r.Missing[i]
		}
	}
	return nil
}

// Run walks all trees from the given nodes on, each node once, by several workers. load reads a node. The error is ctx's.
func Run(ctx context.Context, x *index.Index, load tree.Load, roots []pack.ID, workers int) (*Result, error) {
	return run(ctx, x, load, roots, workers, Tree, Content)
}

// Hints is Run for hints: from the roots of their lists to their chunks, and no further. What is missing is a loss of time, not of data.
func Hints(ctx context.Context, x *index.Index, load tree.Load, roots []pack.ID, workers int) (*Result, error) {
	return run(ctx, x, load, roots, workers, Hint, Hint)
}

func run(ctx context.Context, x *index.Index, load tree.Load, roots []pack.ID, workers int, node, leaf uint8) (*Result, error) {
	w := &walker{x: x, load: load, node: node, leaf: leaf, res: &Result{Needed: NewBitmap(x.Len()), Reached: NewBitmap(x.Len())}, frames: NewBitmap(x.Frames()), nodes: NewBitmap(x.Len()), missing: map[pack.ID]int{}}
	w.cond = sync.NewCond(&w.mu)
	for _, id := range roots {
		w.need(id, node, 0, true)
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cond.Broadcast()
	})
	defer stop()
	for range max(1, workers) {
		g.Go(func() error { return w.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return w.res, nil
}

type walker struct {
	x    *index.Index
	load tree.Load
	node uint8 // kind of what is followed
	leaf uint8 // kind of what is not

	mu      sync.Mutex // guards what follows
	cond    *sync.Cond
	res     *Result
	frames  Bitmap // whose bases were followed
	nodes   Bitmap // first copies of nodes that were walked
	stack   []pack.ID
	busy    int
	missing map[pack.ID]int // places in res.Missing
	copies  []index.Copy
	bases   []base
}

// base is a base of a frame that lies at some depth.
type base struct {
	id    pack.ID
	depth uint8
}

func (w *walker) work(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.stack) == 0 && w.busy > 0 && ctx.Err() == nil {
			w.cond.Wait()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(w.stack) == 0 {
			w.cond.Broadcast()
			return nil
		}
		id := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		w.busy++
		w.mu.Unlock()
		n, length, err := w.read(ctx, id)
		w.mu.Lock()
		w.busy--
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.miss(id, w.node, false, err)
		} else {
			w.reach(id, length)
			w.follow(n)
		}
		w.cond.Broadcast()
	}
}

// read returns a node and its length.
func (w *walker) read(ctx context.Context, id pack.ID) (*tree.Node, int, error) {
	b, err := w.load(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	n, err := tree.Parse(b)
	if err == nil && w.node == Hint && n.Type != tree.TypeList && n.Type != tree.TypeListTree {
		err = fmt.Errorf("%w: a node of type %d in a list", tree.ErrDamaged, n.Type)
	}
	return n, len(b), err
}

// reach notes that a node was reached which has so many bytes. w.mu is held.
func (w *walker) reach(id pack.ID, length int) {
	w.copies = w.x.Find(w.copies[:0], id, w.node)
	i := slices.IndexFunc(w.copies, func(c index.Copy) bool { return int(c.Length) == length })
	w.res.Reached.Set(w.copies[max(i, 0)].Ordinal) // what load read elsewhere may be none of them
}

// follow adds what a node names. w.mu is held.
func (w *walker) follow(n *tree.Node) {
	entry := func(e *tree.Entry) {
		w.pieces(e.Inline)
		if len(e.List) > 0 {
			w.need(pack.ID(e.List), w.node, 0, true)
		}
		if len(e.Folder) > 0 {
			w.need(pack.ID(e.Folder), w.node, 0, true)
		}
	}
	for i := range n.Entries {
		entry(&n.Entries[i])
	}
	if n.Root != nil {
		entry(n.Root)
	}
	w.pieces(n.Pieces)
	for i := range n.Children {
		w.need(n.Children[i].ID, w.node, 0, true)
	}
}

func (w *walker) pieces(ps []tree.Piece) {
	for i := range ps {
		if !ps[i].Hole() {
			w.need(pack.ID(ps[i].ID), w.leaf, ps[i].Length, false)
		}
	}
}

// need marks all copies of a blob and what they need, and puts a node that is to be followed and was not walked on the stack. A length of 0 is any. w.mu is held.
func (w *walker) need(id pack.ID, kind uint8, length uint64, follow bool) {
	w.copies = w.x.Find(w.copies[:0], id, kind)
	if len(w.copies) == 0 {
		w.miss(id, kind, false, nil)
		return
	}
	first := 0
	if length != 0 {
		if first = slices.IndexFunc(w.copies, func(c index.Copy) bool { return uint64(c.Length) == length }); first < 0 {
			w.miss(id, kind, false, fmt.Errorf("%w: no copy of a chunk is as long as its list says", tree.ErrDamaged))
			first = 0
		}
	}
	if !follow {
		w.res.Reached.Set(w.copies[first].Ordinal)
	}
	// The first copy stands for the blob: a node that was only marked as somebody's base is yet to be walked.
	if follow && w.nodes.Set(w.copies[0].Ordinal) {
		w.stack = append(w.stack, id)
	}
	w.mark()
	for len(w.bases) > 0 {
		b := w.bases[len(w.bases)-1]
		w.bases = w.bases[:len(w.bases)-1]
		w.copies = w.x.Find(w.copies[:0], b.id, kind)
		if !slices.ContainsFunc(w.copies, func(c index.Copy) bool { return w.x.Frame(c.Frame).Depth < b.depth }) {
			w.miss(b.id, kind, true, nil)
		}
		w.mark()
	}
}

// miss notes what is missing, once. w.mu is held.
func (w *walker) miss(id pack.ID, kind uint8, base bool, err error) {
	i, ok := w.missing[id]
	if !ok {
		w.missing[id] = len(w.res.Missing)
		w.res.Missing = append(w.res.Missing, Missing{ID: id, Kind: kind, Base: base, Err: err})
	} else if m := &w.res.Missing[i]; m.Base && !base {
		m.Base, m.Err = false, err
	}
}

// mark marks w.copies and gathers the bases of their frames, each frame's once.
func (w *walker) mark() {
	for _, c := range w.copies {
		if !w.res.Needed.Set(c.Ordinal) {
			continue
		}
		if f := w.x.Frame(c.Frame); len(f.Bases) > 0 && w.frames.Set(c.Frame) {
			for _, id := range f.Bases {
				w.bases = append(w.bases, base{id, f.Depth})
			}
		}
	}
}
