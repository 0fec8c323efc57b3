package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// Lock says for how long what a repository puts cannot be deleted or overwritten for good, by nobody who holds the store's credentials: object lock, where the store has it. It
// holds for the config, slots, packs, segments and snapshots. The zero Lock is none.
type Lock struct {
	Mode   backend.Mode
	Period time.Duration // from the put on, in whole seconds; ExtendLocks renews it
}

const maxLock = 100 * 365 * 24 * 3600 // seconds: as long as stores allow

// String returns "governance for 720h0m0s", or "none".
func (l Lock) String() string {
	if l == (Lock{}) {
		return "none"
	}
	return fmt.Sprintf("%s for %v", l.Mode, l.Period)
}

func (l Lock) valid() error {
	switch {
	case l == Lock{}:
		return nil
	case l.Mode != backend.Governance && l.Mode != backend.Compliance:
		return fmt.Errorf("a lock is %s or %s, not %q: %w", backend.Governance, backend.Compliance, l.Mode, fs.ErrInvalid)
	case l.Period < time.Second || l.Period%time.Second != 0 || l.Period > maxLock*time.Second:
		return fmt.Errorf("a lock lasts whole seconds, and at most 100 years, not %v: %w", l.Period, fs.ErrInvalid)
	}
	return nil
}

// from returns the lock that begins at a time.
func (l Lock) from(t time.Time) backend.Retention {
	return backend.Retention{Mode: l.Mode, Until: t.Add(l.Period)}
}

func (c *config) setLock(l Lock) {
	if c.Lock = nil; l != (Lock{}) {
		c.Lock = &lock{Mode: string(l.Mode), Seconds: uint64(l.Period / time.Second)}
	}
}

// Lock returns how what is put is locked.
func (r *Repo) Lock() Lock { return r.own.backend.lock }

// PutIfAbsent tells whether the backend keeps an object that is there when it is put again with that condition, as Create found out. Where it does not, maintenance
// must not delete anything beside running backups.
func (r *Repo) PutIfAbsent() bool { return !r.own.backend.looksFirst }

// SetLock changes how long what is put from now on cannot be deleted; the zero Lock ends that. It holds for this Repo at once and for others when they
// are opened again. What is stored already keeps the lock that it has: ExtendLocks gives the new one to what is needed.
//
// ErrRole: a writer changes nothing. ErrBusy: somebody else changed the config at the same time. fs.ErrInvalid: there is no such lock. errors.ErrUnsupported: the
// backend has no locks; nothing was changed then. It must not be called while this Repo is used otherwise.
func (r *Repo) SetLock(ctx context.Context, l Lock) error {
	if err := r.own.setLock(ctx, l); err != nil {
		return fmt.Errorf("set the lock: %w", err)
	}
	if r.own != r && r.config != nil {
		r.config.setLock(l)
	}
	return nil
}

func (r *Repo) setLock(ctx context.Context, l Lock) error {
	if err := l.valid(); err != nil {
		return err
	}
	if r.config == nil {
		return fmt.Errorf("nothing can be written without the config: %w", r.broken)
	}
	names, err := listNames(ctx, r.backend, configPrefix)
	if err != nil {
		return err
	}
	// The newest may have been changed since this one was opened.
	c, n, err := loadConfig(ctx, r.backend, r.keys, names)
	if err != nil {
		return err
	}
	// The next number that is free: others may be taken by what does not count.
	for n++; slices.Contains(names, configName(n)); n++ {
	}
	c.setLock(l)
	object, err := c.seal(r.keys, n)
	if err != nil {
		return err
	}
	// The object itself is the first to be locked so, which shows whether the store can do it.
	locking := *r.backend
	locking.lock = l
	if err := putOnce(ctx, &locking, configName(n), object); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: the config was changed at the same time", ErrBusy)
	} else if err != nil {
		return err
	}
	r.config = c
	r.backend.lock = l
	return nil
}

// ExtendOptions are for ExtendLocks. Nil and the zero value: extend what is due.
type ExtendOptions struct {
	DryRun bool // only tell
	// Progress is called at most five times a second and once at the end, from one goroutine, never after ExtendLocks has returned.
	Progress func(done, total int)
}

// ExtendReport is what ExtendLocks found and did.
type ExtendReport struct {
	Objects  int       // that are needed
	Unlocked int       // of those, that had no lock
	Due      int       // that were extended, or would be; those without a lock among them
	Until    time.Time // when the first of the locks ends, as they are now; zero if there is an object without
	First    string    // the object of which that is true
	Deleted  []string  // needed objects that somebody deleted, so that only older versions of them are there: see backend.AsOf and Heal; sorted
}

// ExtendLocks renews the locks of all that some snapshot needs, where less than half of their period is left: each then lasts a whole period again, from now. Run it more
// often than once in half a period. What nothing needs is left alone, and can be deleted when its lock is over.
//
// All versions of an object are extended: of those that somebody put above the right one nobody knows which is which until they are read.
// Where something is missing, all packs count as needed.
//
// ErrRole: a writer can't read trees. fs.ErrInvalid: the repository has no lock. errors.ErrUnsupported: the backend has none. After another error some objects were extended;
// it is safe to begin anew.
func (r *Repo) ExtendLocks(ctx context.Context, o *ExtendOptions) (*ExtendReport, error) {
	if o == nil {
		o = &ExtendOptions{}
	}
	rep, err := r.own.extendLocks(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("extend the locks: %w", err)
	}
	return rep, nil
}

func (r *Repo) extendLocks(ctx context.Context, o *ExtendOptions) (*ExtendReport, error) {
	switch l := r.backend.lock; {
	case r.keys.Role() == crypt.Writer:
		return nil, fmt.Errorf("%w: a %v cannot read trees", ErrRole, r.keys.Role())
	case r.config == nil:
		return nil, fmt.Errorf("how long is in the config: %w", r.broken)
	case l == Lock{}:
		return nil, fmt.Errorf("the repository locks nothing, see SetLock: %w", fs.ErrInvalid)
	}
	needed, err := r.needed(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	versions := map[string][]backend.Version{}
	for v, err := range backend.Versions(ctx, r.backend.Backend, "") {
		if errors.Is(err, errors.ErrUnsupported) {
			for name := range needed {
				versions[name] = []backend.Version{{Latest: true}}
			}
			break
		}
		if err != nil {
			return nil, err
		}
		if needed[v.Name] {
			versions[v.Name] = append(versions[v.Name], v)
		}
	}
	rep := &ExtendReport{Objects: len(needed)}
	var mu sync.Mutex // guards rep and done
	done := 0
	if o.Progress != nil {
		defer ticker(func() {
			mu.Lock()
			n := done
			mu.Unlock()
			o.Progress(n, len(needed))
		})()
	}
	now := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lockWorkers)
	for _, name := range sortedKeys(needed) {
		vs := versions[name]
		deleted := len(vs) == 0 || vs[0].Deleted
		vs = slices.DeleteFunc(vs, func(v backend.Version) bool { return v.Deleted })
		if deleted && len(vs) == 0 {
			continue // a check tells what is missing
		}
		g.Go(func() error {
			least, due, bare := time.Time{}, false, false
			for i, v := range vs {
				until, late, err := r.extend(gctx, name, v.ID, now, o.DryRun)
				if err != nil {
					return err
				}
				due, bare = due || late, bare || late && until.IsZero()
				if late && !o.DryRun {
					until = r.backend.lock.from(now).Until
				}
				if i == 0 || until.Before(least) {
					least = until
				}
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			if deleted {
				rep.Deleted = append(rep.Deleted, name)
			}
			if due {
				rep.Due++
			}
			if bare {
				rep.Unlocked++
			}
			if rep.First == "" || least.Before(rep.Until) {
				rep.First, rep.Until = name, least
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(rep.Deleted)
	return rep, nil
}

const lockWorkers = 16

// extend renews the lock of one version if less than half of it is left, and returns until when it lasted and whether it was due.
func (r *Repo) extend(ctx context.Context, name, version string, now time.Time, dry bool) (until time.Time, due bool, err error) {
	l := r.backend.lock
	is, err := backend.RetentionOf(ctx, r.backend.Backend, name, version)
	if errors.Is(err, fs.ErrNotExist) {
		return now.Add(l.Period), false, nil // it was deleted meanwhile: nobody needs it any more
	} else if err != nil {
		return time.Time{}, false, err
	}
	// A lock that its owner may end early is none where nobody may.
	if l.Mode == backend.Compliance && is.Mode == backend.Governance {
		due = true
	}
	due = due || is.Until.Sub(now) < l.Period/2
	if !due || dry {
		return is.Until, due, nil
	}
	if err = backend.Retain(ctx, r.backend.Backend, name, version, l.from(now)); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return is.Until, due, err
}

// needed returns the names of all objects without which some of the snapshots that keep says yes to could not be restored; a nil keep is all. A nil view is a new one.
func (r *Repo) needed(ctx context.Context, v *view, keep func(*Snapshot) bool) (map[string]bool, error) {
	need := map[string]bool{}
	names, err := r.snapshotNames(ctx, "")
	if err != nil {
		return nil, err
	}
	snaps, _, err := r.openSnapshots(ctx, names)
	if err != nil {
		return nil, err
	}
	if keep == nil {
		for _, name := range names {
			need[name] = true // voids too: they keep a place taken
		}
	}
	var roots []pack.ID
	for _, s := range snaps {
		if keep != nil && !keep(s) {
			continue
		}
		need[snapshotName(s.ID)] = true
		roots = append(roots, s.root)
		if s.unread != nil {
			roots = append(roots, *s.unread)
		}
	}
	if v == nil {
		if v, err = r.look(ctx, nil); err != nil {
			return nil, err
		}
	}
	res, err := walk.Run(ctx, v.x, v.node, roots, r.opts.Workers)
	if err != nil {
		return nil, err
	}
	if len(res.Missing) > 0 {
		for i := range v.x.Packs() {
			need[packName(v.x.Pack(uint32(i)).ID)] = true
		}
	}
	for _, c := range v.x.All() {
		if res.Needed.Has(c.Ordinal) {
			need[packName(v.x.Pack(v.x.Frame(c.Frame).Pack).ID)] = true
		}
	}
	for _, segment := range v.segments {
		need[segment.Name] = true
	}
	for _, prefix := range []string{configPrefix, keysPrefix} {
		names, err := listNames(ctx, r.backend, prefix)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			need[name] = true
		}
	}
	return need, nil
}
