package repo_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// hintRig is a tokenRig whose backups a writer makes who has no cache folder.
func hintRig(t *testing.T) *tokenRig {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	k := &tokenRig{t: t, root: t.TempDir(), store: mem.New(nil)}
	k.r, k.key = crashRepo(t, k.store, nil)
	k.src = &crashFS{FS: os.DirFS(k.root)}
	k.by = k.as(crypt.Writer, "")
	return k
}

// hints are those of the last snapshot.
func (k *tokenRig) hints() [][]byte {
	k.t.Helper()
	chunks, err := repo.HintChunks(k.t.Context(), k.by, k.last)
	crashMust(k.t, err)
	return chunks
}

// hintBytes is how many bytes all blobs of hints have.
func (k *tokenRig) hintBytes() int {
	k.t.Helper()
	blobs, _, err := repo.HintBlobs(k.t.Context(), k.by)
	crashMust(k.t, err)
	return len(bytes.Join(blobs, nil))
}

func TestHints(t *testing.T) {
	eachToken(t, trusted, func(t *testing.T, k *tokenRig) {
		k.by = k.as(crypt.Writer, "")
		k.plant()
		k.write("a/99", crashRandom(99, 3<<20)) // more chunks than an entry has
		k.reads("the first", k.all()...)
		if !repo.HasHints(k.last) {
			t.Fatal("no hints")
		}
		k.reads("nothing changed")
		k.reads("and again")
		if s := k.last.Stats; s.Stored > 4000 || s.Read != 0 || s.New != 0 || s.Files != 28 || s.Bytes == 0 {
			t.Errorf("an unchanged tree: %+v", s)
		}

		// What changed, what is new and what is gone, in the beginning, the middle and at the end.
		k.write("0", []byte("new"))
		k.write("a/07", crashRandom(500, 20<<10))
		k.write("b-05/file", []byte("shorter"))
		k.write("b-05/more", []byte("more"))
		k.write("zz", []byte("new"))
		crashMust(t, os.Remove(filepath.Join(k.root, "a/03")))
		crashMust(t, os.RemoveAll(filepath.Join(k.root, "b-07")))
		k.reads("some changed", "0", "a/07", "b-05/file", "b-05/more", "zz")
		k.reads("and then nothing")

		// A renamed file or folder has other paths.
		crashMust(t, os.Rename(filepath.Join(k.root, "b-05"), filepath.Join(k.root, "m")))
		k.reads("a renamed folder", "m/file", "m/more")
		k.reads("and then nothing")

		// An owner without a cache has the tree; what it stores has no hints, and the writer reads once.
		crashMust(t, os.WriteFile(filepath.Join(k.root, "zz"), []byte("newer"), 0o644))
		writer := k.by
		k.by = k.as(crypt.Owner, "")
		k.reads("an owner", "zz")
		if repo.HasHints(k.last) {
			t.Error("an owner stored hints")
		}
		k.by = k.as(crypt.Writer, t.TempDir())
		k.backup()
		if repo.HasHints(k.last) {
			t.Error("a writer with a cache stored hints")
		}
		k.by = writer
		k.reads("no hints", k.all()...)
		k.reads("hints again")
		crashSound(t, k.r, true)
	})
}

func TestHintsRacy(t *testing.T) {
	eachToken(t, 1<<40, func(t *testing.T, k *tokenRig) {
		k.by = k.as(crypt.Writer, "")
		k.plant()
		k.reads("the first", k.all()...)
		k.reads("files that are too young", k.all()...)
		if repo.HasHints(k.last) {
			t.Error("hints of files without tokens")
		}
	})
}

// More files come or go in one place than a window has.
func TestHintsWindow(t *testing.T) {
	k := hintRig(t)
	repo.SetHintFiles(t, 40)
	for i := range 1200 {
		k.write(fmt.Sprintf("f-%04d", i), fmt.Appendf(nil, "%d", i))
	}
	k.backup()
	k.reads("unchanged")
	var fresh []string
	for i := range 500 {
		fresh = append(fresh, fmt.Sprintf("f-0300-%04d", i))
		k.write(fresh[i], []byte(fresh[i]))
	}
	k.reads("new ones", fresh...)
	k.reads("unchanged")
	for i := 200; i < 900; i++ {
		crashMust(t, os.Remove(filepath.Join(k.root, fmt.Sprintf("f-%04d", i))))
	}
	for _, f := range fresh {
		crashMust(t, os.Remove(filepath.Join(k.root, f)))
	}
	if got := k.backup(); len(got) > 120 {
		t.Errorf("after 1200 of 1700 files were gone, it read %d of 500", len(got))
	}
	k.reads("unchanged")
	// Each second one is gone, each third one has a new one beside it.
	fresh = nil
	for i := 0; i < 1200; i += 2 {
		os.Remove(filepath.Join(k.root, fmt.Sprintf("f-%04d", i)))
		if i%3 == 0 {
			fresh = append(fresh, fmt.Sprintf("f-%04d-x", i))
			k.write(fresh[len(fresh)-1], []byte("x"))
		}
	}
	k.reads("scattered", fresh...)
}

// A large file has more pieces than a part of the list, and is found through them.
func TestHintsLarge(t *testing.T) {

	k := hintRig(t)
	k.write("a", []byte("a"))
	k.write("large", crashRandom(5, 40<<20))
	k.write("z", []byte("z"))
	k.backup()
	k.reads("unchanged")
	k.write("z", []byte("zz"))
	k.reads("beside it", "z")
}

// What a token answers for is there again, and nobody without path and token can read it.
func TestHintsExtras(t *testing.T) {
	repo.SetTimes(t, repo.Times{Racy: trusted})
	root := t.TempDir()
	crashMust(t, os.WriteFile(filepath.Join(root, "secret-name"), []byte("content of the file"), 0o644))
	src := &tokenXattrs{crashFS: crashFS{FS: os.DirFS(root)}}
	k := &tokenRig{t: t, root: root, store: mem.New(nil), src: src}
	k.r, k.key = crashRepo(t, k.store, nil)
	k.by = k.as(crypt.Writer, "")
	k.reads("the first", "secret-name")
	k.reads("the second")
	fsys, err := k.r.FS(t.Context(), k.last)
	crashMust(t, err)
	info, err := fs.Stat(fsys, "secret-name")
	crashMust(t, err)
	if x := info.Sys().(*repo.Attr).Xattrs; string(x["user.name"]) != "secret-name" {
		t.Errorf("attributes of a file that was not read: %q", x)
	}
	hintsTellNothing(t, k)
}

// hintsTellNothing looks for names, contents and attributes in all that a writer can read of hints.
func hintsTellNothing(t *testing.T, k *tokenRig) {
	t.Helper()
	blobs, _, err := repo.HintBlobs(t.Context(), k.by)
	crashMust(t, err)
	if len(blobs) == 0 {
		t.Fatal("a writer reads no hints")
	}
	var words [][]byte
	for path := range crashDigest(t, os.DirFS(k.root)) {
		words = append(words, []byte(path), []byte(filepath.Base(path)))
		data, err := os.ReadFile(filepath.Join(k.root, path))
		crashMust(t, err)
		if len(data) > 8 {
			words = append(words, data[:8])
		}
	}
	words = append(words, []byte("user.name"))
	for _, b := range blobs {
		for _, w := range words {
			if len(w) > 4 && bytes.Contains(b, w) {
				t.Errorf("hints tell %q", w)
			}
		}
	}
}

func TestHintsTellNothing(t *testing.T) {
	k := hintRig(t)
	k.plant()
	k.write("customers/Ada Lovelace.txt", crashText(1, 5000))
	k.backup()
	hintsTellNothing(t, k)
	// Nothing of them is readable without a key, and trees and contents stay closed.
	for _, name := range dmgNames(t, k.store, "packs/") {
		if bytes.Contains(dmgGet(t, k.store, name), []byte("Lovelace")) {
			t.Error("a name in a pack")
		}
	}
	if _, err := k.by.FS(t.Context(), k.last); err == nil {
		t.Error("a writer reads a tree")
	}
}

// Whatever somebody made of the hints: it costs time, never a file.
func TestHintsForged(t *testing.T) {
	k := hintRig(t)
	k.plant()
	k.backup()
	good, like := k.hints(), k.last
	join := bytes.Join(good, nil)
	id := bytes.Repeat([]byte{9}, 32)
	for what, forge := range map[string]struct {
		chunks [][]byte
		edit   func([]tree.Piece) []tree.Piece
		reads  []string // nil: all
	}{
		"the same":         {chunks: good, reads: []string{}},
		"cut otherwise":    {chunks: [][]byte{join}, reads: []string{}},
		"cut in a part":    {chunks: [][]byte{join[:10], join[10:]}},
		"a part that ends": {chunks: [][]byte{join[:len(join)-1]}, reads: []string{"link"}},
		"junk":             {chunks: [][]byte{crashRandom(3, 5000)}},
		"zeros":            {chunks: [][]byte{make([]byte, 5000)}},
		"twice":            {chunks: append(slices.Clone(good), good...), reads: []string{}},
		"a hole": {chunks: good, edit: func(l []tree.Piece) []tree.Piece {
			return append([]tree.Piece{{Length: 1 << 40}}, l...)
		}},
		"a chunk that is not there": {chunks: good, edit: func(l []tree.Piece) []tree.Piece {
			return append([]tree.Piece{{Length: 10, ID: id}}, l...)
		}},
		"a wrong length": {chunks: good, edit: func(l []tree.Piece) []tree.Piece {
			l[0].Length++
			return l
		}},
	} {
		t.Run(what, func(t *testing.T) {
			var log bytes.Buffer
			w := *k
			w.t = t
			if _, err := repo.ForgeHints(t.Context(), k.by, like, forge.chunks, forge.edit); err != nil {
				t.Fatal(err)
			}
			key, err := crypt.NewKey()
			crashMust(t, err)
			_, err = k.r.AddSlot(t.Context(), crypt.Writer, key, "")
			crashMust(t, err)
			w.by = crashOpen(t, k.store, key, &repo.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			want := forge.reads
			if want == nil {
				want = k.all()
			}
			w.reads(what, want...)
			if warned := strings.Contains(log.String(), "hints"); warned != (len(want) > 0) {
				t.Errorf("the log says %q", log.String())
			}
		})
	}

	// Chunks of a file that the repository has not are no chunks: the file is read.
	other := bytes.Clone(join)
	other[hintFirstID(other)+3] ^= 1
	_, err := repo.ForgeHints(t.Context(), k.by, like, [][]byte{other}, nil)
	crashMust(t, err)
	k.reads("a chunk of content that is not there", "a/00")
	rep, err := k.r.Check(t.Context(), nil)
	crashMust(t, err)
	if !rep.Sound() {
		t.Errorf("%+v", rep.Findings)
	}
}

// hintFirstID returns where the id of the first piece of the first hint stands: behind two numbers.
func hintFirstID(b []byte) int {
	n := 0
	for range 2 {
		for b[n] >= 0x80 {
			n++
		}
		n++
	}
	return n
}

// Hints that are gone or rotten are no damage, keep no collection from its work, and a backup does without.
func TestHintsDamaged(t *testing.T) {
	for _, what := range []string{"gone", "rotten"} {
		t.Run(what, func(t *testing.T) {
			k := hintRig(t)
			k.plant()
			k.backup()
			like, good := k.last, k.hints()
			// In a pack of their own.
			_, before, err := repo.HintBlobs(t.Context(), k.by)
			crashMust(t, err)
			_, err = repo.ForgeHints(t.Context(), k.by, like, append(good, good[0]), nil)
			crashMust(t, err)
			_, after, err := repo.HintBlobs(t.Context(), k.by)
			crashMust(t, err)
			for name := range after {
				if before[name] {
					continue
				}
				data := dmgGet(t, k.store, name)
				crashMust(t, k.store.Delete(t.Context(), name))
				if what == "rotten" {
					data[5] ^= 1
					crashMust(t, backend.PutBytes(t.Context(), k.store, name, data, nil))
				}
			}
			for _, read := range []bool{false, true} {
				rep, err := k.as(crypt.Owner, "").Check(t.Context(), &repo.CheckOptions{ReadData: read})
				crashMust(t, err)
				if !rep.Sound() || len(rep.Findings) == 0 {
					t.Errorf("check: %+v", rep.Findings)
				}
			}
			repo.SetTimes(t, repo.Times{Margin: -1 << 40, Lag: 1})
			if _, err := k.as(crypt.Maintainer, "").Prune(t.Context(), &repo.PruneOptions{Exclusive: true}); err != nil {
				t.Errorf("prune: %v", err)
			}
			if got := k.backup(); len(got) == 0 {
				t.Error("it read nothing")
			}
			k.reads("unchanged")
			crashSound(t, k.as(crypt.Owner, ""), true)
		})
	}
}

// A collection keeps the hints of the newest snapshot and frees those of older ones.
func TestHintsPruned(t *testing.T) {
	for _, role := range []crypt.Role{crypt.Maintainer, crypt.Owner} {
		t.Run(role.String(), func(t *testing.T) {
			k := hintRig(t)
			repo.SetTimes(t, repo.Times{Margin: -1 << 40, Lag: 1})
			for i := range 700 {
				k.write(fmt.Sprintf("%02d/%04d", i%7, i), fmt.Appendf(nil, "%d", i))
			}
			k.backup()
			for day := range 3 {
				for i := range 700 {
					k.write(fmt.Sprintf("%02d/%04d", i%7, i), fmt.Appendf(nil, "%d of day %d", i, day))
				}
				k.backup()
			}
			live := len(bytes.Join(k.hints(), nil))
			if all := k.hintBytes(); all < 3*live {
				t.Fatalf("%d bytes of hints, of which %d are the newest", all, live)
			}
			_, err := k.as(role, "").Prune(t.Context(), &repo.PruneOptions{Exclusive: true})
			crashMust(t, err)
			if all := k.hintBytes(); all < live || all > 2*live {
				t.Errorf("%d bytes of hints are left, of which %d are the newest", all, live)
			}
			k.reads("unchanged")
			crashSound(t, k.r, true)
			// With the newest one forgotten, the next one has lost its hints, and that is all.
			crashMust(t, k.r.Forget(t.Context(), k.last.ID))
			k.backup()
			k.reads("unchanged")
			crashSound(t, k.r, true)
		})
	}
}

// What an unchanged tree of 10,000 files costs.
func TestHintsCost(t *testing.T) {
	k := hintRig(t)
	for i := range 10_000 {
		k.write(fmt.Sprintf("%03d/%05d", i%100, i), fmt.Appendf(nil, "%d", i))
	}
	k.backup()
	first, size := k.last.Stats.Stored, len(bytes.Join(k.hints(), nil))
	k.reads("unchanged")
	unchanged := k.last.Stats.Stored
	if unchanged > 4000 {
		t.Errorf("an unchanged tree stored %d bytes", unchanged)
	}
	before := k.hintBytes()
	k.write("050/05050", []byte("changed"))
	k.reads("one changed", "050/05050")
	t.Logf("hints of 10,000 files: %d bytes, of %d stored; then %d unchanged, %d with one changed, with %d bytes of hints", size, first, unchanged, k.last.Stats.Stored,
		k.hintBytes()-before)
	if k.last.Stats.Stored > 60_000 {
		t.Errorf("one changed file stored %d bytes", k.last.Stats.Stored)
	}
}
