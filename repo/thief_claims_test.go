package repo_test

import (
	"bytes"
	"context"
	"fmt"
	"github.com/varvebackup/varve/backend/backendtest"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/index"
)

// described is an honest pack as its segment describes it, for a thief to say something else of it.
func (d *dmgRepo) described(t testing.TB, name string) index.Pack {
	t.Helper()
	object := dmgGet(t, d.b, name)
	dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(object), int64(len(object))))(t)
	return index.Pack{ID: dmgID(name), Size: uint32(len(object)), Dir: dir}
}

// claim puts a segment as a writer's key can seal it.
func (d *dmgRepo) claim(t testing.TB, packs ...index.Pack) string {
	t.Helper()
	writer := dmgMust(d.keys.Restrict(crypt.Writer))(t)
	object := dmgMust(writer.Seal(crypt.KindSegment, "", index.EncodeSegment(dmgSession(d.keys, "shop", 9), packs)))(t)
	name := "index/" + dmgHash(object)
	dmgPut(t, d.b, name, object)
	return name
}

// onlyPack returns the pack that is new since before.
func (d *dmgRepo) onlyPack(t testing.TB, before []string) string {
	t.Helper()
	old := map[string]bool{}
	for _, name := range before {
		old[name] = true
	}
	var found []string
	for _, name := range dmgNames(t, d.b, "packs/") {
		if !old[name] {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d new packs", len(found))
	}
	return found[0]
}

// A thief says of a pack that was stored first, in words that are right but for what its frames hold, that it holds what was stored later. The birth of those frames is not his.
func TestThiefClaimsOldFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 300<<10)})
		first := dmgNames(t, d.b, "packs/")
		time.Sleep(day)
		d.backup(t, "shop", dmgTree{"b": dmgRand(2, 200<<10)})
		second := d.described(t, d.onlyPack(t, first))
		time.Sleep(day)

		lie := d.described(t, first[0])
		for i := range lie.Dir.Frames {
			f := &lie.Dir.Frames[i]
			kind := lie.Dir.Sections[f.Section].Kind
			f.Blobs = nil
			left := f.Plain
			for _, g := range second.Dir.Frames {
				for _, b := range g.Blobs {
					if second.Dir.Sections[g.Section].Kind == kind && b.Length <= left {
						f.Blobs = append(f.Blobs, b)
						left -= b.Length
					}
				}
			}
		}
		d.claim(t, lie)
		for range 10 {
			time.Sleep(day)
			d.prune(t, nil)
			d.everything(t, d.open(t))
		}
		d.unhurt(t)
	})
}

// unhurt checks that nothing that is wrong hurts a snapshot.
func (d *dmgRepo) unhurt(t testing.TB) {
	t.Helper()
	for _, f := range d.check(t, &repo.CheckOptions{ReadData: true}).Findings {
		if len(f.Snapshots) > 0 || len(f.Paths) > 0 {
			t.Errorf("%s: %v hurts %v %v", f.Object, f.Err, f.Snapshots, f.Paths)
		}
	}
}

// A thief claims the nodes of trees, in another length than they have, while the packs that hold them are condemned and a session that saw them before is about to commit.
func TestThiefClaimsLengths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		tree := dmgTree{"a": dmgRand(1, 30<<10), "dir/b": dmgRand(2, 30<<10)}
		d.backup(t, "other", dmgTree{"c": tree["a"], "d": tree["dir/b"]})
		first := dmgNames(t, d.b, "packs/")
		d.forget(t, d.backup(t, "shop", tree).ID)
		old := d.described(t, d.onlyPack(t, first))
		time.Sleep(12 * day)
		f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if op != backendtest.Put || !strings.HasPrefix(name, "snapshots/") {
				return nil
			}
			if rep := d.prune(t, nil); rep.Condemned == 0 {
				t.Errorf("nothing was condemned: %+v", rep)
			}
			junk := dmgRand(3, 100<<10)
			lie := index.Pack{ID: dmgID(dmgHash(junk)), Size: uint32(len(junk)), Dir: &pack.Directory{Sections: old.Dir.Sections}}
			dmgPut(t, d.b, "packs/"+dmgHash(junk)[:2]+"/"+dmgHash(junk), junk)
			off := uint32(0)
			for _, f := range old.Dir.Frames {
				f.Blobs = slices.Clone(f.Blobs)
				f.Offset, f.Plain = off, 0
				for i := range f.Blobs {
					f.Blobs[i].Length++
					f.Plain += f.Blobs[i].Length
				}
				off += f.Stored
				lie.Dir.Frames = append(lie.Dir.Frames, f)
			}
			d.claim(t, lie)
			return nil
		}}
		r := dmgMust(repo.Open(t.Context(), f, d.key, nil))(t)
		s := dmgMust(r.Backup(t.Context(), "shop", tree.fs(), nil))(t)
		d.want[s.ID] = tree
		for range 6 {
			time.Sleep(day)
			d.prune(t, nil)
			d.everything(t, d.open(t))
		}
		d.unhurt(t)
	})
}

// Whoever may put objects under gc/ and forgotten/ chooses their numbers. None of them makes anybody count that far, and what maintenance says next has a number that counts.
func TestThiefNumbers(t *testing.T) {
	for _, forged := range []bool{false, true} {
		t.Run(fmt.Sprintf("forged=%v", forged), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dmgNew(t, mem.New(nil))
				d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)})
				s := d.backup(t, "shop", dmgTree{"b": dmgRand(2, 30<<10)})
				back := d.backup(t, "shop", dmgTree{"c": dmgRand(3, 30<<10)})
				time.Sleep(day)
				d.forget(t, back.ID)
				huge := strconv.Itoa(math.MaxInt)
				junk := []string{"gc/" + huge + ".done", "gc/" + huge, "gc/1000000007.done", "gc/30000000.free", "forgotten/" + s.ID + "." + huge, "forgotten/" + back.ID + "." + huge}
				for _, name := range junk {
					object := []byte("junk")
					if forged {
						object = crypt.AppendHash(object)
					}
					dmgPut(t, d.b, name, object)
				}
				if err := d.open(t).Unforget(t.Context(), back.ID); err != nil {
					t.Fatal(err)
				}
				delete(d.gone, back.ID)
				d.everything(t, d.open(t))
				d.forget(t, s.ID)
				d.everything(t, d.open(t))
				replica := mem.New(nil)
				if rep, err := repo.Replicate(t.Context(), replica, d.b, nil); forged && err != nil {
					t.Errorf("replicate: %v (%+v)", err, rep)
				}
				if rep := d.check(t, nil); len(rep.Findings) > 20 {
					t.Errorf("%d findings", len(rep.Findings))
				}
				if !forged {
					d.prune(t, &repo.PruneOptions{Condemn: junk}) // what is not whole may have been a list of what vanishes, so it holds up backups
				}
				d.backup(t, "shop", dmgTree{"d": dmgRand(4, 30<<10)})
				d.everything(t, d.open(t))
				found := 0
				for snap, err := range d.open(t).Snapshots(t.Context(), repo.Filter{}) {
					if err != nil || snap.ID == s.ID {
						t.Errorf("%s is not forgotten (%v)", s.ID, err)
					}
					found++
				}
				if found != 3 {
					t.Errorf("%d snapshots", found)
				}
				runs := []int{}
				for range 14 {
					time.Sleep(day)
					rep := d.prune(t, nil)
					runs = append(runs, rep.Finished...)
					d.everything(t, d.open(t))
				}
				if len(runs) == 0 || runs[0] != 1 {
					t.Errorf("collections %v", runs)
				}
				if slices.Contains(dmgNames(t, d.b, ""), dmgSnapshotName(s.ID)) {
					t.Error("what was forgotten is there still")
				}
				d.unhurt(t)
			})
		})
	}
}

// A thief's pack is not what its name promises, and his segments say what no pack can be, or contradict each other. Collections come to their end all the same, and his things go.
func TestThiefSaysOddThings(t *testing.T) {
	for name, lies := range map[string]func(p index.Pack) []index.Pack{
		"a gap": func(p index.Pack) []index.Pack {
			p.Dir.Frames[0].Plain++
			return []index.Pack{p}
		},
		"a contradiction": func(p index.Pack) []index.Pack {
			q := p
			dir := *p.Dir
			q.Dir = &dir
			dir.Frames = slices.Clone(dir.Frames)
			dir.Frames[0].Counter++
			return []index.Pack{p, q}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				repo.SetLayout(t, repo.Layout{JoinSegments: 2})
				d := dmgNew(t, mem.New(nil))
				s := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)})
				first := dmgNames(t, d.b, "packs/")
				d.backup(t, "shop", dmgTree{"b": dmgRand(2, 30<<10)})
				wrong := "packs/ab/ab" + strings.Repeat("0", 62)
				lie := d.described(t, d.onlyPack(t, first))
				d.forget(t, s.ID)
				time.Sleep(12 * day)
				if rep := d.prune(t, nil); rep.Run != 1 {
					t.Fatalf("no collection: %+v", rep)
				}
				lie.ID = dmgID(wrong)
				dmgPut(t, d.b, wrong, dmgRand(3, int(lie.Size)))
				for _, p := range lies(lie) {
					d.claim(t, p)
				}
				for range 10 {
					time.Sleep(day)
					if rep, err := d.open(t).Prune(t.Context(), nil); err != nil {
						t.Errorf("prune: %v (%+v)", err, rep)
					}
					d.everything(t, d.open(t))
				}
				if slices.Contains(dmgNames(t, d.b, ""), wrong) {
					t.Error("his pack is there")
				}
				d.unhurt(t)
				d.sound(t)
			})
		})
	}
}

// In a store that keeps versions and lets a writer replace, a thief claims what is stored, and then puts the segments that say where it is once more, as they are. The store dates them anew.
func TestThiefPutsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(&mem.Options{Versions: true}))
		d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10), "b": dmgRand(2, 30<<10)})
		honest := dmgNames(t, d.b, "index/")
		lie := d.described(t, dmgNames(t, d.b, "packs/")[0])
		time.Sleep(day)
		junk := dmgRand(3, int(lie.Size))
		dmgPut(t, d.b, "packs/"+dmgHash(junk)[:2]+"/"+dmgHash(junk), junk)
		lie.ID = dmgID(dmgHash(junk))
		d.claim(t, lie)
		time.Sleep(day)
		for _, name := range honest {
			dmgPut(t, d.b, name, dmgGet(t, d.b, name))
		}
		for range 8 {
			time.Sleep(day)
			d.prune(t, nil)
			d.everything(t, d.open(t))
		}
		d.sound(t)
	})
}

// The same with the word that takes a forgotten snapshot back: dated after the undo window, it counts all the same.
func TestThiefPutsWordsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(&mem.Options{Versions: true}))
		s := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 30<<10)})
		d.backup(t, "shop", dmgTree{"b": dmgRand(2, 30<<10)})
		d.forget(t, s.ID)
		if err := d.open(t).Unforget(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		delete(d.gone, s.ID)
		time.Sleep(12 * day)
		word := "forgotten/" + s.ID + ".1"
		dmgPut(t, d.b, word, dmgGet(t, d.b, word))
		for range 6 {
			d.prune(t, nil)
			d.everything(t, d.open(t))
			time.Sleep(day)
		}
		d.sound(t)
	})
}
