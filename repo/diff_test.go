package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestDiff(t *testing.T) {
	at := time.Unix(1e9, 0)
	file := func(data string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(data), Mode: 0o644, ModTime: at}
	}
	dir := func() *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDir | 0o755, ModTime: at} }
	base := fstest.MapFS{".": dir(), "a": file("a"), "d": dir(), "d/x": file("x"), "d/y": file("y"), "d/sub": dir(), "d/sub/z": file("z"), "e": dir(),
		"l": {Data: []byte("a"), Mode: fs.ModeSymlink | 0o777, ModTime: at}}
	for name, tt := range map[string]struct {
		change func(m fstest.MapFS)
		want   []string
	}{
		"nothing": {func(m fstest.MapFS) {}, nil},
		"added": {func(m fstest.MapFS) {
			m["b"], m["d/sub/b"], m["zz"] = file(""), file("b"), dir()
			m["zz/below"] = file("")
		}, []string{"+ b", "+ d/sub/b", "+ zz"}},
		"removed":       {func(m fstest.MapFS) { delete(m, "a"); delete(m, "d/x"); delete(m, "l") }, []string{"- a", "- d/x", "- l"}},
		"removed tree":  {func(m fstest.MapFS) { delete(m, "d/sub"); delete(m, "d/sub/z") }, []string{"- d/sub"}},
		"content":       {func(m fstest.MapFS) { m["a"], m["d/sub/z"] = file("b"), file("longer") }, []string{"M a", "M d/sub/z"}},
		"target":        {func(m fstest.MapFS) { m["l"].Data = []byte("d") }, []string{"M l"}},
		"mode":          {func(m fstest.MapFS) { m["a"].Mode = 0o600; m["d"].Mode = fs.ModeDir | 0o700 }, []string{"m a", "m d"}},
		"time":          {func(m fstest.MapFS) { m["d/sub/z"].ModTime = at.Add(1); m["l"].ModTime = at.Add(-1) }, []string{"m d/sub/z", "m l"}},
		"root":          {func(m fstest.MapFS) { m["."].Mode = fs.ModeDir | 0o700 }, []string{"m ."}},
		"root and more": {func(m fstest.MapFS) { m["."].Mode = fs.ModeDir | 0o700; delete(m, "a") }, []string{"m .", "- a"}},
		"owner":         {func(m fstest.MapFS) { m["a"].Sys = &repo.Attr{Owned: true, UID: 1} }, []string{"m a"}},
		"xattr":         {func(m fstest.MapFS) { m["e"].Sys = &repo.Attr{Xattrs: map[string][]byte{"user.a": nil}} }, []string{"m e"}},
		"token":         {func(m fstest.MapFS) { m["a"].Sys = &repo.Attr{Token: []byte("x")} }, nil},
		"linked":        {func(m fstest.MapFS) { a := &repo.Attr{}; a.Link.Ino = 7; m["a"].Sys = a }, []string{"m a"}},
		"file to dir":   {func(m fstest.MapFS) { m["a"] = dir(); m["a/b"] = file("") }, []string{"M a"}},
		"dir to file":   {func(m fstest.MapFS) { delete(m, "d/sub/z"); m["d/sub"] = file("") }, []string{"M d/sub"}},
		"file to link":  {func(m fstest.MapFS) { m["a"].Mode = fs.ModeSymlink | 0o777 }, []string{"M a"}},
		"emptied":       {func(m fstest.MapFS) { clear(m); m["."] = dir() }, []string{"- a", "- d", "- e", "- l"}},
		"odd name":      {func(m fstest.MapFS) { m["\\"] = file("") }, []string{`+ \\`}},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := treeRepo(t, nil)
			m := fstest.MapFS{}
			for path, f := range base {
				c := *f
				m[path] = &c
			}
			a := treeBackup(t, r, m)
			tt.change(m)
			b := treeBackup(t, r, m)
			if got := treeDiffs(t, r, a, b); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
			// The other way round.
			var back []string
			for _, line := range tt.want {
				back = append(back, strings.NewReplacer("+ ", "- ", "- ", "+ ").Replace(line))
			}
			if got := treeDiffs(t, r, b, a); !slices.Equal(got, back) {
				t.Errorf("back: %q, want %q", got, back)
			}
			for c, err := range r.Diff(context.Background(), a, b) { // who stops early stops it
				treeMust(t, err)
				if treeChange(c) != tt.want[0] {
					t.Error(c)
				}
				break
			}
		})
	}
}

// Group numbers of hard links are of the device and its day, and not of the tree.
func TestDiffLinkNumbers(t *testing.T) {
	r, _ := treeRepo(t, nil)
	var snaps []*repo.Snapshot
	for i := range 2 {
		attr := &repo.Attr{}
		attr.Link.Dev, attr.Link.Ino = uint64(i)+1, uint64(i)+100
		m := fstest.MapFS{"a": {Data: []byte("x"), Sys: attr}, "b": {Data: []byte("x"), Sys: attr}}
		snaps = append(snaps, treeBackup(t, r, m))
	}
	if d := treeDiffs(t, r, snaps[0], snaps[1]); len(d) > 0 {
		t.Error(d)
	}
}

// What is equal is not read, whatever its size.
func TestDiffReads(t *testing.T) {
	ctx := context.Background()
	r, store, key := treeRepoKey(t, nil)
	m := fstest.MapFS{}
	for i := range 4000 {
		m[fmt.Sprintf("%d/%d", i%20, i)] = &fstest.MapFile{Data: fmt.Append(nil, i)}
	}
	a := treeBackup(t, r, source.Join{"t": m, "dump": treeStream(treeBytes(1, 1<<20))})
	m["7/7"] = &fstest.MapFile{Data: []byte("other")}
	b := treeBackup(t, r, source.Join{"t": m, "dump": treeStream(treeBytes(1, 1<<20))})
	r, err := repo.Open(ctx, store, key, nil)
	treeMust(t, err)
	treeMust(t, r.Close())
	r, err = repo.Open(ctx, store, key, nil)
	treeMust(t, err)
	treeFS(t, r, a) // reads the index
	store.Reset()
	if d := treeDiffs(t, r, a, b); !slices.Contains(d, "M t/7/7") || slices.ContainsFunc(d, func(s string) bool { return strings.HasPrefix(s, "M ") && s != "M t/7/7" }) {
		t.Error(d)
	}
	if c := store.Counts(); c.Gets > 8 {
		t.Errorf("%+v", c)
	}
}

func TestDiffErrors(t *testing.T) {
	r, _ := treeRepo(t, nil)
	a := treeBackup(t, r, fstest.MapFS{"a": {Data: []byte("x")}, "d/x": {}})
	other, _ := treeRepo(t, nil)
	b := treeBackup(t, other, fstest.MapFS{"b": {}})
	for _, pair := range [][2]*repo.Snapshot{{a, b}, {b, a}} {
		n := 0
		for c, err := range r.Diff(context.Background(), pair[0], pair[1]) {
			if n++; err == nil || c != (repo.Change{}) || !strings.Contains(err.Error(), b.ID) {
				t.Error(c, err)
			}
		}
		if n != 1 {
			t.Error(n)
		}
	}
}

// Diff finds what a comparison entry by entry finds.
func TestDiffRapid(t *testing.T) {
	paths := rapid.SampledFrom([]string{"a", "b", "c/d", "c/e", "c/f/g", "c/f/h", "c/i/j/k", "l/m", "n", "o/p/q"})
	gen := rapid.Custom(func(t *rapid.T) fstest.MapFS {
		m := fstest.MapFS{}
		for i, n := 0, rapid.IntRange(0, 9).Draw(t, "entries"); i < n; i++ {
			path := paths.Draw(t, "path")
			f := &fstest.MapFile{Mode: rapid.SampledFrom([]fs.FileMode{0o644, 0o600, fs.ModeSymlink | 0o777, fs.ModeDir | 0o755}).Draw(t, "mode"),
				ModTime: time.Unix(rapid.Int64Range(1, 2).Draw(t, "time"), 0)}
			if f.Mode.Type() != fs.ModeDir {
				f.Data = treeBytes(rapid.Uint64Range(0, 2).Draw(t, "seed"), rapid.SampledFrom([]int{0, 10, 1500}).Draw(t, "size"))
				if f.Mode.Type() == fs.ModeSymlink {
					f.Data = fmt.Appendf(nil, "%x", f.Data)
				}
			}
			m[path] = f
			if rapid.IntRange(0, 3).Draw(t, "shadow") == 0 { // what is a folder here is something else there
				if top, _, ok := strings.Cut(path, "/"); ok {
					maps.DeleteFunc(m, func(p string, _ *fstest.MapFile) bool { return strings.HasPrefix(p, top+"/") })
					m[top] = &fstest.MapFile{Data: []byte("top")}
				}
			}
		}
		// Nothing is below a file.
		maps.DeleteFunc(m, func(p string, _ *fstest.MapFile) bool {
			for i := range len(p) {
				if p[i] == '/' && m[p[:i]] != nil && !m[p[:i]].Mode.IsDir() {
					return true
				}
			}
			return false
		})
		return m
	})
	r, _ := treeRepo(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		m, n := gen.Draw(t, "a"), gen.Draw(t, "b")
		a, b := treeBackup(t, r, m), treeBackup(t, r, n)
		got := treeDiffs(t, r, a, b)
		want := treeNaive(t, m, n)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

// treeNaive compares two file systems entry by entry.
func treeNaive(t treeT, a, b fs.FS) []string {
	t.Helper()
	read := func(fsys fs.FS) map[string][]any {
		out := map[string][]any{}
		treeMust(t, fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			treeMust(t, err)
			info, err := d.Info()
			treeMust(t, err)
			var data []byte
			switch info.Mode().Type() {
			case 0:
				data, err = fs.ReadFile(fsys, path)
			case fs.ModeSymlink:
				var target string
				target, err = fs.ReadLink(fsys, path)
				data = []byte(target)
			}
			out[path] = []any{info.Mode().Type(), data, info.Mode(), info.ModTime().Unix()}
			return err
		}))
		return out
	}
	x, y := read(a), read(b)
	var out []string
	for path := range maps.Keys(x) {
		if y[path] == nil {
			y[path] = nil
		}
	}
	for path, q := range y {
		p := x[path]
		if parent := path[:max(strings.LastIndexByte(path, '/'), 0)]; parent != "" {
			isDir := func(e []any) bool { return e != nil && e[0] == fs.ModeDir }
			if !isDir(x[parent]) || !isDir(y[parent]) {
				continue // its folder is what changed
			}
		}
		switch {
		case p == nil:
			out = append(out, "+ "+path)
		case q == nil:
			out = append(out, "- "+path)
		case p[0] != q[0] || !bytes.Equal(p[1].([]byte), q[1].([]byte)):
			out = append(out, "M "+path)
		case !reflect.DeepEqual(p, q):
			out = append(out, "m "+path)
		}
	}
	slices.Sort(out)
	return out
}
