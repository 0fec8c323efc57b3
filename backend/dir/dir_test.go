package dir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
)

var bg = context.Background()

var ifAbsent = &backend.PutOptions{IfAbsent: true}

// create returns an empty store and its folder.
func create(t *testing.T) (*dir.Dir, string) {
	t.Helper()
	root := t.TempDir()
	d, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	return d, root
}

func put(t *testing.T, b backend.Backend, name, data string) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, []byte(data), nil); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, b backend.Backend) (names []string) {
	t.Helper()
	for info, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// wantNoTemp checks that no temporary file is left.
func wantNoTemp(t *testing.T, root string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(root, ".tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left over: %s", e.Name())
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		d, root := create(t)
		t.Cleanup(func() { wantNoTemp(t, root) }) // after failures and cancellations, too
		return d
	})
}

func TestOpen(t *testing.T) {
	root := t.TempDir()
	_, err := dir.Open(filepath.Join(root, "none"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no such folder") {
		t.Errorf("open what is missing: %v", err)
	}
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Open(file); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a file: %v", err)
	}
	if _, err := dir.Create(filepath.Join(file, "x")); err == nil {
		t.Error("create below a file: no error")
	}
	d, err := dir.Create(filepath.Join(root, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "x", "data")
	// A relative path stays what it was.
	t.Chdir(root)
	if d, err = dir.Open("a/b"); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if got, err := d.Get(t.Context(), "x", 0, -1, nil); err != nil || string(got) != "data" {
		t.Errorf("get: %q, %v", got, err)
	}
}

// The store's folder is taken away: an error, which is no statement about any
// object.
func TestGone(t *testing.T) {
	check := func(t *testing.T, d *dir.Dir) {
		t.Helper()
		ctx := t.Context()
		_, getErr := d.Get(ctx, "x", 0, -1, nil)
		_, statErr := d.Stat(ctx, "x")
		var listErr error
		for _, err := range d.List(ctx, "") {
			listErr = err
		}
		for op, err := range map[string]error{
			"get": getErr, "stat": statErr, "list": listErr, "delete": d.Delete(ctx, "x"),
			"put":           backend.PutBytes(ctx, d, "x", nil, nil),
			"put if absent": backend.PutBytes(ctx, d, "new/x", nil, ifAbsent),
		} {
			if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "folder is gone") {
				t.Errorf("%s: %v; want a clear error", op, err)
			}
		}
	}
	d, root := create(t)
	put(t, d, "x", "data")
	away := root + "-away"
	if err := os.Rename(root, away); err != nil {
		t.Fatal(err)
	}
	check(t, d)
	if err := os.Mkdir(root, 0o700); err != nil { // an empty mount point
		t.Fatal(err)
	}
	check(t, d)
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("something was put into the mount point: %v", left)
	}
	os.Remove(root)
	if err := os.Rename(away, root); err != nil { // mounted again
		t.Fatal(err)
	}
	if got, err := d.Get(t.Context(), "x", 0, -1, nil); err != nil || string(got) != "data" {
		t.Errorf("after it came back: %q, %v", got, err)
	}
	put(t, d, "y", "")
}

// Folders that are removed behind its back are made again.
func TestFolderRemoved(t *testing.T) {
	d, root := create(t)
	for _, o := range []*backend.PutOptions{nil, ifAbsent} {
		put(t, d, "a/b/first", "x")
		for _, folder := range []string{"a", ".tmp"} {
			if err := os.RemoveAll(filepath.Join(root, folder)); err != nil {
				t.Fatal(err)
			}
		}
		if err := backend.PutBytes(t.Context(), d, "a/b/second", []byte("y"), o); err != nil {
			t.Error(err)
		}
		if names := list(t, d); len(names) != 1 || names[0] != "a/b/second" {
			t.Errorf("list: %q", names)
		}
		d.Delete(t.Context(), "a/b/second")
	}
}

// An object's time is that of its appearance, not of its last write: here the
// temporary file is made old after that.
func TestModifiedIsVisible(t *testing.T) {
	for _, o := range []*backend.PutOptions{nil, ifAbsent} {
		for try := 1; ; try++ {
			d, root := create(t)
			put(t, d, "before", "")
			before, err := d.Stat(t.Context(), "before")
			if err != nil {
				t.Fatal(err)
			}
			stop, ended := make(chan struct{}), make(chan struct{})
			late := false
			go func() {
				defer close(ended)
				late = makeOld(filepath.Join(root, ".tmp", "put-*"), stop)
			}()
			err = backend.PutBytes(t.Context(), d, "x", make([]byte, 8<<20), o)
			close(stop)
			<-ended
			if err != nil {
				t.Fatal(err)
			}
			info, err := d.Stat(t.Context(), "x")
			if err == nil && !info.Modified.Before(before.Modified) {
				break
			}
			// Made old when it had its name already? Then it says nothing.
			if !late || try == 100 {
				t.Errorf("modified %v, %v; an object put before has %v", info.Modified, err, before.Modified)
				break
			}
		}
	}
}

// makeOld sets back the time of the files, again and again until stop. It
// reports whether one had another name, or none, right after that.
func makeOld(pattern string, stop <-chan struct{}) (late bool) {
	old := time.Now().Add(-5 * time.Hour)
	for {
		select {
		case <-stop:
			return late
		default:
		}
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if fi, err := os.Lstat(f); err != nil || nlink(fi) > 1 || os.Chtimes(f, old, old) != nil {
				continue
			}
			if fi, err := os.Lstat(f); err != nil || nlink(fi) > 1 {
				late = true
			}
		}
	}
}

func TestModes(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("Windows has no modes")
	}
	root := filepath.Join(t.TempDir(), "new")
	d, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "a/x", "")
	for path, want := range map[string]fs.FileMode{"": 0o700, "a": 0o700, "a/x": 0o600, ".tmp": 0o700} {
		fi, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%q: %v; want %v", path, fi.Mode(), want)
		}
	}
}

// What lies in the folder and is no object.
func TestForeign(t *testing.T) {
	d, root := create(t)
	put(t, d, "obj", "x")
	outside := t.TempDir()
	os.WriteFile(filepath.Join(outside, "f"), []byte("secret"), 0o600)
	os.WriteFile(filepath.Join(root, ".hidden"), nil, 0o600)
	os.WriteFile(filepath.Join(root, "with space"), nil, 0o600)
	os.Mkdir(filepath.Join(root, "lost+found"), 0o700)
	os.Mkdir(filepath.Join(root, "folder"), 0o700)
	if err := os.Symlink(filepath.Join(outside, "f"), filepath.Join(root, "link")); err != nil {
		t.Skip("no symbolic links:", err)
	}
	os.Symlink(outside, filepath.Join(root, "linked"))
	if names := list(t, d); len(names) != 1 || names[0] != "obj" {
		t.Errorf("list: %q", names)
	}
	for _, name := range []string{"folder", "link", "obj/below"} {
		if data, err := d.Get(t.Context(), name, 0, -1, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get %s: %q, %v", name, data, err)
		}
		if _, err := d.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", name, err)
		}
		if err := d.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
		err := backend.PutBytes(t.Context(), d, name, nil, ifAbsent)
		if err == nil || errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("put %s: %v; want an error that says what is in the way", name, err)
		}
	}
	if err := backend.PutBytes(t.Context(), d, "linked/new", nil, nil); err == nil {
		t.Error("put through a link to a folder: no error")
	}
	if _, err := os.Stat(filepath.Join(root, "folder")); err != nil {
		t.Errorf("delete took a folder: %v", err)
	}
	wantNoTemp(t, root)
}

// Left-over files of dead processes go after a day; younger ones stay, and so do
// those whose process lives.
func TestSweep(t *testing.T) {
	d, root := create(t)
	put(t, d, "x", "")
	tmp := func(name string) string { return filepath.Join(root, ".tmp", name) }
	for name, age := range map[string]time.Duration{"put-1": 25 * time.Hour, "put-2": 23 * time.Hour, "other": 1000 * time.Hour} {
		if err := os.WriteFile(tmp(name), []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(tmp(name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(name string) bool { _, err := os.Lstat(tmp(name)); return err == nil }

	// A put of another Dir, which is stuck for so long, is not disturbed.
	var stuck string
	slow := readerFunc(func(p []byte, off int64) (int, error) {
		if off > 0 {
			return len(p), nil
		}
		files, _ := filepath.Glob(tmp("put-*"))
		for _, f := range files {
			if f != tmp("put-1") && f != tmp("put-2") {
				stuck = f
			}
		}
		old := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(stuck, old, old); err != nil {
			t.Error(err)
		}
		other, err := dir.Open(root)
		if err != nil {
			t.Error(err)
		}
		if !exists("put-1") {
			t.Error("a Dir sweeps a second time within a day")
		}
		put(t, other, "y", "")
		if _, err := os.Stat(stuck); err != nil {
			t.Errorf("the file of a put under way was swept: %v", err)
		}
		return len(p), nil
	})
	if err := d.Put(t.Context(), "slow", slow, 1<<20, nil); err != nil {
		t.Error(err)
	}
	if stuck == "" || exists("put-1") || !exists("put-2") || !exists("other") {
		t.Errorf("after the sweep: stuck %q, a day old %v, younger %v, another's %v", stuck, exists("put-1"), exists("put-2"), exists("other"))
	}
}

func Example() {
	root, err := os.MkdirTemp("", "varve-example-")
	if err != nil {
		fmt.Println(err)
	}
	defer os.RemoveAll(root)
	store, err := dir.Create(filepath.Join(root, "backup"))
	if err != nil {
		fmt.Println(err)
	}
	ctx := context.Background()
	data := []byte("hello")
	fmt.Println(store.Put(ctx, "config/1", bytes.NewReader(data), int64(len(data)), nil))
	for info, err := range store.List(ctx, "config/") {
		fmt.Println(info.Name, info.Size, err)
	}
	// Output:
	// <nil>
	// config/1 5 <nil>
}
