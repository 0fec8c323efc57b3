//go:build linux

package repo_test

import (
	"context"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// openCount counts what is opened.
type openCount struct {
	*source.Tree
	opened atomic.Int64
}

func (c *openCount) Open(name string) (fs.File, error) {
	c.opened.Add(1)
	return c.Tree.Open(name)
}

func (c *openCount) Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error] {
	return c.Tree.Entries(ctx, dir)
}

// The Go distribution comes back as it was; backed up again, nothing is opened and next to nothing stored. By default that is some of it.
func TestGOROOT(t *testing.T) {
	ctx := context.Background()
	in, err := filepath.EvalSymlinks(filepath.Join(treeGoroot(t), "src/crypto"))
	treeMust(t, err)
	if os.Getenv("VARVE_TEST_LONG") != "" {
		in = treeGoroot(t)
	}
	tmp := t.TempDir()
	r, _ := treeRepo(t, &repo.Options{Cache: tmp + "/cache"})
	src := &openCount{Tree: treeDir(t, in)}
	defer src.Close()
	s := treeBackup(t, r, src)
	if src.opened.Load() != s.Stats.Files {
		t.Errorf("%d of %d files were opened", src.opened.Load(), s.Stats.Files)
	}
	src.opened.Store(0)
	s2 := treeBackup(t, r, src)
	if n := src.opened.Load(); n > 0 || s2.Stats.Stored >= 100_000 || s2.Stats.Read != 0 || s2.Stats.Files != s.Stats.Files || s2.Stats.Bytes != s.Stats.Bytes {
		t.Errorf("again: %d opened, %+v", n, s2.Stats)
	}
	if d := treeDiffs(t, r, s, s2); len(d) > 0 {
		t.Error(d)
	}
	out := tmp + "/out"
	rep, err := r.Restore(ctx, s2, out, &repo.RestoreOptions{Verify: true})
	treeMust(t, err)
	treeSame(t, in, out, treeExcept{})
	if msg, err := exec.Command("diff", "-r", "--no-dereference", in, out).CombinedOutput(); err != nil {
		t.Errorf("%v: %.1000s", err, msg)
	}
	t.Logf("%+v, again %+v, restored %+v", s.Stats, s2.Stats, rep)
}
