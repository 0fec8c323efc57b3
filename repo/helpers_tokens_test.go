package repo_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
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
