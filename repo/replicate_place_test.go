package repo_test

import (
	"context"
	"errors"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// What is something else stays as it is.
func TestReplicateElsewhere(t *testing.T) {
	d := dmgFixture(t)
	other := dmgNew(t, mem.New(nil))
	put := func(names ...string) backend.Backend {
		b := mem.New(nil)
		for _, name := range names {
			dmgPut(t, b, name, []byte("x"))
		}
		return b
	}
	without := func(from *dmgRepo, prefixes ...string) backend.Backend {
		b := from.copy(t, mem.New(nil)).b
		for _, p := range prefixes {
			for _, name := range dmgNames(t, b, p) {
				dmgDelete(t, b, name)
			}
		}
		return b
	}
	broken := without(other)
	dmgPut(t, broken, "config/1", []byte("x"))
	otherSlots := mem.New(nil)
	for _, name := range dmgNames(t, other.b, "keys/") {
		dmgPut(t, otherSlots, name, dmgGet(t, other.b, name))
	}
	marked := put("sessions/20200101T000000000Z-0123456789abcdef-0123456789abcdef", "sessions/probe-00")
	tests := []struct {
		name            string
		dst, src        backend.Backend
		replicate, heal error
	}{
		{"empty source", mem.New(nil), mem.New(nil), repo.ErrNoRepository, repo.ErrNoRepository},
		{"alien source", mem.New(nil), put("readme.txt"), repo.ErrNoRepository, repo.ErrNoRepository},
		{"unfinished source", mem.New(nil), otherSlots, repo.ErrNoRepository, repo.ErrNoRepository},
		{"empty", mem.New(nil), d.b, nil, repo.ErrNoRepository},
		{"markers", marked, d.b, nil, repo.ErrNoRepository},
		{"alien", put("readme.txt"), d.b, repo.ErrExists, repo.ErrNoRepository},
		{"alien config", put("config/app.yml"), d.b, repo.ErrExists, repo.ErrNoRepository},
		{"alien pack", put("packs/readme"), d.b, repo.ErrExists, repo.ErrNoRepository},
		{"another", other.copy(t, mem.New(nil)).b, d.b, repo.ErrExists, repo.ErrExists},
		{"another without config", without(other, "config/"), d.b, nil, repo.ErrExists},
		{"another's config broken", broken, d.b, repo.ErrExists, repo.ErrExists},
		{"neither has a config", without(d, "config/"), without(d, "config/", "index/"), nil, nil},
		{"no config, no slots", without(d, "config/", "keys/"), d.b, nil, nil},
		{"only packs", without(d, "config/", "keys/", "index/", "snapshots/", "gc/", "forgotten/"), d.b, nil, nil},
		{"only slots", without(d, "config/", "packs/", "index/", "snapshots/", "gc/", "forgotten/"), d.b, nil, nil},
		{"only forgotten", without(d, "config/", "keys/", "packs/", "index/", "snapshots/", "gc/"), d.b, nil, nil},
		{"only records of collections", without(d, "config/", "keys/", "packs/", "index/", "snapshots/", "forgotten/"), d.b, repo.ErrExists, repo.ErrExists},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for i, f := range []func(context.Context, backend.Backend, backend.Backend, *repo.CopyOptions) (*repo.CopyReport, error){repo.Replicate, repo.Heal} {
				want := []error{test.replicate, test.heal}[i]
				dst := crashCopy(t, test.dst)
				rep, err := f(t.Context(), dst, test.src, nil)
				if want == nil && err != nil || !errors.Is(err, want) || rep == nil {
					t.Errorf("%d: %v, want %v", i, err, want)
				}
				if want != nil {
					copySame(t, dst, test.dst)
					if len(dmgNames(t, dst, "sessions/")) != len(dmgNames(t, test.dst, "sessions/")) {
						t.Error("there is a marker")
					}
				}
			}
		})
	}
}

// Of two that claim an empty place for different repositories, one wins and the other one leaves it alone.
func TestReplicateClaim(t *testing.T) {
	d, other := dmgFixture(t), dmgNew(t, mem.New(nil))
	dst := mem.New(nil)
	race := &backendtest.Faulty{Backend: dst, Before: func(ctx context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Put && name == "config/1" {
			_, err := repo.Replicate(ctx, dst, other.b, nil)
			return err
		}
		return nil
	}}
	if _, err := repo.Replicate(t.Context(), race, d.b, nil); !errors.Is(err, repo.ErrExists) {
		t.Error(err)
	}
	copySame(t, dst, other.b)
}
