package tree_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/zeebo/blake3"
)

var ctx = context.Background()

func try[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// store keeps nodes in memory.
type store struct {
	nodes map[pack.ID][]byte
	bytes int // of distinct nodes
	reads int
}

func newStore() *store { return &store{nodes: map[pack.ID][]byte{}} }

func (s *store) put(node []byte) (pack.ID, error) {
	id := pack.ID(blake3.Sum256(node))
	if s.nodes[id] == nil {
		s.nodes[id] = bytes.Clone(node)
		s.bytes += len(node)
	}
	return id, nil
}

func (s *store) load(_ context.Context, id pack.ID) ([]byte, error) {
	s.reads++
	b, ok := s.nodes[id]
	if !ok {
		return nil, fmt.Errorf("node %v: %w", id, fs.ErrNotExist)
	}
	return b, nil
}

// split is a keyed function of level and name, as crypt's is, that hits with 1 in rate.
func split(rate uint64) tree.Split {
	h := try(blake3.NewKeyed(bytes.Repeat([]byte{7}, 32)))
	var sum [32]byte
	return func(level uint8, name []byte) uint64 {
		h.Reset()
		h.Write([]byte{level})
		h.Write(name)
		h.Sum(sum[:0])
		n := binary.LittleEndian.Uint64(sum[:])
		if rate != 128 && n%rate == 0 {
			return 0
		} else if rate != 128 {
			return 1<<64 - 1
		}
		return n
	}
}

var (
	hash32 = func(n uint64) []byte {
		h := blake3.Sum256(binary.LittleEndian.AppendUint64(nil, n))
		return h[:]
	}
	mtime = time.Date(2026, 11, 20, 3, 15, 0, 123, time.UTC)
)

// file returns a small file's entry.
func file(name string) *tree.Entry {
	uid, gid := uint32(1000), uint32(0)
	return &tree.Entry{Name: []byte(name), Mode: tree.ModeRegular | 0o644, ModTime: tree.TimeOf(mtime), UID: &uid, GID: &gid, User: "web", Group: "root",
		Size: 5000, Inline: []tree.Piece{{Length: 5000, ID: hash32(uint64(len(name)))}}}
}

// full returns an entry with every field.
func full(name string) *tree.Entry {
	e := file(name)
	e.Target, e.Xattrs = []byte("../to"), []tree.Xattr{{Name: []byte("user.a"), Value: nil}, {Name: []byte("user.\xff"), Value: []byte{0}}}
	e.Link, e.Device = &tree.Numbers{A: 1, B: 1 << 63}, &tree.Numbers{A: 8, B: 1}
	e.Size, e.Inline = 5001, []tree.Piece{{Length: 5000, ID: hash32(1)}, {Length: 1}}
	e.Type, e.Meta = "image/jpeg", []tree.Pair{{Key: "a"}, {Key: "b", Value: "ä"}}
	e.Token, e.Flags = hash32(2)[:16], tree.FlagStream|tree.FlagChanged
	return e
}

func folder(name string) *tree.Entry {
	return &tree.Entry{Name: []byte(name), Mode: tree.ModeDir | 0o755, Folder: hash32(3)}
}

func build(t testing.TB, s *store, split tree.Split, entries []*tree.Entry) pack.ID {
	t.Helper()
	f := tree.NewFolder(s.put, split)
	for _, e := range entries {
		if err := f.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	id, err := f.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The rest is docs/FORMAT.md, section 7, a second time.

// item is an encoded item of a node, with what counts for where the node ends.
type item struct {
	enc   []byte
	first []byte // name
	id    []byte
	count uint64
}

var plainCBOR = try(cbor.CoreDetEncOptions().EncMode())

func encode(v any) []byte { return try(plainCBOR.Marshal(v)) }

// byHand returns the id of the root over items, made as the format says: nodes of a level, then nodes of these, until one is left.
func byHand(s *store, leaf int, split tree.Split, items []item) (root pack.ID, levels int) {
	hit := func(level int, it item) bool {
		if leaf == tree.TypeEntries {
			return split(uint8(level), it.first) < 1<<57
		}
		return len(it.id) > 0 && binary.LittleEndian.Uint64(it.id[8*min(level, 3):]) < 1<<55
	}
	for level := 0; ; level++ {
		var nodes []item
		for start := 0; start < len(items) || start == 0; {
			end, size := start, 0
			raw := []cbor.RawMessage{}
			node := item{}
			for end < len(items) {
				it := items[end]
				end++
				raw = append(raw, it.enc)
				size += len(it.enc)
				node.count += it.count
				if hit(level, it) || end-start == 1024 || leaf == tree.TypeEntries && size >= 256<<10 {
					break
				}
			}
			b := encode([]any{leaf, raw})
			if level > 0 {
				b = encode([]any{leaf + 1, level, raw})
			}
			if len(raw) > 0 {
				node.first = items[start].first
			}
			id := try(s.put(b))
			node.id = id[:]
			if node.enc = encode([]any{node.count, node.id}); leaf == tree.TypeEntries {
				node.enc = encode([]any{append([]byte{}, node.first...), node.id, node.count})
			}
			nodes = append(nodes, node)
			start = max(end, start+1)
		}
		if len(nodes) == 1 {
			return pack.ID(nodes[0].id), level + 1
		}
		items = nodes
	}
}

// byHandEntry encodes an entry as a map of numbers.
func byHandEntry(e *tree.Entry) []byte {
	m := map[int]any{1: append([]byte{}, e.Name...), 2: e.Mode}
	if e.ModTime != nil {
		m[3] = []any{e.ModTime.Sec, e.ModTime.Ns}
	}
	if e.UID != nil {
		m[4], m[5] = *e.UID, *e.GID
	}
	for key, text := range map[int]string{6: e.User, 7: e.Group, 16: e.Type} {
		if text != "" {
			m[key] = text
		}
	}
	for key, b := range map[int][]byte{8: e.Target, 14: e.List, 15: e.Folder, 18: e.Token} {
		if len(b) > 0 {
			m[key] = b
		}
	}
	var xattrs, meta, inline []any
	for _, x := range e.Xattrs {
		xattrs = append(xattrs, []any{append([]byte{}, x.Name...), append([]byte{}, x.Value...)})
	}
	for _, p := range e.Meta {
		meta = append(meta, []any{p.Key, p.Value})
	}
	for _, p := range e.Inline {
		inline = append(inline, []any{p.Length, append([]byte{}, p.ID...)})
	}
	for key, list := range map[int][]any{9: xattrs, 17: meta, 13: inline} {
		if len(list) > 0 {
			m[key] = list
		}
	}
	if e.Link != nil {
		m[10] = []any{e.Link.A, e.Link.B}
	}
	if e.Device != nil {
		m[11] = []any{e.Device.A, e.Device.B}
	}
	if e.Size != 0 {
		m[12] = e.Size
	}
	if e.Flags != 0 {
		m[19] = e.Flags
	}
	return encode(m)
}

func byHandFolder(s *store, split tree.Split, entries []*tree.Entry) (pack.ID, int) {
	var items []item
	for _, e := range entries {
		items = append(items, item{enc: byHandEntry(e), first: e.Name, count: 1})
	}
	return byHand(s, tree.TypeEntries, split, items)
}

func names(n int, seed uint64) (names []string) {
	r := rand.New(rand.NewPCG(seed, 2))
	for i := range n {
		names = append(names, fmt.Sprintf("IMG_%07d_%04x.jpg", i, r.IntN(1<<16)))
	}
	return names
}
