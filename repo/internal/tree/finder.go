package tree

import (
	"context"
	"sync"

	"github.com/varvebackup/varve/pack"
)

// A Finder is Find for who looks up many names near each other: it remembers the nodes that it decoded last. Safe for concurrent use.
type Finder struct {
	load Load

	mu    sync.Mutex // guards what follows
	nodes map[pack.ID]*Node
	ids   []pack.ID // of nodes, the oldest first
	items int       // in all nodes
}

// maxFinder is how many entries a Finder remembers: some MiB.
const maxFinder = 8 * maxItems

// NewFinder returns a Finder that reads by load.
func NewFinder(load Load) *Finder { return &Finder{load: load, nodes: map[pack.ID]*Node{}} }

// Find is Find. The caller does not modify the entry.
func (f *Finder) Find(ctx context.Context, root pack.ID, name []byte) (*Entry, error) {
	return find(ctx, f.node, root, name)
}

func (f *Finder) node(ctx context.Context, id pack.ID, leaf, index, level int, below *Child) (*Node, error) {
	f.mu.Lock()
	n := f.nodes[id]
	f.mu.Unlock()
	if n != nil {
		return n.in(id, leaf, index, level, below)
	}
	n, err := f.load.node(ctx, id, leaf, index, level, below)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[id] == nil {
		f.nodes[id] = n
		f.ids = append(f.ids, id)
		f.items += len(n.Entries) + len(n.Children)
		for f.items > maxFinder {
			old := f.nodes[f.ids[0]]
			f.items -= len(old.Entries) + len(old.Children)
			delete(f.nodes, f.ids[0])
			f.ids = f.ids[1:]
		}
	}
	return n, nil
}
