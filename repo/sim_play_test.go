package repo_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
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
