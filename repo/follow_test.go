package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// listed reads all that is listed in a store and returns how many snapshots these are.
func (d *dmgRepo) listed(t testing.TB, b backend.Backend) (n int) {
	t.Helper()
	r := dmgMust(repo.Open(t.Context(), b, d.key, nil))(t)
	for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		fsys := dmgMust(r.FS(t.Context(), s))(t)
		for path, want := range d.want[s.ID] {
			if got, err := fs.ReadFile(fsys, path); err != nil || string(got) != string(want) {
				t.Errorf("%s:%s: %d bytes, %v", s.ID, path, len(got), err)
			}
		}
	}
	return n
}

func (d *dmgRepo) follow(t testing.TB, replica backend.Backend, o repo.PruneOptions) (*repo.PruneReport, error) {
	t.Helper()
	o.Follow = d.b
	return dmgMust(repo.Open(t.Context(), replica, d.key, nil))(t).Prune(t.Context(), &o)
}

// night is one night of a shop at its source: a backup, retention, a prune.
func (d *dmgRepo) night(t testing.TB, n int) {
	t.Helper()
	big := dmgRand(1, 256<<10)
	for k := range n {
		copy(big[(k*37)%16*16<<10:], dmgRand(byte(k), 12<<10)) // what changed since the first
	}
	d.backup(t, "shop", dmgTree{"db.sql": big, fmt.Sprintf("new/%d", n): dmgRand(byte(n+100), 30<<10)})
	r := d.open(t)
	ids := dmgMust(r.Plan(t.Context(), "", repo.Keep{Daily: 4, Weekly: 2}))(t).Forget()
	if err := r.Forget(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	dmgMust(r.Prune(t.Context(), nil))(t)
}

// A replica is filled and follows in turns, for weeks: all that it lists can be restored after each step, and what the source freed goes.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, to := dmgNew(t, mem.New(nil)), mem.New(nil)
		mkey := dmgMust(crypt.NewKey())(t)
		dmgMust(d.open(t).AddSlot(t.Context(), crypt.Maintainer, mkey, "m"))(t)
		maintain := func(o *repo.PruneOptions) *repo.PruneReport {
			t.Helper()
			o.Follow, o.FollowAfter = d.b, 5*day
			return dmgMust(dmgMust(repo.Open(t.Context(), to, mkey, nil))(t).Prune(t.Context(), o))(t)
		}
		var freed, removed, segments int
		nights := 36
		if raceEnabled {
			nights = 16
		}
		for n := range nights {
			d.night(t, n)
			if n%3 == 0 {
				time.Sleep(time.Hour)
				dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
				d.listed(t, to)
			}
			if n%2 == 0 {
				dry := maintain(&repo.PruneOptions{DryRun: true})
				rep := maintain(&repo.PruneOptions{})
				if rep.Freed != dry.Condemned || rep.FreedBytes != dry.CondemnedBytes || rep.Spared > 0 || len(rep.Waiting)+len(rep.Voided) > 0 {
					t.Errorf("night %d: %+v, dry %+v", n, rep, dry)
				}
				if n < 15 && rep.Freed+rep.Snapshots > 0 {
					t.Errorf("night %d: %+v", n, rep)
				}
				freed, removed, segments = freed+rep.Freed, removed+rep.Snapshots, segments+rep.SegmentsGone
				if d.listed(t, to) == 0 {
					t.Error("nothing is listed")
				}
			}
			time.Sleep(day)
		}
		for range 20 {
			dmgMust(d.open(t).Prune(t.Context(), nil))(t)
			time.Sleep(day)
		}
		dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
		time.Sleep(11 * day)
		dmgMust(d.open(t).Prune(t.Context(), nil))(t) // without anything new at the source its time stands still
		rep := maintain(&repo.PruneOptions{})
		freed, removed, segments = freed+rep.Freed, removed+rep.Snapshots, segments+rep.SegmentsGone
		n := d.listed(t, to)
		e := &dmgRepo{b: to, key: d.key, keys: d.keys, want: d.want, gone: d.gone}
		e.sound(t)
		for _, prefix := range []string{"packs/", "snapshots/", "index/", "sessions/"} {
			is, want := len(dmgNames(t, to, prefix)), len(dmgNames(t, d.b, prefix))
			t.Logf("%s: %d objects, %d bytes at the replica, %d and %d at the source", prefix, is, e.size(t, prefix), want, d.size(t, prefix))
			if prefix != "index/" && is > want+4 {
				t.Errorf("%s: %d objects, %d at the source", prefix, is, want)
			}
		}
		t.Logf("%d snapshots; %d packs, %d snapshots, %d segments went", n, freed, removed, segments)
		if n != d.listed(t, d.b) || freed == 0 || removed == 0 || segments == 0 {
			t.Errorf("%d snapshots; %d packs, %d snapshots, %d segments went", n, freed, removed, segments)
		}
	})
}

// What vanishes at the source without the signature of maintenance stays at the replica.
func TestFollowThief(t *testing.T) {
	without := func(names []string) []string {
		return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "sessions/") })
	}
	for name, rob := range map[string]func(t *testing.T, d *dmgRepo, to backend.Backend) (refused bool){
		"everything is deleted": func(t *testing.T, d *dmgRepo, to backend.Backend) bool {
			for _, name := range dmgNames(t, d.b, "") {
				dmgDelete(t, d.b, name)
			}
			return true
		},
		"all but the config and the slots": func(t *testing.T, d *dmgRepo, to backend.Backend) bool {
			for _, name := range dmgNames(t, d.b, "") {
				if !strings.HasPrefix(name, "config/") && !strings.HasPrefix(name, "keys/") {
					dmgDelete(t, d.b, name)
				}
			}
			return false
		},
		"forged lists, also at the replica": func(t *testing.T, d *dmgRepo, to backend.Backend) bool {
			packs := dmgNames(t, d.b, "packs/")
			list, n := dmgList(9, packs...), 9
			for _, b := range []backend.Backend{d.b, to} {
				dmgPut(t, b, fmt.Sprint("gc/", n), dmgForge(t, d.keys, crypt.KindCandidates, "gc/9", dmgCBOR(t, list)))
				dmgPut(t, b, fmt.Sprint("gc/", n, ".free"), dmgForge(t, d.keys, crypt.KindVerdict, "gc/9.free", dmgCBOR(t, list)))
				dmgPut(t, b, fmt.Sprint("gc/", n, ".done"), dmgForge(t, d.keys, crypt.KindDone, "gc/9.done", dmgCBOR(t, map[int]any{1: 9})))
			}
			for _, s := range dmgNames(t, d.b, "snapshots/") {
				id := s[strings.LastIndexByte(s, '/')+1:]
				name := "forgotten/" + id
				for _, b := range []backend.Backend{d.b, to} {
					dmgPut(t, b, name, dmgForge(t, d.keys, crypt.KindForgotten, name, dmgCBOR(t, map[int]any{1: id})))
				}
				dmgDelete(t, d.b, s)
			}
			for _, name := range packs {
				dmgDelete(t, d.b, name)
			}
			return false
		},
		// Even with the signature: what a snapshot needs that is listed at the replica stays.
		"lists of a stolen maintainer's key": func(t *testing.T, d *dmgRepo, to backend.Backend) bool {
			packs := dmgNames(t, d.b, "packs/")
			for _, b := range []backend.Backend{d.b, to} {
				dmgSeal(t, b, d.keys, crypt.KindCandidates, "gc/1", dmgList(1, packs...))
				dmgSeal(t, b, d.keys, crypt.KindVerdict, "gc/1.free", dmgList(1, packs...))
				dmgSeal(t, b, d.keys, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
			}
			for _, name := range packs {
				dmgDelete(t, d.b, name)
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, to := dmgNew(t, mem.New(nil)), mem.New(nil)
				for n := range 3 {
					d.backup(t, "shop", dmgTree{"a": dmgRand(byte(n), 100<<10), "b": dmgRand(9, 10<<10)})
					time.Sleep(day)
				}
				dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
				refused := rob(t, d, to)
				before := without(dmgNames(t, to, ""))
				for range 3 {
					time.Sleep(30 * day)
					dmgPut(t, d.b, "sessions/"+dmgSession(d.keys, "shop", 7), []byte("a moment of the source's clock"))
					rep, err := d.follow(t, to, repo.PruneOptions{FollowAfter: day})
					if (err != nil) != refused || refused && !errors.Is(err, repo.ErrNoRepository) {
						t.Errorf("%+v, %v", rep, err)
					}
				}
				if after := without(dmgNames(t, to, "")); !slices.Equal(before, after) {
					t.Errorf("%q\n%q", before, after)
				}
				if n := d.listed(t, to); n != 3 {
					t.Errorf("%d snapshots", n)
				}
			})
		})
	}
}

// followed is a source that freed something, which is at its replica still.
func followed(t *testing.T) (d *dmgRepo, to *mem.Mem) {
	d, to = dmgNew(t, mem.New(nil)), mem.New(nil)
	d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
	gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
	dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
	d.forget(t, gone.ID)
	time.Sleep(10 * day)
	d.prune(t, nil)
	time.Sleep(2 * time.Hour)
	if rep := d.prune(t, nil); rep.Freed == 0 {
		t.Fatalf("%+v", rep)
	}
	dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
	return d, to
}

// The time counts that passed at both stores, and a month is the least unless told otherwise.
func TestFollowAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, to := followed(t)
		for n := range 33 {
			d.prune(t, nil)
			rep := dmgMust(d.follow(t, to, repo.PruneOptions{}))(t)
			if (rep.Freed > 0) != (n == 31) {
				t.Errorf("day %d: %+v", n, rep)
			}
			if n == 15 { // the replica loses its record, and gets it anew
				dmgDelete(t, to, "gc/1.done")
				dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
				if rep := dmgMust(d.follow(t, to, repo.PruneOptions{FollowAfter: time.Hour, DryRun: true}))(t); rep.Condemned != 0 {
					t.Errorf("%+v", rep)
				}
				time.Sleep(15 * day)
				d.prune(t, nil)
				if rep := dmgMust(d.follow(t, to, repo.PruneOptions{FollowAfter: 29 * day, DryRun: true}))(t); rep.Condemned != 0 {
					t.Errorf("%+v", rep)
				}
			}
			time.Sleep(day)
		}
		d.listed(t, to)
	})
}

func TestFollowRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, to := followed(t)
		other := dmgNew(t, mem.New(nil))
		time.Sleep(2 * day)
		d.prune(t, nil)
		for name, o := range map[string]repo.PruneOptions{
			"negative":           {Follow: d.b, FollowAfter: -1},
			"nobody is followed": {FollowAfter: day},
			"exclusive":          {Follow: d.b, Exclusive: true},
			"condemn":            {Follow: d.b, Condemn: []string{"gc/1"}},
		} {
			if _, err := dmgMust(repo.Open(t.Context(), to, d.key, nil))(t).Prune(t.Context(), &o); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		o := repo.PruneOptions{Follow: other.b, FollowAfter: time.Hour}
		if rep, err := dmgMust(repo.Open(t.Context(), to, d.key, nil))(t).Prune(t.Context(), &o); err == nil {
			t.Errorf("it follows another repository: %+v", rep)
		}
		// Something is missing at the replica: nothing is freed until it was healed.
		var lost string
		for _, name := range dmgNames(t, d.b, "packs/") {
			lost = name
			dmgDelete(t, to, name)
		}
		var de *repo.DamageError
		if rep, err := d.follow(t, to, repo.PruneOptions{FollowAfter: time.Hour}); !errors.As(err, &de) || rep.Freed > 0 {
			t.Errorf("without %s: %v, %+v", lost, err, rep)
		}
		dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
		// A backup runs at the replica that began before the verdict came: it is waited for, and when it is over its place is taken.
		session := dmgSession(d.keys, "shop", 3)
		dmgPut(t, to, "sessions/"+session, []byte("x"))
		dmgDelete(t, to, "gc/1.done")
		time.Sleep(time.Hour)
		dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
		time.Sleep(2 * time.Hour)
		d.prune(t, nil)
		rep := dmgMust(d.follow(t, to, repo.PruneOptions{FollowAfter: time.Hour}))(t)
		if len(rep.Waiting) != 1 || rep.Waiting[0].Session != session || rep.Freed > 0 {
			t.Errorf("%+v", rep)
		}
		time.Sleep(2 * day)
		d.prune(t, nil)
		rep = dmgMust(d.follow(t, to, repo.PruneOptions{FollowAfter: time.Hour}))(t)
		if len(rep.Voided) != 1 || rep.Voided[0] != session || rep.Freed == 0 {
			t.Errorf("%+v", rep)
		}
		d.listed(t, to)
	})
}

// A manifest that the source let go goes from the replica as well when it cannot be opened there.
func TestFollowRottenLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, to := dmgNew(t, mem.New(nil)), mem.New(nil)
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)})
		gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 30<<10)})
		dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
		d.forget(t, gone.ID)
		for range 12 {
			time.Sleep(day)
			d.prune(t, nil)
		}
		dmgMust(repo.Replicate(t.Context(), to, d.b, nil))(t)
		name := dmgSnapshotName(gone.ID)
		dmgPut(t, to, name, []byte("junk"))
		for range 3 {
			time.Sleep(20 * day)
			d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)}) // without anything new at the source its time stands still
			if rep, err := d.follow(t, to, repo.PruneOptions{}); err != nil {
				t.Errorf("%v (%+v)", err, rep)
			}
		}
		if slices.Contains(dmgNames(t, to, ""), name) {
			t.Error("what was let go is there still")
		}
	})
}
