package repo

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
)

// condemn decides what can go: packs of which nothing is needed, and those that are worth copying, which it copies first. The ids are sorted.
func (p *pruner) condemn(ctx context.Context, s *survey) ([]pack.ID, error) {
	x := s.view.x
	old := func(id pack.ID) bool {
		info, ok := s.packs[id]
		return ok && p.now.Sub(info.Modified) > times.margin
	}
	if p.opts.Exclusive || broken.noMargin {
		old = func(id pack.ID) bool { _, ok := s.packs[id]; return ok }
	}
	// What young packs need as a base: their sessions may be running.
	bases := map[pack.ID]bool{}
	for n := range x.Frames() {
		f := x.Frame(uint32(n))
		if id := x.Pack(f.Pack).ID; len(f.Bases) > 0 && !old(id) && !broken.noBases {
			for _, b := range f.Bases {
				for _, c := range x.Find(nil, b, x.Kind(uint32(n))) {
					bases[x.Pack(x.Frame(c.Frame).Pack).ID] = true
				}
			}
		}
	}
	var dead []pack.ID
	var worth []*collect.Pack
	known := make(map[pack.ID]bool, len(s.stats))
	tiers := map[int][]*collect.Pack{}
	for i := range s.stats {
		st := &s.stats[i]
		known[st.ID] = true
		state := s.view.maint.of(st.ID)
		info, there := s.packs[st.ID]
		if state != index.Freed && there {
			p.rep.Stored += info.Size
			p.rep.Live += int64(float64(info.Size) * min(1, float64(st.Live)/float64(max(1, st.All))))
		}
		switch {
		case state != index.Live || bases[st.ID]:
		case len(st.Frames) == 0 && (old(st.ID) || !there && p.unborn(x, st)):
			dead = append(dead, st.ID)
		case !old(st.ID):
		case p.useful(s, st) <= 1-wasteful:
			worth = append(worth, st)
		case info.Size < sizes.smallPack:
			tier := 0
			for size := info.Size; size > 4<<10; size /= int64(sizes.joinPacks) {
				tier++
			}
			tiers[tier] = append(tiers[tier], st)
		}
	}
	for id, info := range s.packs {
		if !known[id] && s.view.maint.of(id) == index.Live {
			p.rep.Stored += info.Size
			if old(id) {
				dead = append(dead, id) // no segment names it: its session died before it could, or it was never a pack
			}
		}
	}
	slices.SortFunc(worth, func(a, b *collect.Pack) int {
		fa, fb := p.useful(s, a), p.useful(s, b)
		switch {
		case fa < fb:
			return -1
		case fa > fb:
			return 1
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	for _, tier := range slices.Sorted(maps.Keys(tiers)) {
		if small := tiers[tier]; len(small) >= sizes.joinPacks {
			worth = append(worth, small...)
		}
	}
	if len(dead) > listMax {
		dead = dead[:listMax]
	}
	var take []*collect.Pack
	for _, st := range worth {
		size := s.packs[st.ID].Size
		if p.opts.MaxRepack < 0 || p.opts.MaxRepack > 0 && p.rep.RepackedBytes+size > p.opts.MaxRepack || len(dead)+len(take) >= listMax {
			continue
		}
		take = append(take, st)
		p.rep.Repacked++
		p.rep.RepackedBytes += size
	}
	if p.opts.DryRun {
		for _, id := range dead {
			p.rep.CondemnedBytes += s.packs[id].Size
		}
		p.rep.Condemned, p.rep.CondemnedBytes = len(dead)+len(take), p.rep.CondemnedBytes+p.rep.RepackedBytes
		return nil, nil
	}
	copied, err := p.repack(ctx, s, take)
	if err != nil {
		return nil, err
	}
	all := append(dead, copied...)
	slices.SortFunc(all, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	return all, nil
}

// unborn tells of a pack that is indexed and not there whether it has been gone long enough.
func (p *pruner) unborn(x *index.Index, st *collect.Pack) bool {
	for n := range x.Frames() {
		if f := x.Frame(uint32(n)); slices.Contains(st.Numbers, f.Pack) && p.now.Unix()-f.Birth <= int64(times.margin/time.Second) {
			return false
		}
	}
	return true
}

// useful returns which share of a pack would be in a copy of it: as much as repack leaves, so that what it made is not worth it again. Frames stand for the pack, for the
// directory shrinks with them.
func (p *pruner) useful(s *survey, st *collect.Pack) float64 {
	x := s.view.x
	n := 0.0
	for _, f := range st.Frames {
		share := 1.0
		if p.apart(s, f, x.Kind(f)) {
			share = s.share(f)
		}
		n += share * float64(x.Frame(f).Stored)
	}
	return n / float64(max(1, st.All))
}
