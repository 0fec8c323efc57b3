package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"github.com/varvebackup/varve/repo"
)

// choose says what an actor does next.
func (s *sim) choose(a *simActor) *simAction {
	switch a.name {
	case "copy":
		return s.copying(a)
	case "r0", "rr":
		return s.reading(a)
	case "thief":
		return s.forging()
	case "follow":
		return s.following(a)
	}
	if a.tree != nil {
		return s.backup(a)
	}
	switch n := s.rng.IntN(10); {
	case n < 5:
		return s.prune(a)
	case n < 9:
		return s.forget()
	default:
		return s.unforget()
	}
}

// simFS is a tree as a source, with change tokens.
func simFS(tree map[string][]byte) fs.FS {
	m := fstest.MapFS{}
	for name, data := range tree {
		m[name] = &fstest.MapFile{Data: data, Mode: 0o644, ModTime: time.Unix(900_000_000, 0), Sys: &repo.Attr{Token: simToken(data), Changed: time.Unix(900_000_000, 0)}}
	}
	return m
}

func simToken(data []byte) []byte {
	h := sha256.Sum256(data)
	return h[:]
}

func (s *sim) content() []byte { return simContent(s.rng.IntN(simFamilies), s.rng.IntN(simVersions)) }

func (s *sim) backup(a *simActor) *simAction {
	tree := maps.Clone(a.tree)
	for range 1 + s.rng.IntN(3) {
		name := fmt.Sprintf("d%d/f%d", s.rng.IntN(2), s.rng.IntN(4))
		if s.rng.IntN(3) == 0 {
			delete(tree, name)
		} else {
			tree[name] = s.content()
		}
	}
	if s.chance(s.cfg.returns) { // what was dropped comes back
		tree = map[string][]byte{}
		for i := range 4 {
			tree[fmt.Sprintf("d0/f%d", i)] = simContent(s.rng.IntN(simFamilies), 0)
		}
	}
	if s.cfg.many {
		for i := range 300 {
			tree[fmt.Sprintf("many/%03d", i)] = []byte("one")
		}
		tree[fmt.Sprintf("many/%03d", s.rng.IntN(300))] = s.content()
	}
	tree["x"] = s.content()
	series := "shop"
	if s.rng.IntN(2) == 0 {
		series = a.name
	}
	return s.backupOf(a, series, tree)
}

func (s *sim) backupOf(a *simActor, series string, tree map[string][]byte) *simAction {
	a.tree = tree
	act := &simAction{kind: "backup", tree: tree}
	var snap *repo.Snapshot
	act.run = func(ctx context.Context, r *repo.Repo) (err error) {
		snap, err = r.Backup(ctx, series, simFS(tree), &repo.BackupOptions{Host: "h"})
		return err
	}
	act.after = func(err error) {
		if act.crashed {
			return
		}
		if err == nil {
			s.stats["snapshots"]++
			sn := s.snaps[snap.ID]
			if sn == nil {
				s.fail("snapshot", "%s returned a session that was never begun", a.name)
				return
			}
			sn.promised = true
			if !s.forgottenAt(sn.store, sn.id).lasting() {
				s.restorable(sn, "as soon as it was returned")
			}
			return
		}
		s.explained(a, act)
		if errors.Is(err, repo.ErrUncertain) || len(act.sessions) == 0 {
			return
		}
		// No snapshot, when the store was asked last.
		for _, id := range act.sessions {
			name := repo.SnapshotName(id)
			o, gerr := a.home.get(name)
			if gerr != nil || act.readBack >= act.begun && o.step > act.readBack {
				continue
			}
			if o := s.oracle(a.home); o == nil {
				continue
			} else if m, merr := repo.Manifest(context.Background(), o, id); merr == nil && m != nil {
				s.fail("no snapshot after an error", "%s: %v, and the snapshot %s is there", a.name, err, id)
			}
		}
	}
	return act
}

func (s *sim) prune(a *simActor) *simAction {
	o := &repo.PruneOptions{}
	switch s.rng.IntN(8) {
	case 0:
		o.MaxRepack = -1
	case 1:
		o.MaxRepack = 8000
	case 2:
		o.DryRun = s.rng.IntN(2) == 0
	}
	if s.cfg.exclusive && s.rng.IntN(4) == 0 {
		o.Exclusive = true
	}
	return s.pruneWith(a, o)
}

func (s *sim) pruneWith(a *simActor, o *repo.PruneOptions) *simAction {
	act := &simAction{kind: "prune", exclusive: o.Exclusive}
	act.run = func(ctx context.Context, r *repo.Repo) error {
		rep, err := r.Prune(ctx, o)
		if err == nil && rep != nil {
			act.packs = rep.Freed
			s.mu.Lock()
			s.stats["freed"] += rep.Freed
			s.stats["repacked"] += rep.Repacked
			s.stats["voided"] += len(rep.Voided)
			s.stats["finished"] += len(rep.Finished)
			s.stats["removed"] += rep.Snapshots
			s.mu.Unlock()
		}
		return err
	}
	act.after = func(err error) {
		if err != nil && !act.crashed && !errors.Is(err, repo.ErrBusy) {
			s.explained(a, act)
		}
	}
	return act
}

// known returns sessions that have a manifest at the primary, in order.
func (s *sim) known(want func(*simSnap, *simWords) bool) (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(s.snaps)) {
		sn := s.snaps[id]
		if _, err := s.main.get(repo.SnapshotName(id)); err == nil && sn.store == s.main && want(sn, s.forgottenAt(s.main, id)) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *sim) forget() *simAction {
	ids := s.known(func(sn *simSnap, w *simWords) bool { return !w.forgotten })
	if len(ids) == 0 {
		return &simAction{}
	}
	n := min(len(ids), 1+s.rng.IntN(3))
	if s.chance(s.cfg.forgets) {
		n = len(ids) - 1
	} else {
		s.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	}
	ids = ids[:n]
	act := &simAction{kind: fmt.Sprintf("forget %d", len(ids))}
	act.run = func(ctx context.Context, r *repo.Repo) error { return r.Forget(ctx, ids...) }
	act.after = func(err error) {
		if s.cfg.coarse && s.rng.IntN(2) == 0 {
			s.age()
		}
		if !act.crashed && err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, repo.ErrBusy) {
			s.unless(act, err)
		}
	}
	return act
}

func (s *sim) unforget() *simAction {
	ids := s.known(func(sn *simSnap, w *simWords) bool { return w.forgotten })
	if len(ids) == 0 {
		return &simAction{}
	}
	return s.unforgetOf(ids[s.rng.IntN(len(ids))])
}

func (s *sim) unforgetOf(id string) *simAction {
	act := &simAction{kind: "unforget " + id[len(id)-33:]}
	act.run = func(ctx context.Context, r *repo.Repo) error { return r.Unforget(ctx, id) }
	act.after = func(err error) {
		switch {
		case act.crashed:
		case err == nil:
			// It was taken back: unless somebody forgot it again meanwhile, it is there.
			if w := s.forgottenAt(s.main, id); !w.forgotten {
				s.restorable(s.snaps[id], "as soon as it was taken back")
			} else if w.changed <= act.begun {
				s.fail("unforget", "%s was taken back, and is forgotten", id)
			}
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, repo.ErrTooLate), errors.Is(err, repo.ErrBusy):
		default:
			s.unless(act, err)
		}
	}
	return act
}

func (s *sim) reading(a *simActor) *simAction {
	act := &simAction{kind: "read"}
	pick := s.rng.IntN(1000)
	var id string
	act.run = func(ctx context.Context, r *repo.Repo) error {
		var all []*repo.Snapshot
		for sn, err := range r.Snapshots(ctx, repo.Filter{}) {
			if err != nil {
				return err
			}
			all = append(all, sn)
		}
		if len(all) == 0 {
			return nil
		}
		sn := all[pick%len(all)]
		id = sn.ID
		fsys, err := r.FS(ctx, sn)
		if err != nil {
			return err
		}
		return simSame(fsys, s.snaps[id].tree)
	}
	act.after = func(err error) {
		if err == nil || act.crashed || act.cancelled || act.corrupted || errors.Is(err, errSim) {
			return
		}
		if sn := s.snaps[id]; sn != nil && !sn.excused && !s.forgottenAt(a.home, id).forgotten {
			s.fail("a reader", "%s cannot read %s: %v", a.name, id, err)
		}
	}
	return act
}

func (s *sim) copying(a *simActor) *simAction {
	heal := s.cfg.heals && s.rng.IntN(4) == 0
	return s.copies(a, heal, heal && s.rng.IntN(2) == 0)
}

func (s *sim) replicates(a *simActor) *simAction { return s.copies(a, false, false) }

func (s *sim) copies(a *simActor, heal, back bool) *simAction {
	act := &simAction{kind: "replicate", keyless: true}
	if heal {
		act.kind = "heal"
	}
	life := a.life
	act.run = func(ctx context.Context, _ *repo.Repo) error {
		src, dst := &simBackend{store: s.main, actor: a, life: life}, &simBackend{store: s.replica, actor: a, life: life}
		var err error
		switch {
		case back:
			_, err = repo.Heal(ctx, src, dst, &repo.CopyOptions{Workers: 2})
		case heal:
			_, err = repo.Heal(ctx, dst, src, &repo.CopyOptions{Workers: 2})
		default:
			_, err = repo.Replicate(ctx, dst, src, &repo.CopyOptions{Workers: 2})
		}
		return err
	}
	act.after = func(err error) {
		if err == nil && !act.crashed && !act.corrupted {
			s.tainted = false
		}
		// What a dead replicator had under way looks like somebody else's when it comes between two lists.
		if err == nil || act.crashed || errors.Is(err, repo.ErrNoRepository) || act.overtaken && errors.Is(err, repo.ErrExists) || strings.Contains(err.Error(), "it changes while it is copied") {
			return
		}
		s.unless(act, err)
	}
	return act
}

func (s *sim) forging() *simAction {
	var claims [][]byte
	for _, sn := range s.snaps {
		for _, c := range sn.tree {
			claims = append(claims, c)
		}
	}
	if len(claims) == 0 {
		return &simAction{}
	}
	slices.SortFunc(claims, bytes.Compare)
	claims = slices.CompactFunc(claims, bytes.Equal)
	s.rng.Shuffle(len(claims), func(i, j int) { claims[i], claims[j] = claims[j], claims[i] })
	claims = claims[:min(len(claims), 4)]
	// Snapshots that are there already have to be safe from it.
	for _, c := range claims {
		s.forged[string(c)] = true
	}
	for _, a := range s.actors {
		if a.act != nil {
			for _, id := range a.act.sessions {
				if sn := s.snaps[id]; sn != nil {
					for _, c := range sn.tree {
						sn.excused = sn.excused || s.forged[string(c)]
					}
				}
			}
		}
	}
	// Those of the same tick or two cannot be told from it.
	for _, sn := range s.snaps {
		if o, err := sn.store.get(repo.SnapshotName(sn.id)); err == nil && s.main.clock(false).Sub(o.modified) <= 3*time.Second {
			for _, c := range sn.tree {
				sn.excused = sn.excused || s.forged[string(c)]
			}
		}
	}
	act := &simAction{kind: "forge"}
	act.run = func(ctx context.Context, r *repo.Repo) error { return repo.ForgeClaims(ctx, r, claims) }
	return act
}
