package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/varvebackup/varve/pack"
)

// Store keeps a node and returns its id. It does not keep node.
type Store func(node []byte) (pack.ID, error)

// Split is the keyed function that chooses where nodes end: 64 uniform bits for a level and a name.
type Split func(level uint8, name []byte) uint64

const (
	entryHit = math.MaxUint64/128 + 1
	listHit  = math.MaxUint64/512 + 1
)

// items are the encoded items of the node that is being filled at one level.
type items struct {
	buf   bytes.Buffer
	n     int
	first []byte // name of the first
	count uint64 // entries, or bytes, below
	full  bool   // the next item begins another node
}

func (it *items) add(item []byte, count uint64) {
	it.buf.Write(item)
	it.n++
	it.count += count
}

func (it *items) reset() {
	it.buf.Reset()
	it.n, it.count, it.full = 0, 0, false
}

// builder is what folders and contents have in common. Of each level it holds the node that is being filled. A full one is stored when the next
// item comes, not before: a level above begins with the second node of a level, and so the last node of the top level is the root.
type builder struct {
	store       Store
	leaf, index uint8 // types of nodes
	levels      []*items
	item        bytes.Buffer // an encoded child
	node        []byte
	// up adds the node below of the given id to a level.
	up func(level int, below *items, id pack.ID) error
}

// room returns the node of a level that takes the next item.
func (b *builder) room(level int) (*items, error) {
	if level > maxLevel {
		return nil, fmt.Errorf("a tree of more than %d levels", maxLevel)
	}
	if level == len(b.levels) {
		b.levels = append(b.levels, &items{})
	}
	it := b.levels[level]
	if it.full {
		if err := b.end(level); err != nil {
			return nil, err
		}
	}
	return it, nil
}

// encode returns the encoding of v in the memory of buf.
func encode(buf *bytes.Buffer, v any) ([]byte, error) {
	buf.Reset()
	err := enc.MarshalToBuffer(v, buf)
	return buf.Bytes(), err
}

// end stores the node of a level and adds it to the level above.
func (b *builder) end(level int) error {
	it := b.levels[level]
	id, err := b.put(level)
	if err != nil {
		return err
	}
	if err := b.up(level+1, it, id); err != nil {
		return err
	}
	it.reset()
	return nil
}

// put stores the node of a level.
func (b *builder) put(level int) (pack.ID, error) {
	it := b.levels[level]
	node := b.node[:0]
	if level == 0 {
		node = append(node, 0x82, b.leaf) // CBOR's head of an array of two
	} else {
		node = append(node, 0x83, b.index, uint8(level))
	}
	switch {
	case it.n < 24:
		node = append(node, 0x80|uint8(it.n))
	case it.n < 256:
		node = append(node, 0x98, uint8(it.n))
	default: // at most maxItems
		node = append(node, 0x99, uint8(it.n>>8), uint8(it.n))
	}
	if b.node = append(node, it.buf.Bytes()...); len(b.node) > MaxNode {
		return pack.ID{}, fmt.Errorf("a tree node of %d bytes", len(b.node))
	}
	return b.store(b.node)
}

// finish stores what is left, from below, and returns the id of the node at the top.
func (b *builder) finish() (pack.ID, error) {
	for l := 0; l+1 < len(b.levels); l++ {
		if err := b.end(l); err != nil {
			return pack.ID{}, err
		}
	}
	return b.put(len(b.levels) - 1)
}

// A Folder builds the nodes of one folder.
type Folder struct {
	b     builder
	split Split
	entry bytes.Buffer // the encoded entry
	last  []byte
	any   bool
}

// NewFolder begins a folder.
func NewFolder(store Store, split Split) *Folder {
	f := &Folder{split: split, b: builder{store: store, leaf: TypeEntries, index: TypeEntryTree, levels: []*items{{}}}}
	f.b.up = f.up
	return f
}

// Add appends an entry. Entries come in ascending order of their names; another order, and an entry that is too large or that a reader would refuse, is an error.
// It leaves the Folder as it was, but an error of the Store does not.
func (f *Folder) Add(e *Entry) error {
	if err := e.check(false); err != nil {
		return err
	}
	if f.any && bytes.Compare(f.last, e.Name) >= 0 {
		return fmt.Errorf("the entry %q comes after %q", e.Name, f.last)
	}
	item, err := encode(&f.entry, e)
	if err != nil {
		return err
	}
	if len(item) > MaxEntry {
		return fmt.Errorf("the entry %.100q has %d bytes, at most %d are possible", e.Name, len(item), MaxEntry)
	}
	it, err := f.b.room(0)
	if err != nil {
		return err
	}
	f.any, f.last = true, append(f.last[:0], e.Name...)
	f.add(0, it, item, e.Name, 1)
	return nil
}

func (f *Folder) add(level int, it *items, item, first []byte, count uint64) {
	if it.n == 0 {
		it.first = append(it.first[:0], first...)
	}
	it.add(item, count)
	it.full = it.n >= maxItems || it.buf.Len() >= maxBytes || f.split(uint8(level), first) < entryHit
}

func (f *Folder) up(level int, below *items, id pack.ID) error {
	it, err := f.b.room(level)
	if err != nil {
		return err
	}
	item, err := encode(&f.b.item, &child{First: below.first, ID: id[:], Count: below.count})
	if err != nil {
		return err
	}
	f.add(level, it, item, below.first, below.count)
	return nil
}

// Finish stores what is left and returns the root's id. The Folder is then done.
func (f *Folder) Finish() (pack.ID, error) { return f.b.finish() }

// A List builds the nodes of one content.
type List struct {
	b      builder
	inline []Piece // the whole content, while it is short
	n      int
	size   uint64
	item   span
}

// NewList begins a content.
func NewList(store Store) *List {
	l := &List{b: builder{store: store, leaf: TypeList, index: TypeListTree, levels: []*items{{}}}}
	l.b.up = func(level int, below *items, id pack.ID) error { return l.add(level, below.count, id[:]) }
	return l
}

// Reset begins another content, in the same memory.
func (l *List) Reset() {
	for _, it := range l.b.levels {
		it.reset()
	}
	l.b.levels, l.inline, l.n, l.size = l.b.levels[:1], nil, 0, 0
}

// Add appends a piece; a hole has no id. It does not keep id. A piece that a reader would refuse is an error, and leaves the List as it was.
func (l *List) Add(length uint64, id []byte) error {
	p := Piece{Length: length, ID: id}
	if err := p.check(); err != nil {
		return err
	}
	if l.size+length > maxSize {
		return fmt.Errorf("a content of %d bytes", l.size+length)
	}
	l.size += length
	if l.n++; l.n <= maxInline {
		p.ID = bytes.Clone(id)
		l.inline = append(l.inline, p)
		return nil
	}
	if l.n == maxInline+1 {
		for i := range l.inline {
			if err := l.add(0, l.inline[i].Length, l.inline[i].ID); err != nil {
				return err
			}
		}
	}
	return l.add(0, length, id)
}

func (l *List) add(level int, length uint64, id []byte) error {
	it, err := l.b.room(level)
	if err != nil {
		return err
	}
	l.item = span{Length: length, ID: id}
	item, err := encode(&l.b.item, &l.item)
	if err != nil {
		return err
	}
	it.add(item, length)
	it.full = it.n >= maxItems || len(id) > 0 && binary.LittleEndian.Uint64(id[8*min(level, 3):]) < listHit
	return nil
}

// Finish stores what is left and writes size and content into e.
func (l *List) Finish(e *Entry) error {
	e.Size, e.Inline, e.List = l.size, nil, nil
	if l.n <= maxInline {
		e.Inline = l.inline
		return nil
	}
	id, err := l.b.finish()
	e.List = id[:]
	return err
}

// Root stores what is left, as nodes however short the content is, and returns its size and the id of the node at the top. A content without pieces has no root.
func (l *List) Root() (Piece, error) {
	if l.n <= maxInline {
		for i := range l.inline {
			if err := l.add(0, l.inline[i].Length, l.inline[i].ID); err != nil {
				return Piece{}, err
			}
		}
	}
	if l.n == 0 {
		return Piece{}, nil
	}
	id, err := l.b.finish()
	return Piece{Length: l.size, ID: id[:]}, err
}

// Root encodes the root folder's own entry as a node.
func Root(e *Entry) ([]byte, error) {
	if err := e.check(true); err != nil {
		return nil, err
	}
	b, err := enc.Marshal(rootNode{Type: TypeRoot, Entry: *e})
	if err == nil && len(b) > MaxEntry {
		err = fmt.Errorf("a root entry of %d bytes, at most %d are possible", len(b), MaxEntry)
	}
	return b, err
}

type rootNode struct {
	_     struct{} `cbor:",toarray"`
	Type  uint
	Entry Entry
}

type unreadNode struct {
	_     struct{} `cbor:",toarray"`
	Type  uint
	Items []Unread
}

// UnreadNode encodes what could not be read. The list is cut, and says so, where a node would get too large. What is no UTF-8 in a message is replaced:
// messages quote names.
func UnreadNode(list []Unread) ([]byte, error) {
	v := unreadNode{Type: TypeUnread}
	n := 0
	for i, u := range list {
		u.Message = strings.ToValidUTF8(u.Message, "\uFFFD")
		if n += len(u.Path) + len(u.Message) + 16; n > MaxNode/2 {
			v.Items = append(v.Items, Unread{Message: fmt.Sprintf("and %d more", len(list)-i)})
			break
		}
		v.Items = append(v.Items, u)
	}
	return enc.Marshal(v)
}
