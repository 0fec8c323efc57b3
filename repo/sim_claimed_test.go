package repo_test

import (
	"context"
	"fmt"
	"time"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
)

// describes lets the thief say of packs what is not so, each of them in a segment of its own.
func (s *sim) describes(names []string, change func(*pack.Directory)) {
	thief := s.who("thief")
	s.end(thief, &simAction{kind: "forge", run: func(ctx context.Context, r *repo.Repo) error {
		for _, name := range names {
			if err := repo.ForgeDescription(ctx, r, name, change); err != nil {
				return err
			}
		}
		return nil
	}})
	s.advance(s.cfg.times.lag)
}

// births fails unless pieces of content are as old as they were.
func (s *sim) births(contents [][]byte, want map[string]int64, when string) map[string]int64 {
	births := map[string]int64{}
	for _, c := range contents {
		r := s.oracle(s.main)
		birth, name, err := repo.OldestBirth(context.Background(), r, c)
		if err != nil {
			s.t.Error(err)
		}
		if births[string(c)] = birth; want != nil && birth != want[string(c)] {
			s.fail("births", "%s: in %s it is %s, and was %s", when, name, time.Unix(birth, 0).UTC(), time.Unix(want[string(c)], 0).UTC())
		}
	}
	return births
}

// simClaimed are runs in which a thief with a writer's key describes packs.
func simClaimed() (scenes []simScene) {
	for what, change := range map[string]func(*pack.Directory){
		"a frame's counter": func(d *pack.Directory) { d.Frames[0].Counter++ },
		"blobs of others": func(d *pack.Directory) {
			for i := range d.Frames {
				for j := range d.Frames[i].Blobs {
					d.Frames[i].Blobs[j].ID[0] ^= 1
				}
			}
		},
		"its blobs in another order": func(d *pack.Directory) {
			for _, f := range d.Frames {
				if n := len(f.Blobs); n > 1 && f.Blobs[0].Length != f.Blobs[n-1].Length {
					f.Blobs[0].ID, f.Blobs[n-1].ID = f.Blobs[n-1].ID, f.Blobs[0].ID
				}
			}
		},
		"fewer blobs": func(d *pack.Directory) {
			for i := range d.Frames {
				d.Frames[i].Blobs = d.Frames[i].Blobs[1:]
			}
		},
		"fewer frames": func(d *pack.Directory) { d.Frames = d.Frames[:1] },
	} {
		scenes = append(scenes, simScene{"a thief describes packs that are there: " + what, func(c *simConfig) { c.forger = true }, func(s *sim) {
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 2})
			kept := simHalf(s)
			was := s.births(kept, nil, "")
			s.describes(s.main.names("packs/"), change)
			m := s.who("m0")
			for n := range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: int64(n%2) - 1}))
				s.births(kept, was, "after pruning")
				s.advance(s.cfg.times.margin + s.cfg.times.expire)
			}
			s.everything(s.main, "after pruning")
		}, nil})
	}
	return append(scenes,
		simScene{"a thief describes what is no pack, and what is gone", func(c *simConfig) { c.forger = true }, func(s *sim) {
			repo.SetLayout(s.t, repo.Layout{JoinSegments: 2})
			kept := simHalf(s)
			thief, m := s.who("thief"), s.who("m0")
			for n := range 2 {
				for _, plain := range []uint64{0, 1} {
					s.end(thief, &simAction{kind: "forge", run: func(ctx context.Context, r *repo.Repo) error {
						return repo.ForgeJunk(ctx, r, [][]byte{kept[n]}, func(d *pack.Directory) { d.Frames[0].Counter += plain })
					}})
				}
			}
			for _, name := range s.main.names("packs/") {
				if o, err := s.main.get(name); err == nil && o.modified.Equal(s.main.clock(false)) {
					s.main.delete(name)
					break
				}
			}
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{MaxRepack: -1}))
				s.advance(s.cfg.times.margin + s.cfg.times.expire)
			}
			s.everything(s.main, "after pruning")
		}, nil},
		simScene{"a thief was there before what he claims, and says of his pack what is not so", func(c *simConfig) { c.forger = true }, func(s *sim) {
			// What relies on his pack is hurt, and nothing else: it is not what the segment says, and left alone.
			thief, w, m := s.who("thief"), s.who("w0"), s.who("m0")
			all := simTree(simRange(0, 24)...)
			var claims [][]byte
			for n := range 4 {
				c := all[fmt.Sprintf("f%02d-0", n)]
				claims = append(claims, c)
				s.forged[string(c)] = true
			}
			s.end(thief, &simAction{kind: "forge", run: func(ctx context.Context, r *repo.Repo) error {
				return repo.ForgePack(ctx, r, claims, 4, func(b []byte) { b[0]++ }, func(d *pack.Directory) { d.Frames[0].Counter++ })
			}})
			s.advance(time.Minute)
			s.end(w, s.backs(w, "shop", all))
			id := s.last(w)
			some := simTree(simRange(4, 24)...)
			some["f00-0"] = all["f00-0"]
			s.end(w, s.backs(w, "shop", some))
			safe := simTree(simRange(4, 24)...)
			s.end(w, s.backs(w, "safe", safe))
			s.end(m, s.forgets(id))
			s.age()
			for range 4 {
				s.end(m, s.prunes(m, repo.PruneOptions{}))
				s.advance(s.cfg.times.margin + s.cfg.times.expire)
			}
			s.everything(s.main, "after pruning")
		}, nil},
	)
}
