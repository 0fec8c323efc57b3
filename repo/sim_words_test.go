package repo_test

import (
	"errors"
	"strings"
	"time"

	"github.com/varvebackup/varve/repo"
)

// simWordScenes are runs about what is forgotten, and taken back.
func simWordScenes() []simScene {
	return []simScene{
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
		{"a void that comes when the snapshot in its place was let go, beside a replica", func(c *simConfig) { c.replica, c.maintainers = true, 2 }, func(s *sim) {
			w, m, n, c := s.who("w0"), s.who("m0"), s.who("m1"), s.who("copy")
			simGarbage(s)
			s.upTo(w, s.backs(w, "shop", simTree(simRange(0, 6)...)), simOpIs(simPut, "snapshots/"))
			void := s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true}), simOpIs(simPut, "snapshots/"))
			s.postpone(void)
			s.end(w, nil)
			s.crash(m)
			s.end(m, nil)
			s.end(c, s.replicates(c))
			s.end(n, s.forgets(s.last(w)))
			s.age()
			for range 3 {
				s.end(n, s.prunes(n, repo.PruneOptions{Exclusive: true}))
			}
			if _, err := s.main.get(void.name); err == nil {
				s.t.Error("the snapshot is there")
			}
			s.deliver(0)
			s.end(n, s.prunes(n, repo.PruneOptions{Exclusive: true}))
			s.end(c, s.replicates(c))
		}, nil},
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
	}
}
