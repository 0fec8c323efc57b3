package tree_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
	"pgregory.net/rapid"
)

// drawName draws a possible name.
func drawName(t *rapid.T) []byte {
	b := rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "name")
	for i := range b {
		if b[i] == 0 || b[i] == '/' {
			b[i] = 'x'
		}
	}
	if string(b) == "." || string(b) == ".." {
		b = []byte("dots")
	}
	return b
}

// A folder of any names has the nodes that the format says, yields its entries in order, and finds each.
func TestFolder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{0, 1, 2, 3, 20, 300, 300, 1500, 5000}).Draw(t, "about")
		if raceEnabled {
			n = min(n, 100)
		}
		seed, rate := rapid.Uint64().Draw(t, "seed"), rapid.SampledFrom([]uint64{3, 10, 128}).Draw(t, "rate")
		seen := map[string]bool{}
		var entries []*tree.Entry
		add := func(name []byte) {
			if seen[string(name)] {
				return
			}
			seen[string(name)] = true
			e := file(string(name))
			switch len(entries) % 3 {
			case 1:
				e = full(string(name))
			case 2:
				e = folder(string(name))
			}
			entries = append(entries, e)
		}
		for _, s := range names(n, seed) {
			add([]byte(s))
		}
		for range rapid.IntRange(0, 20).Draw(t, "odd names") {
			add(drawName(t))
		}
		sort.Slice(entries, func(i, j int) bool { return bytes.Compare(entries[i].Name, entries[j].Name) < 0 })

		s := newStore()
		f := tree.NewFolder(s.put, split(rate))
		for _, e := range entries {
			if err := f.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		root, err := f.Finish()
		if err != nil {
			t.Fatal(err)
		}
		hand := newStore()
		want, levels := byHandFolder(hand, split(rate), entries)
		if root != want || len(s.nodes) != len(hand.nodes) {
			t.Fatalf("%d entries: root %v of %d nodes, by the format %v of %d", len(entries), root, len(s.nodes), want, len(hand.nodes))
		}
		i := 0
		for e, err := range tree.Entries(ctx, s.load, root) {
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(byHandEntry(e), byHandEntry(entries[i])) {
				t.Fatalf("entry %d: %+v, want %+v", i, e, entries[i])
			}
			i++
		}
		if i != len(entries) {
			t.Fatalf("%d entries, want %d", i, len(entries))
		}
		for range min(5, len(entries)) {
			e := rapid.SampledFrom(entries).Draw(t, "entry")
			s.reads = 0
			if got, err := tree.Find(ctx, s.load, root, e.Name); err != nil || !bytes.Equal(got.Name, e.Name) || got.Mode != e.Mode || s.reads > levels {
				t.Fatalf("%q: %v, %v, %d nodes read", e.Name, got, err, s.reads)
			}
			for _, other := range []string{string(e.Name) + "\x01", string(e.Name[:len(e.Name)-1]), "", "\xff\xff\xff", "\x01"} {
				if got, err := tree.Find(ctx, s.load, root, []byte(other)); !seen[other] && !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("%q: %v, %v", other, got, err)
				}
			}
		}
	})
}

// drawPieces draws contents with holes and with chunks that occur more than once. Some of the chunks end nodes.
func drawPieces(t *rapid.T) (pieces []tree.Piece) {
	n := rapid.SampledFrom([]int{0, 1, 4, 5, 6, 100, 300, 1024, 1030, 3000, 6000}).Draw(t, "pieces")
	if raceEnabled {
		n = min(n, 1030)
	}
	hits := rapid.SampledFrom([]int{1, 4, 50, 1 << 30}).Draw(t, "hits")
	holes, seed := rapid.IntRange(2, 9).Draw(t, "holes"), rapid.Uint64Range(0, 1<<40).Draw(t, "seed")
	for i := range n {
		p := tree.Piece{Length: uint64(i%7 + 1), ID: hash32(seed + uint64(i))}
		switch {
		case i%holes == 0:
			p.ID, p.Length = nil, 1<<50+uint64(i)
		case i%hits == 0:
			p.ID[7] = 0
			p.ID[6] &= 0x7f
		case i%11 == 0:
			p.ID = hash32(seed)
		}
		pieces = append(pieces, p)
	}
	return pieces
}

// A content of any pieces has the nodes that the format says, and is read from any place in it.
func TestList(t *testing.T) {
	var l *tree.List
	s := newStore()
	l = tree.NewList(func(b []byte) (pack.ID, error) { return s.put(b) })
	rapid.Check(t, func(t *rapid.T) {
		pieces := drawPieces(t)
		s = newStore()
		l.Reset()
		var items []item
		var starts []uint64
		var size uint64
		for _, p := range pieces {
			id := bytes.Clone(p.ID)
			if err := l.Add(p.Length, id); err != nil {
				t.Fatal(err)
			}
			clear(id)
			items = append(items, item{enc: encode([]any{p.Length, append([]byte{}, p.ID...)}), id: p.ID, count: p.Length})
			starts = append(starts, size)
			size += p.Length
		}
		e := &tree.Entry{Name: []byte("f"), Mode: tree.ModeRegular, Inline: []tree.Piece{{Length: 9}}, List: []byte{1}}
		if err := l.Finish(e); err != nil {
			t.Fatal(err)
		}
		if e.Size != size {
			t.Fatalf("size %d, want %d", e.Size, size)
		}
		if len(pieces) <= 4 {
			if len(e.List) != 0 || len(s.nodes) != 0 || len(e.Inline) != len(pieces) {
				t.Fatalf("%+v", e)
			}
		} else {
			hand := newStore()
			want, levels := byHand(hand, tree.TypeList, nil, items)
			if len(e.Inline) != 0 || pack.ID(e.List) != want || len(s.nodes) != len(hand.nodes) {
				t.Fatalf("%d pieces: root %x of %d nodes, by the format %v of %d on %d levels", len(pieces), e.List, len(s.nodes), want, len(hand.nodes), levels)
			}
		}
		// From any place: the start, the end, within a piece, at a piece.
		froms := []uint64{0, 1, size, size + 1}
		if size > 0 {
			froms = append(froms, size-1, rapid.Uint64Range(0, size-1).Draw(t, "from"), rapid.SampledFrom(starts).Draw(t, "start"))
		}
		for _, from := range froms {
			i := sort.Search(len(pieces), func(i int) bool { return starts[i]+pieces[i].Length > from })
			for r, err := range tree.Pieces(ctx, s.load, e, from) {
				if err != nil {
					t.Fatal(err)
				}
				if i >= len(pieces) || r.Offset != starts[i] || r.Length != pieces[i].Length || !bytes.Equal(r.ID, pieces[i].ID) || r.Hole() != (len(pieces[i].ID) == 0) {
					t.Fatalf("from %d: piece %d is %+v", from, i, r)
				}
				i++
			}
			if i != len(pieces) {
				t.Fatalf("from %d: %d pieces of %d", from, i, len(pieces))
			}
		}
	})
}

// Reading one byte of a long content reads one node a level.
func TestPiecesReadsWhatItNeeds(t *testing.T) {
	s := newStore()
	l := tree.NewList(s.put)
	for i := range 100_000 {
		if err := l.Add(1000, hash32(uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	e := file("f")
	if err := l.Finish(e); err != nil {
		t.Fatal(err)
	}
	s.reads = 0
	for r, err := range tree.Pieces(ctx, s.load, e, 77_777_777) {
		if err != nil || r.Offset != 77_777_000 || !bytes.Equal(r.ID, hash32(77_777)) {
			t.Errorf("%+v, %v", r, err)
		}
		break
	}
	if s.reads > 3 {
		t.Errorf("%d nodes read", s.reads)
	}
}

// However the split function falls, a tree is what the format says or an error: with every item the end of its node, one
// entry is one node, and more would be nodes without end.
func TestSplitThatAlwaysHits(t *testing.T) {
	always := func(uint8, []byte) uint64 { return 0 }
	for n := range 4 {
		s := newStore()
		f := tree.NewFolder(s.put, always)
		var err error
		for i := 0; i < n && err == nil; i++ {
			err = f.Add(file(fmt.Sprint(i)))
		}
		if err == nil {
			_, err = f.Finish()
		}
		if (err == nil) != (n < 2) || len(s.nodes) > 50 {
			t.Errorf("%d entries: %d nodes, %v", n, len(s.nodes), err)
		}
		if n < 2 && len(s.nodes) != 1 {
			t.Errorf("%d entries: %d nodes", n, len(s.nodes))
		}
	}
}

// The same content has the same root wherever and whenever it is built: these are the roots of format version 1.
func TestGoldenRoots(t *testing.T) {
	s := newStore()
	var entries []*tree.Entry
	for _, n := range names(5000, 1) {
		entries = append(entries, file(n))
	}
	l := tree.NewList(s.put)
	for i := range 5000 {
		id := hash32(uint64(i))
		if i%10 == 0 {
			id = nil
		}
		if err := l.Add(uint64(i+1), id); err != nil {
			t.Fatal(err)
		}
	}
	e := file("list")
	if err := l.Finish(e); err != nil {
		t.Fatal(err)
	}
	rootEntry := folder("")
	for _, c := range []struct{ name, got, want string }{
		{"empty", build(t, s, split(128), nil).String(), "2186aa6cefc1ae2f"},
		{"all fields", build(t, s, split(128), []*tree.Entry{full("name"), folder("of\xff")}).String(), "f1c6509b49ef2fb3"},
		{"folder of 5,000", build(t, s, split(128), entries).String(), "4af3caec2995830d"},
		{"deep folder of 5,000", build(t, s, split(4), entries).String(), "ca636341eaf905fa"},
		{"list of 5,000", pack.ID(e.List).String(), "847da9f0477f65f9"},
		{"root", try(s.put(try(tree.Root(rootEntry)))).String(), "1cf623f5e55e3699"},
		{"unread", try(s.put(try(tree.UnreadNode([]tree.Unread{{Path: []byte("a/b"), Message: "permission denied"}, {Path: []byte("\xff"), Message: "x", Tolerated: true}})))).String(), "6642a68d52ecf8b3"},
	} {
		if c.got[:16] != c.want {
			t.Errorf("%s: root %s, want %s", c.name, c.got[:16], c.want)
		}
	}
}

func TestNodesByHand(t *testing.T) {
	id := hash32(3)
	for _, c := range []struct {
		name string
		got  []byte
		want any
	}{
		{"root", try(tree.Root(folder(""))), []any{6, map[int]any{1: []byte{}, 2: 0o40755, 15: id}}},
		{"unread", try(tree.UnreadNode([]tree.Unread{{Path: []byte("a"), Message: "m"}, {Tolerated: true}})), []any{5, []any{[]any{[]byte("a"), "m", false}, []any{[]byte{}, "", true}}}},
		{"nothing unread", try(tree.UnreadNode(nil)), []any{5, []any{}}},
	} {
		if !bytes.Equal(c.got, encode(c.want)) {
			t.Errorf("%s: %x, want %x", c.name, c.got, encode(c.want))
		}
	}
}

// One new name in a folder of 100,000, or one new chunk in a content of a million, changes a few nodes.
func TestStability(t *testing.T) {
	files, chunks := 100_000, 1_000_000
	if raceEnabled {
		files, chunks = 10_000, 30_000
	}
	var entries []*tree.Entry
	for _, n := range names(files, 1) {
		entries = append(entries, file(n))
	}
	s := newStore()
	build(t, s, split(128), entries)
	for _, at := range []int{0, files / 2, files} {
		nodes, size := len(s.nodes), s.bytes
		name := fmt.Sprintf("IMG_%07d", at) // before the name at that place
		build(t, s, split(128), slices.Insert(slices.Clone(entries), at, file(name)))
		checkGrowth(t, "a name", len(s.nodes)-nodes, s.bytes-size)
	}

	ids := make([]byte, 32*chunks)
	for i := range chunks {
		copy(ids[32*i:], hash32(uint64(i)))
	}
	s = newStore()
	contents := func(at int) {
		l := tree.NewList(s.put)
		for i := range chunks {
			if i == at {
				if err := l.Add(9, hash32(1<<60)); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Add(16<<10, ids[32*i:32*i+32]); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Finish(&tree.Entry{}); err != nil {
			t.Fatal(err)
		}
	}
	contents(-1)
	nodes, size := len(s.nodes), s.bytes
	contents(chunks / 3)
	checkGrowth(t, "a chunk", len(s.nodes)-nodes, s.bytes-size)
}

func checkGrowth(t *testing.T, what string, nodes, size int) {
	t.Helper()
	t.Logf("%s: %d new nodes of %d bytes", what, nodes, size)
	if nodes < 1 || nodes > 12 || size > 200<<10 {
		t.Errorf("%s: %d new nodes of %d bytes", what, nodes, size)
	}
}

// Nodes stay below MaxNode for the largest entries and the longest names.
func TestLargeNodes(t *testing.T) {
	never := func(uint8, []byte) uint64 { return 1<<64 - 1 }
	s := newStore()
	f := tree.NewFolder(func(b []byte) (pack.ID, error) {
		if _, err := tree.Parse(b); err != nil {
			t.Error(err)
		}
		return s.put(b)
	}, never)
	n := 0
	for i := range 3000 {
		e := folder(fmt.Sprintf("%05d%s", i, strings.Repeat("n", 4091)))
		if i%1000 < 3 {
			e.Xattrs = []tree.Xattr{{Name: []byte("user.x"), Value: make([]byte, tree.MaxEntry-4300)}}
		}
		if err := f.Add(e); err != nil {
			t.Fatal(err)
		}
		n++
	}
	root, err := f.Finish()
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range tree.Entries(ctx, s.load, root) {
		if err != nil {
			t.Fatal(err)
		}
		n--
	}
	if n != 0 {
		t.Errorf("%d entries are missing", n)
	}
	for _, b := range s.nodes {
		if len(b) > tree.MaxNode {
			t.Errorf("a node of %d bytes", len(b))
		}
	}
}

// What a reader would refuse, a builder does: and goes on as if it had not been asked.
func TestFolderRefuses(t *testing.T) {
	for name, change := range map[string]func(e *tree.Entry){
		"no name":                func(e *tree.Entry) { e.Name = nil },
		"dot":                    func(e *tree.Entry) { e.Name = []byte(".") },
		"dots":                   func(e *tree.Entry) { e.Name = []byte("..") },
		"slash":                  func(e *tree.Entry) { e.Name = []byte("m/n") },
		"NUL":                    func(e *tree.Entry) { e.Name = []byte("m\x00") },
		"long name":              func(e *tree.Entry) { e.Name = bytes.Repeat([]byte("m"), 4097) },
		"the same name":          func(e *tree.Entry) { e.Name = []byte("b") },
		"a smaller name":         func(e *tree.Entry) { e.Name = []byte("aa") },
		"mode":                   func(e *tree.Entry) { e.Mode |= 1 << 16 },
		"nanoseconds":            func(e *tree.Entry) { e.ModTime = &tree.Time{Ns: 1e9} },
		"user without group":     func(e *tree.Entry) { e.GID = nil },
		"group without user":     func(e *tree.Entry) { e.UID = nil },
		"a folder without nodes": func(e *tree.Entry) { *e = *folder("m"); e.Folder = nil },
		"a short folder id":      func(e *tree.Entry) { *e = *folder("m"); e.Folder = e.Folder[1:] },
		"a file with folder":     func(e *tree.Entry) { e.Folder = hash32(1) },
		"a folder with content":  func(e *tree.Entry) { e.Mode = tree.ModeDir; e.Folder = hash32(1) },
		"a link with size":       func(e *tree.Entry) { e.Mode = tree.ModeLink; e.Inline = nil },
		"size without content":   func(e *tree.Entry) { e.Inline = nil },
		"content without size":   func(e *tree.Entry) { e.Size = 0 },
		"another size":           func(e *tree.Entry) { e.Size++ },
		"two contents":           func(e *tree.Entry) { e.List = hash32(1) },
		"a short list id":        func(e *tree.Entry) { e.Inline, e.List = nil, hash32(1)[1:] },
		"five pieces":            func(e *tree.Entry) { e.Size, e.Inline = 5, make([]tree.Piece, 5) },
		"an empty piece":         func(e *tree.Entry) { e.Inline = append(e.Inline, tree.Piece{ID: hash32(1)}) },
		"a short piece id":       func(e *tree.Entry) { e.Inline[0].ID = e.Inline[0].ID[1:] },
		"a piece beyond a frame": func(e *tree.Entry) { e.Size = pack.MaxPlain + 1; e.Inline[0].Length = e.Size },
		"more than 2^62":         func(e *tree.Entry) { e.Size = 1<<62 + 1; e.Inline = []tree.Piece{{Length: e.Size}} },
		"pieces that overflow": func(e *tree.Entry) {
			e.Inline = append(e.Inline, tree.Piece{Length: 1 << 63}, tree.Piece{Length: 1 << 63})
		},
		"xattrs out of order":      func(e *tree.Entry) { e.Xattrs = []tree.Xattr{{Name: []byte("b")}, {Name: []byte("a")}} },
		"an xattr twice":           func(e *tree.Entry) { e.Xattrs = []tree.Xattr{{Name: []byte("b")}, {Name: []byte("b")}} },
		"metadata out of order":    func(e *tree.Entry) { e.Meta = []tree.Pair{{Key: "b"}, {Key: "a"}} },
		"metadata twice":           func(e *tree.Entry) { e.Meta = []tree.Pair{{Key: "b"}, {Key: "b"}} },
		"a key that is no text":    func(e *tree.Entry) { e.Meta = []tree.Pair{{Key: "\xff"}} },
		"a value that is no text":  func(e *tree.Entry) { e.Meta = []tree.Pair{{Value: "\xff"}} },
		"a user that is no text":   func(e *tree.Entry) { e.User = "m\xfcller" },
		"a group that is no text":  func(e *tree.Entry) { e.Group = "\xc0\x80" },
		"a type that is no text":   func(e *tree.Entry) { e.Type = "\xed\xa0\x80" },
		"a short token":            func(e *tree.Entry) { e.Token = make([]byte, 15) },
		"a flag of the future":     func(e *tree.Entry) { e.Flags = 4 },
		"too large":                func(e *tree.Entry) { e.Target = make([]byte, tree.MaxEntry) },
		"too many xattrs to parse": func(e *tree.Entry) { e.Xattrs = manyXattrs(140_000) },
	} {
		build := func(bad bool) (pack.ID, error) {
			f := tree.NewFolder(newStore().put, split(128))
			err := cmp.Or(f.Add(file("a")), f.Add(file("b")))
			if bad && err == nil {
				e := file("m")
				if change(e); f.Add(e) == nil {
					t.Errorf("%s: taken", name)
				}
			}
			err = cmp.Or(err, f.Add(file("z")))
			id, ferr := f.Finish()
			return id, cmp.Or(err, ferr)
		}
		want, err := build(false)
		got, err2 := build(true)
		if got != want || err != nil || err2 != nil {
			t.Errorf("%s: %v, %v", name, err, err2)
		}
	}
}

func manyXattrs(n int) (xs []tree.Xattr) {
	for i := range n {
		xs = append(xs, tree.Xattr{Name: []byte{byte(i >> 16), byte(i >> 8), byte(i)}})
	}
	return xs
}

// The largest entry that is taken is read again.
func TestLargestEntry(t *testing.T) {
	s := newStore()
	e := folder(strings.Repeat("n", 4096))
	e.Target = make([]byte, tree.MaxEntry-len(byHandEntry(e))-6)
	if n := len(byHandEntry(e)); n != tree.MaxEntry {
		t.Fatalf("%d bytes", n)
	}
	root := build(t, s, split(128), []*tree.Entry{e})
	if got, err := tree.Find(ctx, s.load, root, e.Name); err != nil || len(got.Target) != len(e.Target) {
		t.Error(err)
	}
	e.Target = append(e.Target, 0)
	if err := tree.NewFolder(s.put, split(128)).Add(e); err == nil {
		t.Error("an entry of MaxEntry and 1 bytes")
	}
}

func TestListRefuses(t *testing.T) {
	s := newStore()
	l := tree.NewList(s.put)
	if err := l.Add(1<<62-100, nil); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]tree.Piece{
		"empty": {ID: hash32(1)}, "empty hole": {}, "a short id": {Length: 1, ID: []byte{1}}, "a long id": {Length: 1, ID: make([]byte, 33)},
		"beyond a frame": {Length: pack.MaxPlain + 1, ID: hash32(1)}, "beyond 2^62": {Length: 101}, "overflow": {Length: 1<<64 - 1}, "overflow to nothing": {Length: -(1<<62 - 100) & (1<<64 - 1)},
	} {
		if err := l.Add(p.Length, p.ID); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	var e tree.Entry
	if err := l.Finish(&e); err != nil || e.Size != 1<<62-100 || len(e.Inline) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
}

// An error of the Store comes through, wherever it happens.
func TestStoreErrors(t *testing.T) {
	broken := errors.New("broken")
	for after := range 12 {
		calls := 0
		fail := func([]byte) (id pack.ID, err error) {
			if calls++; calls > after {
				return id, broken
			}
			return pack.ID(hash32(uint64(calls))), nil
		}
		f := tree.NewFolder(fail, split(4))
		var err error
		for i := 0; i < 100 && err == nil; i++ {
			err = f.Add(file(fmt.Sprintf("%03d", i)))
		}
		if err == nil {
			_, err = f.Finish()
		}
		if !errors.Is(err, broken) {
			t.Errorf("folder, after %d: %v", after, err)
		}
		calls = 0
		l := tree.NewList(fail)
		err = nil
		for i := 0; i < 100 && err == nil; i++ {
			err = l.Add(1, make([]byte, 32))
		}
		if err == nil {
			err = l.Finish(&tree.Entry{})
		}
		if !errors.Is(err, broken) {
			t.Errorf("list, after %d: %v", after, err)
		}
	}
}

func TestUnread(t *testing.T) {
	s := newStore()
	list := []tree.Unread{{Path: []byte("a/\xff"), Message: "open a/\xff: permission denied"}, {Message: "gone", Tolerated: true}}
	id := try(s.put(try(tree.UnreadNode(list))))
	got, err := tree.LoadUnread(ctx, s.load, id)
	list[0].Message = "open a/\uFFFD: permission denied"
	for i := range got {
		if len(got[i].Path) == 0 {
			got[i].Path = nil
		}
	}
	if err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v, %v", got, err)
	}

	// However much there is, the node can be read, and says how much is missing.
	for name, u := range map[string]tree.Unread{
		"small": {}, "large": {Path: make([]byte, 4000), Message: strings.Repeat("\xff", 4000)}, "huge": {Path: make([]byte, tree.MaxNode)},
	} {
		many := make([]tree.Unread, 200_000)
		for i := range many {
			many[i] = u
		}
		b, err := tree.UnreadNode(many)
		if err != nil || len(b) > tree.MaxNode {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if many[0].Message != u.Message || many[len(many)-1].Message != u.Message {
			t.Errorf("%s: the list was changed", name)
		}
		got, err := tree.LoadUnread(ctx, s.load, try(s.put(b)))
		if err != nil || len(got) == 0 || got[len(got)-1].Message != fmt.Sprintf("and %d more", len(many)-len(got)+1) {
			t.Errorf("%s: %d, %v", name, len(got), err)
		}
	}
}

func TestRoot(t *testing.T) {
	s := newStore()
	id := try(s.put(try(tree.Root(folder("")))))
	if e, err := tree.LoadRoot(ctx, s.load, id); err != nil || !e.IsDir() || !bytes.Equal(e.Folder, hash32(3)) {
		t.Errorf("%+v, %v", e, err)
	}
	big := folder("")
	big.Target = make([]byte, tree.MaxNode)
	for _, e := range []*tree.Entry{folder("named"), file(""), big} {
		if _, err := tree.Root(e); err == nil {
			t.Errorf("%.100q: taken", e.Name)
		}
	}
	if _, err := tree.LoadRoot(ctx, s.load, build(t, s, split(128), nil)); !errors.Is(err, tree.ErrDamaged) {
		t.Error(err)
	}
	if _, err := tree.LoadUnread(ctx, s.load, id); !errors.Is(err, tree.ErrDamaged) {
		t.Error(err)
	}
}

func TestTime(t *testing.T) {
	for _, tm := range []*tree.Time{nil, {}, {Sec: -1, Ns: 999_999_999}, {Sec: 1 << 40}, {Sec: -1 << 40, Ns: 1}} {
		got := tree.TimeOf(tm.Time())
		if (got == nil) != (tm == nil) || got != nil && *got != *tm {
			t.Errorf("%+v becomes %+v", tm, got)
		}
	}
}

// Whatever a content has, Root makes nodes of it that Pieces reads.
func TestListRoot(t *testing.T) {
	l := tree.NewList(func([]byte) (pack.ID, error) { t.Error("a node of nothing"); return pack.ID{}, nil })
	if p, err := l.Root(); err != nil || p.Length != 0 || p.ID != nil {
		t.Errorf("of nothing: %v, %v", p, err)
	}
	for _, n := range []int{1, 4, 5, 3000} {
		s := newStore()
		l := tree.NewList(s.put)
		for i := range n {
			id, err := newStore().put([]byte{byte(i), byte(i >> 8)})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Add(uint64(i)+1, id[:]); err != nil {
				t.Fatal(err)
			}
		}
		root, err := l.Root()
		if err != nil || root.Length != uint64(n*(n+1)/2) {
			t.Fatal(root, err)
		}
		got := 0
		for run, err := range tree.Pieces(t.Context(), s.load, &tree.Entry{List: root.ID, Size: root.Length}, 0) {
			if got++; err != nil || run.Length != uint64(got) {
				t.Fatal(run, err)
			}
		}
		if got != n {
			t.Errorf("%d of %d pieces", got, n)
		}
	}
}
