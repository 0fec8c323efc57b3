package repo_test

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// Backups go on at the source. At any time, each snapshot that the replica lists can be restored.
func TestReplicateBusy(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := dmgNew(t, mem.New(nil))
	d.backup(t, "shop", dmgTree{"a": dmgRand(1, 20<<10)})
	dst := mem.New(nil)
	var mu sync.Mutex // guards trees
	trees := map[string]dmgTree{}
	for id, tree := range d.want {
		trees[id] = tree
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	const writers, each = 3, 6
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				tree := dmgTree{"shared": dmgRand(byte(i), 30<<10), "own": dmgRand(byte(50+w*10+i), 10<<10), "x.sql": dmgRand(byte(i/2), 60<<10)}
				mu.Lock() // so that no snapshot is seen before its tree is known
				s, err := d.open(t).Backup(context.Background(), fmt.Sprintf("w%d", w), tree.fs(), nil)
				if err != nil {
					t.Error(err)
				} else {
					trees[s.ID] = tree
				}
				mu.Unlock()
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	listed := 0
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		// It is looked at in the middle of a run, too.
		var puts atomic.Int64
		look := func() {
			if len(dmgNames(t, dst, "keys/")) < 2 {
				return
			}
			r := crashOpen(t, dst, d.key, nil)
			listed = 0
			for _, s := range crashSnapshots(t, r, "") {
				mu.Lock()
				tree := trees[s.ID]
				mu.Unlock()
				if tree == nil {
					t.Fatalf("a snapshot %s that nobody made", s.ID)
				}
				copyReads(t, r, s, tree)
				listed++
			}
		}
		to := &backendtest.Faulty{Backend: dst, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Put && puts.Add(1)%7 == 0 {
				look()
			}
			return nil
		}}
		if _, err := repo.Replicate(t.Context(), to, d.b, &repo.CopyOptions{Workers: 1}); err != nil {
			t.Fatal(err)
		}
		look()
	}
	if listed != writers*each+1 {
		t.Errorf("%d snapshots at the replica", listed)
	}
	copySame(t, dst, d.b)
}

// A collection at the source replaces segments, frees packs and removes manifests between a list and what is read of it: it starts over.
func TestReplicateCollected(t *testing.T) {
	for _, victim := range []string{"packs/", "index/", "snapshots/", "forgotten/"} {
		for _, always := range []bool{false, true} {
			t.Run(fmt.Sprint(victim, always), func(t *testing.T) {
				d := dmgFixture(t)
				var once sync.Once
				var name string
				src := &backendtest.Faulty{Backend: d.b}
				src.Before = func(_ context.Context, op backendtest.Op, n string) error {
					if op != backendtest.Get || !strings.HasPrefix(n, victim) {
						return nil
					}
					once.Do(func() { name = n })
					if n != name {
						return nil
					}
					if always {
						return fs.ErrNotExist
					}
					return d.b.Delete(t.Context(), n)
				}
				dst := mem.New(nil)
				rep, err := repo.Replicate(t.Context(), dst, src, nil)
				if always {
					if copyDamage(t, err).Object != name || len(rep.Source) != 0 || !strings.Contains(err.Error(), "source: ") {
						t.Errorf("%v %+v", err, rep)
					}
					if victim != "snapshots/" && len(dmgNames(t, dst, "snapshots/")) > 0 {
						t.Error("there are snapshots")
					}
					copyEnded(t, dst)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				copySame(t, dst, d.b)
			})
		}
	}
}

// A pack is copied to another one, the new one is indexed, and the old one is freed, while packs are listed: the lists have neither of the two.
func TestReplicateVerdict(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 30<<10)}
	s := d.backup(t, "shop", tree)
	old := dmgNames(t, d.b, "packs/")
	// The same blobs again, in a pack and a segment of their own, as a collection would put them.
	d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, old...))
	later := d.copy(t, mem.New(nil))
	later.backup(t, "shop", tree)
	var segments, packs []string
	for _, name := range dmgNames(t, later.b, "") {
		if _, err := d.b.Stat(t.Context(), name); err == nil {
			continue
		}
		switch {
		case strings.HasPrefix(name, "packs/"):
			packs = append(packs, name)
		case strings.HasPrefix(name, "index/"):
			segments = append(segments, name)
		}
	}
	src := &backendtest.Faulty{Backend: d.b}
	var once sync.Once
	src.Before = func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.List && name == "packs/" {
			once.Do(func() {
				for _, name := range slices.Concat(packs, segments) {
					dmgPut(t, d.b, name, dmgGet(t, later.b, name))
				}
				d.seal(t, crypt.KindVerdict, "gc/1.free", dmgList(1, old...))
				for _, name := range old {
					dmgDelete(t, d.b, name)
				}
				d.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
			})
		}
		return nil
	}
	dst := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), dst, src, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, dst, d.b)
	r := crashOpen(t, dst, d.key, nil)
	crashSound(t, r, true)
	copyReads(t, r, dmgMust(r.Lookup(t.Context(), s.ID))(t), tree)
}

// A segment is replaced while segments are listed, so that the list has neither the old nor the new one.
func TestReplicateReplaced(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	for i := range 4 {
		d.backup(t, "shop", dmgTree{"a": dmgRand(byte(i), 3000)})
	}
	names := dmgNames(t, d.b, "index/")
	old := names[len(names)-1]
	_, payload, err := d.keys.Open(old, dmgGet(t, d.b, old), crypt.KindSegment)
	if err != nil {
		t.Fatal(err)
	}
	object := dmgMust(d.keys.Seal(crypt.KindSegment, "", payload))(t)
	var once sync.Once
	src := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Entry && strings.HasPrefix(name, "index/") {
			once.Do(func() {
				dmgPut(t, d.b, "index/"+dmgHash(object), object)
				dmgDelete(t, d.b, old)
			})
		}
		return nil
	}}
	dst := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), dst, src, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, dst, d.b)
}
