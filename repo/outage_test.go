package repo_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// A store that does not answer is waited for once, and not for each object that is read.
func TestOutage(t *testing.T) {
	d := dmgFixture(t)
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		faulty := func(b backend.Backend) backend.Backend {
			return &backendtest.Faulty{Backend: b, Before: func(ctx context.Context, op backendtest.Op, name string) error {
				if down.Load() {
					time.Sleep(20 * time.Second)
					return errors.New("no route")
				}
				return nil
			}}
		}
		open := func(replicas ...backend.Backend) *repo.Repo {
			t.Helper()
			return dmgMust(repo.Open(t.Context(), replicas[0], d.key, &repo.Options{Replicas: replicas[1:]}))(t)
		}
		began := time.Now()
		took := func(what string) {
			t.Helper()
			if s := time.Since(began); s > 50*time.Second {
				t.Errorf("%s: %v", what, s)
			}
			time.Sleep(2 * time.Minute) // it is asked again then
			began = time.Now()
		}
		whole := func() backend.Backend { return d.copy(t, mem.New(nil)).b }

		down.Store(true)
		d.everything(t, open(whole(), faulty(whole())))
		took("a replica")
		hurt := whole()
		for _, name := range dmgNames(t, hurt, "packs/") {
			dmgDelete(t, hurt, name)
		}
		d.everything(t, open(hurt, faulty(whole()), whole()))
		took("the first of two replicas")

		down.Store(false)
		r := open(faulty(whole()), whole())
		var snaps []*repo.Snapshot
		for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			snaps = append(snaps, s)
			dmgMust(r.FS(t.Context(), s))(t)
		}
		down.Store(true)
		began = time.Now()
		for _, s := range snaps {
			if _, err := r.Restore(t.Context(), s, t.TempDir(), nil); err != nil {
				t.Error(err)
			}
		}
		took("the repository itself")
	})
}
