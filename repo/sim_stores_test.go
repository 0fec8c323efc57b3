package repo_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// refused lets an actor prune, which must fail so that bad accepts the error, and free nothing.
func (s *sim) refused(a *simActor, o *repo.PruneOptions, bad func(error) bool) {
	before := s.main.deletions
	act := &simAction{kind: "prune", exclusive: o.Exclusive}
	act.run = func(ctx context.Context, r *repo.Repo) error { _, err := r.Prune(ctx, o); return err }
	if err := s.end(a, act); !bad(err) {
		s.fail("a prune that is refused", "%v", err)
	}
	if s.main.deletions != before {
		s.fail("a prune that is refused", "it deleted something")
	}
}

func simDamage(err error) bool {
	_, ok := errors.AsType[*repo.DamageError](err)
	return ok
}

func simIs(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }

// simStores are runs over stores that can less or more than others, that are not what they were, or that hold junk.
func simStores() []simScene {
	return []simScene{
		{"a store that locks what is put", func(c *simConfig) { c.lock = 40 * time.Hour }, func(s *sim) {
			simHalf(s) // what is forgotten is locked still when it may go
			w, m := s.who("w0"), s.who("m0")
			for range 6 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			if s.stats["removed"] > 0 {
				s.fail("a locked store", "%d snapshots are said to be removed, and they are locked", s.stats["removed"])
			}
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 9)...)))
			for range 6 {
				s.advance(10 * time.Hour)
				s.end(m, s.prunes(m, repo.PruneOptions{}))
			}
			if s.stats["freed"] == 0 || s.stats["removed"] == 0 {
				s.fail("a locked store", "%d packs were freed, and %d snapshots removed, when the locks were over", s.stats["freed"], s.stats["removed"])
			}
		}, nil},
		{"a store without put-if-absent", func(c *simConfig) { c.plain = true }, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.refused(m, &repo.PruneOptions{}, simIs(errors.ErrUnsupported))
			s.upTo(w, s.backs(w, "other", simTree(simRange(0, 6)...)), simOpIs(simPut, "packs/"))
			s.refused(m, &repo.PruneOptions{Exclusive: true}, simIs(repo.ErrBusy))
			s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true, VoidOpen: true}))
			if err := s.end(w, nil); !errors.Is(err, repo.ErrVoid) {
				s.fail("a session that was closed", "%v", err)
			}
			s.end(w, s.backs(w, "other", simTree(simRange(0, 6)...)))
		}, nil},
		{"a word that takes back in a store without put-if-absent", func(c *simConfig) { c.plain, c.maintainers = true, 2 }, func(s *sim) {
			w, m, n := s.who("w0"), s.who("m0"), s.who("m1")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			id := s.last(w)
			s.end(m, s.forgets(id))
			s.age()
			// It has looked whether its name is free, and another one has that name before it.
			act := s.unforgets(id)
			s.upTo(n, act, simOpIs(simPut, "forgotten/"))
			s.refused(m, &repo.PruneOptions{Exclusive: true}, simIs(repo.ErrBusy))
			s.end(n, nil)
			if act.err != nil || !s.lists(s.main, id) {
				s.fail("a word that takes back", "%s: %v", id, act.err)
			}
			s.end(m, s.forgets(id))
			s.age()
			s.upTo(m, s.prunes(m, repo.PruneOptions{Exclusive: true}), simOpIs(simPut, "forgotten/"))
			if err := s.end(n, s.unforgets(id)); !errors.Is(err, repo.ErrBusy) {
				s.fail("a word that takes back", "while a prune is about to let go: %v", err)
			}
			s.end(m, nil)
			if err := s.end(n, s.unforgets(id)); !errors.Is(err, repo.ErrTooLate) {
				s.fail("a word that takes back", "after it was let go: %v", err)
			}
			for range 3 {
				s.end(m, s.prunes(m, repo.PruneOptions{Exclusive: true}))
				s.lag()
			}
		}, nil},
		{"a store whose clock is put back", nil, func(s *sim) {
			simGarbage(s)
			w, m := s.who("w1"), s.who("m0")
			s.end(w, s.backs(w, "other", simTree(simRange(30, 33)...)))
			s.skew -= 5 * s.cfg.times.lag
			s.refused(m, &repo.PruneOptions{}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "clock runs backwards") })
			s.skew += 5 * s.cfg.times.lag
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			for _, name := range s.main.names("sessions/") {
				s.main.delete(name)
			}
			s.skew -= 5 * s.cfg.times.lag
			s.refused(m, &repo.PruneOptions{Exclusive: true}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "clock runs backwards") })
			s.skew += 5 * s.cfg.times.lag
		}, nil},
		{"junk that a person condemns", nil, func(s *sim) {
			simGarbage(s)
			m := s.who("m0")
			junk := crypt.AppendHash([]byte("junk"))
			segment := "index/" + strings.Repeat("ab", 32)
			for _, name := range []string{segment, "gc/7.done"} {
				if err := s.main.put(name, junk, true, false); err != nil {
					s.t.Error(err)
				}
			}
			s.refused(m, &repo.PruneOptions{}, simDamage)
			s.refused(m, &repo.PruneOptions{Condemn: []string{"packs/00"}}, simIs(fs.ErrInvalid))
			s.end(m, s.prunes(m, repo.PruneOptions{Condemn: []string{segment, "gc/7.done"}, MaxRepack: -1}))
			s.refused(m, &repo.PruneOptions{Condemn: []string{segment}}, simIs(fs.ErrNotExist))
			for _, name := range []string{"gc/1", s.main.names("index/")[0], repo.SnapshotName(s.last(s.who("w0")))} {
				s.refused(m, &repo.PruneOptions{Condemn: []string{name}}, simIs(fs.ErrInvalid))
			}
			s.lag()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
		}, nil},
		{"records of a collection that cannot be read", func(c *simConfig) { c.maintainers = 2 }, func(s *sim) {
			simGarbage(s)
			m, n := s.who("m0"), s.who("m1")
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			// One dies when its verdict is there; the next ones, who cannot read it, free nothing.
			op := s.upTo(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}), simOpIs(simPut, "gc/1.free"))
			s.release(op)
			s.crash(m)
			s.end(m, nil)
			s.flips = func(op *simOp) bool { return op.actor == n && op.name == "gc/1.free" }
			s.refused(n, &repo.PruneOptions{}, simDamage)
			s.flips = nil
			// Another one is overtaken by a verdict that it then cannot read, and by an end.
			s.end(n, s.prunes(n, repo.PruneOptions{MaxRepack: -1}))
			w := s.who("w0")
			s.end(w, s.backs(w, "shop", simTree(simRange(20, 24)...)))
			s.advance(s.cfg.times.margin + 2*s.cfg.times.lag)
			id := s.last(w)
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 3)...)))
			s.end(m, s.forgets(id))
			s.age()
			s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
			s.lag()
			isVerdict := simOpIs(simPut, "gc/2.free")
			s.upTo(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}), isVerdict)
			s.end(n, s.prunes(n, repo.PruneOptions{Exclusive: true, MaxRepack: -1}))
			s.flips = func(op *simOp) bool { return op.actor == m && strings.HasPrefix(op.name, "gc/2.") }
			act := m.act
			s.end(m, nil)
			if act != nil && !simDamage(act.err) {
				s.fail("a verdict that cannot be read", "%v", act.err)
			}
			s.flips = nil
		}, nil},
		{"a pack that is read wrong while it is copied", nil, func(s *sim) {
			simHalf(s)
			m := s.who("m0")
			read := 0
			s.flips = func(op *simOp) bool {
				if op.actor != m || !strings.HasPrefix(op.name, "packs/") || op.n >= 0 {
					return false
				}
				read++
				return read%2 == 1
			}
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.lag()
			}
			if s.flips = nil; read == 0 {
				s.fail("a pack that is read wrong", "none was")
			}
		}, nil},
		{"a writer may neither free nor forget", nil, func(s *sim) {
			w := s.who("w0")
			s.end(w, s.backs(w, "shop", simTree(simRange(0, 6)...)))
			s.refused(w, &repo.PruneOptions{}, simIs(repo.ErrRole))
			if err := s.end(w, s.forgets(s.last(w))); !errors.Is(err, repo.ErrRole) {
				s.fail("a writer", "%v", err)
			}
		}, nil},
	}
}
