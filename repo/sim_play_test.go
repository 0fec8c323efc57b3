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
	"strconv"
	"strings"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/repo"
)

// play runs the simulation to its end.
func (s *sim) play() {
	var last *simActor
	for quiet := 0; s.broke == ""; {
		synctest.Wait()
		if s.finish(); s.broke != "" {
			break
		}
		if s.idled && s.chance(0.3) {
			s.advance(s.span())
			continue
		}
		s.mu.Lock()
		pending := slices.Clone(s.pending)
		s.mu.Unlock()
		slices.SortFunc(pending, (*simOp).compare)
		now := time.Now()
		ready := slices.DeleteFunc(slices.Clone(pending), func(op *simOp) bool { return op.actor.asleep.After(now) })
		var idle, busy []*simActor
		for _, a := range s.actors {
			switch {
			case a.act != nil:
				busy = append(busy, a)
			case !a.asleep.After(now):
				idle = append(idle, a)
			}
		}
		over := s.begun >= s.cfg.actions
		if over && len(busy) == 0 {
			break
		}
		if s.steps > 60_000 {
			s.fail("progress", "it does not come to its end")
			break
		}
		switch {
		case len(s.late) > 0 && s.chance(0.01):
			s.steps++
			s.turn("late")
			s.deliver(s.rng.IntN(len(s.late)))
		case !over && len(busy) > 0 && s.chance(s.cfg.crash):
			s.crash(busy[s.rng.IntN(len(busy))])
		case !over && len(busy) > 0 && s.chance(s.cfg.cancel):
			a := busy[s.rng.IntN(len(busy))]
			s.say("%s is cancelled", a.name)
			a.act.cancelled = true
			s.turn(fmt.Sprintf("%s/%d", a.name, a.actions))
			a.act.cancel()
		case !over && len(busy) > 0 && s.chance(s.cfg.sleep):
			a := busy[s.rng.IntN(len(busy))]
			d := s.span()
			s.say("%s sleeps for %v", a.name, d)
			a.asleep = now.Add(d)
			last = nil
		case !over && s.rot == nil && s.chance(s.cfg.rot):
			s.decay()
		case s.rot != nil && s.chance(0.02):
			s.mend()
		case !over && s.cfg.coarse && s.move(ready, idle):
		case s.chance(s.cfg.advance):
			s.advance(min(s.span(), 2*s.cfg.times.lag))
		case !over && len(idle) > 0 && (len(ready) == 0 && s.rng.IntN(3) > 0 || s.chance(0.02)):
			a := idle[s.rng.IntN(len(idle))]
			s.start(a, s.choose(a))
			last = a
		case len(ready) > 0:
			quiet = 0
			of := slices.DeleteFunc(slices.Clone(ready), func(op *simOp) bool { return op.actor != last })
			if len(of) == 0 || s.chance(0.08) {
				last = ready[s.rng.IntN(len(ready))].actor
				of = slices.DeleteFunc(ready, func(op *simOp) bool { return op.actor != last })
			}
			op := of[s.rng.IntN(len(of))]
			if !over && !op.held && op.telling() && s.chance(s.cfg.hold) {
				op.held = true
				d := s.span()
				s.say("%s sleeps for %v before %s %s", op.actor.name, d, op.kind, op.name)
				op.actor.asleep, last = now.Add(d), nil
				continue
			}
			s.release(op)
		case len(busy) == 0 || len(pending) > 0:
			s.advance(s.span())
		default:
			// Somebody waits for time to pass, and for nothing else.
			if quiet++; quiet > 1000 {
				s.fail("progress", "%s waits for nothing", busy[0].name)
			}
			s.advance(s.cfg.times.lag)
		}
	}
	if s.broke == "" {
		s.quiet()
	}
	s.stop()
}

// move lets an actor go on, up to the next telling operation or its end, and then another one, or time pass. It is false if nobody can.
func (s *sim) move(ready []*simOp, idle []*simActor) bool {
	of := func(a *simActor) []*simOp {
		return slices.DeleteFunc(slices.Clone(ready), func(op *simOp) bool { return op.actor != a })
	}
	if s.mover == nil || len(of(s.mover)) == 0 {
		can := slices.Clone(idle)
		for _, op := range ready {
			if !slices.Contains(can, op.actor) {
				can = append(can, op.actor)
			}
		}
		if len(can) == 0 {
			return false
		}
		if s.rng.IntN(3) == 0 {
			s.advance(s.span())
			return true
		}
		if s.mover = can[s.rng.IntN(len(can))]; s.mover.act == nil {
			s.start(s.mover, s.choose(s.mover))
			return true
		}
	}
	ops := of(s.mover)
	op := ops[s.rng.IntN(len(ops))]
	if op.telling() && !op.held && s.rng.IntN(2) == 0 {
		op.held, s.mover = true, nil
		return true
	}
	s.release(op)
	return true
}

// telling tells whether others may come to rest on an operation, or on its being not yet there.
func (op *simOp) telling() bool {
	return op.kind == simPut && (strings.HasPrefix(op.name, "snapshots/") || strings.HasPrefix(op.name, "gc/") || strings.HasPrefix(op.name, "sessions/"))
}

// edge returns how long it is until something is due, give or take a tick; 0 if nothing is.
func (s *sim) edge() time.Duration {
	now, tm := s.main.clock(false), s.cfg.times
	var due []time.Time
	soon := func(t time.Time) {
		if t.After(now) {
			due = append(due, t)
		}
	}
	for _, name := range s.main.names("") {
		o, _ := s.main.get(name)
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "gc":
			if !strings.Contains(name[3:], ".") {
				soon(o.modified.Add(tm.lag))
			}
		case "forgotten":
			soon(o.modified.Add(tm.undo))
			soon(o.modified.Add(tm.undo + tm.slack))
		case "sessions":
			soon(o.modified.Add(tm.expire))
		case "packs":
			soon(o.modified.Add(tm.margin))
		}
	}
	if len(due) == 0 {
		return 0
	}
	d := due[s.rng.IntN(len(due))].Sub(now) + time.Duration(s.rng.IntN(5)-2)*500*time.Millisecond
	return max(d, time.Millisecond)
}

// span is how long something takes: mostly little, sometimes days.
func (s *sim) span() time.Duration {
	if s.chance(s.cfg.edge) {
		if d := s.edge(); d > 0 {
			return d
		}
	}
	lag := s.cfg.times.lag
	of := []time.Duration{time.Second, lag / 2, lag, lag + time.Second, 2 * lag, 5 * lag, 13 * lag, 24 * lag, 30 * lag, 47 * lag, 50 * lag, 60 * lag, 100 * lag}
	i := s.rng.IntN(len(of))
	if s.rng.IntN(2) == 0 {
		i = s.rng.IntN(8)
	}
	return of[i]
}

func (s *sim) advance(d time.Duration) {
	s.turn("time")
	s.say("%v pass", d)
	time.Sleep(d)
}

// A simRot is an object of the primary that is not what it was: other bytes, or for a segment nothing at all.
type simRot struct {
	name string
	was  simObject
	is   []byte // nil: it is gone
}

// decay lets a manifest that somebody was promised, or a segment, rot. While it is so, calls may fail; when it is over, nothing must be missing.
func (s *sim) decay() {
	var names []string
	for _, id := range s.known(func(sn *simSnap, _ *simWords) bool { return sn.promised }) {
		names = append(names, repo.SnapshotName(id))
	}
	names = append(names, s.main.names("index/")...)
	if len(names) == 0 {
		return
	}
	s.turn("rot")
	name := names[s.rng.IntN(len(names))]
	o, _ := s.main.get(name)
	s.rot = &simRot{name: name, was: o}
	if !strings.HasPrefix(name, "index/") || s.rng.IntN(2) == 0 {
		s.rot.is = bytes.Clone(o.data)
		s.rot.is[s.rng.IntN(len(o.data))] ^= 1
	}
	s.say("%s rots", name)
	s.stats["rotten"]++
	s.tainted = true
	s.main.become(name, simObject{data: s.rot.is, modified: o.modified, step: o.step, until: o.until})
	for _, a := range s.actors {
		if a.act != nil {
			a.act.corrupted = true
		}
	}
}

// mend puts back what has rotted, unless somebody did, or deleted it since.
func (s *sim) mend() {
	if s.rot == nil {
		return
	}
	o, err := s.main.get(s.rot.name)
	if err == nil && bytes.Equal(o.data, s.rot.is) || err != nil && s.rot.is == nil {
		s.say("%s is whole again", s.rot.name)
		s.main.become(s.rot.name, s.rot.was)
	}
	s.rot = nil
	s.everything(s.main, "when what was rotten is whole again")
}

// stop ends all that is under way.
func (s *sim) stop() {
	for range 10_000 {
		synctest.Wait()
		s.mu.Lock()
		pending := s.pending
		s.pending = nil
		busy := false
		for _, a := range s.actors {
			if a.act != nil && !a.act.finished {
				a.life++
				a.act.cancel()
				busy = true
			}
		}
		s.mu.Unlock()
		for _, op := range pending {
			op.err = errCrash
			close(op.done)
		}
		if !busy {
			return
		}
		time.Sleep(time.Minute)
	}
	s.t.Error("the actors do not end")
}

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

// unless fails if an error has no reason that the simulation gave it.
func (s *sim) unless(act *simAction, err error) {
	switch _, damage := errors.AsType[*repo.DamageError](err); {
	case errors.Is(err, errSim), errors.Is(err, errCrash), errors.Is(err, context.Canceled) && act.cancelled, errors.Is(err, context.DeadlineExceeded):
	case damage && (act.corrupted || s.lags != nil):
	case (s.cfg.lagAll || s.cfg.lagSessions) && strings.Contains(err.Error(), "a listed segment is not there"):
	default:
		s.fail("an error without a reason", "%s: %v", act.kind, err)
	}
}

// explained is unless for what may find the repository changing under its hands: nothing must be missing when it is asked afterwards.
func (s *sim) explained(a *simActor, act *simAction) {
	err := act.err
	if _, damage := errors.AsType[*repo.DamageError](err); damage && !act.corrupted && act.kind == "prune" {
		alone := !s.cfg.lagAll
		for _, b := range s.actors {
			alone = alone && (b == a || b.act == nil || b.act.kind != "prune")
		}
		if s.sound("after " + act.kind + " said " + err.Error()); s.broke != "" || !alone || s.cfg.maintainers > 1 || s.cfg.heals || len(s.late) > 0 {
			return
		}
	}
	if errors.Is(err, repo.ErrVoid) {
		s.stats["void"]++
		return
	}
	s.unless(act, err)
}

// simWords is what forgotten/ says of a snapshot, as the format has it.
type simWords struct {
	forgotten bool
	age       time.Duration // since it was, by the store's clock
	final     bool
	since     time.Time // when the store got the word that forgets
	ended     time.Time // and the final one
	changed   int       // step of the last word
}

// lasting tells whether a collector let it go, so that it need not be there.
func (w *simWords) lasting() bool { return w.final }

func (s *sim) forgottenAt(st *simStore, id string) *simWords {
	w := &simWords{}
	for n, missing := 0, 0; missing < 4; n++ { // at a replica some may not be there yet
		name := "forgotten/" + id
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		o, err := st.get(name)
		if err != nil {
			missing++
			continue
		}
		undo, final, err := repo.Word(s.oracle(s.main), name, o.data)
		if err != nil || w.final {
			continue
		}
		w.changed = max(w.changed, o.step)
		switch {
		case final:
			w.forgotten, w.final, w.ended = true, true, o.modified
		case undo:
			w.forgotten = false
		case !w.forgotten:
			w.forgotten, w.since = true, o.modified
		}
	}
	w.age = st.clock(false).Sub(w.since)
	return w
}

// oracle is a reader without a scheduler; nil while the owner's slot has not come to the replica.
func (s *sim) oracle(st *simStore) *repo.Repo {
	if s.oracles[st] == nil {
		r, err := repo.Open(context.Background(), &simBackend{store: st}, s.owner, &repo.Options{Workers: 1})
		if err != nil && st == s.replica {
			return nil
		} else if err != nil {
			s.t.Fatal(err)
		}
		s.oracles[st] = r
	}
	repo.Outdated(s.oracles[st])
	return s.oracles[st]
}

// simSame compares what a snapshot holds with what was backed up.
func simSame(fsys fs.FS, want map[string][]byte) error {
	n := 0
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		data, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, want[path]) {
			return fmt.Errorf("%s has other bytes", path)
		}
		return nil
	})
	if err == nil && n != len(want) {
		err = fmt.Errorf("%d files of %d", n, len(want))
	}
	return err
}

// restorable fails if a snapshot does not restore where its session was.
func (s *sim) restorable(sn *simSnap, when string) { s.restorableAt(sn.store, sn, when) }

func (s *sim) restorableAt(st *simStore, sn *simSnap, when string) {
	ctx := context.Background()
	r := s.oracle(st)
	if r == nil || s.rot != nil && st == s.main {
		return
	}
	m, err := repo.Manifest(ctx, r, sn.id)
	if err == nil && m == nil {
		err = errors.New("there is a void in its place")
	}
	if err == nil {
		var fsys fs.FS
		if fsys, err = r.FS(ctx, m); err == nil {
			err = simSame(fsys, sn.tree)
		}
	}
	if err != nil && !sn.excused {
		for name, data := range sn.tree {
			if s.verbose {
				s.say("%s: copies %v", name, repo.Copies(ctx, r, data))
			}
		}
		s.fail("restores at the "+st.name, "%s (%s): %v", sn.id, when, err)
	}
}

// look restores everything that has to be there, if anything was deleted since the last time.
func (s *sim) look() {
	for _, st := range []*simStore{s.main, s.replica} {
		if n := st.deletions + len(st.has)/1000; n == s.seen[st] && st == s.main {
			continue
		} else {
			s.seen[st] = n
		}
		s.everything(st, "while others work")
	}
}

// everything restores all snapshots that are there or have to be.
func (s *sim) everything(st *simStore, when string) {
	if s.oracle(st) == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.snaps)) {
		sn := s.snaps[id]
		_, err := st.get(repo.SnapshotName(id))
		w := s.forgottenAt(st, id)
		switch {
		case err != nil && sn.store != st, st == s.replica && w.forgotten && !s.keptWhole(id):
			continue
		case w.lasting(), err != nil && !sn.promised:
			continue
		}
		if !sn.promised {
			// It may be a void.
			if m, merr := repo.Manifest(context.Background(), s.oracle(st), id); merr == nil && m == nil {
				continue
			}
		}
		if s.restorableAt(st, sn, when); s.broke != "" {
			return
		}
	}
}

// sound checks the primary's structure.
func (s *sim) sound(when string) {
	if s.cfg.forger && len(s.forged) > 0 || s.rot != nil {
		return
	}
	rep, err := s.oracle(s.main).Check(context.Background(), nil)
	if err != nil {
		s.fail("check", "%s: %v", when, err)
		return
	}
	if !rep.Sound() {
		s.fail("check", "%s: %s", when, dmgFindings(rep))
	}
}

// watchCandidates looks at a list of candidates when it is put: no young pack is in it, nor what one has bases in, and what snapshots need is elsewhere.
func (s *sim) watchCandidates(op *simOp) {
	act := op.act
	if s.broke != "" || s.rot != nil {
		return
	}
	ctx := context.Background()
	r := s.oracle(s.main)
	packs, err := repo.Candidates(ctx, r, op.name)
	if err != nil {
		return
	}
	s.stats["condemned"] += len(packs)
	condemned := map[string]bool{}
	for _, p := range packs {
		condemned[p] = true
	}
	if !act.exclusive {
		young := map[string]bool{}
		now := s.main.clock(false)
		for _, name := range s.main.names("packs/") {
			if o, _ := s.main.get(name); now.Sub(o.modified) <= s.cfg.times.margin-s.cfg.times.lag && o.step < act.begun {
				young[name] = true
				if condemned[name] {
					s.fail("young packs are no candidates", "%s is %v old", name, now.Sub(o.modified))
				}
			}
		}
		if len(young) > 0 && s.cfg.deltas {
			bases, err := repo.YoungNeeds(ctx, r, young)
			for name := range bases {
				if err == nil && condemned[name] {
					s.fail("bases of young packs are no candidates", "%s", name)
				}
			}
		}
	}
	if s.cfg.lagAll || s.cfg.heals || s.cfg.maintainers > 1 {
		return
	}
	var snaps []*repo.Snapshot
	for _, id := range slices.Sorted(maps.Keys(s.snaps)) {
		o, err := s.main.get(repo.SnapshotName(id))
		if err != nil || o.step >= act.begun || s.forgottenAt(s.main, id).forgotten || s.snaps[id].excused {
			continue
		}
		if m, err := repo.Manifest(ctx, r, id); err == nil && m != nil {
			snaps = append(snaps, m)
		}
	}
	if err := repo.NeedsWithout(ctx, r, snaps, condemned); err != nil {
		s.fail("what is condemned is elsewhere", "%s: %v", op.name, err)
	}
}

// quiet lets all late operations come, time pass, and maintenance do its work; then garbage has to be gone.
func (s *sim) quiet() {
	ctx := context.Background()
	s.say("quiet")
	s.turn("quiet")
	s.mend()
	for len(s.late) > 0 {
		s.deliver(len(s.late) - 1)
	}
	s.everything(s.main, "in the end")
	s.everything(s.replica, "in the end")
	if s.broke != "" {
		return
	}
	r, err := repo.Open(ctx, &simBackend{store: s.main}, s.roles[s.cfg.maintainerRole], &repo.Options{Workers: 1})
	if err != nil {
		s.fail("open", "in the end: %v", err)
		return
	}
	repo.LeastMemory(r)
	idle, prunes := 0, 0
	for ; prunes < 40 && (idle < 3 || prunes < 14); prunes++ {
		time.Sleep(26 * s.cfg.times.lag)
		s.turn("prune " + strconv.Itoa(prunes))
		rep, err := r.Prune(ctx, &repo.PruneOptions{Exclusive: s.cfg.plain})
		if s.cfg.forger && len(s.forged) > 0 && err != nil {
			return // what came after it may be hurt
		}
		if err != nil {
			s.fail("quiet prune", "%v (%+v)", err, rep)
			return
		}
		idle++
		if rep.Freed+rep.Condemned+len(rep.Finished)+rep.Snapshots > 0 {
			idle = 0
		}
	}
	s.everything(s.main, "after quiet prunes")
	s.quietReplica(r)
	if s.sound("in the end"); s.broke != "" {
		return
	}
	if idle < 3 && s.verbose {
		for range 3 {
			time.Sleep(50 * s.cfg.times.lag)
			rep, err := r.Prune(ctx, nil)
			s.say("%+v %v", rep, err)
		}
	}
	if idle < 3 {
		s.fail("garbage", "after %d prunes there is still something to free", prunes)
	}
	s.garbage(r)
}

// garbage fails if something is left that nobody needs.
func (s *sim) garbage(r *repo.Repo) {
	if s.cfg.forger {
		return
	}
	ctx := context.Background()
	o := s.oracle(s.main)
	indexed, _, err := repo.Indexed(ctx, o)
	if err != nil {
		s.fail("garbage", "%v", err)
		return
	}
	for _, name := range s.main.names("packs/") {
		if !indexed[name] {
			s.fail("garbage", "%s is not indexed", name)
		}
	}
	live := map[string]bool{}
	for id := range s.snaps {
		if m, err := repo.Manifest(ctx, o, id); err == nil && m != nil {
			live[id] = true
			if w := s.forgottenAt(s.main, id); w.forgotten && w.age > s.cfg.times.undo+s.cfg.times.slack+60*s.cfg.times.lag {
				s.fail("garbage", "%s was forgotten long ago", id)
			}
		}
	}
	now := s.main.clock(false)
	// A session that no collection had to settle keeps its marker until the next one, and the collector's own until the one after that.
	var last, settled time.Time
	for _, name := range s.main.names("gc/") {
		if number, ok := strings.CutSuffix(name, ".done"); ok {
			if o, err := s.main.get(number); err == nil && o.modified.After(last) {
				last, settled = o.modified, last
			} else if err == nil && o.modified.After(settled) {
				settled = o.modified
			}
		}
	}
	for _, name := range s.main.names("sessions/") {
		id, suffix, _ := strings.Cut(strings.TrimPrefix(name, "sessions/"), ".")
		obj, _ := s.main.get(name)
		first, err := s.main.get("sessions/" + id)
		if err != nil {
			first = obj
		}
		if first.modified.After(settled) {
			continue
		}
		if now.Sub(obj.modified) > s.cfg.times.expire+s.cfg.times.slack+60*s.cfg.times.lag && !(live[id] && suffix == "end") {
			s.fail("garbage", "%s is %v old", name, now.Sub(obj.modified))
		}
	}
	if n := len(s.main.names("index/")); n > 24 {
		s.fail("garbage", "%d segments", n)
	}
	unneeded, err := repo.Unneeded(ctx, o)
	if err != nil {
		s.fail("garbage", "%v", err)
	}
	for _, name := range unneeded {
		if _, err := s.main.get(name); err == nil {
			s.fail("garbage", "nobody needs %s", name)
		}
	}
}
