package repo_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// The replies to a commit that get lost: what the store holds decides.
func TestCommitReplies(t *testing.T) {
	lost := errors.New("the connection was reset")
	for _, c := range []struct {
		what          string
		before, after bool // which is lost: the request, or the reply
		readback      error
		retry         bool
		ok            bool
	}{
		{what: "request lost", before: true},
		{what: "reply lost", after: true, ok: true},
		{what: "reply lost, and read back fails", after: true, readback: errors.New("still down")},
		{what: "reply lost, retried", after: true, retry: true, ok: true},
		{what: "request lost, retried", before: true, retry: true, ok: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := dmgNew(t, mem.New(nil))
			puts := 0
			manifest := func(name string) bool { return strings.HasPrefix(name, "snapshots/") }
			f := &backendtest.Faulty{Backend: d.b}
			f.Before = func(_ context.Context, op backendtest.Op, name string) error {
				if op == backendtest.Put && manifest(name) {
					if puts++; c.before && puts == 1 {
						return lost
					}
				}
				if op == backendtest.Get && manifest(name) && puts > 0 && c.readback != nil {
					return c.readback
				}
				return nil
			}
			f.After = func(_ context.Context, op backendtest.Op, name string, err error) error {
				if op == backendtest.Put && manifest(name) && c.after && puts == 1 {
					return lost
				}
				return err
			}
			var b backend.Backend = f
			if c.retry {
				b = backend.Retry(f, &backend.RetryOptions{Wait: time.Microsecond, MaxWait: time.Microsecond})
			}
			tree := dmgTree{"a": dmgRand(1, 2000)}
			s, err := dmgMust(repo.Open(t.Context(), b, d.key, nil))(t).Backup(t.Context(), "shop", tree.fs(), nil)
			if (err == nil) != c.ok || c.ok != (s != nil) || err != nil && !errors.Is(err, lost) {
				t.Fatalf("Backup: %v, %v", s, err)
			}
			there := dmgNames(t, d.b, "snapshots/")
			if c.ok {
				d.want[s.ID] = tree
				d.agrees(t, d.check(t, nil))
			} else if c.before && len(there) > 0 {
				t.Errorf("a failed backup left %v", there)
			} else if !c.before && !strings.Contains(err.Error(), "not known whether") {
				t.Errorf("Backup: %v", err)
			}
		})
	}
}

// Any put whose reply is lost, or that finds its own earlier try, is either a backup that succeeds or one that fails and leaves no snapshot.
func TestLostReplies(t *testing.T) {
	lost := errors.New("the connection was reset")
	tree := dmgTree{"a": dmgRand(1, 2000)}
	for n := 1; ; n++ {
		d := dmgNew(t, mem.New(nil))
		hit := false
		hook := backendtest.Nth(backendtest.Put, lost, n)
		f := &backendtest.Faulty{Backend: d.b, After: backendtest.Lost(func(ctx context.Context, op backendtest.Op, name string) error {
			err := hook(ctx, op, name)
			hit = hit || err != nil
			return err
		})}
		for _, b := range []backend.Backend{f, backend.Retry(f, &backend.RetryOptions{Wait: time.Microsecond})} {
			s, err := dmgMust(repo.Open(t.Context(), b, d.key, nil))(t).Backup(t.Context(), "shop", tree.fs(), nil)
			if err == nil {
				d.want[s.ID] = tree
			} else if s != nil || !errors.Is(err, lost) {
				t.Errorf("put %d: %v, %v", n, s, err)
			}
			rep := d.check(t, nil)
			if len(rep.Findings) > 0 || rep.Snapshots != len(d.want) {
				t.Errorf("put %d (%v): %d snapshots%s", n, err, rep.Snapshots, dmgFindings(rep))
			}
		}
		d.agrees(t, d.check(t, nil))
		if !hit {
			break
		}
	}
}
