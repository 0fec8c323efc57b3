package repo_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// simCollections are runs about collections, and what happens beside them.
func simCollections() []simScene {
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
	}
}
