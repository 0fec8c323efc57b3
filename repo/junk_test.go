package repo_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// A slip in what is condemned destroys nothing: what is in order stays, and so does all else then.
func TestCondemnSlips(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	kept := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
	gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
	d.forget(t, gone.ID)
	parts := strings.Split(kept.ID, "-")
	voided := parts[0] + "-0000000000000000-" + parts[2]
	void := dmgSnapshotName(voided)
	d.seal(t, crypt.KindVoid, void, map[int]any{1: voided, 2: []int64{1, 0}})
	d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1))
	junk := "index/" + strings.Repeat("ab", 32)
	dmgPut(t, d.b, junk, []byte("junk"))
	before := dmgNames(t, d.b, "")
	slips := map[string]error{
		"index/" + strings.Repeat("cd", 32): fs.ErrNotExist,
		"index/typo":                        fs.ErrNotExist,
		"snapshots/typo":                    fs.ErrNotExist,
		dmgSnapshotName(kept.ID) + "0":      fs.ErrNotExist,
		"gc/77":                             fs.ErrNotExist,
		"gc/typo":                           fs.ErrNotExist,
		"packs/typo":                        fs.ErrInvalid,
		"":                                  fs.ErrInvalid,
		"gc/1":                              fs.ErrInvalid,
		void:                                fs.ErrInvalid,
		dmgSnapshotName(kept.ID):            fs.ErrInvalid,
		dmgSnapshotName(gone.ID):            fs.ErrInvalid,
	}
	for _, name := range dmgNames(t, d.b, "index/") {
		slips[name] = fs.ErrInvalid
	}
	delete(slips, junk)
	for name, want := range slips {
		for _, dry := range []bool{true, false} {
			rep, err := d.open(t).Prune(t.Context(), &repo.PruneOptions{DryRun: dry, Condemn: []string{junk, name}})
			if !errors.Is(err, want) || name != "" && !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			if len(rep.TakenOut) > 0 {
				t.Errorf("%s: %q were taken out", name, rep.TakenOut)
			}
		}
		left := slices.DeleteFunc(dmgNames(t, d.b, ""), func(n string) bool { return strings.HasPrefix(n, "sessions/") })
		if want := slices.DeleteFunc(slices.Clone(before), func(n string) bool { return strings.HasPrefix(n, "sessions/") }); !slices.Equal(left, want) {
			t.Fatalf("%s: left\n%q\nof\n%q", name, left, want)
		}
	}
	// A dry run tells what would go.
	rep := d.prune(t, &repo.PruneOptions{DryRun: true, Condemn: []string{junk}})
	if !slices.Equal(rep.TakenOut, []string{junk}) || !slices.Contains(dmgNames(t, d.b, "index/"), junk) {
		t.Errorf("%+v", rep)
	}
	rep = d.prune(t, &repo.PruneOptions{Condemn: []string{junk}})
	if !slices.Equal(rep.TakenOut, []string{junk}) || slices.Contains(dmgNames(t, d.b, "index/"), junk) {
		t.Errorf("%+v", rep)
	}
}

// Snapshots that cannot be restored whole are taken out, whether it is their folders or their content that is lost.
func TestCondemnHurt(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
	packs := dmgNames(t, d.b, "packs/")
	hurt := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
	for _, name := range dmgNames(t, d.b, "packs/") {
		if !slices.Contains(packs, name) {
			dmgDelete(t, d.b, name)
		}
	}
	if _, err := d.open(t).Prune(t.Context(), nil); err == nil {
		t.Fatal("a prune while packs are missing")
	}
	name := dmgSnapshotName(hurt.ID)
	rep := d.prune(t, &repo.PruneOptions{Condemn: []string{name}})
	if !slices.Equal(rep.TakenOut, []string{name}) || slices.Contains(dmgNames(t, d.b, "snapshots/"), name) {
		t.Errorf("%+v", rep)
	}
	delete(d.want, hurt.ID)
	d.everything(t, d.open(t))
}

// A dry run tells what a collection would do after what is condemned is gone, of whatever kind that is.
func TestCondemnDry(t *testing.T) {
	for _, prefix := range []string{"gc/", "forgotten/", "index/", "snapshots/"} {
		t.Run(prefix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dmgNew(t, mem.New(nil))
				d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
				gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 2<<20)})
				d.forget(t, gone.ID)
				name := map[string]string{"gc/": "gc/1.free", "forgotten/": "forgotten/" + gone.ID + ".1", "index/": "index/" + strings.Repeat("ab", 32),
					"snapshots/": dmgSnapshotName(gone.ID[:len(gone.ID)-34] + "0000000000000000" + gone.ID[len(gone.ID)-17:])}[prefix]
				dmgPut(t, d.b, name, []byte("junk"))
				time.Sleep(10 * day)
				o := repo.PruneOptions{DryRun: true, Condemn: []string{name}}
				dry, err := d.open(t).Prune(t.Context(), &o)
				o.DryRun = false
				rep := d.prune(t, &o)
				if err != nil || rep.CondemnedBytes < 2<<20 || dry.Condemned != rep.Condemned || dry.CondemnedBytes != rep.CondemnedBytes {
					t.Errorf("dry %+v (%v), then %+v", dry, err, rep)
				}
			})
		})
	}
}

// A dry run tells of the collection that is open.
func TestDryRunOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
		gone := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 300<<10)})
		d.forget(t, gone.ID)
		time.Sleep(10 * day)
		if rep := d.prune(t, &repo.PruneOptions{DryRun: true}); rep.Run != 0 || !rep.Due.IsZero() || rep.Condemned == 0 {
			t.Errorf("%+v", rep)
		}
		want := d.prune(t, nil)
		rep := d.prune(t, &repo.PruneOptions{DryRun: true})
		if want.Run == 0 || rep.Run != want.Run || !rep.Due.Equal(want.Due) || rep.Condemned != 0 {
			t.Errorf("%+v, then %+v", want, rep)
		}
	})
}

// Junk with a number that no collection can have come to does not stand for all the records before it.
func TestJunkNumbers(t *testing.T) {
	for _, name := range []string{"gc/999999999999", "gc/999999999999.free", "gc/999999999999.done"} {
		d := dmgNew(t, mem.New(nil))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 3000)})
		d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1))
		d.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
		dmgPut(t, d.b, name, []byte("junk"))
		rep := d.check(t, nil)
		if len(rep.Findings) != 1 || dmgFind(rep, name) == nil {
			t.Errorf("findings:%s", dmgFindings(rep))
		}
		d.everything(t, d.open(t))
		d.prune(t, &repo.PruneOptions{Condemn: []string{name}})
		d.backup(t, "shop", dmgTree{"a": dmgRand(2, 3000)})
		d.sound(t)
	}
}

// Where a word was condemned a number is missing. What is forgotten goes all the same, and not before the last word that forgot it is old enough.
func TestCondemnWord(t *testing.T) {
	for name, said := range map[string]func(t *testing.T, d *dmgRepo, id string) (junk string){
		"a forged first word": func(t *testing.T, d *dmgRepo, id string) string {
			dmgPut(t, d.b, "forgotten/"+id, crypt.AppendHash([]byte("junk")))
			d.forget(t, id)
			return "forgotten/" + id
		},
		"a rotten word that took back": func(t *testing.T, d *dmgRepo, id string) string {
			d.forget(t, id)
			if err := d.open(t).Unforget(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * day)
			d.forget(t, id)
			dmgPut(t, d.b, "forgotten/"+id+".1", []byte("junk"))
			return "forgotten/" + id + ".1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dmgNew(t, mem.New(nil))
				d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)})
				s := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 30<<10)})
				d.prune(t, &repo.PruneOptions{Condemn: []string{said(t, d, s.ID)}})
				time.Sleep(8 * day)
				d.prune(t, nil)
				if err := d.open(t).Unforget(t.Context(), s.ID); err != nil {
					t.Errorf("after eight days: %v", err)
				}
				d.forget(t, s.ID)
				for range 12 {
					time.Sleep(day)
					d.prune(t, nil)
					d.everything(t, d.open(t))
				}
				if slices.Contains(dmgNames(t, d.b, ""), dmgSnapshotName(s.ID)) {
					t.Error("what was forgotten is there still")
				}
				d.sound(t)
			})
		})
	}
}
