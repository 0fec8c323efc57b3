package repo_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

func (d *dmgRepo) prune(t testing.TB, o *repo.PruneOptions) *repo.PruneReport {
	t.Helper()
	rep, err := d.open(t).Prune(t.Context(), o)
	if err != nil {
		t.Fatalf("prune: %v (%+v)", err, rep)
	}
	return rep
}

func (d *dmgRepo) forget(t testing.TB, ids ...string) {
	t.Helper()
	if err := d.open(t).Forget(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		d.gone[id] = true
	}
}

// undoable returns how many snapshots are listed as forgotten.
func (d *dmgRepo) undoable(t testing.TB) (n int) {
	t.Helper()
	for _, err := range d.open(t).Snapshots(t.Context(), repo.Filter{Forgotten: true}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func (d *dmgRepo) sound(t testing.TB) {
	t.Helper()
	if rep := d.check(t, &repo.CheckOptions{ReadData: true}); !rep.Sound() {
		t.Errorf("check: %s", dmgFindings(rep))
	}
}

func (d *dmgRepo) size(t testing.TB, prefix string) (n int64) {
	t.Helper()
	for info, err := range d.b.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size
	}
	return n
}

// A forgotten snapshot is freed when the undo window is over, in two steps, and nothing else is.
func TestPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		keep := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10), "b": dmgRand(2, 200<<10)})
		time.Sleep(time.Hour)
		only := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10), "c": dmgRand(3, 900<<10)})
		full := d.size(t, "packs/")
		d.forget(t, only.ID)
		d.everything(t, d.open(t))
		for range 8 {
			time.Sleep(day)
			if rep := d.prune(t, nil); rep.Freed != 0 || rep.Condemned != 0 {
				t.Fatalf("within the undo window: %+v", rep)
			}
		}
		time.Sleep(2 * day)
		dry := d.prune(t, &repo.PruneOptions{DryRun: true})
		if n := d.undoable(t); n != 1 {
			t.Errorf("%d snapshots can be taken back", n)
		}
		rep := d.prune(t, nil)
		if err := d.open(t).Unforget(t.Context(), only.ID); !errors.Is(err, repo.ErrTooLate) {
			t.Errorf("unforget: %v", err)
		}
		if n := d.undoable(t); n != 0 {
			t.Errorf("%d snapshots can be taken back, they say, and a prune has let them go", n)
		}
		if rep.Condemned == 0 || rep.Freed != 0 || rep.Run != 1 || dry.Condemned != rep.Condemned {
			t.Errorf("first step: %+v, dry %+v", rep, dry)
		}
		d.everything(t, d.open(t))
		if rep := d.prune(t, nil); rep.Freed != 0 || rep.Run != 1 {
			t.Errorf("at once: %+v", rep)
		}
		time.Sleep(day)
		rep = d.prune(t, nil)
		if rep.Freed == 0 || len(rep.Finished) != 1 || rep.Snapshots != 1 {
			t.Errorf("second step: %+v", rep)
		}
		if now := d.size(t, "packs/"); now > full-850<<10 {
			t.Errorf("%d bytes of %d are left", now, full)
		}
		d.everything(t, d.open(t))
		d.sound(t)
		if names := strings.Join(dmgNames(t, d.b, "snapshots/"), " "); strings.Contains(names, only.ID) || !strings.Contains(names, keep.ID) {
			t.Errorf("snapshots: %s", names)
		}
		d.backup(t, "shop", dmgTree{"c": dmgRand(3, 900<<10)})
		d.everything(t, d.open(t))
		d.sound(t)
	})
}

// A manifest that was let go and cannot be opened any more is in nobody's way, and goes; one that is only forgotten may be taken back, so nothing is freed.
func TestPruneRottenLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
		gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
		d.forget(t, gone.ID)
		name := dmgSnapshotName(gone.ID)
		whole := dmgGet(t, d.b, name)
		dmgPut(t, d.b, name, []byte("junk"))
		_, err := d.open(t).Prune(t.Context(), nil)
		if _, damaged := errors.AsType[*repo.DamageError](err); !damaged {
			t.Errorf("within the undo window: %v", err)
		}
		dmgPut(t, d.b, name, whole)
		time.Sleep(10 * day)
		d.prune(t, nil)
		dmgPut(t, d.b, name, []byte("junk"))
		time.Sleep(day)
		if rep := d.prune(t, nil); rep.Freed == 0 || rep.Snapshots != 1 || slices.Contains(dmgNames(t, d.b, ""), name) {
			t.Errorf("%+v", rep)
		}
		d.everything(t, d.open(t))
		d.sound(t)
	})
}

// Days of changes, kept for a while: what is stored stays near what is needed, with an owner's key and with a maintainer's.
func TestPruneDays(t *testing.T) {
	for _, role := range []crypt.Role{crypt.Owner, crypt.Maintainer} {
		t.Run(role.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dmgNew(t, mem.New(nil))
				mkey := dmgMust(crypt.NewKey())(t)
				dmgMust(d.open(t).AddSlot(t.Context(), role, mkey, "m"))(t)
				big := dmgRand(1, 4<<20)
				var ids []string
				for n := range 40 {
					// A twentieth of the chunks changes a day.
					big = append([]byte(nil), big...)
					for i := range 10 {
						copy(big[(n*37+i*101)%250*16<<10:], dmgRand(byte(n), 4<<10))
					}
					ids = append(ids, d.backup(t, "shop", dmgTree{"db.sql": big, fmt.Sprintf("new/%d", n): dmgRand(byte(n+100), 30<<10)}).ID)
					if len(ids) > 5 {
						d.forget(t, ids[0])
						ids = ids[1:]
					}
					r := dmgMust(repo.Open(t.Context(), d.b, mkey, nil))(t)
					if rep, err := r.Prune(t.Context(), nil); err != nil {
						t.Fatalf("day %d: %v (%+v)", n, err, rep)
					}
					if n%13 == 0 {
						d.everything(t, d.open(t))
						d.sound(t)
					}
					time.Sleep(day)
				}
				for range 14 {
					time.Sleep(day)
					r := dmgMust(repo.Open(t.Context(), d.b, mkey, nil))(t)
					dmgMust(r.Prune(t.Context(), nil))(t)
				}
				d.everything(t, d.open(t))
				d.sound(t)

				alone := dmgNew(t, mem.New(nil))
				for _, id := range ids {
					alone.backup(t, "shop", d.want[id])
				}
				is, need := d.size(t, "packs/"), alone.size(t, "packs/")
				t.Logf("%v: %d bytes in %d packs, %d segments; the kept ones alone take %d: %.2f", role, is, len(dmgNames(t, d.b, "packs/")), len(dmgNames(t, d.b, "index/")), need, float64(is)/float64(need))
				// A maintainer can't take frames apart, and here each holds a little of many days.
				if role == crypt.Owner && float64(is) > 1.25*float64(need) {
					t.Error("more than 1.25 times as much as is needed")
				}
				if n := len(dmgNames(t, d.b, "index/")); n > 30 {
					t.Errorf("%d segments", n)
				}
			})
		})
	}
}

func TestPruneRefuses(t *testing.T) {
	d := dmgFixture(t)
	writer := dmgMust(crypt.NewKey())(t)
	dmgMust(d.open(t).AddSlot(t.Context(), crypt.Writer, writer, "w"))(t)
	w := dmgMust(repo.Open(t.Context(), d.b, writer, nil))(t)
	if _, err := w.Prune(t.Context(), nil); !errors.Is(err, repo.ErrRole) {
		t.Errorf("a writer prunes: %v", err)
	}
	if err := w.Forget(t.Context(), "x"); !errors.Is(err, repo.ErrRole) {
		t.Errorf("a writer forgets: %v", err)
	}
	for _, prefix := range []string{"packs/", "index/", "snapshots/"} {
		for harm, do := range harms {
			c := d.copy(t, mem.New(nil))
			before := len(dmgNames(t, c.b, "packs/"))
			for _, name := range dmgNames(t, c.b, prefix) {
				do(t, c.b, name)
			}
			if prefix == "packs/" {
				before = len(dmgNames(t, c.b, "packs/"))
			}
			rep, err := c.open(t).Prune(t.Context(), &repo.PruneOptions{Exclusive: true})
			if harm == "deleted" && prefix == "snapshots/" {
				continue // nobody can know that there were any
			}
			if harm == "flipped" && prefix == "packs/" {
				continue // found when they are read
			}
			var de *repo.DamageError
			if !errors.As(err, &de) {
				t.Errorf("%s %s: %v (%+v)", harm, prefix, err, rep)
			}
			if n := len(dmgNames(t, c.b, "packs/")); n != before {
				t.Errorf("%s %s: %d packs of %d are left", harm, prefix, n, before)
			}
		}
	}
}

func TestPruneExclusive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
		gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
		d.forget(t, gone.ID)
		time.Sleep(10 * day)
		rep := d.prune(t, &repo.PruneOptions{Exclusive: true})
		if rep.Freed == 0 || len(rep.Finished) != 1 || rep.Run != 0 || rep.Condemned != 0 || rep.CondemnedBytes != 0 {
			t.Errorf("%+v", rep)
		}
		d.everything(t, d.open(t))
		d.sound(t)
	})
}

// Locked objects are not freed yet, and are later.
func TestPruneLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := lockRepo(t)
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
		gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
		packs := len(dmgNames(t, d.b, "packs/"))
		d.forget(t, gone.ID)
		time.Sleep(10 * day)
		d.prune(t, nil)
		time.Sleep(day)
		rep := d.prune(t, nil)
		if rep.Freed != 0 || rep.Retained == 0 || len(dmgNames(t, d.b, "packs/")) < packs {
			t.Errorf("%+v", rep)
		}
		d.everything(t, d.open(t))
		time.Sleep(30 * day)
		if rep := dmgMust(d.open(t).ExtendLocks(t.Context(), nil))(t); rep.Due == 0 {
			t.Errorf("%+v", rep)
		}
		time.Sleep(day)
		rep = d.prune(t, nil)
		for i := 0; i < 3 && rep.Freed == 0; i++ {
			time.Sleep(day)
			rep = d.prune(t, nil)
		}
		if rep.Freed == 0 || len(dmgNames(t, d.b, "packs/")) >= packs {
			t.Errorf("%+v", rep)
		}
		d.everything(t, d.open(t))
		d.sound(t)
	})
}
