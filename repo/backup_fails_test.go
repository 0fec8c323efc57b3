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
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// Each call of a small backup fails once, with and without having taken effect.
func TestBackendFails(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	repo.SetTimes(t, repo.Times{Segment: time.Nanosecond})
	base := mem.New(nil)
	r, key := crashRepo(t, base, nil)
	_, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	size := 14 << 20
	if raceEnabled {
		size = 1 << 20
	}
	src := crashSource(6, size)
	failure := errors.New("the store is unwell")
	for _, op := range []backendtest.Op{backendtest.Put, backendtest.Get, backendtest.List, backendtest.Entry, backendtest.Stat} {
		for _, lost := range []bool{false, true} {
			if lost && op != backendtest.Put {
				continue
			}
			for n := 1; ; n++ {
				what := fmt.Sprintf("%s %d, lost %v", op, n, lost)
				store := crashCopy(t, base)
				f := &backendtest.Faulty{Backend: store}
				r := crashOpen(t, f, key, nil)
				var failed atomic.Pointer[string]
				nth := backendtest.Nth(op, failure, n)
				hook := func(ctx context.Context, o backendtest.Op, name string) error {
					err := nth(ctx, o, name)
					if err != nil {
						failed.Store(&name)
					}
					return err
				}
				if lost {
					f.After = backendtest.Lost(func(ctx context.Context, o backendtest.Op, name string) error {
						if err := hook(ctx, o, name); err != nil {
							return fmt.Errorf("%s: %w", name, err)
						}
						return nil
					})
				} else {
					f.Before = hook
				}
				s, err := r.Backup(t.Context(), "shop", src, nil)
				name := failed.Load()
				if name == nil { // there are no more
					crashMust(t, err)
					if n == 1 && op == backendtest.Put {
						t.Error("no puts?")
					}
					break
				}
				fresh := crashOpen(t, store, key, nil)
				switch {
				case err == nil && (strings.HasSuffix(*name, ".end") || lost && strings.HasPrefix(*name, "snapshots/")):
					// Neither makes the snapshot less of one: what the store holds decides.
					crashSame(t, what, crashSnapshotDigest(t, fresh, s), crashDigest(t, src))
					crashSound(t, fresh, true)
				case err == nil:
					t.Errorf("%s (%s): no error", what, *name)
				default:
					if !errors.Is(err, failure) || !strings.Contains(err.Error(), *name) {
						t.Errorf("%s: %v, want one that names %s", what, err, *name)
					}
					crashIntact(t, fresh)
					begun := 0
					for _, m := range crashNames(t, store, "sessions/") {
						if !strings.HasSuffix(m, ".end") {
							begun++
						}
					}
					if ends := len(crashEnds(t, store)); ends < begun {
						t.Errorf("%s (%s): %d sessions began, %d ended", what, *name, begun, ends)
					}
					next, err := fresh.Backup(t.Context(), "shop", src, nil)
					crashMust(t, err)
					crashSame(t, what, crashSnapshotDigest(t, fresh, next), crashDigest(t, src))
				}
			}
		}
	}
}

// A segment that is replaced between the list and the get makes a session start over, from gc/ on.
func TestSegmentVanishes(t *testing.T) {
	base := mem.New(nil)
	r, key := crashRepo(t, base, nil)
	for i := range 3 {
		_, err := r.Backup(t.Context(), "shop", fstest.MapFS{"f": {Data: crashRandom(uint64(i), 100<<10)}}, nil)
		crashMust(t, err)
	}
	log := &crashLog{}
	var gone atomic.Bool
	f := &backendtest.Faulty{Backend: base}
	r = crashOpen(t, f, key, nil)
	f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
		log.Before(ctx, op, name)
		if op == backendtest.Get && strings.HasPrefix(name, "index/") && !gone.Swap(true) {
			return base.Delete(ctx, name)
		}
		return nil
	}
	s, err := r.Backup(t.Context(), "shop", fstest.MapFS{"f": {Data: crashRandom(0, 100<<10)}, "g": {Data: crashRandom(1, 100<<10)}, "h": {Data: crashRandom(2, 100<<10)}}, nil)
	crashMust(t, err)
	lists := strings.Count(strings.Join(log.calls, "\n"), "list gc/")
	if lists != 2 || s.Stats.New != 100<<10 {
		t.Errorf("gc/ was listed %d times, %d bytes are new; want twice, and what the segment named", lists, s.Stats.New)
	}
	crashSame(t, "the snapshot", crashSnapshotDigest(t, r, s), crashDigest(t, fstest.MapFS{"f": {Data: crashRandom(0, 100<<10)}, "g": {Data: crashRandom(1, 100<<10)}, "h": {Data: crashRandom(2, 100<<10)}}))
}

// A full disk is an error that says so and where; it harms nothing, and with room the next backup succeeds.
func TestDiskFull(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs Linux and root")
	}
	mount := func(options string) string {
		path := t.TempDir()
		if err := syscall.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
			t.Skipf("mounting a tmpfs: %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(path, syscall.MNT_DETACH) })
		return path
	}
	disk := mount("size=8m")
	b, err := dir.Create(filepath.Join(disk, "repo"))
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	_, err = r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	src := crashSource(11, 14<<20)
	s, err := r.Backup(t.Context(), "shop", src, nil)
	if s != nil || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "packs/") || !strings.Contains(err.Error(), disk) {
		t.Fatalf("%v, %v; want ENOSPC with object and path", s, err)
	}
	t.Log(err)
	r = crashOpen(t, b, key, nil)
	crashIntact(t, r)
	// Not a byte left: not even the marker.
	junk, err := os.Create(filepath.Join(disk, "junk"))
	crashMust(t, err)
	io.Copy(junk, newCrashStream(t.Context(), 1, 1<<30))
	junk.Close()
	s, err = r.Backup(t.Context(), "shop", src, nil)
	if s != nil || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "sessions/") {
		t.Errorf("%v, %v", s, err)
	}
	crashIntact(t, crashOpen(t, b, key, nil))
	crashMust(t, os.Remove(junk.Name()))
	crashMust(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=60m"))
	s, err = r.Backup(t.Context(), "shop", src, nil)
	crashMust(t, err)
	crashSame(t, "with room", crashSnapshotDigest(t, r, s), crashDigest(t, src))
	crashSound(t, r, true)

	// The cache's disk is another matter: all that it costs is time.
	cache := mount("size=64k")
	tree := t.TempDir()
	for i := range 2000 {
		crashMust(t, os.WriteFile(filepath.Join(tree, fmt.Sprint("a file with a longer name ", i)), crashRandom(uint64(i), 100), 0o644))
	}
	repo.SetTimes(t, repo.Times{Racy: time.Nanosecond})
	r, _ = crashRepo(t, mem.New(nil), &repo.Options{Cache: cache})
	for range 2 {
		s, err = r.Backup(t.Context(), "shop", os.DirFS(tree), nil)
		crashMust(t, err)
		crashSame(t, "with a full cache", crashSnapshotDigest(t, r, s), crashDigest(t, os.DirFS(tree)))
	}
}

// A cache folder that cannot be used costs time and nothing else.
func TestNoCache(t *testing.T) {
	tmp := t.TempDir()
	file := filepath.Join(tmp, "file")
	crashMust(t, os.WriteFile(file, nil, 0o644))
	store := mem.New(nil)
	_, key := crashRepo(t, store, nil)
	// One that cannot be made is most likely a mistake of whoever named it.
	if r, err := repo.Open(t.Context(), store, key, &repo.Options{Cache: filepath.Join(file, "cache")}); r != nil || err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, %v", r, err)
	}
	// It goes away, or becomes something else, while it is in use.
	cache := filepath.Join(tmp, "cache")
	r := crashOpen(t, store, key, &repo.Options{Cache: cache})
	crashMust(t, os.RemoveAll(cache))
	_, err := r.Backup(t.Context(), "shop", crashSource(1, 1<<20), nil)
	crashMust(t, err)
	crashMust(t, os.RemoveAll(cache))
	crashMust(t, os.WriteFile(cache, nil, 0o644))
	s, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	crashSame(t, "without a cache", crashSnapshotDigest(t, r, s), crashDigest(t, crashDayOne()))
}

// A store that is gone is an error that says so, not an empty repository.
func TestLostFolder(t *testing.T) {
	store := filepath.Join(t.TempDir(), "repo")
	b, err := dir.Create(store)
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	_, err = r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	crashMust(t, os.Rename(store, store+".away"))
	s, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	if s != nil || err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), store) {
		t.Errorf("%v, %v", s, err)
	}
	t.Log(err)
	if _, err := os.Stat(store); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made again: %v", err)
	}
	crashMust(t, os.Rename(store+".away", store))

	// It goes away in the middle.
	c := &crashFS{FS: crashSource(3, 34<<20)}
	c.open = func(path string) (fs.File, error) {
		if path == "text" {
			crashMust(t, os.Rename(store, store+".away"))
		}
		return nil, nil
	}
	s, err = r.Backup(t.Context(), "shop", c, nil)
	if s != nil || err == nil || !strings.Contains(err.Error(), store) {
		t.Errorf("%v, %v", s, err)
	}
	t.Log(err)
	if _, err := os.Stat(store); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made again: %v", err)
	}
	crashMust(t, os.Rename(store+".away", store))
	crashIntact(t, crashOpen(t, b, key, nil))
}
