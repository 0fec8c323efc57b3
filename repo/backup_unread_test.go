//go:build linux

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// What cannot be read in a tree is recorded, and the rest is there.
func TestUnreadable(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	root := t.TempDir()
	plant := func(path string, data []byte) {
		crashMust(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		crashMust(t, os.WriteFile(filepath.Join(root, path), data, 0o644))
	}
	for _, p := range []string{"a", "gone", "middle", "grows", "odd \\ näme\n", "becomes", "refused", "z", "shrinks"} {
		plant(p, crashRandom(uint64(len(p)), 3<<20))
	}
	plant("empty", nil)
	deep := strings.Repeat("d/", 200)
	plant(deep+"bottom", []byte("deep"))
	crashMust(t, syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	broken := errors.New("a bad sector")
	wrap := func(base fs.FS) *crashFS {
		c := &crashFS{FS: base}
		c.open = func(path string) (fs.File, error) {
			full := filepath.Join(root, path)
			after := func(n int, do func() error) (fs.File, error) {
				f, err := base.Open(path)
				if err != nil {
					return nil, err
				}
				return &crashFile{f, n, do}, nil
			}
			switch path {
			case "gone":
				os.Remove(full)
			case "becomes":
				os.Remove(full)
				crashMust(t, syscall.Mkfifo(full, 0o600))
				// Somebody holds its other end, so that opening it does not wait.
				f, err := os.OpenFile(full, os.O_RDWR, 0)
				crashMust(t, err)
				t.Cleanup(func() { f.Close() })
			case "refused":
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
			case "middle":
				return after(2<<20, func() error { return broken })
			case "grows":
				return after(1<<20, sync.OnceValue(func() error {
					f, err := os.OpenFile(full, os.O_APPEND|os.O_WRONLY, 0)
					crashMust(t, err)
					defer f.Close()
					_, err = f.Write(crashRandom(50, 1<<20))
					return err
				}))
			case "shrinks":
				return after(1<<20, sync.OnceValue(func() error { return os.Truncate(full, 1<<20) }))
			}
			return nil, nil
		}
		return c
	}
	for _, tolerate := range []bool{false, true} {
		plant("gone", []byte("x"))
		os.Remove(filepath.Join(root, "becomes"))
		plant("becomes", []byte("x"))
		plant("shrinks", crashRandom(1, 3<<20))
		r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
		o := &repo.BackupOptions{}
		var asked []string
		if tolerate {
			o.Tolerate = func(path string, err error) bool { asked = append(asked, path); return path != "middle" }
		}
		s, err := r.Backup(t.Context(), "shop", wrap(os.DirFS(root)), o)
		if s == nil || !errors.Is(err, repo.ErrIncomplete) || !s.Incomplete() {
			t.Fatalf("%v, %v", s, err)
		}
		list, err := r.Unread(t.Context(), s)
		crashMust(t, err)
		var paths []string
		for _, u := range list {
			paths = append(paths, u.Path)
			if u.Err == "" || u.Tolerated != (tolerate && u.Path != "middle") {
				t.Errorf("%+v", u)
			}
			if u.Path == "middle" && !strings.Contains(u.Err, broken.Error()) {
				t.Errorf("%+v", u)
			}
		}
		slices.Sort(paths)
		want := []string{"becomes", "gone", "grows", "middle", "refused", "shrinks"}
		if !slices.Equal(paths, want) {
			t.Errorf("unread %q, want %q", paths, want)
		}
		if tolerate && len(asked) != len(want) {
			t.Errorf("asked of %q", asked)
		}
		fsys, err := r.FS(t.Context(), s)
		crashMust(t, err)
		got := crashDigest(t, fsys)
		for _, p := range []string{"a", "z", repo.Escape("odd \\ näme\n"), "empty", deep + "bottom"} {
			raw, _ := repo.Unescape(p)
			data, err := os.ReadFile(filepath.Join(root, raw))
			crashMust(t, err)
			if h, ok := got[p]; !ok || h != crashDigest(t, fstest.MapFS{"x": {Data: data}})["x"] {
				t.Errorf("%q is missing or wrong", p)
			}
		}
		for _, p := range []string{"gone", "middle", "becomes", "refused"} {
			if _, ok := got[p]; ok {
				t.Errorf("%s is there", p)
			}
		}
		for _, p := range []string{"grows", "shrinks"} {
			if _, ok := got[p]; !ok {
				t.Errorf("%s, which changed, is not there", p)
			}
		}
		if info, err := fs.Stat(fsys, "fifo"); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
			t.Errorf("fifo: %v, %v", info, err)
		}
		crashSound(t, r, true)
	}
}

// If all that could not be read was tolerated, the backup is complete.
func TestTolerated(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), nil)
	c := &crashFS{FS: fstest.MapFS{"a": {Data: []byte("a")}, "b": {Data: []byte("b")}}}
	c.open = func(path string) (fs.File, error) {
		if path == "b" {
			return nil, fs.ErrPermission
		}
		return nil, nil
	}
	s, err := r.Backup(t.Context(), "shop", c, &repo.BackupOptions{Tolerate: func(string, error) bool { return true }})
	if err != nil || s.Incomplete() || s.Stats.Unread != 1 || s.Stats.Files != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if list, err := r.Unread(t.Context(), s); err != nil || len(list) != 1 || !list[0].Tolerated {
		t.Errorf("%+v, %v", list, err)
	}
}

// A stream that breaks off leaves no snapshot, wherever in the source it is, and whatever comes after it.
func TestStreamFails(t *testing.T) {
	broken := errors.New("the dump broke")
	for _, size := range []int{0, 100, 2 << 20} {
		for depth := range 4 {
			path := strings.Repeat("x/", depth) + "dump"
			base := fstest.MapFS{path: {}, path + "2": {Data: crashRandom(8, 100<<10)}, "zz": {Data: []byte("z")}}
			c := &crashFS{FS: base}
			c.open = func(p string) (fs.File, error) {
				if p != path {
					return nil, nil
				}
				f, err := base.Open(p)
				return &crashStreamFile{f, io.MultiReader(newCrashStream(t.Context(), 4, int64(size)), &crashWait{func() error { return broken }})}, err
			}
			src := &crashAttrFS{c, map[string]*repo.Attr{path: {Stream: true}}}
			r, _ := crashRepo(t, mem.New(nil), nil)
			s, err := r.Backup(t.Context(), "shop", src, nil)
			if s != nil || !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
				t.Errorf("a stream at %s that breaks after %d bytes: %v, %v", path, size, s, err)
			}
			if n := len(crashSnapshots(t, r, "")); n != 0 {
				t.Errorf("%d snapshots", n)
			}
		}
	}
}

type crashStreamFile struct {
	fs.File
	r io.Reader
}

func (f *crashStreamFile) Read(p []byte) (int, error) { return f.r.Read(p) }

func TestUnreadableRoot(t *testing.T) {
	store := mem.New(nil)
	r, _ := crashRepo(t, store, nil)
	file := filepath.Join(t.TempDir(), "file")
	crashMust(t, os.WriteFile(file, nil, 0o644))
	for what, src := range map[string]fs.FS{
		"missing":  os.DirFS(filepath.Join(t.TempDir(), "nowhere")),
		"a file":   os.DirFS(file),
		"no list":  &crashAttrNoList{fstest.MapFS{"a": {}}},
		"no part":  source.Join{"a": os.DirFS(filepath.Join(t.TempDir(), "nowhere")), "b": fstest.MapFS{}},
		"bad name": source.Join{"a/b": fstest.MapFS{}},
		"stream":   source.Join{"a": source.Stream("x", func(context.Context) (io.ReadCloser, error) { return nil, errors.New("no database") })},
	} {
		s, err := r.Backup(t.Context(), "shop", src, nil)
		if s != nil || err == nil {
			t.Errorf("%s: %v, %v", what, s, err)
		}
		t.Logf("%s: %v", what, err)
	}
	if n := len(crashSnapshots(t, r, "")); n != 0 {
		t.Errorf("%d snapshots", n)
	}
	for _, e := range crashEnds(t, store) {
		if e != "failed" {
			t.Errorf("an end says %s", e)
		}
	}
}

type crashAttrNoList struct{ fs.FS }

func (*crashAttrNoList) ReadDir(string) ([]fs.DirEntry, error) { return nil, fs.ErrPermission }

// TestTooMuchOfAnEntry: attributes that no tree can hold are recorded, and the rest of the entry and of the backup is there.
func TestTooMuchOfAnEntry(t *testing.T) {
	meta := map[string]string{}
	for i := range 70_000 {
		meta[fmt.Sprint("key ", i)] = "value"
	}
	src := fstest.MapFS{
		"many":  {Data: []byte("many"), Sys: &repo.Attr{Meta: meta}},
		"large": {Data: []byte("large"), Sys: &repo.Attr{Xattrs: map[string][]byte{"user.large": make([]byte, 2<<20)}}},
		"plain": {Data: []byte("plain")},
	}
	r, _ := crashRepo(t, mem.New(nil), nil)
	s, err := r.Backup(t.Context(), "shop", src, nil)
	if !errors.Is(err, repo.ErrIncomplete) {
		t.Fatalf("Backup: %v, want ErrIncomplete", err)
	}
	unread, err := r.Unread(t.Context(), s)
	crashMust(t, err)
	if len(unread) != 2 || unread[0].Path != "large" || unread[1].Path != "many" {
		t.Errorf("unread: %+v", unread)
	}
	crashSame(t, "the snapshot", crashSnapshotDigest(t, r, s), crashDigest(t, src))
}
