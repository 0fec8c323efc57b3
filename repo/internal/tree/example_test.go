package tree_test

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/varvebackup/varve/repo/internal/tree"
)

// A folder is built from its entries in order, and read again from its root.
func ExampleFolder() {
	nodes := newStore()
	f := tree.NewFolder(nodes.put, split(128))
	for _, name := range []string{"a.jpg", "b.jpg", "c.jpg"} {
		if err := f.Add(&tree.Entry{Name: []byte(name), Mode: tree.ModeRegular | 0o644}); err != nil {
			panic(err)
		}
	}
	root, err := f.Finish()
	if err != nil {
		panic(err)
	}

	for e, err := range tree.Entries(ctx, nodes.load, root) {
		fmt.Printf("%s %o %v\n", e.Name, e.Mode, err)
	}
	_, err = tree.Find(ctx, nodes.load, root, []byte("d.jpg"))
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// a.jpg 100644 <nil>
	// b.jpg 100644 <nil>
	// c.jpg 100644 <nil>
	// true
}

// A long content is a tree of its pieces, which can be entered anywhere.
func ExampleList() {
	nodes := newStore()
	l := tree.NewList(nodes.put)
	for i := range uint64(10) {
		if err := l.Add(1000, hash32(i)); err != nil {
			panic(err)
		}
	}
	if err := l.Add(1<<40, nil); err != nil { // a hole
		panic(err)
	}
	e := &tree.Entry{Name: []byte("image"), Mode: tree.ModeRegular | 0o600}
	if err := l.Finish(e); err != nil {
		panic(err)
	}

	for r, err := range tree.Pieces(ctx, nodes.load, e, 9500) {
		fmt.Println(r.Offset, r.Length, r.Hole(), err)
	}
	// Output:
	// 9000 1000 false <nil>
	// 10000 1099511627776 true <nil>
}
