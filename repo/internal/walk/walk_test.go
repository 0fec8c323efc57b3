package walk_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// store is an index made by hand, with the nodes in it.
type store struct {
	t     *testing.T
	packs []index.Pack
	nodes map[pack.ID][]byte
	n     byte
}

func id(n byte) pack.ID { return pack.ID{n, n, n, n, n, n, n, n} }

// frame adds a pack with one frame that holds the given blobs, all of 10 bytes.
func (s *store) frame(kind, depth uint8, bases []pack.ID, blobs ...pack.ID) {
	s.n++
	f := pack.Frame{Stored: 100, Plain: uint32(10 * len(blobs)), Depth: depth, Bases: bases}
	if len(bases) > 0 {
		f.Codec = pack.ZstdDelta
	}
	for _, b := range blobs {
		f.Blobs = append(f.Blobs, pack.Blob{ID: b, Length: 10})
	}
	s.packs = append(s.packs, index.Pack{ID: pack.ID{0: s.n}, Size: 200, Dir: &pack.Directory{
		Sections: []pack.Section{{Kind: kind, AEAD: 1, Key: make([]byte, pack.KeySize)}}, Frames: []pack.Frame{f}}})
}

func (s *store) index() *index.Index {
	s.t.Helper()
	b := index.NewBuilder(nil)
	if err := b.Add(index.EncodeSegment(strings.Repeat("0", index.SessionSize), s.packs), 1, false); err != nil {
		s.t.Fatal(err)
	}
	return b.Index()
}

// node stores a node under an id of its own.
func (s *store) node(b []byte) (pack.ID, error) {
	var i pack.ID
	binary.LittleEndian.PutUint32(i[:], uint32(len(s.nodes)+1000))
	i[31] = 1
	s.nodes[i] = append([]byte(nil), b...)
	s.frame(walk.Tree, 0, nil, i)
	return i, nil
}

func (s *store) load(_ context.Context, i pack.ID) ([]byte, error) {
	if b, ok := s.nodes[i]; ok {
		return b, nil
	}
	return nil, errors.New("no such node")
}

// root makes a folder of files and returns its root.
func (s *store) root(files ...[]tree.Piece) pack.ID {
	s.t.Helper()
	f := tree.NewFolder(s.node, func(uint8, []byte) uint64 { return 1 << 62 })
	for i, pieces := range files {
		e := &tree.Entry{Name: []byte(fmt.Sprintf("f%03d", i)), Mode: tree.ModeRegular | 0o644}
		l := tree.NewList(s.node)
		for _, p := range pieces {
			if err := l.Add(p.Length, p.ID); err != nil {
				s.t.Fatal(err)
			}
		}
		if err := l.Finish(e); err != nil {
			s.t.Fatal(err)
		}
		if err := f.Add(e); err != nil {
			s.t.Fatal(err)
		}
	}
	folder, err := f.Finish()
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := tree.Root(&tree.Entry{Mode: tree.ModeDir | 0o755, Folder: folder[:]})
	if err != nil {
		s.t.Fatal(err)
	}
	root, _ := s.node(b)
	return root
}

func pieces(ids ...byte) (ps []tree.Piece) {
	for _, n := range ids {
		i := id(n)
		ps = append(ps, tree.Piece{Length: 10, ID: i[:]})
	}
	return ps
}

func newStore(t *testing.T) *store { return &store{t: t, nodes: map[pack.ID][]byte{}} }

// needed returns the content blobs of which the walk marked all copies, and fails where it marked only some.
func needed(t *testing.T, x *index.Index, res *walk.Result) (out []byte) {
	t.Helper()
	marked := map[pack.ID][2]int{}
	for i, c := range x.All() {
		m := marked[i]
		if res.Needed.Has(c.Ordinal) {
			m[0]++
		} else {
			m[1]++
		}
		marked[i] = m
	}
	for i, m := range marked {
		if m[0] > 0 && m[1] > 0 {
			t.Errorf("%d of %d copies of %v", m[0], m[0]+m[1], i)
		}
		if m[0] > 0 && i[31] == 0 {
			out = append(out, i[0])
		}
	}
	slices.Sort(out)
	return out
}

func TestWalk(t *testing.T) {
	for _, c := range []struct {
		name    string
		make    func(s *store) []pack.ID
		needed  []byte
		missing []byte // content; nodes are counted
	}{
		{"nothing", func(s *store) []pack.ID { s.frame(walk.Content, 0, nil, id(1)); return nil }, nil, nil},
		{"inline and list, a hole, all copies", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1), id(2))
			s.frame(walk.Content, 0, nil, id(2), id(3), id(4), id(5), id(6), id(7))
			return []pack.ID{s.root(pieces(1), append(pieces(2, 3, 4, 5, 6), tree.Piece{Length: 99}))}
		}, []byte{1, 2, 3, 4, 5, 6}, nil},
		{"two roots that share", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1), id(2), id(3))
			return []pack.ID{s.root(pieces(1)), s.root(pieces(1, 3))}
		}, []byte{1, 3}, nil},
		{"bases through all depths", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1))
			s.frame(walk.Content, 1, []pack.ID{id(1)}, id(2))
			s.frame(walk.Content, 2, []pack.ID{id(2)}, id(3), id(4))
			s.frame(walk.Content, 0, nil, id(5))
			return []pack.ID{s.root(pieces(4))}
		}, []byte{1, 2, 4}, nil},
		{"bases of the other copy", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1))
			s.frame(walk.Content, 0, nil, id(2))
			s.frame(walk.Content, 1, []pack.ID{id(1)}, id(2))
			return []pack.ID{s.root(pieces(2))}
		}, []byte{1, 2}, nil},
		{"a frame that others marked as a base", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1))
			s.frame(walk.Content, 1, []pack.ID{id(1)}, id(2))
			s.frame(walk.Content, 2, []pack.ID{id(2)}, id(3))
			return []pack.ID{s.root(pieces(3)), s.root(pieces(2)), s.root(pieces(1))}
		}, []byte{1, 2, 3}, nil},
		{"a chunk that is missing", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1))
			return []pack.ID{s.root(pieces(1, 2), pieces(2), pieces(3))}
		}, []byte{1}, []byte{2, 3}},
		{"a base that is missing", func(s *store) []pack.ID {
			s.frame(walk.Content, 1, []pack.ID{id(9)}, id(1))
			return []pack.ID{s.root(pieces(1))}
		}, []byte{1}, []byte{9}},
		{"a base no less deep", func(s *store) []pack.ID {
			s.frame(walk.Content, 1, []pack.ID{id(2)}, id(1))
			s.frame(walk.Content, 1, []pack.ID{id(1)}, id(2))
			return []pack.ID{s.root(pieces(1))}
		}, []byte{1, 2}, []byte{1, 2}},
		{"a base of the other kind", func(s *store) []pack.ID {
			s.frame(walk.Tree, 0, nil, id(2))
			s.frame(walk.Content, 1, []pack.ID{id(2)}, id(1))
			return []pack.ID{s.root(pieces(1))}
		}, []byte{1}, []byte{2}},
		{"content among trees", func(s *store) []pack.ID {
			s.frame(walk.Tree, 0, nil, id(1))
			return []pack.ID{s.root(pieces(1))}
		}, nil, []byte{1}},
		{"another length than the list's", func(s *store) []pack.ID {
			s.frame(walk.Content, 0, nil, id(1))
			p := pieces(1)
			p[0].Length = 11
			return []pack.ID{s.root(p)}
		}, []byte{1}, []byte{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			roots := c.make(s)
			x := s.index()
			for _, workers := range []int{0, 1, 4} {
				res, err := walk.Run(t.Context(), x, s.load, roots, workers)
				if err != nil {
					t.Fatal(err)
				}
				var missing []byte
				for _, m := range res.Missing {
					missing = append(missing, m.ID[0])
					if m.Kind != walk.Content {
						t.Errorf("missing %+v", m)
					}
				}
				slices.Sort(missing)
				if got := needed(t, x, res); !slices.Equal(got, c.needed) || !slices.Equal(missing, c.missing) {
					t.Errorf("%d workers: needed %v, missing %v", workers, got, missing)
				}
			}
		})
	}
}

// A base of one copy may be gone, for another copy was kept: a collection then freed the base and not the pack of the first copy, which holds more.
func TestBaseOfOneCopy(t *testing.T) {
	s := newStore(t)
	s.frame(walk.Content, 1, []pack.ID{id(9)}, id(1))
	s.frame(walk.Content, 0, nil, id(1))
	root := s.root(pieces(1))
	res, err := walk.Run(t.Context(), s.index(), s.load, []pack.ID{root}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Missing) != 1 || !res.Missing[0].Base || res.Gone() != nil {
		t.Errorf("missing %+v, gone %v", res.Missing, res.Gone())
	}
	res, err = walk.Run(t.Context(), s.index(), s.load, []pack.ID{root, s.root(pieces(9))}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if m := res.Gone(); m == nil {
		t.Error("what is needed itself is not gone")
	}
}

// Each node is read once, however many name it; a node that cannot be read, or is none, is missing, and the rest is walked all the same.
func TestNodes(t *testing.T) {
	s := newStore(t)
	s.frame(walk.Content, 0, nil, id(1), id(2))
	a, b := s.root(pieces(1)), s.root(pieces(2))
	junk, _ := s.node([]byte("junk"))
	lost, _ := s.node([]byte("lost"))
	delete(s.nodes, lost)
	x := s.index()
	var loads atomic.Int64
	load := func(ctx context.Context, i pack.ID) ([]byte, error) {
		loads.Add(1)
		return s.load(ctx, i)
	}
	res, err := walk.Run(t.Context(), x, load, []pack.ID{a, junk, b, a, lost, id(77)}, 3)
	if err != nil {
		t.Fatal(err)
	}
	if n := loads.Load(); n != 6 {
		t.Errorf("%d nodes loaded", n)
	}
	if got := needed(t, x, res); !slices.Equal(got, []byte{1, 2}) {
		t.Errorf("needed %v", got)
	}
	why := map[pack.ID]error{}
	for _, m := range res.Missing {
		if m.Kind != walk.Tree {
			t.Errorf("missing %+v", m)
		}
		why[m.ID] = m.Err
	}
	if len(why) != 3 || !errors.Is(why[junk], tree.ErrDamaged) || why[lost] == nil || why[id(77)] != nil {
		t.Errorf("missing %v", res.Missing)
	}
}

func TestCancelled(t *testing.T) {
	s := newStore(t)
	s.frame(walk.Content, 0, nil, id(1))
	root := s.root(pieces(1))
	x := s.index()
	ctx, cancel := context.WithCancel(t.Context())
	load := func(ctx context.Context, i pack.ID) ([]byte, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if res, err := walk.Run(ctx, x, load, []pack.ID{root}, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", res, err)
	}
}
