//go:build linux

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/repo"
)

// A restore that was cut off at any moment leaves nothing that the next one would take for whole.
func TestRestoreInterrupted(t *testing.T) {
	r, store, key := treeRepoKey(t, nil)
	m := treeForest(6)
	for name, f := range m { // a time each: without one a file is never taken for the same
		f.ModTime = time.Unix(int64(len(name)), 1)
	}
	s := treeBackup(t, r, m)
	out := treeTemp(t)
	for _, n := range []int64{1, 7, 15, 25} {
		ctx, cancel := context.WithCancelCause(context.Background())
		stop := errors.New("enough")
		gets := int64(0)
		var mu sync.Mutex
		store.Before = func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Get && strings.HasPrefix(name, "packs/") {
				mu.Lock()
				defer mu.Unlock()
				if gets++; gets == n {
					cancel(stop)
				}
			}
			return nil
		}
		r, err := repo.Open(context.Background(), store, key, nil)
		treeMust(t, err)
		fds := treeOpenFiles(t)
		rep, err := r.Restore(ctx, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if now := treeOpenFiles(t); now > fds {
			t.Errorf("%d files are open, %d before", now, fds)
		}
		// What is there is whole.
		missing := map[string]bool{}
		for name := range m {
			if _, err := os.Lstat(filepath.Join(out, name)); err != nil {
				missing[name] = true
			}
		}
		treeEqual(t, m, out, missing)
		t.Logf("%d gets: %+v, %d missing", n, rep, len(missing))
		store.Before = nil
	}
	rep := treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
	if rep.Fetched > s.Stats.New+1<<20 || rep.Skipped == 0 { // and some of the trees
		t.Errorf("%+v", rep)
	}
	treeEqual(t, m, out, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Restore(ctx, s, treeTemp(t), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What is damaged is listed and not there; all else is, and no wrong byte is written.
func TestRestoreDamage(t *testing.T) {
	ctx := context.Background()
	r, store, key := treeRepoKey(t, nil)
	m := treeForest(1)
	treeBackup(t, r, fstest.MapFS{"large/0": m["large/0"], "small/0/0": m["small/0/0"]}) // in packs of its own
	s := treeBackup(t, r, m)
	var packs []string
	for info, err := range store.List(ctx, "packs/") {
		treeMust(t, err)
		packs = append(packs, info.Name)
	}
	if len(packs) < 2 {
		t.Fatal(packs)
	}
	flip := func(pack string, at int64) func(string, int64, []byte) {
		return func(name string, off int64, p []byte) {
			if name == pack && off <= at && at < off+int64(len(p)) {
				p[at-off] ^= 4
			}
		}
	}
	for _, name := range packs {
		info, err := store.Stat(ctx, name)
		treeMust(t, err)
		for _, at := range []int64{0, rand.Int64N(info.Size), -1} {
			store.Corrupt, store.Before = nil, nil
			if at >= 0 {
				store.Corrupt = flip(name, at)
			} else {
				store.Before = func(_ context.Context, op backendtest.Op, n string) error {
					if op == backendtest.Get && n == name {
						return fs.ErrNotExist
					}
					return nil
				}
			}
			r, err := repo.Open(ctx, store, key, nil)
			treeMust(t, err)
			// FS says what is hurt.
			hurt := map[string]bool{}
			f, ferr := r.FS(ctx, s)
			if ferr == nil {
				for name := range m {
					if _, err := fs.ReadFile(f, name); err != nil {
						if _, ok := errors.AsType[*repo.DamageError](err); !ok {
							t.Fatal(err)
						}
						hurt[name] = true
					}
				}
			}
			r, err = repo.Open(ctx, store, key, nil)
			treeMust(t, err)
			store.Reset()
			out := treeTemp(t)
			_, rerr := r.Restore(ctx, s, out, &repo.RestoreOptions{Verify: true})
			if ferr != nil { // the root itself is gone
				if d, ok := errors.AsType[*repo.DamageError](rerr); !ok || d.Object != name {
					t.Errorf("%s at %d: %v", name, at, rerr)
				}
				continue
			}
			if len(hurt) == 0 {
				treeMust(t, rerr)
			} else {
				// Each is listed, or a folder above it whose own node is hurt; and nothing else is.
				listed := map[string]bool{}
				for _, path := range treeFailures(t, rerr) {
					listed[path] = true
					if !slices.ContainsFunc(slices.Collect(maps.Keys(hurt)), func(p string) bool { return path == "." || p == path || strings.HasPrefix(p, path+"/") }) {
						t.Errorf("%s at %d: %s is not hurt", name, at, path)
					}
				}
				for path := range hurt {
					for p := path; !listed[p]; p = filepath.Dir(p) {
						if p == "." {
							t.Errorf("%s at %d: %s is not listed", name, at, path)
							break
						}
					}
				}
				if d, ok := errors.AsType[*repo.DamageError](rerr); !ok || d.Object != name {
					t.Errorf("%s at %d: %v", name, at, rerr)
				}
			}
			treeEqual(t, m, out, hurt)
			if c := store.Counts(); c.Gets+c.Lists > 4*s.Stats.Bytes/(512<<10)+50 {
				t.Errorf("%s at %d: %d hurt, %+v", name, at, len(hurt), c)
			}
			t.Logf("%s at %d: %d hurt, %+v", name, at, len(hurt), store.Counts())
		}
	}
}

func TestRestoreDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("varve", dir, "tmpfs", 0, "size=2m,nr_inodes=200"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	small := fstest.MapFS{}
	for i := range 300 {
		small[fmt.Sprint("f", i)] = &fstest.MapFile{Data: []byte("x")}
	}
	links := fstest.MapFS{}
	for i := range 300 {
		links[fmt.Sprint("f", i)] = &fstest.MapFile{Data: []byte("x"), Mode: fs.ModeSymlink}
	}
	for name, m := range map[string]fstest.MapFS{"f": {"folder/file": {Data: treeBytes(1, 5<<20)}}, "small": small, "links": links} {
		r, _ := treeRepo(t, nil)
		s := treeBackup(t, r, m)
		fds := treeOpenFiles(t)
		_, err := r.Restore(context.Background(), s, dir+"/"+name, nil)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), s.ID) {
			t.Errorf("%s: %v", name, err)
		}
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || m[pe.Path] == nil {
			t.Errorf("%s: no path in %v", name, err)
		}
		treeMust(t, os.RemoveAll(dir+"/"+name))
		if now := treeOpenFiles(t); now > fds {
			t.Errorf("%d files are open, %d before", now, fds)
		}
	}
}

// What is there stays until what replaces it is whole.
func TestRestoreKeepsUntilWhole(t *testing.T) {
	m := fstest.MapFS{"large": {Data: treeBytes(1, 3<<20), ModTime: time.Unix(1, 0)}, "link": {Data: treeBytes(2, 2<<20), ModTime: time.Unix(1, 0)},
		"small": {Data: []byte("new"), ModTime: time.Unix(1, 0)}}
	for _, how := range []string{"damage", "cancel"} {
		r, store, key := treeRepoKey(t, nil)
		s := treeBackup(t, r, m)
		r, err := repo.Open(context.Background(), store, key, nil)
		treeMust(t, err)
		out := t.TempDir()
		treeMust(t, treeFolder("", treeFile("large", "old large", 9), treeFile("small", "old small", 9), treeLink("link", "old link"), treeFile("other", "other", 9)).make(out+"/x"))
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		frames := 0
		store.Corrupt = func(name string, _ int64, p []byte) {
			mu.Lock()
			defer mu.Unlock()
			if frames++; len(p) < 100<<10 || frames < 4 {
				return
			}
			if how == "cancel" {
				cancel()
			} else {
				p[99] ^= 1
			}
		}
		_, err = r.Restore(ctx, s, out+"/x", &repo.RestoreOptions{Overwrite: repo.OverwriteAlways})
		cancel()
		if err == nil {
			t.Error(how, "no error")
		}
		left := map[string]int{}
		for _, line := range treeLines(t, out+"/x") {
			name, _, _ := strings.Cut(line, "=")
			if f := m[name]; f == nil || line != name+"="+string(f.Data) {
				left[line]++
			}
		}
		delete(left, "small=old small") // or it was restored
		if !maps.Equal(left, map[string]int{"large=old large": 1, "link -> old link": 1, "other=other": 1}) {
			t.Errorf("%s: %.300s", how, fmt.Sprintf("%q", slices.Sorted(maps.Keys(left))))
		}
	}
}
