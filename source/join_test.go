package source_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func text(name, content string) fs.FS {
	return source.Stream(name, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	})
}

func TestJoinFS(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a/b", "c")
	j := source.Join{
		"uploads": newDir(t, root, nil),
		"db.sql":  text("", "rows"), // its own name counts for nothing here
		"map":     fstest.MapFS{"x/y": {Data: []byte("xy")}},
		"more":    source.Join{"log": text("log", "lines"), "none": fstest.MapFS{}},
	}
	must(t, fstest.TestFS(j, "uploads/a/b", "uploads/c", "db.sql", "map/x/y", "more/log", "more/none"))
	must(t, fstest.TestFS(source.Join{}))
	equal(t, walk(t, j, "."), []string{"db.sql", "map/", "map/x/", "map/x/y", "more/", "more/log", "more/none/", "uploads/", "uploads/a/", "uploads/a/b", "uploads/c"})
	if got, err := fs.ReadFile(j, "db.sql"); string(got) != "rows" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestJoinParts(t *testing.T) {
	j := source.Join{
		"zzz": text("a", ""), "bbb": fstest.MapFS{}, "aaa": fstest.MapFS{}, "mmm": source.Command("x", []string{"true"}, nil),
		"jjj": source.Join{},
	}
	equal(t, j.Parts(), []string{"mmm", "zzz", "jjj", "aaa", "bbb"})
	if _, a := lstat(t, j, "zzz"); !a.Stream {
		t.Error("a stream is none")
	}
}

// What a part can do beyond io/fs, it can do in a Join.
func TestJoinForwards(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "d/\xff", "link -> d")
	dir := newDir(t, root, nil)
	var opened context.Context
	j := source.Join{
		"dir": dir,
		"\xfe": source.Stream("s", func(ctx context.Context) (io.ReadCloser, error) {
			opened = ctx
			return io.NopCloser(strings.NewReader("")), nil
		}),
		"map": fstest.MapFS{"f": {}},
	}
	equal(t, walk(t, j, "dir"), []string{"dir/d/", "dir/d/\xff", "dir/link"})
	if got, err := j.ReadLink("dir/link"); got != "d" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if fi, err := j.Lstat("dir/link"); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Error(fi, err)
	}
	fi, a := lstat(t, j, "dir")
	if _, want := lstat(t, dir, "."); fi.Name() != "dir" || !fi.IsDir() || a.UID != want.UID || !a.Owned {
		t.Error(fi, a)
	}
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, 1)
	f, err := j.OpenContext(ctx, "\xfe")
	must(t, err)
	must(t, f.Close())
	if opened == nil || opened.Value(key{}) != 1 {
		t.Error("the context was lost")
	}
	for _, name := range []string{".", "map", "map/f", "\xfe", "dir", "dir/d/\xff"} {
		if _, err := j.Xattrs(name); err != nil {
			t.Error(err)
		}
	}
	f, err = j.Open("dir/d/\xff")
	must(t, err)
	if _, ok := f.(repo.SparseFile); !ok {
		t.Errorf("%T knows no holes", f)
	}
	must(t, f.Close())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"map/f", "dir/d/\xff", "\xfe"} {
		if _, err := j.OpenContext(ctx, name); !errors.Is(err, context.Canceled) {
			t.Error(name, err)
		}
	}
	for _, name := range []string{".", "map", "dir"} {
		for e, err := range j.Entries(ctx, name) {
			if !errors.Is(err, context.Canceled) {
				t.Error(name, e, err)
			}
			break
		}
	}
}

func TestJoinErrors(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "d/gone")
	j := source.Join{"dir": newDir(t, root, nil), "s": text("s", ""), "in": source.Join{"s": text("s", "")}}
	for path, want := range map[string]error{
		"missing": fs.ErrNotExist, "missing/x": fs.ErrNotExist, "dir/missing": fs.ErrNotExist, "s/x": fs.ErrNotExist, "in/s/x": fs.ErrNotExist, "in/x": fs.ErrNotExist,
		"": fs.ErrInvalid, "/dir": fs.ErrInvalid, "dir/": fs.ErrInvalid, "dir/.": fs.ErrInvalid, "dir/..": fs.ErrInvalid, "..": fs.ErrInvalid, "./dir": fs.ErrInvalid, "dir//d": fs.ErrInvalid,
	} {
		_, oerr := j.Open(path)
		_, lerr := j.Lstat(path)
		_, serr := j.Stat(path)
		_, rerr := j.ReadDir(path)
		_, kerr := j.ReadLink(path)
		for i, err := range []error{oerr, lerr, serr, rerr, kerr} {
			var pe *fs.PathError
			if !errors.Is(err, want) || !errors.As(err, &pe) || pe.Path != path && want != fs.ErrInvalid {
				t.Errorf("%q, %d: %v", path, i, err)
			}
		}
	}
	for e, err := range j.Entries(t.Context(), "dir/d") {
		must(t, err)
		must(t, os.Remove(filepath.Join(root, "d/gone")))
		_, err = e.Info()
		var pe *fs.PathError
		if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pe) || pe.Path != "dir/d/gone" {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00"} {
		j := source.Join{"good": fstest.MapFS{}, name: fstest.MapFS{}}
		_, err := j.Open(".")
		_, err2 := j.Open("good")
		_, err3 := j.ReadDir(".")
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	if _, err := (source.Join{"nil": nil}).Open("."); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	// A part that can't be described fails the whole.
	closed, err := source.Dir(root, nil)
	must(t, err)
	must(t, closed.Close())
	if list, err := (source.Join{"x": closed, "y": fstest.MapFS{}}).ReadDir("."); !errors.Is(err, fs.ErrClosed) {
		t.Error(list, err)
	}
}

type reader struct {
	io.Reader
	closed int
}

func (r *reader) Close() error { r.closed++; return nil }

func TestStream(t *testing.T) {
	opened := 0
	boom := errors.New("boom")
	var r *reader
	s := source.Stream("dump", func(context.Context) (io.ReadCloser, error) {
		opened++
		r = &reader{Reader: io.MultiReader(strings.NewReader("some"), iotestErr{boom})}
		return r, nil
	})
	fi, a := lstat(t, s, "dump")
	if !fi.ModTime().IsZero() || fi.Size() != 0 || fi.Mode() != 0o600 || !a.Stream || a.Token != nil {
		t.Error(fi, a)
	}
	fs.Stat(s, "dump")
	list, err := fs.ReadDir(s, ".")
	must(t, err)
	_, err = list[0].Info()
	must(t, err)
	if opened != 0 {
		t.Fatal("to look is to open")
	}
	f, err := s.Open("dump")
	must(t, err)
	_, err = f.Stat()
	must(t, err)
	if got, err := io.ReadAll(f); string(got) != "some" || err != boom {
		t.Errorf("%q, %v", got, err)
	}
	must(t, f.Close())
	if f.Close() == nil || r.closed != 1 {
		t.Error("closed", r.closed, "times")
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	f, err = s.Open("dump")
	must(t, err)
	must(t, f.Close())
	if opened != 2 || r.closed != 1 {
		t.Errorf("opened %d times, closed %d", opened, r.closed)
	}

	ctx, cancel := context.WithCancel(t.Context())
	f, err = s.(repo.ContextFS).OpenContext(ctx, "dump")
	must(t, err)
	defer f.Close()
	cancel()
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_, err = source.Stream("x", func(context.Context) (io.ReadCloser, error) { return nil, boom }).Open("x")
	var pe *fs.PathError
	if !errors.Is(err, boom) || !errors.As(err, &pe) || pe.Path != "x" {
		t.Error(err)
	}
	for _, name := range []string{"", "a/b", "..", "."} {
		if _, err := text(name, "").Open("."); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := fs.ReadLink(s, "dump"); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	must(t, fstest.TestFS(text("dump.sql", "rows"), "dump.sql"))
}

type iotestErr struct{ error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.error }
