package repo_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/repo"
)

func (s *sim) following(a *simActor) *simAction {
	after := []time.Duration{0, s.cfg.times.lag, 4 * s.cfg.times.lag}[s.rng.IntN(3)]
	return s.followsWith(a, repo.PruneOptions{DryRun: s.rng.IntN(8) == 0, FollowAfter: after})
}

func (s *sim) follows(a *simActor) *simAction { return s.followsWith(a, repo.PruneOptions{}) }

// followsWith is a prune at the replica that follows the primary.
func (s *sim) followsWith(a *simActor, o repo.PruneOptions) *simAction {
	act, tainted := &simAction{kind: "follow", keeps: o.FollowAfter}, s.tainted
	if act.keeps == 0 {
		act.keeps = s.cfg.times.follow
	}
	o.Follow = &simBackend{store: s.main, actor: a, life: a.life}
	act.run = func(ctx context.Context, r *repo.Repo) error {
		rep, err := r.Prune(ctx, &o)
		if err == nil {
			s.mu.Lock()
			s.stats["followed"] += rep.Freed
			s.stats["spared"] += rep.Spared
			s.mu.Unlock()
		}
		return err
	}
	act.after = func(err error) {
		// A segment that could not be read at the source is not at the replica, until it is replicated again.
		if _, damage := errors.AsType[*repo.DamageError](err); err != nil && !act.crashed && !(damage && (tainted || s.tainted)) {
			s.unless(act, err)
		}
	}
	return act
}

// keptWhole tells of a snapshot that is forgotten at the replica whether the primary has to keep all of it: it may be taken back there.
func (s *sim) keptWhole(id string) bool {
	_, err := s.main.get(repo.SnapshotName(id))
	return err == nil && !s.forgottenAt(s.main, id).lasting()
}

// watchFollower looks at what a follower has deleted: the primary had it no more, and both stores have had the signed words for as long as the replica keeps things.
func (s *sim) watchFollower(op *simOp) {
	if s.broke != "" {
		return
	}
	if o, err := s.main.get(op.name); err == nil && o.step < op.act.begun && !strings.HasPrefix(op.name, "sessions/") {
		s.fail("a follower", "%s was deleted, and the source holds it", op.name)
	}
	age := op.act.keeps - 2*time.Second
	if strings.HasPrefix(op.name, "snapshots/") {
		id := op.name[strings.LastIndexByte(op.name, '/')+1:]
		for _, st := range []*simStore{s.replica, s.main} {
			if w := s.forgottenAt(st, id); !w.final || st.clock(false).Sub(w.ended) <= age {
				s.fail("a follower", "%s was deleted, and at the %s it was let go %v, at %v", op.name, st.name, w.final, w.ended)
			}
		}
	}
	if !strings.HasPrefix(op.name, "packs/") {
		return
	}
	for _, name := range s.main.names("gc/") {
		number, ok := strings.CutSuffix(name, ".free")
		if !ok {
			continue
		}
		agreed := true
		for _, st := range []*simStore{s.main, s.replica} {
			done, err := st.get(number + ".done")
			if err != nil || st.clock(false).Sub(done.modified) <= age {
				agreed = false
				break
			}
			packs, err := repo.Candidates(context.Background(), s.oracle(st), name)
			agreed = agreed && err == nil && slices.Contains(packs, op.name)
		}
		if agreed {
			return
		}
	}
	s.fail("a follower", "%s was deleted, and no verdict that both stores have had for long says so", op.name)
}

// quietReplica replicates and follows until nothing is left to free. The replica then has what the source has, and what its own snapshots need.
func (s *sim) quietReplica(r *repo.Repo) {
	if !s.cfg.follower || s.broke != "" {
		return
	}
	ctx := context.Background()
	src, dst := &simBackend{store: s.main}, &simBackend{store: s.replica}
	for n := range 3 {
		s.turn("follow " + string(rune('0'+n)))
		if _, err := repo.Replicate(ctx, dst, src, nil); err != nil {
			s.fail("quiet replicate", "%v", err)
			return
		}
		s.everything(s.replica, "after replicating in the end")
		time.Sleep(s.cfg.times.follow + s.cfg.times.undo + s.cfg.times.slack + 2*s.cfg.times.lag)
		// The source's time is that of the last thing that it got.
		if _, err := r.Prune(ctx, nil); err != nil {
			s.fail("quiet prune", "%v", err)
			return
		}
		f, err := repo.Open(ctx, dst, s.roles[s.cfg.maintainerRole], &repo.Options{Workers: 1})
		if err == nil {
			var rep *repo.PruneReport
			rep, err = f.Prune(ctx, &repo.PruneOptions{Follow: src})
			s.stats["followed"] += rep.Freed
		}
		if err != nil {
			s.fail("quiet follow", "%v", err)
			return
		}
		s.everything(s.replica, "after following in the end")
	}
	if s.broke != "" || s.cfg.replicaWriter || s.cfg.forger {
		return
	}
	for _, prefix := range []string{"packs/", "snapshots/"} {
		there := s.main.names(prefix)
		for _, name := range s.replica.names(prefix) {
			if !slices.Contains(there, name) {
				s.fail("garbage at the replica", "%s", name)
			}
		}
	}
}

// renews lets an actor renew the markers of what it does, and nothing else.
func (s *sim) renews(a *simActor) {
	synctest.Wait()
	s.mu.Lock()
	ops := slices.DeleteFunc(slices.Clone(s.pending), func(op *simOp) bool { return op.actor != a || !simOpIs(simPut, "sessions/")(op) })
	s.mu.Unlock()
	for _, op := range ops {
		s.release(op)
	}
}

// collects lets the primary free what it can, without copying.
func (s *sim) collects() {
	m := s.who("m0")
	s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
	s.lag()
	s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
}

// month lets the time pass after which a replica frees what its source freed, at both stores.
func (s *sim) month() {
	s.advance(s.cfg.times.follow + 2*s.cfg.times.lag)
	m := s.who("m0")
	s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
}

func simFollower(c *simConfig) { c.replica, c.follower = true, true }

// simFollowed are runs at a replica that follows its source.
func simFollowed() []simScene {
	return []simScene{
		{"following while replicating", simFollower, func(s *sim) {
			simGarbage(s)
			c, f, w := s.who("copy"), s.who("follow"), s.who("w0")
			s.end(c, s.replicates(c))
			s.collects()
			s.upTo(c, s.replicates(c), simOpIs(simPut, "gc/1.done"))
			s.end(f, s.follows(f))
			s.end(c, nil)
			s.advance(time.Minute)
			// What was freed comes back, in other packs.
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 9)...)))
			s.advance(time.Minute)
			s.end(f, s.follows(f)) // too early
			if s.stats["followed"] > 0 {
				s.fail("a follower", "it follows at once")
			}
			s.month()
			for _, until := range []string{"packs/", "index/", "snapshots/"} {
				s.upTo(c, s.replicates(c), simOpIs(simPut, until))
				s.end(f, s.follows(f))
				s.end(c, nil)
				s.everything(s.replica, "after following")
			}
			if s.stats["followed"] == 0 {
				s.fail("a follower", "nothing was freed")
			}
		}, []string{"followSoon"}},
		{"a follower that dies between deletions", simFollower, func(s *sim) {
			simGarbage(s)
			c, f := s.who("copy"), s.who("follow")
			s.end(c, s.replicates(c))
			s.collects()
			s.end(c, s.replicates(c))
			s.month()
			for n := 0; n < 20; n++ {
				op := s.upTo(f, s.follows(f), simOpIs(simDelete, ""))
				if op == nil {
					break
				}
				s.release(op)
				s.crash(f)
				s.end(f, nil)
				if n%3 == 0 {
					s.end(c, s.replicates(c))
				}
				s.everything(s.replica, "after a crash")
			}
		}, nil},
		{"a writer at the replica needs what the source freed", func(c *simConfig) {
			simFollower(c)
			c.replicaWriter, c.times.follow = true, 2*c.times.lag
		}, func(s *sim) {
			simGarbage(s)
			c, f, w := s.who("copy"), s.who("follow"), s.who("rw")
			s.end(c, s.replicates(c))
			s.collects()
			s.upTo(w, s.backs(w, "mine", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(c, s.replicates(c))
			s.month()
			s.renews(w)
			s.end(f, s.follows(f)) // it waits
			s.end(w, nil)
			s.month()
			s.end(f, s.follows(f))
			if s.stats["spared"] == 0 {
				s.fail("a follower", "nothing was spared")
			}
		}, []string{"followNoWait", "followUnspared"}},
		{"a writer at the replica sleeps for a month", func(c *simConfig) {
			simFollower(c)
			c.replicaWriter = true
		}, func(s *sim) {
			simGarbage(s)
			c, f, w := s.who("copy"), s.who("follow"), s.who("rw")
			s.end(c, s.replicates(c))
			s.collects()
			s.upTo(w, s.backs(w, "mine", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(c, s.replicates(c))
			s.month()
			s.end(f, s.follows(f))
			if err := s.end(w, nil); !errors.Is(err, repo.ErrVoid) {
				s.fail("a sleeper", "%v", err)
			}
		}, []string{"followNoWait"}},
		{"a list of gc/ at the replica that lags behind the end of a collection", func(c *simConfig) {
			simFollower(c)
			c.replicaWriter = true
		}, func(s *sim) {
			simGarbage(s)
			c, f, w := s.who("copy"), s.who("follow"), s.who("rw")
			s.end(c, s.replicates(c))
			s.collects()
			s.end(c, s.replicates(c))
			s.advance(10 * time.Second)
			s.lags = func(op *simOp) time.Duration {
				if op.actor == w && op.name == "gc/" {
					return s.cfg.times.lag - time.Second
				}
				return 0
			}
			s.upTo(w, s.backs(w, "mine", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.lags = nil
			s.month()
			s.end(f, s.follows(f))
			s.end(w, nil)
		}, []string{"followNoLag"}},
		{"a source that lost everything without a signature", simFollower, func(s *sim) {
			simGarbage(s)
			c, f := s.who("copy"), s.who("follow")
			s.end(c, s.replicates(c))
			lost := map[string]simObject{}
			for _, name := range slices.Concat(s.main.names("packs/"), s.main.names("index/"), s.main.names("snapshots/"), s.main.names("forgotten/")) {
				lost[name] = s.main.has[name]
				delete(s.main.has, name)
			}
			before := s.replica.names("")
			for range 2 {
				s.advance(s.cfg.times.follow + s.cfg.times.undo + s.cfg.times.slack)
				if err := s.main.put("sessions/20000101T000000000Z-0123456789abcdef-0123456789abcdef", nil, false, false); err != nil {
					s.t.Error(err)
				}
				s.end(f, s.follows(f))
			}
			s.main.delete("sessions/20000101T000000000Z-0123456789abcdef-0123456789abcdef")
			for _, name := range before {
				if _, err := s.replica.get(name); err != nil && !strings.HasPrefix(name, "sessions/") {
					s.fail("a follower", "%s was deleted", name)
				}
			}
			maps.Copy(s.main.has, lost)
		}, []string{"followUnsigned"}},
	}
}
