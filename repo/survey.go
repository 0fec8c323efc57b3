package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// A survey is what a repository holds and, when it is marked, what of it is needed. It begins from scratch. The lists were taken in the order sessions, gc, forgotten, snapshots, index,
// packs: whatever came between two of them is in the later one.
type survey struct {
	sessions map[string]*seenSession
	view     *view
	snaps    []*Snapshot // all manifests that could be opened, forgotten ones too, and of others that were let go the ID alone
	said     map[string]oblivion
	roots    []*Snapshot     // what has to be kept
	expired  []*Snapshot     // let go: nothing of them has to be there
	taken    map[string]bool // sessions in whose place something is
	packs    map[pack.ID]backend.Info
	kept     *collect.Kept  // this and what follows are set by mark
	stats    []collect.Pack // in order of ids
	live     []uint32       // bytes of plaintext that are kept, by frame; nil until somebody asks
}

// seenSession is a session as its markers tell. Times are the store's.
type seenSession struct {
	id      string
	first   time.Time // when it began: later, if its first marker is gone
	last    time.Time // of its newest renewal
	ended   bool
	markers []string
}

// listSessions reads sessions/.
func (r *Repo) listSessions(ctx context.Context) (map[string]*seenSession, error) {
	seen := map[string]*seenSession{}
	for info, err := range r.backend.List(ctx, sessionsPrefix) {
		if err != nil {
			return nil, err
		}
		rest := strings.TrimPrefix(info.Name, sessionsPrefix)
		id, ok := sessionOfMarker(rest)
		if !ok {
			continue
		}
		s := seen[id]
		if s == nil {
			s = &seenSession{id: id, first: info.Modified, last: info.Modified}
			seen[id] = s
		}
		if info.Modified.Before(s.first) {
			s.first = info.Modified
		}
		s.markers = append(s.markers, info.Name)
		if strings.HasSuffix(rest, endSuffix) {
			s.ended = true
		} else if info.Modified.After(s.last) {
			s.last = info.Modified
		}
	}
	return seen, nil
}

// A blockedError is why nothing may be condemned or freed.
type blockedError struct{ err error }

func (e *blockedError) Error() string {
	return fmt.Sprintf("nothing was condemned or freed, for it is not known what is needed: %v", e.err)
}
func (e *blockedError) Unwrap() error { return e.err }

// survey lists everything. settle, if not nil, is called with the sessions before anything else is listed, and says whether to go on. Objects in junk are taken for not there.
// gone tells whether a snapshot need not be kept, and later returns a time of the store that is not before anything that it has dated by now.
func (r *Repo) survey(ctx context.Context, gone func(oblivion) bool, later func() time.Time, junk map[string]bool, settle func(map[string]*seenSession) (bool, error)) (*survey, error) {
	s := &survey{taken: map[string]bool{}}
	var err error
	if s.sessions, err = r.listSessions(ctx); err != nil {
		return nil, err
	}
	latest := later()
	for _, seen := range s.sessions {
		if err := notLater(latest, seen.last, markerName(seen.id)); err != nil {
			return nil, err
		}
	}
	if settle != nil {
		if ok, err := settle(s.sessions); !ok || err != nil {
			return nil, err
		}
	}
	// What maintenance said is read again with the index, in this order; here it is the roots that have to come after it.
	m, err := r.loadMaintenance(ctx)
	if err != nil {
		return nil, err
	}
	if len(m.lost) > 0 {
		return nil, &blockedError{m.lost[0]}
	}
	latest = later()
	for _, c := range m.runs {
		if err := notLater(latest, c.begun, gcName(c.n)); err != nil {
			return nil, err
		}
	}
	if s.said, _, err = r.forgotten(ctx); err != nil {
		return nil, err
	}
	if err := r.surveySnapshots(ctx, s, gone, junk); err != nil {
		return nil, err
	}
	if s.view, err = r.lookWithout(ctx, nil, junk, r.listDated); err != nil {
		return nil, err
	}
	if len(s.view.maint.lost) > 0 {
		return nil, &blockedError{s.view.maint.lost[0]}
	}
	if len(s.view.damaged) > 0 {
		return nil, &blockedError{s.view.damaged[0]}
	}
	if s.packs, err = r.listPacks(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// notLater: store time that runs backwards may make a session that is open look dead.
func notLater(now, t time.Time, name string) error {
	if t.Sub(now) > times.lag {
		return &blockedError{fmt.Errorf("the store's clock runs backwards: it dates %s to %s, and now is %s", name, t.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))}
	}
	return nil
}

// surveySnapshots reads snapshots/.
func (r *Repo) surveySnapshots(ctx context.Context, s *survey, gone func(oblivion) bool, junk map[string]bool) error {
	names, err := listNames(ctx, r.backend, snapshotsPrefix)
	if err != nil {
		return err
	}
	// A list may lag. The manifests of sessions that were just settled must not be missed, so their places are looked up by name.
	listed := make(map[string]bool, len(names))
	for _, name := range names {
		listed[name] = true
	}
	for _, id := range sortedKeys(s.sessions) {
		if name := snapshotName(id); !listed[name] {
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return junk[n] })
	found := make([]*Snapshot, len(names))
	absent := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, name := range names {
		g.Go(func() error {
			snap, err := r.openSnapshot(gctx, name)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				absent[i] = true
				return nil // collected since it was listed
			case errors.Is(err, crypt.ErrSignature):
				return nil // a void that nobody signed counts for nothing
			}
			if d, ok := errors.AsType[*DamageError](err); ok {
				if broken.skipUnreadable {
					return nil
				}
				if id := sessionOf(name); s.said[id].final && name == snapshotName(id) {
					found[i] = &Snapshot{ID: id} // whatever it says, nothing of it has to be there
					return nil
				}
				return &blockedError{d}
			}
			if id := sessionOf(name); err == nil && snap == nil && s.said[id].final && name == snapshotName(id) {
				snap = &Snapshot{ID: id} // a void that came late: no commit is to be kept out any more
			}
			found[i] = snap
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, snap := range found {
		if absent[i] {
			continue
		}
		s.taken[sessionOf(names[i])] = true
		if snap == nil {
			continue
		}
		s.snaps = append(s.snaps, snap)
		if gone(s.said[snap.ID]) {
			s.expired = append(s.expired, snap)
		} else {
			s.roots = append(s.roots, snap)
		}
	}
	return nil
}

// marked is survey and mark. What is missing may have been freed by somebody else since it was listed: then all begins anew.
func (r *Repo) marked(ctx context.Context, gone func(oblivion) bool, later func() time.Time, junk map[string]bool, settle func(map[string]*seenSession) (bool, error)) (*survey, error) {
	const tries = 10
	for try := 1; ; try++ {
		s, err := r.survey(ctx, gone, later, junk, settle)
		if err != nil || s == nil {
			return nil, err
		}
		err = r.mark(ctx, s)
		if err == nil {
			return s, nil
		}
		if _, blocked := errors.AsType[*blockedError](err); !blocked || try == tries {
			return nil, err
		}
		names, lerr := listNames(ctx, r.backend, gcPrefix)
		if lerr != nil {
			return nil, lerr
		}
		if !slices.ContainsFunc(names, func(name string) bool { return !s.view.maint.taken[name] }) {
			return nil, err
		}
	}
}

// mark decides what stays.
func (r *Repo) mark(ctx context.Context, s *survey) error {
	var roots []pack.ID
	for _, snap := range s.roots {
		roots = append(roots, snap.root)
		if snap.unread != nil {
			roots = append(roots, *snap.unread)
		}
	}
	x := s.view.x
	res, err := walk.Run(ctx, x, s.view.node, roots, r.opts.Workers)
	if err != nil {
		return err
	}
	if m := res.Gone(); m != nil && !broken.skipMissing {
		why := m.Err
		if why == nil {
			why = errNotIndexed
		}
		return &blockedError{r.whoNeeds(ctx, s, &DamageError{Object: "blob " + m.ID.String(), Err: why})}
	}
	hints, err := walk.Hints(ctx, x, s.view.hint, s.hintRoots(), r.opts.Workers)
	if err != nil {
		return err
	}
	if len(hints.Missing) > 0 {
		r.opts.Logger.Warn("hints cannot be read: the next backup reads files again", "blobs", len(hints.Missing))
	}
	s.kept = collect.Keep(x, walk.Union(res.Reached, hints.Reached), func(n uint32) bool {
		p := x.Pack(n)
		info, ok := s.packs[p.ID]
		return p.State != index.Freed && ok && info.Size == int64(p.Size)
	})
	if len(s.kept.Lost) > 0 && !broken.skipMissing {
		id := s.kept.Lost[0]
		return &blockedError{&DamageError{Object: "blob " + id.String(), Err: errors.New("the packs that hold it are gone or not what they were")}}
	}
	s.stats = s.kept.Packs(x)
	return nil
}

// hintRoots returns the roots of the hints that the next backup of each series looks at. It is no loss when they go.
func (s *survey) hintRoots() []pack.ID {
	return hintRoots(slices.DeleteFunc(slices.Clone(s.roots), func(snap *Snapshot) bool { return s.said[snap.ID].forgotten }))
}

// whoNeeds adds to what is missing which snapshots need something that is: one of them may be junk.
func (r *Repo) whoNeeds(ctx context.Context, s *survey, missing error) error {
	var names []string
	for _, snap := range s.roots {
		roots := []pack.ID{snap.root}
		if snap.unread != nil {
			roots = append(roots, *snap.unread)
		}
		res, err := walk.Run(ctx, s.view.x, s.view.node, roots, r.opts.Workers)
		if err != nil {
			return err
		}
		if res.Gone() != nil {
			names = append(names, snapshotName(snap.ID))
		}
	}
	if len(names) == 0 {
		return missing
	}
	more := ""
	if len(names) > 1 {
		more = fmt.Sprintf(" and %d more", len(names)-1)
	}
	return fmt.Errorf("%s%s can't be restored whole: %w", names[0], more, missing)
}

// putVoid takes the place of a session's commit.
func (r *Repo) putVoid(ctx context.Context, session string) error {
	name := snapshotName(session)
	body, err := tree.Marshal(&sessionRecord{Session: session, Time: tree.TimeOf(time.Now())})
	if err != nil {
		return err
	}
	object, err := r.keys.Seal(crypt.KindVoid, name, body)
	if err != nil {
		return err
	}
	err = backend.PutBytes(ctx, r.backend, name, object, &backend.PutOptions{IfAbsent: true})
	if errors.Is(err, fs.ErrExist) {
		return nil // the commit was first, or somebody else's void
	}
	return err
}
