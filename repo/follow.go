package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// follow frees at a replica what its source freed long ago. Only the signed records of collections that came to their end count, as both stores have them; that something is not at the
// source any more is never a reason.
//
// Why nothing vanishes that is needed, whatever the records say: what snapshots that are listed here need is found afresh, and what holds it stays. A session here that has not come to its
// end and may have missed a verdict is waited for, or its place is taken, as in any collection: one that began after the verdict was here takes its packs for absent. A copy that runs at the
// same time brings what its source needs before it brings the verdict.
func (p *pruner) follow(ctx context.Context) error {
	r := p.repo
	after := p.opts.FollowAfter
	if after == 0 {
		after = times.follow
	}
	if broken.followSoon {
		after = 0
	}
	src, err := p.source(ctx)
	if err != nil {
		return err
	}
	theirs, err := src.loadMaintenance(ctx)
	if err != nil {
		return atSource(err)
	}
	saidThere, _, err := src.forgotten(ctx)
	if err != nil {
		return atSource(err)
	}
	// The source's time is at least that of the last thing that it got. No clock of this machine has a part in it.
	held := map[string]bool{}
	var there time.Time
	for info, err := range src.backend.List(ctx, "") {
		if err != nil {
			return atSource(err)
		}
		if info.Modified.After(there) {
			there = info.Modified
		}
		if prefix, _, _ := strings.Cut(info.Name, "/"); prefix+"/" == packsPrefix || prefix+"/" == indexPrefix || prefix+"/" == snapshotsPrefix {
			held[info.Name] = true
		}
	}
	ours, err := r.loadMaintenance(ctx)
	if err != nil {
		return err
	}
	freed := map[pack.ID]bool{} // what verdicts name that are old enough at both sides
	var limit time.Time         // when the last of them was here
	for n, t := range theirs.runs {
		o := ours.runs[n]
		if !t.over(there, after) || o == nil || !o.over(p.now, after) {
			continue
		}
		if o.ended.After(limit) {
			limit = o.ended
		}
		named := map[string]bool{}
		for _, id := range o.verdict.Packs {
			named[string(id)] = true
		}
		for _, id := range t.verdict.Packs {
			if named[string(id)] {
				freed[pack.ID(id)] = true
			}
		}
	}

	// As in any collection: a session that began within the lag may have had a list of gc/ that was older.
	if !broken.followNoLag {
		limit = limit.Add(times.lag)
	}
	settle := func(seen map[string]*seenSession) (bool, error) {
		if broken.followNoWait {
			return true, nil
		}
		return p.settle(ctx, seen, limit)
	}
	if p.opts.DryRun {
		settle = nil
	}
	later := p.later
	if p.opts.DryRun {
		later = p.never
	}
	s, err := r.survey(ctx, p.gone, later, nil, settle)
	if err != nil || s == nil {
		return err
	}
	// What the source has let go is no root here, for it may not have come whole; it goes when both sides have had that word for long.
	s.roots, s.expired = nil, nil
	for _, snap := range s.snaps {
		here, o := s.said[snap.ID], saidThere[snap.ID]
		if (!here.final || !o.final) && snap.root != (pack.ID{}) {
			s.roots = append(s.roots, snap)
		} else if o.final && there.Sub(o.ended) > after && p.now.Sub(here.ended) > after && !held[snapshotName(snap.ID)] {
			s.expired = append(s.expired, snap)
		}
	}
	gone := map[pack.ID]bool{}
	for id := range s.packs {
		p.rep.Stored += s.packs[id].Size
		if (freed[id] || broken.followUnsigned) && !held[packName(id)] {
			gone[id] = true
		}
	}
	if !broken.followUnspared {
		if err := p.spare(ctx, s, gone); err != nil {
			return err
		}
	}
	if p.opts.DryRun {
		p.rep.Condemned = len(gone)
		for id := range gone {
			p.rep.CondemnedBytes += s.packs[id].Size
		}
		return nil
	}
	if err := p.drop(ctx, s, gone); err != nil {
		return err
	}
	if err := p.emptySegments(ctx, s, freed, held); err != nil {
		return err
	}
	return p.tidy(ctx, s)
}

// over tells whether a collection came to its end more than after before now.
func (c *collection) over(now time.Time, after time.Duration) bool {
	return c.verdict != nil && c.done && now.Sub(c.ended) > after
}

// source opens the repository that this one is a replica of, with the same keys. Nothing of it comes from the cache.
func (p *pruner) source(ctx context.Context) (*Repo, error) {
	r := p.repo
	src := &Repo{backend: &store{Backend: p.opts.Follow, log: r.opts.Logger}, keys: r.keys, opts: r.opts}
	src.own = src
	names, err := listNames(ctx, src.backend, configPrefix)
	if err != nil {
		return nil, atSource(err)
	}
	if len(names) == 0 {
		return nil, atSource(ErrNoRepository)
	}
	cfg, _, err := loadConfig(ctx, src.backend, r.keys, names)
	if err != nil {
		return nil, atSource(err)
	}
	src.config = cfg
	return src, nil
}

// spare takes out of gone what snapshots in s.roots need.
func (p *pruner) spare(ctx context.Context, s *survey, gone map[pack.ID]bool) error {
	r, x := p.repo, s.view.x
	p.step("looking", 0)
	var roots []pack.ID
	for _, snap := range s.roots {
		roots = append(roots, snap.root)
		if snap.unread != nil {
			roots = append(roots, *snap.unread)
		}
	}
	res, err := walk.Run(ctx, x, s.view.node, roots, r.opts.Workers)
	if err != nil {
		return err
	}
	if m := res.Gone(); m != nil {
		why := m.Err
		if why == nil {
			why = errNotIndexed
		}
		return &blockedError{r.whoNeeds(ctx, s, &DamageError{Object: "blob " + m.ID.String(), Err: why})}
	}
	there := func(n uint32) bool {
		info, ok := s.packs[x.Pack(n).ID]
		return ok && info.Size == int64(x.Pack(n).Size)
	}
	kept := collect.Keep(x, res.Reached, func(n uint32) bool { return there(n) && !gone[x.Pack(n).ID] })
	if len(kept.Lost) > 0 {
		// The copy that took the place of one that was freed is not here, or no segment names it yet.
		kept = collect.Keep(x, res.Reached, there)
		if len(kept.Lost) > 0 {
			return &blockedError{&DamageError{Object: "blob " + kept.Lost[0].String(), Err: errors.New("the packs that hold it are gone or not what they were")}}
		}
		for _, st := range kept.Packs(x) {
			if len(st.Frames) > 0 && gone[st.ID] {
				delete(gone, st.ID)
				p.rep.Spared++
			}
		}
	}
	for _, st := range kept.Packs(x) {
		p.rep.Live += st.Live
	}
	return nil
}

// emptySegments deletes segments all of whose packs were freed and are gone, and which the source has not any more.
func (p *pruner) emptySegments(ctx context.Context, s *survey, freed map[pack.ID]bool, held map[string]bool) error {
	x := s.view.x
	names, full := make([]int, len(s.view.segments)), make([]bool, len(s.view.segments))
	for i := range x.Packs() {
		info := x.Pack(uint32(i))
		if int(info.Segment) >= len(names) {
			continue
		}
		names[info.Segment]++
		if _, there := s.packs[info.ID]; there || !freed[info.ID] {
			full[info.Segment] = true
		}
	}
	for i, segment := range s.view.segments {
		if names[i] == 0 || full[i] || held[segment.Name] {
			continue
		}
		switch err := p.repo.backend.Delete(ctx, segment.Name); {
		case errors.Is(err, backend.ErrRetained):
			p.rep.Retained++
		case err != nil:
			return err
		default:
			p.rep.SegmentsGone++
		}
	}
	return nil
}

// copyingSeries stands in the ids of sessions that copy, which have no keys and commit nothing. No series has this number, so no manifest fits their place.
const copyingSeries = "0000000000000000"

// copies tells of a session that it is one of Replicate or Heal.
func copies(session string) bool { return strings.HasSuffix(session, "-"+copyingSeries) }

// checkFollow says what options do not go together.
func (o *PruneOptions) checkFollow() error {
	switch {
	case o.Follow == nil && o.FollowAfter != 0:
		return fmt.Errorf("FollowAfter without Follow: %w", fs.ErrInvalid)
	case o.Follow == nil:
		return nil
	case o.FollowAfter < 0:
		return fmt.Errorf("to follow after %v: %w", o.FollowAfter, fs.ErrInvalid)
	case o.Exclusive || o.VoidOpen || len(o.Condemn) > 0:
		return fmt.Errorf("a replica only follows: nothing is freed at once or condemned there: %w", fs.ErrInvalid)
	}
	return nil
}
