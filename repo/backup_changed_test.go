package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

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
