package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"

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
	ends  []int
	first []byte // name of the first
	count uint64 // entries, or bytes, below
	last  []byte // name of the last
}

func (it *items) add(v any) error {
	if err := enc.MarshalToBuffer(v, &it.buf); err != nil {
		return err
	}
	it.ends = append(it.ends, it.buf.Len())
	return nil
}

func (it *items) raw() []cbor.RawMessage {
	r := make([]cbor.RawMessage, len(it.ends))
	start := 0
	for i, end := range it.ends {
		r[i] = it.buf.Bytes()[start:end]
		start = end
	}
	return r
}

func (it *items) reset() {
	it.buf.Reset()
	it.ends, it.count = it.ends[:0], 0
}

type leafNode struct {
	_     struct{} `cbor:",toarray"`
	Type  uint
	Items []cbor.RawMessage
}

type indexNode struct {
	_     struct{} `cbor:",toarray"`
	Type  uint
	Level uint
	Items []cbor.RawMessage
}

// put stores the node of the given level and empties it.
func (it *items) put(store Store, leaf, index uint, level int) (pack.ID, error) {
	var v any = leafNode{Type: leaf, Items: it.raw()}
	if level > 0 {
		v = indexNode{Type: index, Level: uint(level), Items: it.raw()}
	}
	b, err := enc.Marshal(v)
	if err != nil {
		return pack.ID{}, err
	}
	if len(b) > MaxNode {
		return pack.ID{}, fmt.Errorf("a tree node of %d bytes", len(b))
	}
	id, err := store(b)
	it.reset()
	return id, err
}

// A Folder builds the nodes of one folder.
type Folder struct {
	store  Store
	split  Split
	levels []*items
	last   []byte
	any    bool
}

// NewFolder begins a folder.
func NewFolder(store Store, split Split) *Folder {
	return &Folder{store: store, split: split, levels: []*items{{}}}
}

// Add appends an entry. Entries come in ascending order of their names; another order, and an entry that is too large, is an error.
func (f *Folder) Add(e *Entry) error {
	if err := e.check(false); err != nil {
		return err
	}
	if f.any && bytes.Compare(f.last, e.Name) >= 0 {
		return fmt.Errorf("the entry %q comes after %q", e.Name, f.last)
	}
	it := f.levels[0]
	before := it.buf.Len()
	if err := it.add(e); err != nil {
		return err
	}
	if n := it.buf.Len() - before; n > MaxEntry {
		it.buf.Truncate(before)
		it.ends = it.ends[:len(it.ends)-1]
		return fmt.Errorf("the entry %.100q has %d bytes, at most %d are possible", e.Name, n, MaxEntry)
	}
	f.any, f.last = true, append(f.last[:0], e.Name...)
	if len(it.ends) == 1 {
		it.first = append(it.first[:0], e.Name...)
	}
	it.count++
	if len(it.ends) >= maxItems || it.buf.Len() >= maxBytes || f.split(0, e.Name) < entryHit {
		return f.end(0)
	}
	return nil
}

// end closes the node at a level and puts it into the one above.
func (f *Folder) end(level int) error {
	it := f.levels[level]
	c := child{First: append([]byte(nil), it.first...), Count: it.count}
	id, err := it.put(f.store, TypeEntries, TypeEntryTree, level)
	if err != nil {
		return err
	}
	c.ID = id[:]
	if level+1 == len(f.levels) {
		if level+1 > maxLevel {
			return fmt.Errorf("a folder with more than %d levels", maxLevel)
		}
		f.levels = append(f.levels, &items{})
	}
	up := f.levels[level+1]
	if err := up.add(c); err != nil {
		return err
	}
	if len(up.ends) == 1 {
		up.first = append(up.first[:0], c.First...)
	}
	up.count += c.Count
	up.last = append(up.last[:0], c.ID...)
	if len(up.ends) >= maxItems || up.buf.Len() >= maxBytes || f.split(uint8(level+1), c.First) < entryHit {
		return f.end(level + 1)
	}
	return nil
}

// Finish stores what is left and returns the root's id. The Folder is then done.
func (f *Folder) Finish() (pack.ID, error) {
	if !f.any {
		return f.levels[0].put(f.store, TypeEntries, TypeEntryTree, 0)
	}
	return finish(&f.levels, f.end)
}

// finish closes all levels from below. A level that holds just one child, with nothing above it, is no node: the child is the root.
func finish(levels *[]*items, end func(int) error) (pack.ID, error) {
	for l := 0; ; l++ {
		it := (*levels)[l]
		if top := l+1 == len(*levels); top && l > 0 && len(it.ends) == 1 {
			return pack.ID(it.last), nil
		}
		if len(it.ends) == 0 {
			continue
		}
		if err := end(l); err != nil {
			return pack.ID{}, err
		}
	}
}

// A List builds the nodes of one content.
type List struct {
	store  Store
	levels []*items
	inline []Piece // the whole content, while it is short
	n      int
	size   uint64
	item   span
}

// NewList begins a content.
func NewList(store Store) *List { return &List{store: store, levels: []*items{{}}} }

// Reset begins another content, in the same memory.
func (l *List) Reset() {
	for _, it := range l.levels {
		it.reset()
	}
	l.levels, l.inline, l.n, l.size = l.levels[:1], nil, 0, 0
}

// Add appends a piece; a hole has no id.
func (l *List) Add(length uint64, id []byte) error {
	if l.size += length; length == 0 || l.size > maxSize {
		return fmt.Errorf("a content of %d bytes", l.size)
	}
	if l.n++; l.n <= maxInline {
		l.inline = append(l.inline, Piece{Length: length, ID: append([]byte(nil), id...)})
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
	it := l.levels[level]
	l.item = span{Length: length, ID: id}
	if err := it.add(&l.item); err != nil {
		return err
	}
	it.count += length
	it.last = append(it.last[:0], id...)
	if len(it.ends) >= maxItems || len(id) > 0 && binary.LittleEndian.Uint64(id[8*min(level, 3):]) < listHit {
		return l.end(level)
	}
	return nil
}

func (l *List) end(level int) error {
	n := l.levels[level].count
	id, err := l.levels[level].put(l.store, TypeList, TypeListTree, level)
	if err != nil {
		return err
	}
	if level+1 == len(l.levels) {
		if level+1 > maxLevel {
			return fmt.Errorf("a content with more than %d levels", maxLevel)
		}
		l.levels = append(l.levels, &items{})
	}
	return l.add(level+1, n, id[:])
}

// Finish stores what is left and writes size and content into e.
func (l *List) Finish(e *Entry) error {
	e.Size, e.Inline, e.List = l.size, nil, nil
	if l.n <= maxInline {
		e.Inline = l.inline
		return nil
	}
	id, err := finish(&l.levels, l.end)
	e.List = id[:]
	return err
}

// Root encodes the root folder's own entry as a node.
func Root(e *Entry) ([]byte, error) {
	if err := e.check(true); err != nil {
		return nil, err
	}
	return enc.Marshal(rootNode{Type: TypeRoot, Entry: *e})
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

// UnreadNode encodes what could not be read. The list is cut, and says so, where a node would get too large.
func UnreadNode(list []Unread) ([]byte, error) {
	n := 0
	for i := range list {
		if n += len(list[i].Path) + len(list[i].Message) + 16; n > MaxNode/2 {
			list = append(list[:i:i], Unread{Message: fmt.Sprintf("and %d more", len(list)-i)})
			break
		}
	}
	return enc.Marshal(unreadNode{Type: TypeUnread, Items: list})
}
