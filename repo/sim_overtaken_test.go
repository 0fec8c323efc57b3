package repo_test

import (
	"fmt"
	"time"

	"github.com/varvebackup/varve/repo"
)

// simWaste makes two snapshots and forgets the first, so that of many packs of one segment a few are wasteful: they are copied, and the segment that names them is not rewritten.
func simWaste(s *sim) {
	repo.SetLayout(s.t, repo.Layout{Pack: 6000, JoinSegments: 2, JoinPacks: 100})
	w := s.who("w0")
	all := simTree(simRange(0, 80)...)
	s.end(w, s.backs(w, "shop", all))
	id := s.last(w)
	s.advance(time.Minute)
	for _, n := range []int{10, 11} {
		delete(all, fmt.Sprintf("f%d-0", n))
	}
	s.end(w, s.backs(w, "shop", all))
	m := s.who("m0")
	s.end(m, s.forgets(id))
	s.age()
	// What is wholly garbage goes first, and what is left is named by few segments.
	s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
	s.lag()
	s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
	repo.SetLayout(s.t, repo.Layout{JoinSegments: 100})
}

// simOvertaken are runs in which somebody looks while a collection comes to its end.
func simOvertaken() []simScene {
	return []simScene{
		{"a list of packs/ that a collection overtakes", func(c *simConfig) { c.replica = true }, func(s *sim) {
			simWaste(s)
			c, m := s.who("copy"), s.who("m0")
			segments := s.main.names("index/")
			// The list has gone past the place of what will be copies, and comes to what was copied when that is gone.
			s.splits = func(op *simOp) bool { return op.actor == c && op.name == "packs/" && op.store == s.main }
			s.listed = func(*simOp, string) bool { return false }
			s.upTo(c, s.replicates(c), func(op *simOp) bool { return op.name == "packs/" && op.began != nil })
			s.splits = nil
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{}))
			for _, name := range segments {
				if _, err := s.main.get(name); err != nil {
					s.t.Errorf("%s was rewritten", name)
				}
			}
			// Segments and manifests are what they were, so nothing is gone when its turn comes.
			s.end(c, nil)
			s.everything(s.replica, "after replicating")
		}, []string{"replicaNoRestart"}},
		{"an index that a collection overtakes", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			simWaste(s)
			m, n := s.who("m0"), s.who("m1")
			// One sleeps when it has listed index/. What it reads of gc/ must not be newer, or it takes what the other one has moved for lost.
			s.release(s.upTo(m, s.prunes(m, repo.PruneOptions{}), simOpIs(simList, "index/")))
			s.end(n, s.prunes(n, repo.PruneOptions{Exclusive: true}))
			if err := s.end(m, nil); err != nil {
				s.fail("a collector", "%v", err)
			}
		}, []string{"indexFirst"}},
		{"a pack that a collection frees before another one copies it", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			simWaste(s)
			m, n := s.who("m0"), s.who("m1")
			s.upTo(m, s.prunes(m, repo.PruneOptions{}), func(op *simOp) bool { return simOpIs(simGet, "packs/")(op) && op.n < 0 })
			s.end(n, s.prunes(n, repo.PruneOptions{Exclusive: true}))
			if err := s.end(m, nil); err != nil {
				s.fail("a collector", "%v", err)
			}
		}, nil},
	}
}
