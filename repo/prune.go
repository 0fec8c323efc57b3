package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// PruneOptions are for Prune. Nil and the zero value: do all that can be done now.
type PruneOptions struct {
	// DryRun only tells what a collection that begins now would condemn and copy; of one that is open already, only when it is due.
	DryRun bool
	// MaxRepack bounds the bytes of packs that are copied because too little of them is needed. 0: no bound; negative: none is copied.
	MaxRepack int64
	// Exclusive frees at once. Sessions that are open are closed: their backups fail with ErrVoid. It is for stores whose lists are up to date (S3 and disks are): no time is left for one that lags.
	Exclusive bool
	// VoidOpen lets Exclusive close open sessions in a store without put-if-absent, too, where a backup that is just ending may be lost without an error, and so may what is just taken back.
	VoidOpen bool
	// Condemn names objects under index/, snapshots/, gc/ and forgotten/ that are to be taken for not there, and deleted: junk that keeps Prune from knowing what is needed. What is in order stays, and
	// then nothing is deleted (fs.ErrInvalid): segments, records and voids that can be opened, and snapshots that can be restored whole, which Forget is for.
	Condemn []string
	// Follow is for a replica, which has no collections of its own: it is the store from which Replicate fills it. What the source freed at least FollowAfter ago, and has not any more, is
	// freed: the packs that its collections gave a verdict on, segments that name only such, and snapshots that it let go as long ago; so are markers of copies that are over. Nothing
	// else is deleted: what vanished at the source without the signature of maintenance stays, and so does what a snapshot needs that is listed here.
	Follow backend.Backend
	// FollowAfter is counted by the clocks of both stores. 0: 30 days.
	FollowAfter time.Duration
	// Progress is called at most five times a second and once at the end, from one goroutine, never after Prune has returned.
	Progress func(PruneProgress)
}

// PruneProgress is how far a Prune has come.
type PruneProgress struct {
	Doing       string // in one word or two
	Done, Total int64  // bytes that are copied, or objects that are deleted
	Elapsed     time.Duration
}

// PruneReport is what Prune did, and what it waits for. Bytes are stored ones; times are the store's. It is the caller's.
type PruneReport struct {
	Finished                      []int // numbers of the collections that came to their end
	Freed                         int   // packs that were deleted
	FreedBytes                    int64
	Retained                      int       // objects that are locked: a later Prune deletes them
	Voided                        []string  // sessions that were closed: their backups fail with ErrVoid, if they still run
	Snapshots                     int       // forgotten ones that were removed for good
	SegmentsWritten, SegmentsGone int       // of the index
	TakenOut                      []string  // objects of Condemn that were deleted, or would be
	Run                           int       // number of the collection that is open now; 0: none
	Due                           time.Time // when that can come to its end at the earliest; zero: none is open
	Waiting                       []Waiting // the sessions for which it has to wait
	Condemned                     int       // packs that it will free, if nothing changes; in a dry run, those that a new one would
	CondemnedBytes                int64
	Repacked                      int            // packs of those that are copied first, or would be; after an error, those that were to be
	RepackedBytes, CopiedBytes    int64          // what they took, and what was put of them
	Stored, Live                  int64          // bytes of all packs when it began, and of what is needed in them
	Spared                        int            // packs that the source freed and that stay, for a snapshot here needs them (Follow)
	Rotten                        []*DamageError // packs that could not be copied
}

// Waiting is a session that may have missed what was condemned.
type Waiting struct {
	Session string
	Since   time.Time // when it began
	Last    time.Time // when it last showed life; two days later it is closed
}

const (
	wasteful   = 0.2     // a pack of which so much is not needed is copied
	segmentMax = 8 << 20 // bytes of a rewritten segment, about: some of them are in memory, in several forms
	listMax    = 100_000 // packs that one collection condemns
)

// Prune frees what no snapshot needs, beside running backups. It is a collection in two steps that lie an hour apart at least: one call condemns, the next one, as
// from tomorrow's timer, frees what is still not needed, and condemns again. A call that was interrupted anywhere is taken over by the next, whoever makes it. docs/DESIGN.md has the
// protocol and why it holds.
//
// Packs of which a fifth is not needed, and small ones, are copied to new packs first: frame by frame, without being opened; an owner's key also takes frames apart of which little is needed.
//
// ErrRole: it takes a maintainer's or an owner's key. ErrBusy: Exclusive in a store without put-if-absent while sessions are open, or this process slept for days. *DamageError: it is not known what is
// needed, because something is missing or damaged, so nothing was condemned or freed: Check tells more, Heal may bring it back, and Condemn takes junk out. fs.ErrNotExist: there is no
// such object to condemn, so nothing was done. fs.ErrInvalid: options that do not go together, or what is condemned is in order. errors.ErrUnsupported: a store without put-if-absent
// frees only exclusively. ErrNoRepository: there is none in Follow. context.Cause(ctx), when ctx ends.
//
// That packs cannot be copied is no error: they stay, and the report names them (Rotten). The report is never nil, and after an error it tells what was done. Any number of calls may run at once.
func (r *Repo) Prune(ctx context.Context, o *PruneOptions) (*PruneReport, error) {
	if o == nil {
		o = &PruneOptions{}
	}
	p := &pruner{repo: r.own, opts: o, rep: &PruneReport{}, junk: map[string]bool{}, begun: time.Now()}
	err := p.run(ctx)
	r.own.outdated()
	r.outdated()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return p.rep, fmt.Errorf("prune: %w", err)
	}
	return p.rep, nil
}

type pruner struct {
	repo  *Repo
	opts  *PruneOptions
	rep   *PruneReport
	junk  map[string]bool
	begun time.Time

	own     string       // the collector's session
	large   bool         // the index is so large that two of them matter
	unnamed []index.Pack // copies, if condemnFirst is broken
	latest  string       // segment that was put last, if removeUnread is broken
	now     time.Time    // by the store's clock, when the session began

	mu    sync.Mutex // guards doing
	doing string
	done  atomic.Int64
	total atomic.Int64
}

func (p *pruner) step(doing string, total int64) {
	p.mu.Lock()
	p.doing = doing
	p.mu.Unlock()
	p.done.Store(0)
	p.total.Store(total)
}

func (p *pruner) run(ctx context.Context) error {
	r := p.repo
	switch {
	case r.keys.Role() == crypt.Writer:
		return fmt.Errorf("%w: a %v frees nothing", ErrRole, r.keys.Role())
	case r.config == nil:
		return fmt.Errorf("nothing can be written without the config: %w", r.broken)
	case !p.opts.Exclusive && p.opts.Follow == nil && r.backend.looksFirst && !p.opts.DryRun:
		return fmt.Errorf("this store has no put-if-absent, so nothing can be freed beside backups: only exclusively (%w)", errors.ErrUnsupported)
	}
	if err := p.opts.checkFollow(); err != nil {
		return err
	}
	for _, name := range p.opts.Condemn {
		if prefix, _, _ := strings.Cut(name, "/"); !slices.Contains([]string{indexPrefix, snapshotsPrefix, gcPrefix, forgottenPrefix}, prefix+"/") {
			return fmt.Errorf("%s can't be condemned: only objects under %s, %s, %s and %s: %w", name, indexPrefix, snapshotsPrefix, gcPrefix, forgottenPrefix, fs.ErrInvalid)
		}
		p.junk[name] = true
	}
	if p.opts.Progress != nil {
		defer ticker(func() {
			p.mu.Lock()
			doing := p.doing
			p.mu.Unlock()
			p.opts.Progress(PruneProgress{Doing: doing, Done: p.done.Load(), Total: p.total.Load(), Elapsed: time.Since(p.begun)})
		})()
	}
	p.step("looking", 0)
	if err := p.examine(ctx); err != nil {
		return err
	}
	if p.opts.DryRun {
		p.now = time.Now()
		if p.opts.Follow != nil {
			return p.follow(ctx)
		}
		p.rep.TakenOut = sortedKeys(p.junk)
		r = p.without()
		p.repo = r
		s, err := r.marked(ctx, p.gone, p.never, p.junk, nil)
		if err != nil {
			return err
		}
		if run := s.view.maint.open(); run != nil {
			p.rep.Run, p.rep.Due = run.n, run.begun.Add(times.lag)
		}
		_, err = p.condemn(ctx, s)
		return err
	}
	m, now, err := r.beginCollector(ctx)
	if err != nil {
		return err
	}
	defer m.end(ctx, false)
	p.own, p.now = m.id, now
	if p.opts.Follow != nil {
		return p.follow(ctx)
	}
	if r.backend.looksFirst && !p.opts.VoidOpen {
		if err := r.onlyOne(ctx, p.own, p.now); err != nil {
			return err
		}
	}
	if err := p.takeOut(ctx); err != nil {
		return err
	}
	if err := p.letGo(ctx); err != nil {
		return err
	}
	// First what is open comes to its end; then the next one begins, which ends at once only if nobody has to be waited for.
	began := false
	for {
		gc, err := r.loadMaintenance(ctx)
		if err != nil {
			return err
		}
		if len(gc.lost) > 0 {
			return &blockedError{gc.lost[0]}
		}
		if run := gc.open(); run != nil {
			more, err := p.finish(ctx, run)
			if err != nil || !more || began {
				return err
			}
			if p.large {
				runtime.GC() // what follows reads the index anew: two of them would be the most that a prune takes
			}
			continue
		}
		if began {
			return nil
		}
		began, err = p.begin(ctx, gc)
		if err != nil || !began || !p.opts.Exclusive {
			return err
		}
	}
}

// delete deletes an object, or counts it when it is locked: then it is not gone.
func (p *pruner) delete(ctx context.Context, name string) (gone bool, err error) {
	err = p.repo.backend.Delete(ctx, name)
	if errors.Is(err, backend.ErrRetained) {
		p.mu.Lock()
		p.rep.Retained++
		p.mu.Unlock()
		return false, nil
	}
	return err == nil, err
}

// finish goes on with an open collection. more: it came to its end.
func (p *pruner) finish(ctx context.Context, run *collection) (more bool, err error) {
	r := p.repo
	p.rep.Run, p.rep.Due, p.rep.Waiting = run.n, run.begun.Add(times.lag), nil
	var s *survey
	if run.verdict == nil {
		// The candidates' own tick counts as before them, and so does the last one of the lag.
		limit := run.begun.Add(times.lag)
		if broken.noLag {
			limit = run.begun
		}
		if p.opts.Exclusive {
			limit = p.later()
		} else if !p.now.After(limit) && !(broken.tiesPass && p.now.Equal(limit)) {
			p.count(run.candidates, nil)
			return false, nil
		}
		p.step("waiting for sessions", 0)
		s, err = r.marked(ctx, p.gone, p.later, p.junk, func(seen map[string]*seenSession) (bool, error) { return p.settle(ctx, seen, limit) })
		if err != nil {
			return false, err
		}
		if s == nil {
			p.count(run.candidates, nil)
			return false, nil
		}
		if run.verdict, err = p.judge(ctx, run, s); err != nil {
			return false, err
		}
		for _, id := range run.verdict.Packs {
			s.view.maint.state[pack.ID(id)] = index.Freed
		}
	} else if s, err = r.survey(ctx, p.gone, p.later, p.junk, nil); err != nil {
		return false, err
	}
	p.large = s.view.x.Len() > 1<<20
	if err := p.free(ctx, run, s); err != nil {
		return false, err
	}
	p.rep.Finished = append(p.rep.Finished, run.n)
	p.rep.Run, p.rep.Due = 0, time.Time{}
	p.rep.Condemned, p.rep.CondemnedBytes = 0, 0 // they are freed, or locked
	return true, nil
}

// later returns a time of the store that is surely not before anything that it has dated by now.
func (p *pruner) later() time.Time { return p.now.Add(time.Since(p.begun)).Add(time.Second) }

// gone tells whether a snapshot need not be kept. A dry run says no final words, and takes them for said.
func (p *pruner) gone(o oblivion) bool {
	return o.final || (p.opts.DryRun || broken.finalBlind) && o.due(p.now)
}

// never is later for a dry run: it puts nothing, so what time it is by the store's clock is not known, and nothing hangs on it.
func (p *pruner) never() time.Time { return p.now.AddDate(100, 0, 0) }

func (p *pruner) count(l *packList, packs map[pack.ID]backend.Info) {
	p.rep.Condemned = len(l.Packs)
	for _, id := range l.Packs {
		p.rep.CondemnedBytes += packs[pack.ID(id)].Size
	}
}

// beginCollector puts the marker of a session that commits nothing, and returns when the store got it.
func (r *Repo) beginCollector(ctx context.Context) (*marker, time.Time, error) {
	m, err := beginMarker(ctx, r.backend, newSession(r.keys, "", time.Now()), r.opts.Logger)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := r.backend.Stat(ctx, markerName(m.id))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: this process slept for so long that another prune took it for dead", ErrBusy)
	}
	if err != nil {
		m.end(ctx, false)
		return nil, time.Time{}, err
	}
	return m, info.Modified, nil
}

// collects tells of a session that it is a collector's, or of one who takes back: its series has no name, so no manifest fits its place.
func (r *Repo) collects(session string) bool {
	sid := r.keys.SeriesID("")
	return strings.HasSuffix(session, fmt.Sprintf("-%x", sid[:]))
}

// settle sees to it that each session that began by limit has a manifest or a void, so that none can commit any more. ok is false if one has to be waited for.
func (p *pruner) settle(ctx context.Context, seen map[string]*seenSession, limit time.Time) (ok bool, err error) {
	r := p.repo
	// That a place is taken may be learned from a list; that it is free, never.
	taken := map[string]bool{}
	for info, err := range r.backend.List(ctx, snapshotsPrefix) {
		if err != nil {
			return false, err
		}
		taken[info.Name] = true
	}
	var said map[string]oblivion // once somebody asks
	var open []*seenSession
	for _, id := range sortedKeys(seen) {
		s := seen[id]
		if id == p.own || s.first.After(limit) || broken.tiesPass && s.first.Equal(limit) || taken[snapshotName(id)] {
			continue
		}
		switch _, err := r.backend.Backend.Stat(ctx, snapshotName(id)); {
		case err == nil:
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
		if !s.ended && p.now.Sub(s.last) <= times.expire {
			open = append(open, s)
			continue
		}
		if r.collects(id) || copies(id) {
			continue // it has nothing to commit
		}
		if s.ended && broken.noVoidEnded || !s.ended && broken.noVoidExpired {
			continue
		}
		// The manifest of one that was forgotten for good is gone, and a late duplicate of it counts for nothing. Where a replica has it still, a void would be another object of its name.
		if said == nil {
			if said, _, err = r.forgotten(ctx); err != nil {
				return false, err
			}
		}
		if said[id].final {
			continue
		}
		if err := r.putVoid(ctx, id); err != nil {
			return false, err
		}
		p.rep.Voided = append(p.rep.Voided, id)
	}
	if len(open) > 0 && p.opts.Exclusive {
		if r.backend.looksFirst && !p.opts.VoidOpen {
			return false, fmt.Errorf("%w: %d sessions are open, %s among them, and this store has no put-if-absent: wait for them, or close them (VoidOpen)", ErrBusy, len(open), open[0].id)
		}
		for _, s := range open {
			if r.collects(s.id) || copies(s.id) {
				continue // what it does is safe beside others
			}
			if err := r.putVoid(ctx, s.id); err != nil {
				return false, err
			}
			p.rep.Voided = append(p.rep.Voided, s.id)
		}
		open = nil
	}
	if broken.noWait {
		open = nil
	}
	for _, s := range open {
		p.rep.Waiting = append(p.rep.Waiting, Waiting{Session: s.id, Since: s.first, Last: s.last})
	}
	return len(open) == 0, nil
}

// judge puts the verdict: of the candidates those that are still not needed. Whatever verdict stands is returned.
func (p *pruner) judge(ctx context.Context, run *collection, s *survey) (*packList, error) {
	r := p.repo
	needed := map[pack.ID]bool{}
	for _, st := range s.stats {
		if len(st.Frames) > 0 {
			needed[st.ID] = true
		}
	}
	l := &packList{N: run.n, Packs: [][]byte{}}
	for _, id := range run.candidates.Packs {
		if !needed[pack.ID(id)] || broken.firstMark {
			l.Packs = append(l.Packs, id)
		}
	}
	return r.putList(ctx, crypt.KindVerdict, gcName(run.n)+freeSuffix, l)
}

// putList puts candidates or a verdict, and returns what stands there.
func (r *Repo) putList(ctx context.Context, kind crypt.Kind, name string, l *packList) (*packList, error) {
	body, err := tree.Marshal(l)
	if err != nil {
		return nil, err
	}
	object, err := r.keys.Seal(kind, name, body)
	if err != nil {
		return nil, err
	}
	err = backend.PutBytes(ctx, r.backend, name, object, &backend.PutOptions{IfAbsent: true})
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if broken.ownVerdict && kind == crypt.KindVerdict {
		return l, nil
	}
	_, body, err = r.fetchSealed(ctx, name, kind)
	if err != nil {
		return nil, &blockedError{err}
	}
	there := &packList{}
	if err := there.parse(body, l.N); err != nil {
		return nil, &blockedError{&DamageError{Object: name, Err: err}}
	}
	return there, nil
}

// free does what a verdict says: segments without the freed packs, then the packs, then the end of the collection.
func (p *pruner) free(ctx context.Context, run *collection, s *survey) error {
	r := p.repo
	if err := p.segments(ctx, s); err != nil {
		return err
	}
	if err := p.sweep(ctx, s); err != nil {
		return err
	}
	body, err := tree.Marshal(&doneRecord{N: run.n})
	if err != nil {
		return err
	}
	name := gcName(run.n) + doneSuffix
	object, err := r.keys.Seal(crypt.KindDone, name, body)
	if err != nil {
		return err
	}
	if err := backend.PutBytes(ctx, r.backend, name, object, &backend.PutOptions{IfAbsent: true}); errors.Is(err, fs.ErrExist) {
		if _, _, err := r.fetchSealed(ctx, name, crypt.KindDone); err != nil {
			return &blockedError{err}
		}
	} else if err != nil {
		return err
	}
	return p.tidy(ctx, s)
}

// sweep deletes all packs that any verdict names: those of older ones were locked, or came late.
func (p *pruner) sweep(ctx context.Context, s *survey) error {
	gone := map[pack.ID]bool{}
	for id := range s.packs {
		if s.view.maint.of(id) == index.Freed {
			gone[id] = true
		}
	}
	return p.drop(ctx, s, gone)
}

// drop deletes packs. What was deleted is no more in s.packs.
func (p *pruner) drop(ctx context.Context, s *survey, gone map[pack.ID]bool) error {
	ids := make([]pack.ID, 0, len(gone))
	for id := range gone {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	p.step("deleting", int64(len(ids)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, id := range ids {
		g.Go(func() error {
			err := p.repo.backend.Delete(gctx, packName(id))
			p.done.Add(1)
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case err == nil:
				p.rep.Freed++
				p.rep.FreedBytes += s.packs[id].Size
				delete(s.packs, id)
			case errors.Is(err, backend.ErrRetained):
				p.rep.Retained++
				err = nil
			}
			return err
		})
	}
	return g.Wait()
}

// tidy removes manifests that were let go, and markers of sessions that are over for good.
func (p *pruner) tidy(ctx context.Context, s *survey) error {
	for _, snap := range s.expired {
		gone, err := p.delete(ctx, snapshotName(snap.ID))
		if err != nil {
			return err
		}
		if gone {
			p.rep.Snapshots++
		}
	}
	live := map[string]bool{}
	for _, snap := range s.roots {
		live[snap.ID] = true
	}
	for _, id := range sortedKeys(s.sessions) {
		seen := s.sessions[id]
		// The end of one whose snapshot is there tells a check that there has to be one.
		settled := s.taken[id] || s.said[id].forgotten || p.repo.collects(id) || copies(id)
		if id == p.own || !settled || p.now.Sub(seen.last) <= times.expire+times.slack {
			continue
		}
		if broken.voidsRemoved && !live[id] {
			if _, err := p.delete(ctx, snapshotName(id)); err != nil {
				return err
			}
		}
		for _, name := range seen.markers {
			if live[id] && strings.HasSuffix(name, endSuffix) {
				continue
			}
			if err := p.repo.backend.Delete(ctx, name); err != nil && !errors.Is(err, backend.ErrRetained) {
				return err
			}
		}
	}
	return nil
}

// begin puts the candidates of a new collection, after copying what of them is needed. began is false if there is nothing to free.
func (p *pruner) begin(ctx context.Context, gc *maintenance) (began bool, err error) {
	r := p.repo
	p.step("looking", 0)
	s, err := r.marked(ctx, p.gone, p.later, p.junk, nil)
	if err != nil {
		return false, err
	}
	if err := p.sweep(ctx, s); err != nil {
		return false, err
	}
	l, err := p.condemn(ctx, s)
	if err != nil {
		return false, err
	}
	if len(l) == 0 {
		// Nothing to free; what an older verdict left, segments and markers may still want looking after.
		if err := p.segments(ctx, s); err != nil {
			return false, err
		}
		return false, p.tidy(ctx, s)
	}
	n := gc.last + 1
	for gc.taken[gcName(n)] || gc.taken[gcName(n)+freeSuffix] || gc.taken[gcName(n)+doneSuffix] {
		n++ // somebody who may not has put something there
	}
	list := &packList{N: n}
	for i := range l {
		list.Packs = append(list.Packs, l[i][:])
	}
	there, err := r.putList(ctx, crypt.KindCandidates, gcName(n), list)
	if err != nil {
		return false, err
	}
	if err := p.putRewritten(ctx, p.unnamed); err != nil {
		return false, err
	}
	p.rep.Run = n
	if info, err := r.backend.Stat(ctx, gcName(n)); err == nil {
		p.rep.Due = info.Modified.Add(times.lag)
	}
	p.rep.Condemned, p.rep.CondemnedBytes = 0, 0
	p.count(there, s.packs)
	return true, nil
}
