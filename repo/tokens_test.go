package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestTokens(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.plant()
		k.reads("the first", k.all()...)
		k.reads("nothing changed")
		if s := k.last.Stats; s.Stored > 100_000 || s.Read != 0 || s.New != 0 || s.Files != 27 || s.Bytes == 0 {
			t.Errorf("an unchanged tree: %+v", s)
		}
		before := k.last.Stats.Bytes
		k.write("a/07", crashRandom(500, 20<<10))
		k.write("b-05/file", []byte("shorter"))
		k.write("aa", []byte("new"))
		crashMust(t, os.Remove(filepath.Join(k.root, "a/03")))
		k.reads("some changed", "a/07", "b-05/file", "aa")
		k.reads("and then nothing")

		// The same size and time, another inode.
		old, err := os.Stat(filepath.Join(k.root, "a/09"))
		crashMust(t, err)
		k.write("new", crashRandom(501, 20<<10))
		crashMust(t, os.Chtimes(filepath.Join(k.root, "new"), old.ModTime(), old.ModTime()))
		crashMust(t, os.Rename(filepath.Join(k.root, "new"), filepath.Join(k.root, "a/09")))
		k.reads("another inode", "a/09")

		// The same size, inode and mtime: the ctime tells.
		k.write("a/10", crashRandom(502, 20<<10))
		crashMust(t, os.Chtimes(filepath.Join(k.root, "a/10"), old.ModTime(), old.ModTime()))
		k.reads("a time set back", "a/10")

		// A folder's name that sorts otherwise with a slash: b-.. before b/ as strings.
		crashMust(t, os.Rename(filepath.Join(k.root, "b-05"), filepath.Join(k.root, "b.05")))
		if got := k.backup(); len(got) > 1 { // the inode's ctime may change with the folder's name, or not
			t.Errorf("a renamed folder: it read %q", got)
		}
		if before == 0 {
			t.Error("no bytes")
		}
		crashSound(t, k.r, true)
	})
}

// A file that changed within the clock's resolution of its last reading looks the same: its token is not kept.
func TestTokensRacy(t *testing.T) {
	eachToken(t, time.Hour, func(t *testing.T, k *tokenRig) {
		k.plant()
		k.reads("the first", k.all()...)
		k.reads("all are younger than the margin", k.all()...)
		// Old by its mtime, young by its ctime.
		then := time.Now().Add(-48 * time.Hour)
		crashMust(t, os.Chtimes(filepath.Join(k.root, "a/01"), then, then))
		k.reads("a mtime can be set", k.all()...)
		k.reads("a mtime can be set", k.all()...)
	})
}

// A time that lies in the future, or in none of the clock's, is trusted as little.
func TestTokensFuture(t *testing.T) {
	eachToken(t, time.Nanosecond, func(t *testing.T, k *tokenRig) {
		k.write("now", []byte("now"))
		k.write("future", []byte("fut"))
		then := time.Now().Add(48 * time.Hour)
		crashMust(t, os.Chtimes(filepath.Join(k.root, "future"), then, then))
		time.Sleep(20 * time.Millisecond)
		k.backup()
		k.reads("one has a time to come", "future")
	})
}

func TestTokenFileDamaged(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.by = k.as(crypt.Writer, k.cache) // who has nothing but the file to go by
		k.plant()
		k.backup()
		path := repo.TokenFile(k.r, "shop")
		whole, err := os.ReadFile(path)
		crashMust(t, err)
		_, err = k.r.Backup(t.Context(), "other", fstest.MapFS{}, nil)
		crashMust(t, err)
		other, err := os.ReadFile(repo.TokenFile(k.r, "other"))
		crashMust(t, err)
		flip := func(at int) []byte {
			b := bytes.Clone(whole)
			b[at] ^= 1
			return b
		}
		for what, data := range map[string][]byte{
			"short": whole[:20], "cut": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0),
			"flipped first": flip(0), "flipped": flip(len(whole) / 2), "flipped last": flip(len(whole) - 1), "another series'": other,
		} {
			crashMust(t, os.WriteFile(path, data, 0o600))
			k.reads(what, k.all()...)
			k.reads("after " + what)
		}
		crashMust(t, os.Remove(path))
		k.reads("removed", k.all()...)
		crashMust(t, os.Remove(path))
		crashMust(t, os.Mkdir(path, 0o755))
		k.reads("a folder", k.all()...)
		crashMust(t, os.Remove(path))
		k.backup()
		k.by = nil

		// Another series, or another repository, has nothing of it.
		tokens, err := os.ReadFile(path)
		crashMust(t, err)
		crashMust(t, os.WriteFile(repo.TokenFile(k.r, "third"), tokens, 0o600))
		k.src.reads()
		_, err = k.r.Backup(t.Context(), "third", k.src, nil)
		crashMust(t, err)
		if got := k.src.reads(); !slices.Equal(got, k.all()) {
			t.Errorf("a token file under another series' name: %q", got)
		}
		r2, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: k.cache})
		crashMust(t, os.WriteFile(repo.TokenFile(r2, "shop"), tokens, 0o600))
		k.src.reads()
		_, err = r2.Backup(t.Context(), "shop", k.src, nil)
		crashMust(t, err)
		if got := k.src.reads(); !slices.Equal(got, k.all()) {
			t.Errorf("a token file of another repository: %q", got)
		}
	})
}

// A token says that a file is unchanged, not that its chunks are there.
func TestTokensAbsent(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.plant()
		k.backup()
		// A second session's objects, so that something is lost and something not.
		before := crashNames(t, k.store, "index/")
		k.write("late", crashRandom(600, 300<<10))
		k.reads("a new one", "late")
		for _, name := range crashNames(t, k.store, "index/") {
			if !slices.Contains(before, name) {
				crashMust(t, k.store.Delete(t.Context(), name))
			}
		}
		k.r = crashOpen(t, k.store, k.key, &repo.Options{Cache: k.cache})
		k.reads("its segment is gone", "late")
		k.reads("and it is there again")
		// Candidates of a collection may vanish at any time.
		filled := slices.DeleteFunc(k.all(), func(p string) bool { return p == "b/empty" }) // the one without chunks stays known
		keys := dmgKeys(t, k.store, k.key)
		dmgSeal(t, k.store, keys, crypt.KindCandidates, "gc/1", dmgList(1, crashNames(t, k.store, "packs/")...))
		k.reads("all is condemned", filled...)
		k.reads("and stored again")
		for _, prefix := range []string{"packs/", "index/"} {
			for _, name := range crashNames(t, k.store, prefix) {
				crashMust(t, k.store.Delete(t.Context(), name))
			}
		}
		k.r = crashOpen(t, k.store, k.key, &repo.Options{Cache: k.cache})
		k.reads("all is gone", filled...)
		for s, err := range k.r.Snapshots(t.Context(), repo.Filter{Newest: 1}) {
			crashMust(t, err)
			if s.ID != k.last.ID {
				t.Error("another is the newest")
			}
		}
	})
}

// Only what a committed snapshot says counts.
func TestTokensFailed(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.plant()
		failure := errors.New("no")
		f := &backendtest.Faulty{Backend: k.store, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Put && strings.HasPrefix(name, "snapshots/") {
				return failure
			}
			return nil
		}}
		r, err := repo.Open(t.Context(), f, k.key, &repo.Options{Cache: k.cache})
		crashMust(t, err)
		if _, err := r.Backup(t.Context(), "shop", k.src, nil); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		if _, err := os.Stat(repo.TokenFile(r, "shop")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a token file of a failed backup: %v", err)
		}
		k.reads("the first that succeeds", k.all()...)
		k.reads("the next")
		// One that fails leaves the last one's as it is.
		k.write("a/07", crashRandom(700, 20<<10))
		if _, err := r.Backup(t.Context(), "shop", k.src, nil); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		k.reads("after one that failed", "a/07")
		left, err := filepath.Glob(filepath.Join(k.cache, "*", "*", ".new-*"))
		crashMust(t, err)
		if len(left) > 0 {
			t.Errorf("left over: %q", left)
		}
	})
}

// Extended attributes of files that are not read come from the token file; those that could not be read are asked for again.
func TestTokensXattrs(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	root := t.TempDir()
	for _, p := range []string{"a", "b"} {
		crashMust(t, os.WriteFile(filepath.Join(root, p), []byte(p), 0o644))
	}
	src := &tokenXattrs{crashFS: crashFS{FS: os.DirFS(root)}, refuse: "b"}
	r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
	xattrs := func(s *repo.Snapshot, path string) map[string][]byte {
		fsys, err := r.FS(t.Context(), s)
		crashMust(t, err)
		info, err := fs.Stat(fsys, path)
		crashMust(t, err)
		return info.Sys().(*repo.Attr).Xattrs
	}
	for i := range 2 {
		s, err := r.Backup(t.Context(), "shop", src, nil)
		if !errors.Is(err, repo.ErrIncomplete) {
			t.Fatalf("backup %d: %v, want ErrIncomplete as long as b's attributes cannot be read", i, err)
		}
		if x := xattrs(s, "a"); string(x["user.name"]) != "a" {
			t.Errorf("backup %d: a has %q", i, x)
		}
		want := []string{"a", "b"}
		if i > 0 {
			want = want[1:]
		}
		if got := src.reads(); !slices.Equal(got, want) {
			t.Errorf("backup %d read %q, want %q", i, got, want)
		}
	}
	src.refuse = ""
	for range 2 {
		s, err := r.Backup(t.Context(), "shop", src, nil)
		crashMust(t, err)
		for _, p := range []string{"a", "b"} {
			if x := xattrs(s, p); string(x["user.name"]) != p {
				t.Errorf("%s has %q", p, x)
			}
		}
	}
}

// Parts of a joined source come and go; what stays is not read again.
func TestTokensJoin(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	tmp := t.TempDir()
	trees := map[string]*crashFS{}
	for i, name := range []string{"alpha", "beta", "gamma", "delta"} {
		dir := filepath.Join(tmp, name)
		crashMust(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
		for j := range 5 {
			crashMust(t, os.WriteFile(filepath.Join(dir, "sub", fmt.Sprint(j)), crashRandom(uint64(i*10+j), 5000), 0o644))
		}
		trees[name] = &crashFS{FS: os.DirFS(dir)}
	}
	dump := func(n uint64) fs.FS {
		return source.Stream("dump", func(ctx context.Context) (io.ReadCloser, error) { return newCrashStream(ctx, n, 3<<20), nil })
	}
	r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
	seen := map[string]bool{}
	for i, parts := range [][]string{
		{"beta"}, {"beta", "delta"}, {"alpha", "beta", "delta"}, {"alpha", "beta", "delta", "db"}, {"alpha", "delta", "db"}, {"alpha", "delta", "gamma", "a-db"}, {"gamma", "zz"}, {"gamma"},
	} {
		src := source.Join{}
		var want []string
		now := map[string]bool{}
		for _, p := range parts {
			if trees[p] == nil {
				src[p] = dump(uint64(i))
				continue
			}
			src[p] = trees[p]
			now[p] = true
			if !seen[p] {
				want = append(want, p)
			}
		}
		s, err := r.Backup(t.Context(), "shop", src, nil)
		crashMust(t, err)
		var got []string
		for name, tree := range trees {
			if n := len(tree.reads()); n == 5 {
				got = append(got, name)
			} else if n != 0 {
				t.Errorf("%v: %d of 5 files of %s were read", parts, n, name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v were read, want %v", parts, got, want)
		}
		snap := crashSnapshotDigest(t, r, s)
		for _, p := range parts {
			if trees[p] == nil {
				if snap[p] != crashDigest(t, fstest.MapFS{"x": {Data: crashStreamAt(uint64(i), 0, 3<<20)}})["x"] {
					t.Errorf("%v: the dump %s is wrong", parts, p)
				}
				delete(snap, p)
				continue
			}
			for path, h := range crashDigest(t, trees[p].FS) {
				if snap[p+"/"+path] != h {
					t.Errorf("%v: %s/%s is wrong", parts, p, path)
				}
				delete(snap, p+"/"+path)
			}
			trees[p].reads()
		}
		if len(snap) != 0 {
			t.Errorf("%v: there is more: %v", parts, snap)
		}
		seen = now
	}
}

// A file with a token whose chunk list is long, before and behind others, in the one file.
func TestTokensLarge(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
	root := t.TempDir()
	holes, err := os.Create(filepath.Join(root, "holes"))
	crashMust(t, err)
	for i := range 3000 { // that many pieces, and holes between them
		_, err := holes.WriteAt([]byte(fmt.Sprint(i)), int64(i)*16<<10)
		crashMust(t, err)
	}
	crashMust(t, holes.Close())
	for _, p := range []string{"a", "z"} {
		crashMust(t, os.WriteFile(filepath.Join(root, p), []byte(p), 0o644))
	}
	d, err := source.Dir(root, nil)
	crashMust(t, err)
	defer d.Close()
	src := &tokenDir{Tree: d}
	want := crashDigest(t, os.DirFS(root))
	for i := range 3 {
		s, err := r.Backup(t.Context(), "shop", src, nil)
		crashMust(t, err)
		if got := src.reads(); (len(got) == 0) != (i > 0) {
			t.Errorf("backup %d read %q", i, got)
		}
		crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want)
	}
	// It changes under the reader: its parts are taken back, the others stay.
	c := &crashFS{FS: os.DirFS(root)}
	c.open = func(path string) (fs.File, error) {
		if path != "holes" {
			return nil, nil
		}
		f, err := c.FS.Open(path)
		return &crashFile{f, 1 << 20, func() error {
			now := time.Now()
			return os.Chtimes(filepath.Join(root, "holes"), now, now)
		}}, err
	}
	if _, err := r.Backup(t.Context(), "other", c, nil); !errors.Is(err, repo.ErrIncomplete) {
		t.Error(err)
	}
	c.reads()
	c.open = nil
	s, err := r.Backup(t.Context(), "other", c, nil)
	crashMust(t, err)
	if got := c.reads(); !slices.Equal(got, []string{"holes"}) {
		t.Errorf("it read %q", got)
	}
	crashSame(t, s.ID, crashSnapshotDigest(t, r, s), want)
}
