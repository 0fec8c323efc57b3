package source_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plant makes files (content: the path), folders ("x/") and links ("x -> target") below root.
func plant(t testing.TB, root string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		link, target, isLink := strings.Cut(p, " -> ")
		full := filepath.Join(root, link)
		dir := filepath.Dir(full)
		if strings.HasSuffix(p, "/") {
			dir = full
		}
		must(t, os.MkdirAll(dir, 0o755))
		switch {
		case isLink:
			must(t, os.Symlink(target, full))
		case dir != full:
			must(t, os.WriteFile(full, []byte(p), 0o644))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDir(t testing.TB, path string, o *source.DirOptions) *source.Tree {
	t.Helper()
	d, err := source.Dir(path, o)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// walk lists all of fsys below dir, depth first, folders with a '/' behind them.
func walk(t testing.TB, fsys repo.EntriesFS, dir string) []string {
	t.Helper()
	var all []string
	var last string
	for e, err := range fsys.Entries(context.Background(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() <= last {
			t.Errorf("%q after %q in %q", e.Name(), last, dir)
		}
		last = e.Name()
		path := e.Name()
		if dir != "." {
			path = dir + "/" + path
		}
		if e.IsDir() {
			all = append(append(all, path+"/"), walk(t, fsys, path)...)
			continue
		}
		all = append(all, path)
	}
	return all
}

func lstat(t testing.TB, fsys fs.FS, name string) (fs.FileInfo, *repo.Attr) {
	t.Helper()
	fi, err := fs.Lstat(fsys, name)
	must(t, err)
	return fi, fi.Sys().(*repo.Attr)
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
