package tree_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

type list = []any

// entryMap is a good entry, to be changed.
func entryMap(change func(m map[int]any)) map[int]any {
	m := map[int]any{1: []byte("m"), 2: 0o100644}
	change(m)
	return m
}

// Nodes that no builder makes.
func TestHostileNodes(t *testing.T) {
	id, no := hash32(1), []byte{}
	entry := entryMap(func(map[int]any) {})
	named := func(name string) map[int]any { return entryMap(func(m map[int]any) { m[1] = []byte(name) }) }
	for name, v := range map[string]any{
		"an entry":                        list{1, list{entry}},
		"a long list":                     list{3, list{list{1, id}, list{uint64(1 << 61), no}, list{5, id}}},
		"an index":                        list{2, 1, list{list{[]byte("a"), id, 5}, list{[]byte("b"), id, 1}}},
		"an index with one child":         list{2, 16, list{list{[]byte("a"), id, 5}}},
		"an index of a list":              list{4, 1, list{list{5, id}}},
		"an entry with a content of 2^62": list{1, list{entryMap(func(m map[int]any) { m[12], m[13] = uint64(1<<62), list{list{uint64(1 << 62), no}} })}},
	} {
		if n, err := tree.Parse(encode(v)); err != nil {
			t.Errorf("%s: %v, %+v", name, err, n)
		}
	}
	manyEntries, manyPieces, manyChildren := list{}, list{}, list{}
	for i := range 1025 {
		manyEntries = append(manyEntries, named(fmt.Sprintf("%05d", i)))
		manyPieces = append(manyPieces, list{1, id})
		manyChildren = append(manyChildren, list{fmt.Appendf(nil, "%05d", i), id, 1})
	}
	bad := map[string]any{
		"no array":               5,
		"nothing":                list{},
		"no type":                list{list{}},
		"type 0":                 list{0, list{}},
		"type 7":                 list{7, list{}},
		"no items":               list{1},
		"null for items":         list{1, nil},
		"more elements":          list{1, list{entry}, 0},
		"an index without level": list{2, list{}},
		"entries with a level":   list{1, 0, list{entry}},
		"wrong order":            list{1, list{named("b"), named("a")}},
		"a name twice":           list{1, list{named("a"), named("a")}},
		"1,025 entries":          list{1, manyEntries},
		"1,025 pieces":           list{3, manyPieces},
		"1,025 children":         list{2, 1, manyChildren},
		"no name":                list{1, list{map[int]any{2: 0o100644}}},
		"an empty name":          list{1, list{named("")}},
		"dot":                    list{1, list{named(".")}},
		"dots":                   list{1, list{named("..")}},
		"slash":                  list{1, list{named("a/b")}},
		"NUL":                    list{1, list{named("a\x00")}},
		"a long name":            list{1, list{named(string(make([]byte, 4097)))}},
		"a name that is text":    list{1, list{entryMap(func(m map[int]any) { m[1] = "m" })}},
		"a key of the future":    list{1, list{entryMap(func(m map[int]any) { m[20] = 1 })}},
		"a key of text":          list{1, list{map[any]any{1: []byte("m"), 2: 0o100644, "3": 1}}},
		"a mode too large":       list{1, list{entryMap(func(m map[int]any) { m[2] = 1 << 16 })}},
		"a mode beyond 32 bits":  list{1, list{entryMap(func(m map[int]any) { m[2] = uint64(1<<32 + 0o100644) })}},
		"a negative mode":        list{1, list{entryMap(func(m map[int]any) { m[2] = -1 })}},
		"a mode with a point":    list{1, list{entryMap(func(m map[int]any) { m[2] = 1.5 })}},
		"no mode":                list{1, list{map[int]any{1: []byte("m")}}},
		"nanoseconds":            list{1, list{entryMap(func(m map[int]any) { m[3] = list{0, 1e9} })}},
		"half a time":            list{1, list{entryMap(func(m map[int]any) { m[3] = list{0} })}},
		"null for a time":        list{1, list{entryMap(func(m map[int]any) { m[3] = nil })}},
		"seconds beyond 64 bits": list{1, list{entryMap(func(m map[int]any) { m[3] = list{uint64(math.MaxUint64), 0} })}},
		"user without group":     list{1, list{entryMap(func(m map[int]any) { m[4] = 0 })}},
		"an empty user name":     list{1, list{entryMap(func(m map[int]any) { m[6] = "" })}},
		"a user name of bytes":   list{1, list{entryMap(func(m map[int]any) { m[6] = []byte("u") })}},
		"an empty target":        list{1, list{entryMap(func(m map[int]any) { m[8] = no })}},
		"xattrs out of order":    list{1, list{entryMap(func(m map[int]any) { m[9] = list{list{[]byte("b"), no}, list{[]byte("a"), no}} })}},
		"an xattr twice":         list{1, list{entryMap(func(m map[int]any) { m[9] = list{list{[]byte("b"), no}, list{[]byte("b"), no}} })}},
		"no xattrs":              list{1, list{entryMap(func(m map[int]any) { m[9] = list{} })}},
		"half a link":            list{1, list{entryMap(func(m map[int]any) { m[10] = list{1} })}},
		"size 0":                 list{1, list{entryMap(func(m map[int]any) { m[12] = 0 })}},
		"size without content":   list{1, list{entryMap(func(m map[int]any) { m[12] = 5 })}},
		"content without size":   list{1, list{entryMap(func(m map[int]any) { m[13] = list{list{5, id}} })}},
		"another size":           list{1, list{entryMap(func(m map[int]any) { m[12], m[13] = 6, list{list{5, id}} })}},
		"both contents":          list{1, list{entryMap(func(m map[int]any) { m[12], m[13], m[14] = 5, list{list{5, id}}, id })}},
		"five pieces": list{1, list{entryMap(func(m map[int]any) {
			m[12], m[13] = 5, list{list{1, id}, list{1, id}, list{1, id}, list{1, id}, list{1, id}}
		})}},
		"a hole without empty id": list{1, list{entryMap(func(m map[int]any) { m[12], m[13] = 5, list{list{5}} })}},
		"a null id":               list{1, list{entryMap(func(m map[int]any) { m[12], m[13] = 5, list{list{5, nil}} })}},
		"sizes that overflow": list{1, list{entryMap(func(m map[int]any) {
			m[12], m[13] = 4, list{list{uint64(1 << 63), no}, list{uint64(1 << 63), no}, list{4, no}}
		})}},
		"a size beyond 2^62":              list{1, list{entryMap(func(m map[int]any) { m[12], m[13] = uint64(1<<62+1), list{list{uint64(1<<62 + 1), no}} })}},
		"a list id of 31 bytes":           list{1, list{entryMap(func(m map[int]any) { m[12], m[14] = 5, id[1:] })}},
		"a file with a folder":            list{1, list{entryMap(func(m map[int]any) { m[15] = id })}},
		"a folder without id":             list{1, list{entryMap(func(m map[int]any) { m[2] = 0o40755 })}},
		"a folder id of 33 bytes":         list{1, list{entryMap(func(m map[int]any) { m[2], m[15] = 0o40755, append(id[:32:32], 0) })}},
		"a link with content":             list{1, list{entryMap(func(m map[int]any) { m[2], m[12], m[13] = 0o120777, 5, list{list{5, id}} })}},
		"metadata out of order":           list{1, list{entryMap(func(m map[int]any) { m[17] = list{list{"b", ""}, list{"a", ""}} })}},
		"a metadata key twice":            list{1, list{entryMap(func(m map[int]any) { m[17] = list{list{"a", "1"}, list{"a", "2"}} })}},
		"a token of 15 bytes":             list{1, list{entryMap(func(m map[int]any) { m[18] = id[:15] })}},
		"a flag of the future":            list{1, list{entryMap(func(m map[int]any) { m[19] = 4 })}},
		"deep nesting":                    list{1, list{entryMap(func(m map[int]any) { m[9] = list{list{list{list{list{list{list{}}}}}}} })}},
		"a tagged name":                   list{1, list{entryMap(func(m map[int]any) { m[1] = cbor.Tag{Number: 64, Content: []byte("m")} })}},
		"an empty list":                   list{3, list{}},
		"an empty piece":                  list{3, list{list{0, id}}},
		"an empty hole":                   list{3, list{list{0, no}}},
		"a piece larger than a frame":     list{3, list{list{pack.MaxPlain + 1, id}}},
		"a short piece id":                list{3, list{list{1, id[1:]}}},
		"lengths that overflow":           list{3, list{list{uint64(1 << 62), no}, list{uint64(1 << 62), no}, list{uint64(1 << 63), no}}},
		"lengths beyond 2^62":             list{3, list{list{uint64(1 << 62), no}, list{1, no}}},
		"an index of level 0":             list{2, 0, list{list{[]byte("a"), id, 5}}},
		"an index of level 17":            list{2, 17, list{list{[]byte("a"), id, 5}}},
		"an index of level 2^32":          list{2, uint64(1 << 32), list{list{[]byte("a"), id, 5}}},
		"an index of a negative level":    list{2, -1, list{list{[]byte("a"), id, 5}}},
		"an empty index":                  list{2, 1, list{}},
		"children out of order":           list{2, 1, list{list{[]byte("b"), id, 5}, list{[]byte("a"), id, 5}}},
		"a child twice":                   list{2, 1, list{list{[]byte("a"), id, 5}, list{[]byte("a"), id, 5}}},
		"a child without name":            list{2, 1, list{list{no, id, 5}}},
		"a child that is dots":            list{2, 1, list{list{[]byte(".."), id, 5}}},
		"a child without id":              list{2, 1, list{list{[]byte("a"), no, 5}}},
		"a child with nothing below":      list{2, 1, list{list{[]byte("a"), id, 0}}},
		"counts that overflow":            list{2, 1, list{list{[]byte("a"), id, uint64(1 << 62)}, list{[]byte("b"), id, uint64(1 << 62)}, list{[]byte("c"), id, uint64(1 << 62)}, list{[]byte("d"), id, uint64(1 << 62)}, list{[]byte("e"), id, 5}}},
		"an empty index of a list":        list{4, 1, list{}},
		"an index of a list, level 0":     list{4, 0, list{list{5, id}}},
		"an index of a list over a hole":  list{4, 1, list{list{5, no}}},
		"an index of a list over nothing": list{4, 1, list{list{0, id}}},
		"spans that overflow":             list{4, 1, list{list{uint64(1 << 62), id}, list{uint64(1 << 62), id}, list{uint64(1 << 62), id}, list{uint64(1 << 62), id}, list{1, id}}},
		"unread without flag":             list{5, list{list{[]byte("a"), "m"}}},
		"a root with a name":              list{6, entryMap(func(m map[int]any) { m[2], m[15] = 0o40755, id })},
		"a root that is a file":           list{6, entryMap(func(m map[int]any) { m[1] = no })},
		"a root without entry":            list{6},
		"a root that is null":             list{6, nil},
		"a root of entries":               list{6, list{entry}},
		"an entry that is a list":         list{1, list{list{}}},
		"an entry that is null":           list{1, list{nil}},
		"bytes for items":                 list{1, []byte("x")},
		"a map for items":                 list{1, map[int]any{}},
		"true for items":                  list{3, true},
	}
	nodes := map[string][]byte{
		"empty": {}, "one byte": {0x82}, "two bytes": {0x82, 1}, "a cut head": {0x82, 1, 0x99, 0},
		"too large":                 make([]byte, tree.MaxNode+1),
		"more behind":               append(encode(list{1, list{entry}}), 0),
		"an indefinite array":       {0x9f, 1, 0x80, 0xff},
		"indefinite items":          {0x82, 1, 0x9f, 0xff},
		"a long head":               {0x98, 2, 1, 0x80},
		"a long type":               {0x82, 0x18, 1, 0x80},
		"a long count":              {0x82, 1, 0x98, 0},
		"a count of 2^64":           {0x82, 1, 0x9b, 255, 255, 255, 255, 255, 255, 255, 255},
		"a count of 2^32":           {0x82, 3, 0x9a, 255, 255, 255, 255},
		"keys out of order":         append([]byte{0x82, 1, 0x81, 0xa2, 2, 0x19, 0x81, 0xa4}, 1, 0x41, 'm'),
		"a key twice":               append([]byte{0x82, 1, 0x81, 0xa3, 1, 0x41, 'm', 2, 0x19, 0x81, 0xa4}, 2, 0x19, 0x81, 0xa4),
		"a long length of a name":   append([]byte{0x82, 1, 0x81, 0xa2, 1, 0x58, 1, 'm'}, 2, 0x19, 0x81, 0xa4),
		"a user that is no text":    {0x82, 1, 0x81, 0xa3, 1, 0x41, 'm', 2, 0x19, 0x81, 0xa4, 6, 0x61, 0xff},
		"true that is a long false": {0x82, 5, 0x81, 0x83, 0x40, 0x60, 0xf8, 20},
	}
	for name, v := range bad {
		nodes[name] = encode(v)
	}
	for name, b := range nodes {
		if n, err := tree.Parse(b); !errors.Is(err, tree.ErrDamaged) || n != nil {
			t.Errorf("%s: %x\n%+v, %v", name, b[:min(len(b), 100)], n, err)
		}
	}
}

// A node of 2 MiB does not cost much more memory than that of one that a builder makes, whatever it claims.
func TestHostileMemory(t *testing.T) {
	for name, b := range map[string][]byte{
		"maps":     append([]byte{0x82, 1, 0x9a, 0, 2, 0, 0}, bytes.Repeat([]byte{0xa0}, 1<<17)...),
		"children": append([]byte{0x83, 2, 1, 0x9a, 0, 2, 0, 0}, bytes.Repeat([]byte{0x80}, 1<<17)...),
		"level":    append([]byte{0x83, 2, 0x18, 1, 0x9a, 0, 2, 0, 0}, bytes.Repeat([]byte{0x80}, 1<<17)...),
		"claims":   {0x82, 1, 0x9b, 0, 0, 0, 255, 255, 255, 255, 255, 0},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := tree.Parse(b)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, tree.ErrDamaged) || n > 1<<20 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

// Nodes that are well each by itself, and not together.
func TestHostileTrees(t *testing.T) {
	s := newStore()
	put := func(v any) []byte {
		id := try(s.put(encode(v)))
		return id[:]
	}
	leaf := func(names ...string) []byte {
		items := list{}
		for _, n := range names {
			items = append(items, entryMap(func(m map[int]any) { m[1] = []byte(n) }))
		}
		return put(list{1, items})
	}
	index := func(level int, children ...any) []byte { return put(list{2, level, list(children)}) }
	child := func(first string, id []byte, n uint64) any { return list{[]byte(first), id, n} }
	pieces := func(lengths ...uint64) []byte {
		items := list{}
		for _, n := range lengths {
			items = append(items, list{n, hash32(n)})
		}
		return put(list{3, items})
	}
	spans := func(level int, children ...any) []byte { return put(list{4, level, list(children)}) }
	ab, cd := leaf("a", "b"), leaf("c", "d")
	good := index(1, child("a", ab, 2), child("c", cd, 2))
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := tree.Find(ctx, s.load, pack.ID(good), []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, root := range map[string][]byte{
		"one child":                  index(1, child("a", ab, 2)),
		"a wrong count":              index(1, child("a", ab, 3), child("c", cd, 2)),
		"a wrong first name":         index(1, child("A", ab, 2), child("c", cd, 2)),
		"a later first name":         index(1, child("aa", ab, 2), child("c", cd, 2)),
		"an overlap":                 index(1, child("a", leaf("a", "c"), 2), child("b", leaf("b", "d"), 2)),
		"a name in two nodes":        index(1, child("a", leaf("a", "c"), 2), child("c", cd, 2)),
		"level 2 over level 0":       index(2, child("a", ab, 2), child("c", cd, 2)),
		"level 1 over level 1":       index(1, child("a", good, 4), child("c", cd, 2)),
		"an empty leaf":              index(1, child("a", leaf(), 1), child("c", cd, 2)),
		"a list below":               index(1, child("a", pieces(1, 2), 3), child("c", cd, 2)),
		"an index of a list below":   index(2, child("a", spans(1, list{3, pieces(1, 2)}), 3), child("c", good, 4)),
		"a root below":               index(1, child("a", put(list{6, map[int]any{1: []byte{}, 2: 0o40755, 15: ab}}), 1), child("c", cd, 2)),
		"a list":                     pieces(1, 2),
		"an index of a list":         spans(1, list{3, pieces(1, 2)}, list{3, pieces(1, 2)}),
		"garbage":                    try2(s.put([]byte("garbage"))),
		"counts that overflow below": index(2, child("a", index(1, child("a", ab, uint64(1<<61)), child("c", cd, uint64(1<<61))), uint64(1<<62)), child("x", good, 4)),
	} {
		var err error
		n := 0
		for e, e2 := range tree.Entries(ctx, s.load, pack.ID(root)) {
			if err != nil {
				t.Errorf("%s: something after an error", name)
			}
			if err = e2; err != nil && e != nil {
				t.Errorf("%s: an entry with an error", name)
			}
			n++
		}
		if !errors.Is(err, tree.ErrDamaged) || n > 5 {
			t.Errorf("%s: %d entries, %v", name, n, err)
		}
	}
	// Find sees what lies on its way.
	for name, root := range map[string][]byte{
		"one child":            index(1, child("a", ab, 2)),
		"a wrong count":        index(1, child("a", ab, 3), child("c", cd, 2)),
		"a wrong first name":   index(1, child("A", ab, 2), child("c", cd, 2)),
		"level 2 over level 0": index(2, child("a", ab, 2), child("c", cd, 2)),
		"an empty leaf":        index(1, child("a", leaf(), 1), child("c", cd, 2)),
		"a list":               pieces(1, 2),
	} {
		if e, err := tree.Find(ctx, s.load, pack.ID(root), []byte("a")); !errors.Is(err, tree.ErrDamaged) {
			t.Errorf("find, %s: %v, %v", name, e, err)
		}
	}

	ten, five := pieces(1, 2, 3, 4), pieces(5)
	for name, c := range map[string]struct {
		root []byte
		size uint64
	}{
		"another size":         {pieces(1, 2, 3, 4, 5), 16},
		"one child":            {spans(1, list{10, ten}), 10},
		"a wrong length":       {spans(1, list{11, ten}, list{5, five}), 16},
		"another size below":   {spans(1, list{10, ten}, list{5, five}), 14},
		"level 2 over level 0": {spans(2, list{10, ten}, list{5, five}), 15},
		"level 1 over level 1": {spans(1, list{15, spans(1, list{10, ten}, list{5, five})}, list{5, five}), 20},
		"entries":              {ab, 2},
		"an index of entries":  {good, 4},
	} {
		e := &tree.Entry{Size: c.size, List: c.root}
		var err error
		for _, err = range tree.Pieces(ctx, s.load, e, 0) {
		}
		if !errors.Is(err, tree.ErrDamaged) {
			t.Errorf("list, %s: %v", name, err)
		}
	}

	// A chain of indexes cannot be longer than levels allow.
	id, calls := good, 0
	for level := 2; level <= 16; level++ {
		id = index(level, child("a", id, 4*uint64(level-1)), child(fmt.Sprintf("e%02d", level), leaf(fmt.Sprintf("e%02d", level)), 1))
	}
	for _, err := range tree.Entries(ctx, s.load, pack.ID(id)) {
		if calls++; err == nil && calls > 4 {
			t.Error("a leaf below level 2")
		}
	}

	// A missing node is the Load's error.
	missing := index(1, child("a", hash32(99), 2), child("c", cd, 2))
	for _, err := range tree.Entries(ctx, s.load, pack.ID(missing)) {
		if err == nil || errors.Is(err, tree.ErrDamaged) {
			t.Error(err)
		}
	}
}

func try2(id pack.ID, err error) []byte {
	if err != nil {
		panic(err)
	}
	return id[:]
}

// Iterating stops when the receiver does.
func TestStop(t *testing.T) {
	s := newStore()
	var entries []*tree.Entry
	for _, n := range names(1000, 1) {
		entries = append(entries, file(n))
	}
	root := build(t, s, split(128), entries)
	for _, limit := range []int{1, 150, 999} {
		n := 0
		for _, err := range tree.Entries(ctx, s.load, root) {
			if n++; err != nil || n > limit {
				t.Fatal(n, err)
			}
			if n == limit {
				break
			}
		}
	}
}

// FuzzParse: a node is refused, or encoding what was read gives it again.
func FuzzParse(f *testing.F) {
	s := newStore()
	build(f, s, split(4), []*tree.Entry{full("a"), folder("b"), file("c"), file("d"), file("e"), file("f"), file("g"), file("h")})
	l := tree.NewList(s.put)
	for i := range 3000 {
		if err := l.Add(uint64(i+1), hash32(uint64(i))); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Finish(&tree.Entry{}); err != nil {
		f.Fatal(err)
	}
	for _, b := range s.nodes {
		if len(b) < 2000 {
			f.Add(b)
		}
	}
	f.Add(try(tree.Root(folder(""))))
	f.Add(try(tree.UnreadNode([]tree.Unread{{Path: []byte("a"), Message: "m"}, {Tolerated: true}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := tree.Parse(b)
		if err != nil {
			if !errors.Is(err, tree.ErrDamaged) || n != nil {
				t.Fatal(err)
			}
			return
		}
		if again := marshal(n); !bytes.Equal(again, b) {
			t.Fatalf("%x\nis read as %+v\nwhich is %x", b, n, again)
		}
		// A builder takes what was read.
		if n.Type == tree.TypeEntries {
			w := tree.NewFolder(newStore().put, split(128))
			for i := range n.Entries {
				if err := w.Add(&n.Entries[i]); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// marshal encodes a node as the format says.
func marshal(n *tree.Node) []byte {
	items := list{}
	for i := range n.Entries {
		items = append(items, cbor.RawMessage(byHandEntry(&n.Entries[i])))
	}
	for _, p := range n.Pieces {
		items = append(items, list{p.Length, append([]byte{}, p.ID...)})
	}
	for _, c := range n.Children {
		if n.Type == tree.TypeEntryTree {
			items = append(items, list{append([]byte{}, c.First...), c.ID[:], c.Count})
		} else {
			items = append(items, list{c.Count, c.ID[:]})
		}
	}
	for _, u := range n.Unread {
		items = append(items, list{append([]byte{}, u.Path...), u.Message, u.Tolerated})
	}
	switch n.Type {
	case tree.TypeRoot:
		return encode(list{6, cbor.RawMessage(byHandEntry(n.Root))})
	case tree.TypeEntryTree, tree.TypeListTree:
		return encode(list{n.Type, n.Level, items})
	}
	return encode(list{n.Type, items})
}
