package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/varvebackup/varve/repo"
)

// unless fails if an error has no reason that the simulation gave it.
func (s *sim) unless(act *simAction, err error) {
	switch _, damage := errors.AsType[*repo.DamageError](err); {
	case errors.Is(err, errSim), errors.Is(err, errCrash), errors.Is(err, context.Canceled) && act.cancelled, errors.Is(err, context.DeadlineExceeded):
	case (damage || errors.Is(err, fs.ErrExist)) && act.corrupted, damage && s.lags != nil:
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
	if n := st.version(); s.fresh[st] != n {
		s.fresh[st] = n
		repo.Outdated(s.oracles[st])
	}
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
			o, _ := s.main.get(name)
			// A list that lags may lack a copy whose segment is there already: it looks like what never came. What it is a copy of is kept, then, and sessions that rely on it are waited for.
			missed := s.cfg.lagAll && now.Sub(o.modified) <= s.cfg.times.lag
			if now.Sub(o.modified) <= s.cfg.times.margin-s.cfg.times.lag && o.step < act.begun && !missed {
				young[name] = true
				if condemned[name] {
					s.fail("young packs are no candidates", "%s is %v old", name, now.Sub(o.modified))
				}
			}
		}
		// What bases a pack has is known from its segment, which may have come since the collector listed them.
		later := s.cfg.lagAll || slices.ContainsFunc(s.main.names("index/"), func(name string) bool { o, _ := s.main.get(name); return o.step >= act.begun })
		if len(young) > 0 && s.cfg.deltas && !later {
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
