package repo_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// A simScene is a directed run: who does what, up to which operation, in which order.
type simScene struct {
	name string
	cfg  func(*simConfig)
	play func(s *sim)
	// rules are those without which it goes wrong; each is switched off in turn.
	rules []string
}

func (s *sim) who(name string) *simActor {
	for _, a := range s.actors {
		if a.name == name {
			return a
		}
	}
	s.t.Fatalf("nobody is called %s", name)
	return nil
}

// upTo starts what an actor does, unless it does something already, and lets it go on until an operation comes that is matched. It returns that operation, which stays where it is;
// nil when the call came to its end.
func (s *sim) upTo(a *simActor, act *simAction, match func(*simOp) bool) *simOp {
	if act != nil {
		s.start(a, act)
	}
	for s.steps < 60_000 {
		synctest.Wait()
		if s.finish(); a.act == nil || s.broke != "" {
			return nil
		}
		s.mu.Lock()
		ops := slices.DeleteFunc(slices.Clone(s.pending), func(op *simOp) bool { return op.actor != a })
		s.mu.Unlock()
		slices.SortFunc(ops, (*simOp).compare)
		if i := slices.IndexFunc(ops, func(op *simOp) bool { return match != nil && match(op) }); i >= 0 {
			return ops[i]
		}
		if len(ops) == 0 {
			s.advance(time.Second)
			continue
		}
		s.release(ops[0])
	}
	s.fail("progress", "%s does not come to its end", a.name)
	return nil
}

// end lets an actor go on to its end.
func (s *sim) end(a *simActor, act *simAction) error {
	doing := act
	if act == nil {
		doing = a.act
	}
	s.upTo(a, act, nil)
	if doing == nil {
		return nil
	}
	return doing.err
}

func simOpIs(kind simKind, prefix string) func(*simOp) bool {
	return func(op *simOp) bool {
		return op.kind == kind && strings.HasPrefix(op.name, prefix) && op.ctx.Err() == nil
	}
}

// tree is a source of pieces of content, named by family and version.
func simTree(pieces ...[2]int) map[string][]byte {
	t := map[string][]byte{}
	for _, p := range pieces {
		t[fmt.Sprintf("f%02d-%d", p[0], p[1])] = simContent(p[0], p[1])
	}
	return t
}

func simRange(from, to int) (ps [][2]int) {
	for i := from; i < to; i++ {
		ps = append(ps, [2]int{i, 0})
	}
	return ps
}

// backs is a backup of a tree.
func (s *sim) backs(a *simActor, series string, tree map[string][]byte) *simAction {
	return s.backupOf(a, series, tree)
}

func (s *sim) prunes(a *simActor, o repo.PruneOptions) *simAction { return s.pruneWith(a, &o) }

// last returns the newest session of an actor's backups that has a manifest.
func (s *sim) last(a *simActor) string {
	var ids []string
	for id, sn := range s.snaps {
		if sn.store == a.home && sn.promised && sn.by == a {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return slices.Max(ids)
}

// lists tells whether a store lists a snapshot, for those who restore.
func (s *sim) lists(st *simStore, id string) bool {
	for sn, err := range s.oracle(st).Snapshots(context.Background(), repo.Filter{}) {
		if err != nil {
			s.fail("a reader", "%v", err)
		} else if sn.ID == id {
			return true
		}
	}
	return false
}

func (s *sim) forgets(ids ...string) *simAction {
	return &simAction{kind: "forget", run: func(ctx context.Context, r *repo.Repo) error { return r.Forget(ctx, ids...) }}
}

func (s *sim) unforgets(id string) *simAction { return s.unforgetOf(id) }

// age lets time pass until what was forgotten is expired.
func (s *sim) age() { s.advance(s.cfg.times.undo + s.cfg.times.slack + 2*s.cfg.times.lag) }

// lag lets the time pass after which a verdict may be given.
func (s *sim) lag() { s.advance(s.cfg.times.lag + 2*time.Second) }

// simGarbage makes a snapshot of much and one of some of it, and forgets the first, so long ago that the rest is garbage in packs that are named together with what is needed.
func simGarbage(s *sim) {
	w := s.who("w0")
	s.end(w, s.backs(w, "shop", simTree(simRange(0, 24)...)))
	id := s.last(w)
	s.advance(time.Minute)
	s.end(w, s.backs(w, "shop", simTree(simRange(6, 24)...)))
	s.end(s.who("m0"), s.forgets(id))
	s.age()
}

// simHalf makes a snapshot of half of what a forgotten one holds, so that all packs are wasteful. It returns the contents of that half.
func simHalf(s *sim) (kept [][]byte) {
	w := s.who("w0")
	all := simTree(simRange(0, 24)...)
	s.end(w, s.backs(w, "shop", all))
	id := s.last(w)
	s.advance(time.Minute)
	half := map[string][]byte{}
	for i, name := range slices.Sorted(maps.Keys(all)) {
		if i%2 == 0 {
			half[name] = all[name]
			kept = append(kept, all[name])
		}
	}
	s.end(w, s.backs(w, "shop", half))
	s.end(s.who("m0"), s.forgets(id))
	s.age()
	return kept
}

func simScenes() []simScene {
	return slices.Concat(simDirected(), simOvertaken(), simFollowed(), simStores(), simClaimed())
}

func simDirected() []simScene {
	return []simScene{
		{"a list of gc/ that a collection overtakes", nil, func(s *sim) {
			// Of each segment little is freed, so none is rewritten.
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 100})
			w, m := s.who("w0"), s.who("m0")
			all := simTree(simRange(0, 24)...)
			s.end(w, s.backs(w, "shop", all))
			id := s.last(w)
			s.advance(time.Minute)
			some, few := maps.Clone(all), map[string][]byte{}
			for _, n := range []int{0, 9, 18} {
				name := fmt.Sprintf("f%02d-0", n)
				few[name] = all[name]
				delete(some, name)
			}
			s.end(w, s.backs(w, "shop", some))
			s.end(m, s.forgets(id))
			s.age()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			w = s.who("w1")
			// The writer's list of gc/ begins before the verdict and ends after the collection; of what came meanwhile it has the end only.
			s.splits = func(op *simOp) bool { return op.actor == w && op.name == "gc/" }
			s.listed = func(op *simOp, name string) bool { return !strings.HasSuffix(name, ".free") }
			s.upTo(w, s.backs(w, "other", few), func(op *simOp) bool { return op.name == "gc/" && op.began != nil })
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
		}, []string{"gcTrustsList"}},
		{"a collector that sleeps before its marker", func(c *simConfig) { c.times = simTimesOf(time.Hour, false) }, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.end(m, s.forgets(s.last(w)))
			id := s.last(w)
			s.advance(4*24*time.Hour + 12*time.Hour)
			s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true}), simOpIs(simPut, "sessions/"))
			s.advance(2*24*time.Hour + 8*time.Hour)
			s.end(m, nil)
			s.end(m, s.unforgets(id))
		}, nil},
		{"a collector that sleeps until its marker is taken for a dead one's", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			simGarbage(s)
			m, n := s.who("m0"), s.who("m1")
			s.upTo(m, s.prunes(m, repo.PruneOptions{}), simOpIs(simStat, "sessions/"))
			for range 3 {
				s.advance(s.cfg.times.expire + s.cfg.times.slack)
				s.end(n, s.prunes(n, repo.PruneOptions{}))
			}
			if err := s.end(m, nil); !errors.Is(err, repo.ErrBusy) {
				s.fail("a sleeper", "%v", err)
			}
		}, nil},
		{"a writer that sleeps until its segment is replaced, and hears then that it is there", nil, func(s *sim) {
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 2})
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 3)...)))
			op := s.upTo(w, s.backs(w, "shop", simTree(simRange(3, 6)...)), simOpIs(simPut, "index/"))
			op.carryOut(false) // the reply is lost
			s.release(op)      // and it is put again
			s.upTo(w, nil, simOpIs(simGet, op.name))
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			if _, err := s.main.get(op.name); err == nil {
				s.t.Error("the segment is there")
			}
			if err := s.end(w, nil); err != nil {
				s.fail("a sleeper", "%v", err)
			}
		}, nil},
		{"a writer that sleeps for 60 hours before its commit", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			act := s.backs(w, "other", simTree(simRange(0, 6)...))
			s.upTo(w, act, simOpIs(simPut, "snapshots/"))
			for range 5 {
				s.advance(12 * s.cfg.times.lag)
				s.end(m, s.prunes(m, repo.PruneOptions{}))
			}
			if err := s.end(w, nil); !errors.Is(err, repo.ErrVoid) {
				s.fail("a sleeper", "%v", err)
			}
		}, []string{"noVoidExpired", "existsIsMine"}},
		{"a writer that sleeps for some hours is waited for", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
		}, []string{"noWait", "firstMark"}},
		{"an ended session's commit is under way", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			op := s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.postpone(op)
			s.cfg.fail = 1
			s.release(op)
			s.cfg.fail = 0
			s.late = s.late[:1]
			s.end(w, nil)
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.deliver(0)
		}, []string{"noVoidEnded"}},
		{"a commit that comes when its void is old", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			op := s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.cfg.fail = 1
			s.release(op)
			s.cfg.fail = 0
			s.late = nil
			s.postpone(op)
			s.end(w, nil)
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
				s.advance(s.cfg.times.expire + s.cfg.times.slack)
			}
			s.deliver(0)
		}, []string{"voidsRemoved"}},
		{"a fence and a commit at once", nil, func(s *sim) {
			for n := range 2 {
				simGarbage(s)
				w, m := s.who("w1"), s.who("m0")
				s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
				s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true, MaxRepack: -1}), simOpIs(simPut, "snapshots/"))
				if n == 0 {
					s.end(w, nil)
					s.end(m, nil)
				} else {
					s.end(m, nil)
					if err := s.end(w, nil); !errors.Is(err, repo.ErrVoid) {
						s.fail("a fence", "%v", err)
					}
				}
				s.age()
			}
		}, []string{"existsIsMine"}},
		{"a marker in the last tick of the lag, and a list that lags as long", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1900 * time.Millisecond)))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1})) // late in a tick
			s.advance(s.cfg.times.lag - 800*time.Millisecond)
			s.advance(700 * time.Millisecond)
			s.lags = func(op *simOp) time.Duration {
				if op.actor == w && op.name == "gc/" {
					return s.cfg.times.lag - 10*time.Millisecond
				}
				return 0
			}
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "packs/"))
			s.advance(time.Second)
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
		}, []string{"noLag", "tiesPass"}},
		{"a session between candidates and verdict", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
		}, []string{"believeCandidates"}},
		{"a record of a collection that is read wrong once", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			read := false
			s.flips = func(op *simOp) bool {
				flip := op.actor == w && op.name == "gc/1" && !read
				read = read || flip
				return flip
			}
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
			if !read {
				s.t.Error("nothing was read wrong")
			}
		}, nil},
		{"a session that looks before it has a marker", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), func(op *simOp) bool {
				return simOpIs(simPut, "sessions/")(op) && len(s.draws) > 0 && op.act.looked || simOpIs(simPut, "packs/")(op)
			})
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
		}, []string{"markerLate"}},
		{"two collectors, one of them slow, condemn one copy each", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			w, x, m, n := s.who("w0"), s.who("w1"), s.who("m0"), s.who("m1")
			// Both writers see nothing of each other, so there are two copies of everything.
			s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 6)...)), simOpIs(simPut, "packs/"))
			s.end(x, s.backs(x, "other", simTree(simRange(0, 6)...)))
			s.end(w, nil)
			s.advance(s.cfg.times.margin + 2*s.cfg.times.lag)
			isList := simOpIs(simPut, "gc/")
			s.upTo(m, s.prunes(m, repo.PruneOptions{}), isList)
			s.upTo(n, s.prunes(n, repo.PruneOptions{}), isList)
			s.end(n, nil)
			s.lag()
			isVerdict := func(op *simOp) bool { return isList(op) && strings.HasSuffix(op.name, ".free") }
			s.upTo(n, s.prunes(n, repo.PruneOptions{}), isVerdict)
			s.end(m, nil)
			s.end(n, nil)
		}, nil},
		{"a verdict that stands is obeyed by a collector that judged otherwise", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			simGarbage(s)
			w, m, n := s.who("w1"), s.who("m0"), s.who("m1")
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			// The slow one looks while nobody has committed, exclusively; the other one when the commit is there, and its verdict is first.
			isVerdict := func(op *simOp) bool { return simOpIs(simPut, "gc/")(op) && strings.HasSuffix(op.name, ".free") }
			s.end(w, nil)
			s.upTo(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}), isVerdict)
			id := s.last(w)
			s.end(n, s.forgets(id))
			s.age()
			s.upTo(n, s.prunes(n, repo.PruneOptions{MaxRepack: -1}), isVerdict)
			done := s.upTo(m, nil, func(op *simOp) bool { return simOpIs(simPut, "gc/")(op) && strings.HasSuffix(op.name, ".done") })
			s.release(done)
			s.crash(m)
			s.end(m, nil)
			// Freed was what neither needs; what only the other one takes for garbage is dead for nobody.
			x := s.who("w0")
			s.end(x, s.backs(x, "again", simTree(simRange(0, 6)...)))
			s.end(n, nil)
		}, []string{"ownVerdict"}},
		{"an unreadable snapshot while marking", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.advance(s.cfg.times.margin + 2*s.cfg.times.lag)
			prune := func() {
				s.upTo(m, s.prunes(m, repo.PruneOptions{}), nil)
			}
			s.flips = func(op *simOp) bool {
				return op.actor == m && strings.HasPrefix(op.name, "snapshots/") && op.kind == simGet
			}
			prune()
			s.lag()
			prune()
			s.flips = nil
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
		}, []string{"skipUnreadable"}},
		{"an index that is not listed whole while marking", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.advance(s.cfg.times.margin + 2*s.cfg.times.lag)
			s.lags = func(op *simOp) time.Duration {
				if op.actor == m && op.name == "index/" {
					return 1000 * s.cfg.times.lag
				}
				return 0
			}
			for range 3 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			s.lags = nil
		}, []string{"skipMissing"}},
		{"cached chunk lists of a failed run", func(c *simConfig) { c.cache = 1 }, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 3)...)))
			s.advance(time.Minute)
			op := s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 9)...)), simOpIs(simPut, "snapshots/"))
			_ = op
			s.crash(w)
			s.end(w, nil)
			s.advance(s.cfg.times.margin + s.cfg.times.expire)
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 9)...)))
		}, nil},
		{"unforget at the edge of the window", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			until := s.cfg.times.undo + s.cfg.times.slack
			for _, late := range []bool{false, true} {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
				s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
				id := s.last(w)
				s.end(m, s.forgets(id))
				if s.advance(until); late {
					s.advance(time.Second)
				}
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				if err := s.end(m, s.unforgets(id)); errors.Is(err, repo.ErrTooLate) != late || err != nil && !late {
					s.fail("the undo window", "after its edge %v: %v", late, err)
				}
				for range 2 {
					s.advance(until)
					s.end(m, s.prunes(m, repo.PruneOptions{}))
				}
			}
		}, nil},
		{"a word that takes back, and the one that lets go", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			w, m, n := s.who("w0"), s.who("m0"), s.who("m1")
			for _, first := range []*simActor{m, n} {
				s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
				id := s.last(w)
				s.end(m, s.forgets(id))
				s.age()
				says := simOpIs(simPut, "forgotten/")
				s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true}), says)
				act := s.unforgets(id)
				s.upTo(n, act, says)
				s.end(first, nil)
				s.end(m, nil)
				s.end(n, nil)
				if taken := errors.Is(act.err, repo.ErrBusy); taken != (first == m) || act.err != nil && !taken {
					s.fail("two words at once", "%v", act.err)
				}
				if err := s.end(n, s.unforgets(id)); first == m && !errors.Is(err, repo.ErrTooLate) {
					s.fail("two words at once", "afterwards: %v", err)
				}
			}
			// One that has read what is forgotten, and has not looked yet at what is needed.
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.age()
			s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true}), simOpIs(simGet, "snapshots/"))
			if err := s.end(n, s.unforgets(id)); !errors.Is(err, repo.ErrTooLate) {
				s.fail("two words at once", "too late: %v", err)
			}
			s.end(m, nil)
		}, []string{"finalBlind"}},
		{"words that come to a replica in their own time", func(c *simConfig) { c.replica = true }, func(s *sim) {
			w, m, c := s.who("w0"), s.who("m0"), s.who("copy")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.end(c, s.replicates(c))
			s.advance(s.cfg.times.undo - time.Minute)
			s.end(m, s.unforgets(id))
			s.age()
			s.end(c, s.replicates(c))
			if s.forgottenAt(s.replica, id).forgotten || !s.lists(s.replica, id) {
				s.fail("words at a replica", "%s was taken back in time", id)
			}
			s.end(m, s.forgets(id))
			s.age()
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			if err := s.end(m, s.unforgets(id)); !errors.Is(err, repo.ErrTooLate) {
				s.fail("words at a replica", "%v", err)
			}
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.end(c, s.replicates(c))
			if s.lists(s.replica, id) {
				s.fail("words at a replica", "%s was let go", id)
			}
		}, nil},
		{"a forgotten snapshot can be taken back although a collector ran", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.advance(s.cfg.times.undo - 2*s.cfg.times.lag)
			s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true}))
			s.end(m, s.unforgets(id))
		}, []string{"forgetNow"}},
		{"a word whose reply is lost", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			for _, act := range []*simAction{s.forgets(s.last(w)), s.unforgets(s.last(w))} {
				op := s.upTo(m, act, simOpIs(simPut, "forgotten/"))
				op.carryOut(false)
				if s.release(op); s.end(m, nil) != nil {
					s.fail("a word", "%v", act.err)
				}
			}
		}, nil},
		{"a word that takes back, and a list of forgotten/ that lags", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.advance(s.cfg.times.undo - 10*time.Second)
			s.end(m, s.unforgets(id))
			s.advance(20*time.Second + s.cfg.times.slack)
			s.lags = func(op *simOp) time.Duration {
				if op.name == "forgotten/" {
					return time.Minute + s.cfg.times.slack
				}
				return 0
			}
			s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true}))
			s.lags = nil
		}, []string{"finalBlind"}},
		{"a word that takes back and cannot be read", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.end(m, s.unforgets(id))
			s.age()
			reads := 0
			s.flips = func(op *simOp) bool {
				if op.actor != m || !strings.HasPrefix(op.name, "forgotten/") || !strings.HasSuffix(op.name, ".1") {
					return false
				}
				reads++
				return reads == 1
			}
			s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true}))
			s.flips = func(op *simOp) bool {
				return op.actor == m && strings.HasPrefix(op.name, "forgotten/") && strings.HasSuffix(op.name, ".1")
			}
			s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true}))
		}, nil},
		{"a late duplicate of the commit of a snapshot that was forgotten and removed", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			op := s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.postpone(op)
			s.end(w, nil)
			s.end(m, s.forgets(s.last(w)))
			s.age()
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			if _, err := s.main.get(op.name); err == nil {
				s.fail("garbage", "%s is still there", op.name)
			}
			s.deliver(0)
		}, nil},
		{"segments and packs that come late and go twice", nil, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			act := s.backs(w, "shop", simTree(simRange(0, 6)...))
			for op := s.upTo(w, act, simOpIs(simPut, "packs/")); op != nil; op = s.upTo(w, nil, simOpIs(simPut, "")) {
				s.postpone(op)
				s.release(op)
			}
			s.end(m, s.forgets(s.last(w)))
			s.age()
			for range 4 {
				act := s.prunes(m, repo.PruneOptions{})
				s.start(m, act)
				for op := s.upTo(m, nil, simOpIs(simDelete, "")); op != nil; op = s.upTo(m, nil, simOpIs(simDelete, "")) {
					s.postpone(op)
					s.release(op)
				}
				s.lag()
			}
			x := s.who("w1")
			s.end(x, s.backs(x, "other", simTree(simRange(0, 6)...)))
			for len(s.late) > 0 {
				s.deliver(0)
			}
			s.end(x, s.backs(x, "other", simTree(simRange(0, 9)...)))
		}, nil},
		{"a segment that a sleeper puts late", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.cfg.lost = 0
			for op := s.upTo(w, s.backs(w, "other", simTree(simRange(30, 36)...)), simOpIs(simPut, "index/")); op != nil; op = s.upTo(w, nil, simOpIs(simPut, "index/")) {
				s.postpone(op)
				s.crash(w)
			}
			s.end(w, nil)
			s.advance(s.cfg.times.margin + s.cfg.times.expire)
			for range 3 {
				s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
				s.lag()
			}
			for len(s.late) > 0 {
				s.deliver(0)
			}
			s.end(w, s.backs(w, "other", simTree(simRange(30, 36)...)))
		}, []string{"forgetVerdicts"}},
		{"forged records of maintenance", func(c *simConfig) { c.forger = true }, func(s *sim) {
			s.forged["records"] = true // a check speaks of them
			w, m := s.who("w0"), s.who("m0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			for _, name := range []string{"gc/1", "gc/1.free", "gc/2", "gc/7.done", "forgotten/" + s.last(w)} {
				if err := s.main.put(name, crypt.AppendHash([]byte("forged "+name)), true, false); err != nil {
					s.t.Error(err)
				}
			}
			s.advance(s.cfg.times.margin + s.cfg.times.lag)
			x := s.who("w1")
			s.end(x, s.backs(x, "other", simTree(simRange(3, 9)...)))
			s.end(m, s.forgets(s.last(x)))
			s.age()
			for range 3 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
		}, nil},
		{"only segments that were read are removed", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.lag()
			s.upTo(m, s.prunes(m, repo.PruneOptions{}), simOpIs(simPut, "index/"))
			s.end(w, s.backs(w, "other", simTree(simRange(30, 36)...)))
			s.end(m, nil)
		}, []string{"removeUnread"}},
		{"a reader of what a thief claims, while the store fails", func(c *simConfig) { c.forger, c.replica = true, true }, func(s *sim) {
			w, thief, c, rr := s.who("w0"), s.who("thief"), s.who("copy"), s.who("rr")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 3)...)))
			honest := s.main.names("packs/")
			s.advance(time.Minute)
			s.end(thief, s.forging())
			s.end(c, s.replicates(c)) // where all are of one age
			s.fails = func(op *simOp) bool {
				return op.actor == rr && op.kind == simGet && slices.Contains(honest[1:], op.name)
			}
			for n := range honest {
				honest[0], honest[n] = honest[n], honest[0] // but one
				s.end(rr, s.reading(rr))
			}
			s.fails = nil
		}, nil},
		{"a forged segment that one list has and the next one lacks", func(c *simConfig) { c.forger = true }, func(s *sim) {
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 2})
			w, m, thief := s.who("w0"), s.who("m0"), s.who("thief")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.advance(time.Minute)
			s.end(thief, s.forging())
			s.lag()
			lists := 0
			s.lags = func(op *simOp) time.Duration {
				if op.actor != m || op.name != "index/" {
					return 0
				}
				if lists++; lists == 2 {
					return s.cfg.times.lag + 30*time.Second // before it was put
				}
				return 0
			}
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
				s.advance(s.cfg.times.margin + 2*s.cfg.times.lag)
			}
			s.lags = nil
		}, nil},
		{"a collector that dies when it has removed a snapshot and not its markers, beside a replica", func(c *simConfig) { c.replica = true }, func(s *sim) {
			w, m, c := s.who("w0"), s.who("m0"), s.who("copy")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			first := s.last(w)
			s.advance(time.Minute)
			s.end(w, s.backs(w, "shop", simTree(simRange(6, 12)...)))
			s.end(c, s.replicates(c))
			s.end(m, s.forgets(first))
			s.advance(2 * s.cfg.times.lag)
			s.end(m, s.forgets(s.last(w)))
			s.advance(s.cfg.times.undo + s.cfg.times.slack - s.cfg.times.lag)
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.lag()
			s.upTo(m, s.prunes(m, repo.PruneOptions{}), simOpIs(simDelete, "sessions/"))
			s.crash(m)
			s.end(m, nil)
			for range 2 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			s.end(c, s.replicates(c))
		}, nil},
		{"a collector that dies between segments", nil, func(s *sim) {
			simGarbage(s)
			m := s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.lag()
			op := s.upTo(m, s.prunes(m, repo.PruneOptions{}), simOpIs(simDelete, "index/"))
			if op != nil {
				s.release(op)
			}
			s.crash(m)
			s.end(m, nil)
			s.end(m, s.prunes(m, repo.PruneOptions{}))
		}, []string{"removeFirst"}},
		{"replicating while pruning", func(c *simConfig) { c.replica = true }, func(s *sim) {
			c, m := s.who("copy"), s.who("m0")
			simGarbage(s)
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.lag()
			s.upTo(c, s.replicates(c), simOpIs(simList, "packs/"))
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			w := s.who("w0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.end(c, nil)
			s.everything(s.replica, "after replicating")
			s.upTo(c, s.replicates(c), simOpIs(simList, "index/"))
			s.age()
			for range 3 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			s.end(c, nil)
			s.everything(s.replica, "after replicating again")
		}, nil},
		{"a replicator that dies", func(c *simConfig) { c.replica = true }, func(s *sim) {
			c, w := s.who("copy"), s.who("w0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			for n := range 60 {
				act := s.replicates(c)
				s.start(c, act)
				for range n {
					op := s.upTo(c, nil, func(*simOp) bool { return true })
					if op == nil {
						break
					}
					s.release(op)
				}
				synctest.Wait()
				if s.finish(); c.act == nil {
					break
				}
				s.crash(c)
				s.end(c, nil)
				s.everything(s.replica, "after a crash")
			}
		}, []string{"replicaPutsLate"}},
		{"a snapshot that comes while its replica is made", func(c *simConfig) { c.replica = true }, func(s *sim) {
			c, w := s.who("copy"), s.who("w0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 3)...)))
			s.end(c, s.replicates(c))
			op := s.upTo(c, s.replicates(c), simOpIs(simList, "packs/"))
			s.release(op)
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 9)...)))
			s.end(c, nil)
			s.everything(s.replica, "after replicating")
		}, []string{"replicaListsLate"}},
		{"bases of delta frames are condemned, also in circles", func(c *simConfig) { c.deltas = true }, func(s *sim) {
			w, x, m := s.who("w0"), s.who("w1"), s.who("m0")
			first := func(v int) map[string][]byte {
				t := map[string][]byte{}
				for i := range 6 {
					t[fmt.Sprintf("f%d", i)] = simContent(i, v)
				}
				return t
			}
			for v := range 12 {
				a := []*simActor{w, x}[v%2]
				before := s.last(a)
				s.end(a, s.backs(a, a.name, first([]int{0, 1, 2, 1, 0, 3}[v%6])))
				if before != "" {
					s.end(m, s.forgets(before))
				}
				s.advance(s.cfg.times.undo)
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.advance(s.cfg.times.slack)
				s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: v%5 == 4}))
			}
			if *s.deltas == 0 {
				s.t.Error("no delta frame was made")
			}
		}, nil},
		{"a young pack has bases in an old one", func(c *simConfig) { c.deltas = true }, func(s *sim) {
			w, m := s.who("w0"), s.who("m0")
			tree := func(v int) map[string][]byte {
				t := map[string][]byte{}
				for i := range 8 {
					t[fmt.Sprintf("f%d", i)] = simContent(i, v)
				}
				return t
			}
			s.end(w, s.backs(w, "shop", tree(0)))
			s.end(m, s.forgets(s.last(w)))
			s.age()
			s.upTo(w, s.backs(w, "shop", tree(1)), simOpIs(simPut, "snapshots/"))
			s.crash(w)
			s.end(w, nil)
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.end(w, s.backs(w, "shop", tree(1)))
		}, []string{"noMargin", "noBases"}},
		{"what was copied is condemned when its copies are named", nil, func(s *sim) {
			simHalf(s)
			m := s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{}))
		}, []string{"condemnFirst"}},
		{"a thief claims what was stored long ago", func(c *simConfig) { c.forger = true }, func(s *sim) {
			kept := simHalf(s)
			thief, m := s.who("thief"), s.who("m0")
			s.end(thief, &simAction{kind: "forge", run: func(ctx context.Context, r *repo.Repo) error { return repo.ForgeClaims(ctx, r, kept) }})
			s.advance(s.cfg.times.lag)
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.advance(s.cfg.times.margin + s.cfg.times.expire)
			}
		}, []string{"youngBirths"}},
		{"segments of sessions that are not over are carried over", nil, func(s *sim) {
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 2})
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			s.upTo(w, s.backs(w, "other", simTree(simRange(30, 33)...)), simOpIs(simPut, "snapshots/"))
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.end(w, nil)
		}, []string{"dropUnneeded"}},
		{"a doubtful commit", nil, func(s *sim) {
			w := s.who("w0")
			op := s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			s.cfg.lost = 1
			op.retried = 3
			s.release(op)
			s.cfg.lost = 0
			if err := s.end(w, nil); err != nil {
				s.fail("a doubtful commit", "%v", err)
			}
		}, []string{"commitBlind"}},
		{"segments come before the commit", nil, func(s *sim) {
			w := s.who("w0")
			s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 4)...)), simOpIs(simPut, "sessions/"))
			for op := s.upTo(w, nil, func(*simOp) bool { return true }); op != nil; op = s.upTo(w, nil, func(*simOp) bool { return true }) {
				s.release(op)
				synctest.Wait()
				if op.kind == simPut && strings.HasPrefix(op.name, "snapshots/") {
					break
				}
			}
			s.crash(w)
			s.end(w, nil)
		}, []string{"commitFirst"}},
	}
}

// TestSimScenes plays interleavings that were found by thought or by a seed. Each holds, and goes wrong without the rules that it names.
func TestSimScenes(t *testing.T) {
	for _, scene := range simScenes() {
		t.Run(strings.ReplaceAll(scene.name, " ", "_"), func(t *testing.T) {
			run := func(rule string) (broke, why string) {
				t.Run(rule, func(t *testing.T) {
					if rule != "whole" {
						breakRule(t, rule)
					}
					synctest.Test(t, func(t *testing.T) {
						cfg := simConfig{writers: 2, maintainers: 1, maintainerRole: crypt.Owner, times: simTimesOf(time.Hour, true)}
						if scene.cfg != nil {
							scene.cfg(&cfg)
						}
						s := newSim(t, 1, cfg)
						repo.SetLayout(t, repo.Layout{ContentFrame: 1000, Pack: 3500, SmallPack: 1})
						s.verbose = testing.Verbose()
						s.drops = true
						scene.play(s)
						if s.broke == "" {
							s.quiet()
						}
						s.stop()
						broke, why = s.broke, s.why
						if broke != "" && rule == "whole" || os.Getenv("VARVE_SIM_LOG") != "" {
							t.Logf("%s", strings.Join(s.lines, "\n"))
						}
					})
				})
				return broke, why
			}
			if broke, why := run("whole"); broke != "" {
				t.Errorf("%s: %s", broke, why)
			}
			for _, rule := range scene.rules {
				if broke, why := run(rule); broke == "" {
					t.Errorf("it holds without %s", rule)
				} else {
					t.Logf("without %s: %s: %.160s", rule, broke, why)
				}
			}
		})
	}
}
