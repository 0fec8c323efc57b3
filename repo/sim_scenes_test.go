package repo_test

import (
	"context"
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
	return slices.Concat(simSessions(), simCollections(), simWordScenes(), simOvertaken(), simFollowed(), simStores(), simClaimed())
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
