package repo_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/source"
)

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
