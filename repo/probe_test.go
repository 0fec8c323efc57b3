package repo_test

import (
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/doctor"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// What a doctor tried a store with, and could not remove, is no part of a repository.
func TestProbes(t *testing.T) {
	ctx := t.Context()
	b := mem.New(nil)
	probe := func(b backend.Backend) {
		t.Helper()
		rep, err := doctor.Run(ctx, backend.AppendOnly(b), nil)
		crashMust(t, err)
		if rep.Thief != doctor.Adds || len(rep.Left) < 8 {
			t.Fatalf("%s, left: %v", rep.Thief, rep.Left)
		}
	}
	probe(b)
	key, err := crypt.NewKey()
	crashMust(t, err)
	if _, err := repo.Open(ctx, b, key, nil); err == nil {
		t.Error("probes were taken for a repository")
	}
	r, _, err := repo.Create(ctx, b, key, nil)
	crashMust(t, err)
	defer r.Close()
	probe(b)
	src := fstest.MapFS{"a": {Data: []byte("hello")}}
	_, err = r.Backup(ctx, "shop", src, nil)
	crashMust(t, err)
	probe(b)
	again := crashOpen(t, b, key, nil)
	defer again.Close()
	s, err := again.Backup(ctx, "shop", src, nil)
	crashMust(t, err)
	check := func(r *repo.Repo) {
		t.Helper()
		rep, err := r.Check(ctx, &repo.CheckOptions{ReadData: true})
		crashMust(t, err)
		if len(rep.Findings) > 0 || rep.Snapshots != 2 {
			t.Errorf("%+v", rep)
		}
		slots, err := r.Slots(ctx)
		crashMust(t, err)
		if len(slots) != 2 {
			t.Errorf("%d slots", len(slots))
		}
	}
	check(again)

	dst := mem.New(nil)
	probe(dst)
	_, err = repo.Replicate(ctx, dst, b, nil)
	crashMust(t, err)
	probe(dst)
	_, err = repo.Replicate(ctx, dst, b, nil)
	crashMust(t, err)
	copied := crashOpen(t, dst, key, nil)
	defer copied.Close()
	check(copied)
	crashSame(t, "replica", crashSnapshotDigest(t, copied, s), crashDigest(t, src))
}

// A source whose newest version was overwritten gives its older one, also where the destination has it already.
func TestReplicateOverwritten(t *testing.T) {
	ctx := t.Context()
	b := mem.New(&mem.Options{Versions: true})
	key, err := crypt.NewKey()
	crashMust(t, err)
	r, _, err := repo.Create(ctx, b, key, nil)
	crashMust(t, err)
	defer r.Close()
	_, err = r.Backup(ctx, "shop", fstest.MapFS{"a": {Data: []byte("hello")}}, nil)
	crashMust(t, err)
	for _, name := range crashNames(t, b, "packs/") {
		crashMust(t, backend.PutBytes(ctx, b, name, []byte("robbed"), nil))
	}
	dst := mem.New(nil)
	for range 2 {
		rep, err := repo.Replicate(ctx, dst, b, nil)
		crashMust(t, err)
		if len(rep.Source) > 0 || len(rep.Destination) > 0 {
			t.Errorf("%+v", rep)
		}
	}
}
