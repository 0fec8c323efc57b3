package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// copyKinds are the kinds of objects that Replicate copies.
var copyKinds = []string{"config/", "keys/", "packs/", "forgotten/", "gc/", "index/", "snapshots/"}

// copyObjects returns all objects but the markers of sessions.
func copyObjects(t testing.TB, b backend.Backend) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range dmgNames(t, b, "") {
		if !strings.HasPrefix(name, "sessions/") {
			all[name] = string(dmgGet(t, b, name))
		}
	}
	return all
}

// copySame demands that two stores hold the same objects, but for those of except.
func copySame(t testing.TB, got, want backend.Backend, except ...string) {
	t.Helper()
	g, w := copyObjects(t, got), copyObjects(t, want)
	for name, object := range w {
		if slices.Contains(except, name) {
			continue
		}
		if other, ok := g[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if other != object {
			t.Errorf("%s is different", name)
		}
	}
	for name := range g {
		if _, ok := w[name]; !ok || slices.Contains(except, name) {
			t.Errorf("%s is there", name)
		}
	}
}

// copyEnded demands that every session at the store is over.
func copyEnded(t testing.TB, b backend.Backend) (sessions int) {
	t.Helper()
	names := dmgNames(t, b, "sessions/")
	for _, name := range names {
		if strings.Contains(strings.TrimPrefix(name, "sessions/"), ".") || strings.HasPrefix(name, "sessions/probe-") {
			continue
		}
		sessions++
		if !slices.Contains(names, name+".end") {
			t.Errorf("%s has no end", name)
		}
		if err := crypt.Verify(name, dmgGet(t, b, name)); err != nil {
			t.Error(err)
		}
	}
	return sessions
}

func copyStores(t *testing.T, f func(t *testing.T, store func() backend.Backend)) {
	t.Run("mem", func(t *testing.T) { f(t, func() backend.Backend { return mem.New(nil) }) })
	t.Run("dir", func(t *testing.T) {
		f(t, func() backend.Backend { return dmgMust(dir.Create(t.TempDir()))(t) })
	})
}

func copyDamage(t testing.TB, err error) *repo.DamageError {
	t.Helper()
	d, ok := errors.AsType[*repo.DamageError](err)
	if !ok {
		t.Fatalf("no damage: %v", err)
	}
	return d
}

// copyReads reads all of a snapshot and compares.
func copyReads(t testing.TB, r *repo.Repo, s *repo.Snapshot, want dmgTree) {
	t.Helper()
	fsys := dmgMust(r.FS(context.Background(), s))(t)
	for path, data := range want {
		if got, err := fs.ReadFile(fsys, path); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s:%s: %v", s.ID, path, err)
		}
	}
}

// copyWays are ways to destroy an object.
var copyWays = []struct {
	name string
	hurt func([]byte) []byte
}{
	{"flipped", func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }},
	{"cut", func(b []byte) []byte { return b[:len(b)-1] }},
	{"emptied", func([]byte) []byte { return nil }},
}
