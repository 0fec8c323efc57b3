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
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/source"
)

// tokenDir is a source.Tree that counts the files that are opened.
type tokenDir struct {
	*source.Tree
	mu     sync.Mutex // guards opened
	opened []string
}

func (d *tokenDir) OpenContext(_ context.Context, path string) (fs.File, error) { return d.Open(path) }

func (d *tokenDir) Open(path string) (fs.File, error) {
	f, err := d.Tree.Open(path)
	if err == nil {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			d.mu.Lock()
			d.opened = append(d.opened, path)
			d.mu.Unlock()
		}
	}
	return f, err
}

func (d *tokenDir) reads() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.opened
	d.opened = nil
	slices.Sort(r)
	return r
}

// A tokenSource is a file system that knows what was read of it.
type tokenSource interface {
	fs.FS
	reads() []string
}

// A tokenRig is a tree on disk, a repository with a cache, and two ways to read the tree.
type tokenRig struct {
	t     *testing.T
	root  string
	store *mem.Mem
	cache string
	key   crypt.RawKey
	r     *repo.Repo
	by    *repo.Repo // makes the backups; nil: r
	src   tokenSource
	last  *repo.Snapshot
}

// eachToken runs f for source.Dir and for os.DirFS. Tokens are trusted at once, unless racy says otherwise.
func eachToken(t *testing.T, racy time.Duration, f func(t *testing.T, k *tokenRig)) {
	for _, kind := range []string{"Dir", "DirFS"} {
		t.Run(kind, func(t *testing.T) {
			repo.SetTimes(t, repo.Times{Racy: racy})
			k := &tokenRig{t: t, root: t.TempDir(), store: mem.New(nil), cache: t.TempDir()}
			k.r, k.key = crashRepo(t, k.store, &repo.Options{Cache: k.cache})
			if kind == "Dir" {
				d, err := source.Dir(k.root, nil)
				crashMust(t, err)
				t.Cleanup(func() { d.Close() })
				k.src = &tokenDir{Tree: d}
			} else {
				k.src = &crashFS{FS: os.DirFS(k.root)}
			}
			f(t, k)
		})
	}
}

const trusted = -time.Hour // margins for tokens

func (k *tokenRig) write(path string, data []byte) {
	k.t.Helper()
	full := filepath.Join(k.root, path)
	crashMust(k.t, os.MkdirAll(filepath.Dir(full), 0o755))
	crashMust(k.t, os.WriteFile(full, data, 0o644))
}

func (k *tokenRig) plant() {
	for i := range 12 {
		k.write(fmt.Sprintf("a/%02d", i), crashRandom(uint64(i), 20<<10))
		k.write(fmt.Sprintf("b-%02d/file", i), crashText(uint64(i), 3000))
	}
	k.write("b/large", crashRandom(77, 2<<20))
	k.write("b/empty", nil)
	crashMust(k.t, os.Link(filepath.Join(k.root, "a/00"), filepath.Join(k.root, "link")))
}

// backup makes a snapshot, wants it to equal the tree, and returns what was read.
func (k *tokenRig) backup() []string {
	k.t.Helper()
	k.src.reads()
	by := k.by
	if by == nil {
		by = k.r
	}
	s, err := by.Backup(k.t.Context(), "shop", k.src, nil)
	crashMust(k.t, err)
	k.last = s
	reads := k.src.reads()
	crashSame(k.t, s.ID, crashSnapshotDigest(k.t, k.r, s), crashDigest(k.t, os.DirFS(k.root)))
	return reads
}

// reads wants the next backup to read exactly these.
func (k *tokenRig) reads(what string, want ...string) {
	k.t.Helper()
	slices.Sort(want)
	if got := k.backup(); !slices.Equal(got, want) {
		k.t.Errorf("%s: it read %q, want %q", what, got, want)
	}
}

// as opens the repository with the keys of a role, and a cache folder of its own unless that is given.
func (k *tokenRig) as(role crypt.Role, cache string) *repo.Repo {
	k.t.Helper()
	key, err := crypt.NewKey()
	crashMust(k.t, err)
	_, err = k.r.AddSlot(k.t.Context(), role, key, "")
	crashMust(k.t, err)
	return crashOpen(k.t, k.store, key, &repo.Options{Cache: cache})
}

// all returns every regular file.
func (k *tokenRig) all() (paths []string) {
	for p := range crashDigest(k.t, os.DirFS(k.root)) {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

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

type tokenXattrs struct {
	crashFS
	refuse string
}

func (x *tokenXattrs) Xattrs(path string) (map[string][]byte, error) {
	switch path {
	case ".":
		return nil, nil
	case x.refuse:
		return nil, fs.ErrPermission
	}
	return map[string][]byte{"user.name": []byte(path)}, nil
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

// With no token file the last snapshot's tree says what has not changed, to whoever may read trees; and there too a file counts only with all its chunks.
func TestTokensTree(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.plant()
		k.write("deep/er/and/deeper/x", []byte("x"))
		large, err := os.Create(filepath.Join(k.root, "b/pieces")) // a list of its own
		crashMust(t, err)
		for i := range 40 {
			_, err := large.WriteAt(crashRandom(uint64(i)+900, 100<<10), int64(i)*300<<10)
			crashMust(t, err)
		}
		crashMust(t, large.Close())
		k.reads("the first", k.all()...)
		for what, role := range map[string]crypt.Role{"owner": crypt.Owner, "maintainer": crypt.Maintainer} {
			k.by = k.as(role, t.TempDir())
			k.reads(what + ", a cold cache")
			if s := k.last.Stats; s.Read != 0 || s.New != 0 {
				t.Errorf("%s: %+v", what, s)
			}
			k.reads(what + ", a warm cache")
			k.by = k.as(role, "")
			for range 2 {
				k.reads(what + ", no cache")
			}
			k.write("a/07", crashRandom(500+uint64(role), 20<<10))
			k.write("b-05/file", fmt.Append(nil, "shorter", role))
			k.write("aa"+what, []byte("new"))
			k.write("deep/er/between", []byte(what))
			k.write("deep/er/zz/last", []byte(what))
			k.reads(what+", some changed", "a/07", "b-05/file", "aa"+what, "deep/er/between", "deep/er/zz/last")
			crashMust(t, os.Remove(filepath.Join(k.root, "b-05/file")))
			crashMust(t, os.RemoveAll(filepath.Join(k.root, "deep/er/zz")))
			crashMust(t, os.Rename(filepath.Join(k.root, "b-05"), filepath.Join(k.root, "b.05"+what)))
			crashMust(t, os.Mkdir(filepath.Join(k.root, "b-05"), 0o755))
			k.write("b-05/file", []byte("again"))
			k.reads(what+", folders changed", "b-05/file")
			// A folder in the place of a file, and a file in the place of a folder.
			crashMust(t, os.RemoveAll(filepath.Join(k.root, "b-03")))
			k.write("b-03", []byte("a file"))
			crashMust(t, os.Remove(filepath.Join(k.root, "a/05")))
			k.write("a/05/x", []byte("a folder"))
			k.reads(what+", kinds changed", "b-03", "a/05/x")
			crashMust(t, os.RemoveAll(filepath.Join(k.root, "a/05")))
			crashMust(t, os.Remove(filepath.Join(k.root, "b-03")))
			k.write("a/05", []byte("a file"))
			k.write("b-03/file", []byte("a file"))
			k.reads(what+", and back", "b-03/file", "a/05")
		}
		k.by = k.as(crypt.Writer, t.TempDir())
		k.reads("a writer, a cold cache", k.all()...)
		k.reads("a writer, a warm cache")
		crashSound(t, k.r, true)

		// Chunks that may vanish are read again, and the list of what has many does not stand for them.
		k.by = k.as(crypt.Owner, "")
		k.reads("no cache")
		keys := dmgKeys(t, k.store, k.key)
		dmgSeal(t, k.store, keys, crypt.KindCandidates, "gc/1", dmgList(1, crashNames(t, k.store, "packs/")...))
		filled := slices.DeleteFunc(k.all(), func(p string) bool { return p == "b/empty" })
		k.reads("all is condemned", filled...)
		k.reads("and stored again")
		// A tree that is not there says nothing, and fails nothing.
		for _, prefix := range []string{"packs/", "index/"} {
			for _, name := range crashNames(t, k.store, prefix) {
				crashMust(t, k.store.Delete(t.Context(), name))
			}
		}
		k.r = crashOpen(t, k.store, k.key, nil)
		k.by = nil
		k.reads("all is gone", k.all()...)
	})
}

// Margins, and attributes that could not be read, count for the tree as they do for the token file.
func TestTokensTreeRacy(t *testing.T) {
	eachToken(t, time.Hour, func(t *testing.T, k *tokenRig) {
		k.by = k.as(crypt.Owner, "")
		k.plant()
		k.reads("the first", k.all()...)
		k.reads("all are younger than the margin", k.all()...)
	})
}

// A part of the last tree that is damaged is read again, and said so; the rest is known.
func TestTokensTreeDamaged(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	r, _ := crashRepo(t, mem.New(nil), nil)
	root := t.TempDir()
	for _, p := range []string{"a", "m", "z"} {
		crashMust(t, os.Mkdir(filepath.Join(root, p), 0o755))
		crashMust(t, os.WriteFile(filepath.Join(root, p, "f"), []byte(p), 0o644))
	}
	d, err := source.Dir(root, nil)
	crashMust(t, err)
	defer d.Close()
	src := &tokenDir{Tree: d}
	_, err = r.Backup(t.Context(), "forged", src, nil)
	crashMust(t, err)
	// A snapshot as a thief could make one: m is a folder that nobody can read.
	f, err := repo.NewForger(t.Context(), r, "forged")
	crashMust(t, err)
	folder := func(name string, id []byte) *tree.Entry {
		return &tree.Entry{Name: []byte(name), Mode: tree.ModeDir | 0o755, Folder: id}
	}
	file := func(p string) *tree.Entry {
		info, err := fs.Lstat(d, p+"/f")
		crashMust(t, err)
		token := blake3.Sum256(info.Sys().(*repo.Attr).Token)
		return &tree.Entry{Name: []byte("f"), Mode: tree.ModeRegular | 0o644, Size: 1, Token: token[:16], Inline: []tree.Piece{{Length: 1, ID: f.Chunk([]byte(p))}}}
	}
	type node struct {
		_     struct{} `cbor:",toarray"`
		Type  uint
		Items []*tree.Entry
	}
	type rootNode struct {
		_     struct{} `cbor:",toarray"`
		Type  uint
		Entry *tree.Entry
	}
	entries := func(list ...*tree.Entry) []byte { return f.Node(&node{Type: tree.TypeEntries, Items: list}) }
	top := entries(folder("a", entries(file("a"))), folder("m", f.Node([]string{"no", "node"})), folder("z", entries(file("z"))))
	_, err = f.Commit(t.Context(), f.Node(&rootNode{Type: tree.TypeRoot, Entry: folder("", top)}))
	crashMust(t, err)
	src.reads()
	s, err := r.Backup(t.Context(), "forged", src, nil)
	crashMust(t, err)
	if got := src.reads(); !slices.Equal(got, []string{"m/f"}) {
		t.Errorf("it read %q", got)
	}
	crashSame(t, s.ID, crashSnapshotDigest(t, r, s), crashDigest(t, os.DirFS(root)))
}

// A file that changes while it is read is read once more, and only if it then changes again is that recorded.
func TestChangedWhileRead(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	for times, want := range map[int]error{1: nil, 2: repo.ErrIncomplete, -1: nil} {
		root := t.TempDir()
		path := filepath.Join(root, "f")
		crashMust(t, os.WriteFile(path, crashRandom(1, 3<<20), 0o644))
		crashMust(t, os.WriteFile(filepath.Join(root, "g"), []byte("other"), 0o644))
		c := &crashFS{FS: os.DirFS(root)}
		opened, changes := 0, 0
		c.open = func(p string) (fs.File, error) {
			if p != "f" {
				return nil, nil
			}
			if opened++; times < 0 && opened == 2 {
				return nil, fs.ErrPermission // it cannot be read again
			}
			f, err := c.FS.Open(p)
			changed := false
			return &crashFile{f, 1 << 20, func() error {
				if changed || changes == max(times, 1) {
					return nil
				}
				changed = true
				changes++
				return os.WriteFile(path, crashRandom(uint64(10+changes), 3<<20-changes), 0o644)
			}}, err
		}
		r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
		s, err := r.Backup(t.Context(), "shop", c, nil)
		if times < 0 {
			want = repo.ErrIncomplete
		}
		if !errors.Is(err, want) || opened != 2 {
			t.Errorf("%d times: %v, opened %d times", times, err, opened)
		}
		list, err := r.Unread(t.Context(), s)
		crashMust(t, err)
		if want == nil {
			if len(list) != 0 {
				t.Errorf("%d times: %v", times, list)
			}
			crashSame(t, "f", crashSnapshotDigest(t, r, s), crashDigest(t, os.DirFS(root)))
		} else if len(list) != 1 || list[0].Path != "f" || !strings.Contains(fmt.Sprint(list[0]), "changed while it was read") {
			t.Errorf("%d times: %+v", times, list)
		} else if _, err := fs.ReadFile(treeFS(t, r, s), "f"); err != nil {
			t.Errorf("%d times: nothing of it is kept: %v", times, err)
		}
		// No token is kept of what changed.
		c.open = nil
		c.reads()
		_, err = r.Backup(t.Context(), "shop", c, nil)
		crashMust(t, err)
		if got := c.reads(); (len(got) > 0) != (want != nil) {
			t.Errorf("%d times: the next backup read %q", times, got)
		}
	}
}
