package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

const day = 24 * time.Hour

// lockKinds are the prefixes of what is locked.
var lockKinds = []string{"config/", "keys/", "packs/", "index/", "snapshots/"}

func lockedKind(name string) bool {
	for _, p := range lockKinds {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// lockRepo makes a repository that locks for 30 days, in a store that keeps versions.
func lockRepo(t *testing.T) *dmgRepo {
	t.Helper()
	b := mem.New(&mem.Options{Versions: true})
	key := dmgMust(crypt.NewKey())(t)
	if _, _, err := repo.Create(t.Context(), b, key, &repo.Options{Lock: repo.Lock{Mode: backend.Compliance, Period: 30 * day}}); err != nil {
		t.Fatal(err)
	}
	return &dmgRepo{b: b, key: key, keys: dmgKeys(t, b, key), want: map[string]dmgTree{}, gone: map[string]bool{}}
}

func until(t *testing.T, b backend.Backend, name string) time.Duration {
	t.Helper()
	r := dmgMust(backend.RetentionOf(t.Context(), b, name, ""))(t)
	if r.IsZero() {
		return 0
	}
	return time.Until(r.Until).Round(time.Hour)
}

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		d := lockRepo(t)
		first := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 50<<10)})
		second := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 50<<10)})
		names := dmgNames(t, d.b, "")
		for _, name := range names {
			want := time.Duration(0)
			if lockedKind(name) {
				want = 30 * day
				if err := d.b.Delete(ctx, name); !errors.Is(err, backend.ErrRetained) {
					t.Errorf("delete %s: %v", name, err)
				}
			}
			if got := until(t, d.b, name); got != want {
				t.Errorf("%s is locked for %v, want %v", name, got, want)
			}
		}
		rep := d.check(t, nil)
		if l := rep.Lock; !rep.Sound() || l == nil || l.Unlocked != 0 || time.Until(l.Until).Round(time.Hour) != 30*day || l.Objects < 6 {
			t.Errorf("check: %+v", l)
		}

		extend := func(o *repo.ExtendOptions, due, bare int, left time.Duration) {
			t.Helper()
			rep := dmgMust(d.open(t).ExtendLocks(ctx, o))(t)
			if rep.Due != due || rep.Unlocked != bare || time.Until(rep.Until).Round(time.Hour) != left {
				t.Errorf("extend: %+v; want %d due, %d without, %v left (is %v)", rep, due, bare, left, time.Until(rep.Until))
			}
		}
		time.Sleep(14 * day)
		extend(nil, 0, 0, 16*day)

		// What only a forgotten snapshot needs is left alone.
		d.seal(t, crypt.KindForgotten, "forgotten/"+first.ID, map[int]any{1: first.ID, 2: []int64{1_700_000_000, 0}})
		d.gone[first.ID] = true
		time.Sleep(2 * day)
		third := d.backup(t, "shop", dmgTree{"c": dmgRand(3, 50<<10)})
		old := 0 // of the second snapshot, and what stands for all
		for _, name := range names {
			if lockedKind(name) && !strings.HasPrefix(name, "packs/") && !strings.HasSuffix(name, first.ID) {
				old++
			}
		}
		dry := dmgMust(d.open(t).ExtendLocks(ctx, &repo.ExtendOptions{DryRun: true}))(t)
		if dry.Due != old+1 { // and its pack
			t.Errorf("due: %+v, want %d", dry, old+1)
		}
		extend(nil, dry.Due, 0, 30*day)
		extend(nil, 0, 0, 30*day)
		expired := 0
		for _, name := range dmgNames(t, d.b, "") {
			if got := until(t, d.b, name); lockedKind(name) && got != 30*day {
				if got != 14*day {
					t.Errorf("%s is locked for %v", name, got)
				}
				expired++
			}
		}
		if expired != 2 { // the manifest and the pack of the first
			t.Errorf("%d objects were not extended", expired)
		}

		// Somebody puts junk above, and deletes: the right version is kept all the same.
		for _, name := range dmgNames(t, d.b, "packs/") {
			dmgPut(t, d.b, name, []byte("junk"))
		}
		hidden := dmgSnapshotName(third.ID)
		if err := d.b.Delete(ctx, hidden); !errors.Is(err, backend.ErrRetained) {
			t.Error(err)
		}
		time.Sleep(20 * day)
		if rep := dmgMust(d.open(t).ExtendLocks(ctx, nil))(t); rep.Due == 0 || rep.Unlocked != 2 {
			t.Errorf("extend: %+v", rep)
		}
		time.Sleep(20 * day)
		want := d.want
		d.want = map[string]dmgTree{second.ID: want[second.ID], third.ID: want[third.ID]}
		d.everything(t, d.open(t))
	})
}

func TestSetLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		d := dmgNew(t, mem.New(&mem.Options{Versions: true}))
		s := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 50<<10)})
		r := d.open(t)
		if rep := d.check(t, nil); rep.Lock != nil {
			t.Errorf("a lock: %+v", rep.Lock)
		}
		if _, err := r.ExtendLocks(ctx, nil); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("extend without a lock: %v", err)
		}
		for _, bad := range []repo.Lock{{Mode: backend.Governance}, {Mode: "forever", Period: day}, {Period: day}, {Mode: backend.Compliance, Period: time.Second / 2}, {Mode: backend.Compliance, Period: -day}, {Mode: backend.Compliance, Period: 200 * 366 * day}} {
			if err := r.SetLock(ctx, bad); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		week := repo.Lock{Mode: backend.Governance, Period: 7 * day}
		if err := r.SetLock(ctx, week); err != nil || r.Lock() != week || d.open(t).Lock() != week {
			t.Fatalf("%v: %v, %v", err, r.Lock(), d.open(t).Lock())
		}
		if rep := d.check(t, nil); rep.Lock == nil || rep.Lock.Unlocked == 0 || !rep.Lock.Until.IsZero() {
			t.Errorf("check: %+v", rep.Lock)
		}
		rep := dmgMust(r.ExtendLocks(ctx, nil))(t)
		if rep.Due != rep.Objects-1 || rep.Unlocked != rep.Due { // the new config has its lock
			t.Errorf("extend: %+v", rep)
		}
		if rep := d.check(t, nil); rep.Lock.Unlocked != 0 {
			t.Errorf("check: %+v", rep.Lock)
		}
		// Another mode: what can be ended early is due.
		strict := repo.Lock{Mode: backend.Compliance, Period: 7 * day}
		if err := r.SetLock(ctx, strict); err != nil {
			t.Fatal(err)
		}
		if rep := dmgMust(r.ExtendLocks(ctx, nil))(t); rep.Due != rep.Objects-1 || rep.Unlocked != 0 {
			t.Errorf("extend: %+v", rep)
		}
		name := dmgSnapshotName(s.ID)
		if err := backend.Shorten(ctx, d.b, name, "", backend.Retention{}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("shorten: %v", err)
		}
		if err := r.SetLock(ctx, repo.Lock{}); err != nil || (d.open(t).Lock() != repo.Lock{}) {
			t.Fatal(err)
		}
		d.backup(t, "shop", dmgTree{"b": dmgRand(2, 5<<10)})
		d.everything(t, d.open(t))
		if names := dmgNames(t, d.b, "config/"); len(names) != 4 {
			t.Errorf("%q", names)
		}

		writer := dmgMust(crypt.NewKey())(t)
		dmgMust(r.AddSlot(ctx, crypt.Writer, writer, "w"))(t)
		w := dmgMust(repo.Open(ctx, d.b, writer, nil))(t)
		if err := w.SetLock(ctx, week); !errors.Is(err, repo.ErrRole) {
			t.Errorf("a writer sets the lock: %v", err)
		}
		if _, err := w.ExtendLocks(ctx, nil); !errors.Is(err, repo.ErrRole) {
			t.Errorf("a writer extends locks: %v", err)
		}
	})
}

func TestLockUnsupported(t *testing.T) {
	ctx := t.Context()
	b := mem.New(nil)
	key := dmgMust(crypt.NewKey())(t)
	week := repo.Lock{Mode: backend.Governance, Period: 7 * day}
	if _, _, err := repo.Create(ctx, b, key, &repo.Options{Lock: week}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("create: %v", err)
	}
	if names := dmgNames(t, b, ""); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
	d := dmgNew(t, b)
	r := d.open(t)
	if err := r.SetLock(ctx, week); !errors.Is(err, errors.ErrUnsupported) || (r.Lock() != repo.Lock{}) || (d.open(t).Lock() != repo.Lock{}) {
		t.Errorf("set: %v", err)
	}

	// A copy of what is locked elsewhere: it can be read, and written to when that is given up.
	v := lockRepo(t)
	v.backup(t, "shop", dmgTree{"a": []byte("a")})
	c := v.copy(t, mem.New(nil))
	c.everything(t, c.open(t))
	if _, err := c.open(t).Backup(ctx, "shop", dmgTree{"b": []byte("b")}.fs(), nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("back up: %v", err)
	}
	if err := c.open(t).SetLock(ctx, repo.Lock{}); err != nil {
		t.Error(err)
	}
	c.backup(t, "shop", dmgTree{"b": []byte("b")})
	c.everything(t, c.open(t))
}

// A copy of what is locked elsewhere can be checked where there are no locks: nothing is locked there.
func TestCheckUnlockedCopy(t *testing.T) {
	v := lockRepo(t)
	v.backup(t, "shop", dmgTree{"a": []byte("a")})
	c := v.copy(t, mem.New(nil))
	rep := c.check(t, nil)
	if l := rep.Lock; !rep.Sound() || l == nil || l.Objects < 6 || l.Unlocked != l.Objects || !l.Until.IsZero() || l.First == "" {
		t.Errorf("%+v", l)
	}
}

// A store may lock whatever is put, also what Create tries it with.
func TestCreateWhereAllIsLocked(t *testing.T) {
	ctx := t.Context()
	f := &backendtest.Faulty{Backend: mem.New(nil), Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Delete {
			return fmt.Errorf("delete %s: %w", name, backend.ErrRetained)
		}
		return nil
	}}
	key := dmgMust(crypt.NewKey())(t)
	if _, _, err := repo.Create(ctx, f, key, nil); err != nil {
		t.Fatal(err)
	}
	r := dmgMust(repo.Open(ctx, f, key, nil))(t)
	dmgMust(r.Backup(ctx, "shop", dmgTree{"a": []byte("a")}.fs(), nil))(t)
	if rep := dmgMust(r.Check(ctx, nil))(t); len(rep.Findings) > 0 {
		t.Errorf("%v", dmgFindings(rep))
	}
}

// Junk under the name of a config takes no number away from maintenance.
func TestSetLockBesideJunk(t *testing.T) {
	ctx := t.Context()
	v := lockRepo(t)
	for _, n := range []string{"2", "9223372036854775807"} {
		dmgPut(t, v.b, "config/"+n, crypt.AppendHash([]byte("junk")))
	}
	want := repo.Lock{Mode: backend.Compliance, Period: 60 * day}
	if err := v.open(t).SetLock(ctx, want); err != nil {
		t.Fatal(err)
	}
	if l := v.open(t).Lock(); l != want {
		t.Errorf("%v", l)
	}
}
