package repo_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// Junk that is larger than any object is damage like other junk: it is read from elsewhere, and named by a check.
func TestHuge(t *testing.T) {
	d := dmgFixture(t)
	for _, prefix := range []string{"config/", "keys/", "packs/", "index/", ""} {
		t.Run(prefix, func(t *testing.T) {
			folder := t.TempDir()
			a := d.copy(t, dmgMust(dir.Create(folder))(t)).b
			grown := dmgNames(t, a, prefix)
			for _, name := range grown {
				path := filepath.Join(folder, filepath.FromSlash(name))
				if err := os.Chmod(path, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(path, backend.MaxSize+1); err != nil {
					t.Fatal(err)
				}
			}
			r := dmgMust(repo.Open(t.Context(), a, d.key, &repo.Options{Replicas: []backend.Backend{d.copy(t, mem.New(nil)).b}}))(t)
			d.everything(t, r)
			rep, err := r.Check(t.Context(), &repo.CheckOptions{ReadData: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range grown {
				if dmgFind(rep, name) == nil {
					t.Errorf("check does not find %s", name)
				}
			}
		})
	}
}

// A slot larger than any object keeps nobody out who has another one.
func TestHugeSlot(t *testing.T) {
	d := dmgFixture(t)
	folder := t.TempDir()
	c := d.copy(t, dmgMust(dir.Create(folder))(t))
	path := filepath.Join(folder, "keys", "00000000000000000000000000000000")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, backend.MaxSize+1); err != nil {
		t.Fatal(err)
	}
	c.everything(t, c.open(t))
}
