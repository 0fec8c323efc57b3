package tree

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"sort"

	"github.com/varvebackup/varve/pack"
)

// Load returns the bytes of a node, verified against its id. The caller does not modify them.
type Load func(ctx context.Context, id pack.ID) ([]byte, error)

// Child is a node below an index node.
type Child struct {
	ID    pack.ID
	First []byte // smallest name below; nil in lists
	Count uint64 // entries below, or bytes
}

// Node is a decoded node.
type Node struct {
	Type     int
	Level    int
	Entries  []Entry
	Pieces   []Piece
	Children []Child
	Unread   []Unread
	Root     *Entry
}

// Parse decodes a node and checks all that can be seen from it alone. The error is ErrDamaged.
func Parse(b []byte) (*Node, error) {
	if len(b) < 3 || len(b) > MaxNode || b[0]>>5 != 4 || b[1] > TypeRoot {
		return nil, damaged("not a node")
	}
	n := &Node{Type: int(b[1])}
	if !fewItems(b) {
		return nil, damaged("a node of too many items")
	}
	switch n.Type {
	case TypeEntries:
		var v struct {
			_     struct{} `cbor:",toarray"`
			Type  uint
			Items []Entry
		}
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		n.Entries = v.Items
		for i := range n.Entries {
			if err := n.Entries[i].check(false); err != nil {
				return nil, err
			}
			if i > 0 && bytes.Compare(n.Entries[i-1].Name, n.Entries[i].Name) >= 0 {
				return nil, damaged("entries are not in order")
			}
		}
	case TypeEntryTree:
		var v struct {
			_     struct{} `cbor:",toarray"`
			Type  uint
			Level uint
			Items []child
		}
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		n.Level = int(v.Level)
		var sum uint64
		for i, c := range v.Items {
			if err := CheckName(c.First); err != nil {
				return nil, err
			}
			if sum += c.Count; len(c.ID) != len(pack.ID{}) || c.Count == 0 || c.Count > maxSize || sum > maxSize {
				return nil, damaged("children of an index")
			}
			if i > 0 && bytes.Compare(v.Items[i-1].First, c.First) >= 0 {
				return nil, damaged("children are not in order")
			}
			n.Children = append(n.Children, Child{ID: pack.ID(c.ID), First: c.First, Count: c.Count})
		}
	case TypeList:
		var v struct {
			_     struct{} `cbor:",toarray"`
			Type  uint
			Items []Piece
		}
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		n.Pieces = v.Items
		if _, err := checkPieces(n.Pieces); err != nil {
			return nil, err
		}
	case TypeListTree:
		var v struct {
			_     struct{} `cbor:",toarray"`
			Type  uint
			Level uint
			Items []span
		}
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		n.Level = int(v.Level)
		var sum uint64
		for _, s := range v.Items {
			if sum += s.Length; len(s.ID) != len(pack.ID{}) || s.Length == 0 || s.Length > maxSize || sum > maxSize {
				return nil, damaged("spans of a list")
			}
			n.Children = append(n.Children, Child{ID: pack.ID(s.ID), Count: s.Length})
		}
	case TypeUnread:
		var v unreadNode
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		n.Unread = v.Items
	case TypeRoot:
		var v rootNode
		if err := Unmarshal(b, &v); err != nil {
			return nil, err
		}
		if err := v.Entry.check(true); err != nil {
			return nil, err
		}
		n.Root = &v.Entry
	default:
		return nil, damaged("a node of type %d", n.Type)
	}
	if n.Type == TypeEntryTree || n.Type == TypeListTree {
		if n.Level < 1 || n.Level > maxLevel || len(n.Children) == 0 {
			return nil, damaged("an index of level %d with %d children", n.Level, len(n.Children))
		}
	}
	if n.Type == TypeList && len(n.Pieces) == 0 {
		return nil, damaged("an empty list")
	}
	return n, nil
}

// fewItems tells whether the array of items of a node that has one is no longer than a builder makes it, before there is memory for them.
func fewItems(b []byte) bool {
	at := 2
	switch b[1] {
	case TypeEntryTree, TypeListTree:
		if at = 3; b[2] > maxLevel {
			return false
		}
	case TypeEntries, TypeList:
	default:
		return true
	}
	if len(b) < at+3 {
		return len(b) > at
	}
	switch c := b[at]; {
	case c <= 0x98:
		return true
	case c == 0x99:
		return int(b[at+1])<<8|int(b[at+2]) <= maxItems
	}
	return false
}

// node reads a node that must be a leaf of type leaf or an index of type index: the root of a tree if level is negative, else of that level.
// If below is not nil, the node must be what it says.
func (load Load) node(ctx context.Context, id pack.ID, leaf, index, level int, below *Child) (*Node, error) {
	b, err := load(ctx, id)
	if err != nil {
		return nil, err
	}
	n, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("node %v: %w", id, err)
	}
	return n.in(id, leaf, index, level, below)
}

// in checks that n, whose id is id, is what its place asks for.
func (n *Node) in(id pack.ID, leaf, index, level int, below *Child) (*Node, error) {
	if n.Type != leaf && n.Type != index || level >= 0 && n.Level != level {
		return nil, fmt.Errorf("node %v: %w", id, damaged("type %d at level %d", n.Type, n.Level))
	}
	if level < 0 && n.Level > 0 && len(n.Children) < 2 {
		return nil, fmt.Errorf("node %v: %w", id, damaged("a root that is nothing but one node below"))
	}
	if below != nil {
		if err := n.fits(below); err != nil {
			return nil, fmt.Errorf("node %v: %w", id, err)
		}
	}
	return n, nil
}

// LoadRoot reads the root folder's entry.
func LoadRoot(ctx context.Context, load Load, id pack.ID) (*Entry, error) {
	n, err := load.node(ctx, id, TypeRoot, TypeRoot, -1, nil)
	if err != nil {
		return nil, err
	}
	return n.Root, nil
}

// LoadUnread reads the list of what could not be read.
func LoadUnread(ctx context.Context, load Load, id pack.ID) ([]Unread, error) {
	n, err := load.node(ctx, id, TypeUnread, TypeUnread, -1, nil)
	if err != nil {
		return nil, err
	}
	return n.Unread, nil
}

// Entries yields the entries of a folder in order of their names. Each is the receiver's to keep. It stops at the first error.
func Entries(ctx context.Context, load Load, root pack.ID) iter.Seq2[*Entry, error] {
	return entries(ctx, load, root, false)
}

// Salvage is Entries for what may be damaged: an error stands for a node that cannot be had, with all below it, and what lies behind it follows.
func Salvage(ctx context.Context, load Load, root pack.ID) iter.Seq2[*Entry, error] {
	return entries(ctx, load, root, true)
}

func entries(ctx context.Context, load Load, root pack.ID, goOn bool) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		var last []byte
		var walk func(id pack.ID, level int, want *Child) bool
		walk = func(id pack.ID, level int, want *Child) bool {
			n, err := load.node(ctx, id, TypeEntries, TypeEntryTree, level, want)
			if err != nil {
				return yield(nil, err) && goOn && ctx.Err() == nil
			}
			for i := range n.Entries {
				e := &n.Entries[i]
				if last != nil && bytes.Compare(last, e.Name) >= 0 {
					yield(nil, fmt.Errorf("node %v: %w", id, damaged("entries of two nodes are not in order")))
					return false
				}
				last = e.Name
				if !yield(e, nil) {
					return false
				}
			}
			for i := range n.Children {
				if !walk(n.Children[i].ID, n.Level-1, &n.Children[i]) {
					return false
				}
			}
			return true
		}
		walk(root, -1, nil)
	}
}

// fits tells whether n is what the index above says of it.
func (n *Node) fits(c *Child) error {
	var first []byte
	var count uint64
	switch n.Type {
	case TypeEntries:
		if count = uint64(len(n.Entries)); count > 0 {
			first = n.Entries[0].Name
		}
	case TypeEntryTree:
		first = n.Children[0].First
	case TypeList:
		count, _ = checkPieces(n.Pieces)
	}
	for i := range n.Children {
		count += n.Children[i].Count
	}
	if count != c.Count || !bytes.Equal(first, c.First) {
		return damaged("a node of %d below an index that says %d", count, c.Count)
	}
	return nil
}

// Find returns the entry of a folder that has the given name, reading one node a level; fs.ErrNotExist when there is none.
func Find(ctx context.Context, load Load, root pack.ID, name []byte) (*Entry, error) {
	return find(ctx, load.node, root, name)
}

func find(ctx context.Context, node func(ctx context.Context, id pack.ID, leaf, index, level int, below *Child) (*Node, error), root pack.ID, name []byte) (*Entry, error) {
	level := -1
	var below *Child
	for id := root; ; {
		n, err := node(ctx, id, TypeEntries, TypeEntryTree, level, below)
		if err != nil {
			return nil, err
		}
		if n.Type == TypeEntries {
			i := sort.Search(len(n.Entries), func(i int) bool { return bytes.Compare(n.Entries[i].Name, name) >= 0 })
			if i == len(n.Entries) || !bytes.Equal(n.Entries[i].Name, name) {
				return nil, fs.ErrNotExist
			}
			return &n.Entries[i], nil
		}
		i := sort.Search(len(n.Children), func(i int) bool { return bytes.Compare(n.Children[i].First, name) > 0 })
		if i == 0 {
			return nil, fs.ErrNotExist
		}
		below = &n.Children[i-1]
		id, level = below.ID, n.Level-1
	}
}

// Run is a piece of content at its place in the file.
type Run struct {
	Offset uint64
	Piece
}

// Pieces yields the pieces of a file's content in order, beginning with the one that holds byte from. It reads only the nodes that it needs. It stops
// at the first error.
func Pieces(ctx context.Context, load Load, e *Entry, from uint64) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		pieces := func(ps []Piece, off uint64) bool {
			for _, p := range ps {
				if off+p.Length > from && !yield(Run{off, p}, nil) {
					return false
				}
				off += p.Length
			}
			return true
		}
		if len(e.List) == 0 {
			pieces(e.Inline, 0)
			return
		}
		var walk func(id pack.ID, level int, off uint64, want *Child) bool
		walk = func(id pack.ID, level int, off uint64, want *Child) bool {
			n, err := load.node(ctx, id, TypeList, TypeListTree, level, want)
			if err != nil {
				yield(Run{}, err)
				return false
			}
			for i := range n.Children {
				c := &n.Children[i]
				if off+c.Count > from && !walk(c.ID, n.Level-1, off, c) {
					return false
				}
				off += c.Count
			}
			return pieces(n.Pieces, off)
		}
		walk(pack.ID(e.List), -1, 0, &Child{Count: e.Size})
	}
}
