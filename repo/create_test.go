package repo_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// TestCreateFails: a Create that failed leaves no repository behind, and the next one succeeds, whichever call it was that failed.
func TestCreateFails(t *testing.T) {
	key := crypt.RawKey{1}
	for n := 1; ; n++ {
		store := mem.New(nil)
		failing := &backendtest.Faulty{Backend: store, Before: backendtest.Nth(backendtest.Put, io.ErrClosedPipe, n)}
		_, _, err := repo.Create(t.Context(), failing, key, nil)
		if err == nil {
			if n < 5 {
				t.Fatalf("Create makes %d puts", n-1)
			}
			return
		}
		if _, err := repo.Open(t.Context(), store, key, nil); !errors.Is(err, repo.ErrNoRepository) {
			t.Fatalf("after put %d failed, Open: %v, want ErrNoRepository", n, err)
		}
		r, _, err := repo.Create(t.Context(), store, key, nil)
		if err != nil {
			t.Fatalf("after put %d failed, Create: %v", n, err)
		}
		if _, err := r.Backup(t.Context(), "shop", fstest.MapFS{"a": {}}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Open(t.Context(), store, key, nil); err != nil {
			t.Fatalf("after put %d failed and a second Create, Open: %v", n, err)
		}
	}
}

// TestCreateCache: a cache that cannot be had is found out before there is a repository whose recovery key nobody saw.
func TestCreateCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	store := mem.New(nil)
	if _, _, err := repo.Create(t.Context(), store, crypt.RawKey{1}, &repo.Options{Cache: file}); err == nil {
		t.Fatal("Create with a file for a cache folder succeeded")
	}
	if _, _, err := repo.Create(t.Context(), store, crypt.RawKey{1}, nil); err != nil {
		t.Fatal(err)
	}
}

// unconditional is a store without put-if-absent.
type unconditional struct{ backend.Backend }

func (u unconditional) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if o != nil && o.IfAbsent {
		return errors.ErrUnsupported
	}
	return u.Backend.Put(ctx, name, r, size, o)
}

// TestWithoutPutIfAbsent: such a store holds a repository all the same.
func TestWithoutPutIfAbsent(t *testing.T) {
	store, key := unconditional{mem.New(nil)}, crypt.RawKey{1}
	if r, _, err := repo.Create(t.Context(), store, key, nil); err != nil || r.PutIfAbsent() {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), store, key, nil)
	if err != nil || r.PutIfAbsent() {
		t.Fatal(err)
	}
	if _, err := r.Prune(t.Context(), nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("prune beside others: %v", err)
	}
	if _, err := r.Prune(t.Context(), &repo.PruneOptions{Exclusive: true}); err != nil {
		t.Errorf("prune exclusively: %v", err)
	}
	s, err := r.Backup(t.Context(), "shop", fstest.MapFS{"a": {Data: []byte("hello")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := r.FS(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile(fsys, "a"); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
}

// TestLinksThatAreNoMore: names with the same inode number and other contents are files of their own.
func TestLinksThatAreNoMore(t *testing.T) {
	a := &repo.Attr{}
	a.Link.Dev, a.Link.Ino = 1, 2
	src := fstest.MapFS{"x": {Data: []byte("first"), Sys: a}, "y": {Data: []byte("second, longer"), Sys: a}, "z": {Data: []byte("first"), Sys: a}}
	r, _, err := repo.Create(t.Context(), mem.New(nil), crypt.RawKey{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Backup(t.Context(), "shop", src, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := r.Restore(t.Context(), s, dir, &repo.RestoreOptions{Verify: true}); err != nil {
		t.Fatal(err)
	}
	for name, f := range src {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != string(f.Data) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	x, _ := os.Stat(filepath.Join(dir, "x"))
	z, _ := os.Stat(filepath.Join(dir, "z"))
	if !os.SameFile(x, z) {
		t.Error("x and z are not one file any more")
	}
}
