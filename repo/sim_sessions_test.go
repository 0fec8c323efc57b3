package repo_test

import (
	"errors"
	"strings"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/repo"
)

// simSessions are runs about sessions that are slow, die, or come late.
func simSessions() []simScene {
	return []simScene{
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
