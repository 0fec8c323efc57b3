package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/varvebackup/varve/repo/internal/walk"
)

// CheckOptions are for Check. Nil and the zero value: the structure only.
type CheckOptions struct {
	// ReadData reads packs and checks that their bytes are what their names promise, and every blob in them that the key may read.
	ReadData bool
	// Part and Parts: read only the packs of one part of several, 1 ≤ Part ≤ Parts. All parts together are all packs. Zero: all.
	Part, Parts int
	// Progress is called while packs are read, at most five times a second and once at the end, from one goroutine, never after Check has returned.
	Progress func(CheckProgress)
}

// CheckProgress is how far a check has come.
type CheckProgress struct {
	Packs, TotalPacks int   // read, to read
	Bytes             int64 // read
	Elapsed           time.Duration
}

// Finding is one thing that is wrong.
type Finding struct {
	Object    string   // name of the object that is wrong, or missing
	Err       error    // what is wrong with it
	Snapshots []string // ids of the snapshots that it hurts: they are lost, or some of their paths are; sorted
	Paths     []string // "<snapshot id>:<path>" of what cannot be restored, sorted, at most 1,000; a folder stands for all in it
	More      int      // paths beyond those
	Harmless  bool     // nothing that anyone needs: junk, markers, or what only forgotten or unfinished things used
	Elsewhere bool     // the store has an older version that is whole, so this hurts nothing yet; Heal puts that back, see backend.AsOf
}

// CheckReport is the result of a check.
type CheckReport struct {
	Snapshots, Segments, Packs, Blobs int
	PacksRead                         int
	BytesRead                         int64
	Findings                          []Finding   // sorted by object
	Lock                              *LockReport // of what the newest snapshot of each series needs; nil if the repository locks nothing
}

// LockReport tells how long something cannot be deleted.
type LockReport struct {
	Objects  int
	Unlocked int       // of those, that can be deleted now
	Until    time.Time // when the first of them can be; zero if some can be now
	First    string    // that object
}

// Sound tells whether all findings are harmless.
func (c *CheckReport) Sound() bool {
	for i := range c.Findings {
		if !c.Findings[i].Harmless {
			return false
		}
	}
	return true
}

const maxPaths = 1000

// Check looks at every object and tells what is wrong, and what that hurts. It reads all that is not a pack, walks the trees of all snapshots, and looks whether what they
// need is indexed and stored; with ReadData it reads packs too. It reads from the backend, never from the cache, and changes nothing. Backups and Prune may run meanwhile: when
// something seems wrong and a collection went on, it begins anew.
//
// A Finding names the object that is wrong, and as hurt exactly what FS and Restore cannot give back; these find a whole copy of a blob wherever one is. So
//   - a pack that is missing, or of whose frames one does not open, hurts the paths with a blob of which no other copy is whole;
//   - a missing index segment has no name any more. It hurts no path as long as the packs are there, for readers find what is in them without it: the
//     finding is then about each pack that snapshots need and that no segment names. It is not harmless, since writers and maintenance go by segments alone;
//   - what is neither indexed nor in any pack is lost, and "index/?" is the object;
//   - a snapshot whose manifest is damaged, or missing though its session's end or another snapshot names it, is hurt as a whole, without paths;
//   - what should bear maintenance's signature and does not counts for nothing, and is a finding;
//   - hints that are missing or damaged cost the next backup time, and are harmless;
//   - slots may be removed: that is a finding only when none is left.
//
// What is wrong is in the report. The error is for a check that could not be made: the backend failed, ctx is done, a newer format (*crypt.VersionError,
// *pack.VersionError). A writer's key cannot read trees: ErrRole. A maintainer's cannot read content: with ReadData, a pack's bytes have to match its name.
func (r *Repo) Check(ctx context.Context, o *CheckOptions) (*CheckReport, error) {
	if o == nil {
		o = &CheckOptions{}
	}
	if o.Parts < 0 || o.Part < 0 || o.Part > o.Parts || o.Parts > 0 && o.Part == 0 {
		return nil, fmt.Errorf("check: part %d of %d", o.Part, o.Parts)
	}
	if r.keys.Role() == crypt.Writer {
		return nil, fmt.Errorf("check: %w: a %v cannot read trees", ErrRole, r.keys.Role())
	}
	rep, err := r.checkTwice(ctx, o)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("check: %w", err)
	}
	return rep, nil
}

// checkTwice checks, and begins anew when something is wrong and a collection went on meanwhile: what was missing may have been freed since it was listed.
func (r *Repo) checkTwice(ctx context.Context, o *CheckOptions) (*CheckReport, error) {
	const tries = 3
	for try := 1; ; try++ {
		before, err := listNames(ctx, r.own.backend, gcPrefix)
		if err != nil {
			return nil, err
		}
		rep, err := r.check(ctx, o)
		if err != nil || rep.Sound() || try == tries {
			return rep, err
		}
		after, err := listNames(ctx, r.own.backend, gcPrefix)
		if err != nil || slices.Equal(before, after) {
			return rep, err
		}
	}
}

func (r *Repo) check(ctx context.Context, o *CheckOptions) (*CheckReport, error) {
	c := &checker{opts: o, begun: time.Now(), hurt: map[string]*Finding{}, packs: map[pack.ID]backend.Info{}}
	own := *r.own.backend
	c.repo = &Repo{backend: &own, keys: r.keys, slot: r.slot, config: r.own.config, opts: r.own.opts}
	c.repo.own = c.repo
	c.repo.opts.Cache = ""
	own.mended = func(name string, why error) {
		f := c.find(name, fmt.Errorf("its newest version is not what was put, an older one is: %w", why))
		c.mu.Lock()
		f.Elsewhere = true
		f.Harmless = f.Harmless || strings.HasPrefix(name, sessionsPrefix) // it does its work all the same
		c.mu.Unlock()
	}
	return c.run(ctx)
}

type checker struct {
	repo  *Repo
	opts  *CheckOptions
	begun time.Time
	view  *view
	snaps []*Snapshot
	packs map[pack.ID]backend.Info // that are there

	strays map[pack.ID]error // packs that no segment names: nil, or why their directory cannot be read

	read, bytes atomic.Int64
	toRead      int

	mu   sync.Mutex          // guards what follows
	hurt map[string]*Finding // by object
	bad  walk.Bitmap         // copies that cannot be had, or are not what they should be
	any  bool                // bad is not empty

	blame map[uint32]*DamageError // frames that cannot be opened because of something in another pack
}

// find notes that something is wrong with an object. The first reason stays.
func (c *checker) find(object string, err error) *Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.hurt[object]
	if f == nil {
		f = &Finding{Object: object, Err: err}
		c.hurt[object] = f
	}
	return f
}

// damage notes what err says of an object. Other errors than damage come back.
func (c *checker) damage(object string, err error) error {
	if d, ok := errors.AsType[*DamageError](err); ok {
		c.find(d.Object, d.Err)
		return nil
	}
	if errors.Is(err, crypt.ErrDamaged) {
		c.find(object, err)
		return nil
	}
	return err
}

func (c *checker) run(ctx context.Context) (*CheckReport, error) {
	names, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.small(ctx, names); err != nil {
		return nil, err
	}
	if err := c.look(ctx); err != nil {
		return nil, err
	}
	c.bad = walk.NewBitmap(c.view.x.Len())
	if err := c.stored(ctx); err != nil {
		return nil, err
	}
	if c.opts.ReadData {
		if err := c.data(ctx); err != nil {
			return nil, err
		}
	}
	res, err := c.trees(ctx)
	if err != nil {
		return nil, err
	}
	c.unnamed(res)
	locks, err := c.locks(ctx)
	if err != nil {
		return nil, err
	}
	h := &hurtWalk{c: c, whole: map[pack.ID]bool{}, frames: map[uint32]*based{}}
	if c.any || len(res.Missing) > 0 || h.deltas(res) {
		if err := h.paths(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.hints(ctx); err != nil {
		return nil, err
	}
	rep := c.report()
	rep.Lock = locks
	return rep, nil
}

// locks looks how long the newest snapshots are safe.
func (c *checker) locks(ctx context.Context) (*LockReport, error) {
	b := c.repo.backend
	if (b.lock == Lock{}) {
		return nil, nil
	}
	newest := map[string]*Snapshot{} // by series
	for _, s := range c.snaps {
		newest[s.Series] = s // sorted by id, and so by time
	}
	need, err := c.repo.needed(ctx, c.view, func(s *Snapshot) bool { return newest[s.Series] != nil && newest[s.Series].ID == s.ID })
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards rep
	rep := &LockReport{Objects: len(need)}
	now := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(lockWorkers)
	for _, name := range sortedKeys(need) {
		g.Go(func() error {
			is, err := backend.RetentionOf(gctx, b.Backend, name, "")
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a finding, or removed meanwhile
			} else if err != nil && !errors.Is(err, errors.ErrUnsupported) { // where there are no locks, it is a copy, and has none
				return fmt.Errorf("the lock of %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !is.Until.After(now) {
				is.Until = time.Time{}
				rep.Unlocked++
			}
			if rep.First == "" || is.Until.Before(rep.Until) {
				rep.First, rep.Until = name, is.Until
			}
			return nil
		})
	}
	return rep, g.Wait()
}

// look loads the view of a reader who could not find something: maintenance's word, the index, and what is in packs that it does not name.
func (c *checker) look(ctx context.Context) error {
	v, err := c.repo.look(ctx, nil)
	if err != nil {
		return err
	}
	strays, err := v.strays(ctx, c.packs)
	if err != nil {
		return err
	}
	c.strays = map[pack.ID]error{}
	for i := range strays {
		if _, ok := errors.AsType[*pack.VersionError](strays[i].err); ok {
			return strays[i].err
		}
		c.strays[strays[i].id] = strays[i].err
	}
	if len(strays) > 0 {
		if v, err = c.repo.look(ctx, strays); err != nil {
			return err
		}
	}
	c.view = v
	for _, d := range v.maint.junk {
		f := c.find(d.Object, d.Err)
		f.Harmless = f.Harmless || errors.Is(d.Err, errNoSuchName)
	}
	for _, d := range v.damaged {
		c.find(d.Object, d.Err)
	}
	return nil
}

// unnamed finds the packs without which snapshots could not be read, and that no segment names.
func (c *checker) unnamed(res *walk.Result) {
	if len(c.strays) == 0 {
		return
	}
	x := c.view.x
	named := map[pack.ID]bool{} // by a segment that was put in the meantime
	for i := range x.Packs() {
		if p := x.Pack(uint32(i)); int(p.Segment) < len(c.view.segments) {
			named[p.ID] = true
		}
	}
	var last pack.ID
	var only []pack.ID // strays with a needed copy of the blob
	known := false     // a segment names a copy that is there
	end := func() {
		for _, id := range only {
			if !known {
				c.find(packName(id), fmt.Errorf("%w, and snapshots need it", errNotIndexed))
			}
		}
		only, known = only[:0], false
	}
	for id, copy := range x.All() {
		if id != last {
			end()
			last = id
		}
		p := x.Pack(x.Frame(copy.Frame).Pack).ID
		if _, stray := c.strays[p]; stray && !named[p] {
			if res.Needed.Has(copy.Ordinal) {
				only = append(only, p)
			}
		} else if !c.bad.Has(copy.Ordinal) {
			known = true
		}
	}
	end()
	// One that cannot be read may be what is missing.
	lost := slices.ContainsFunc(res.Missing, func(m walk.Missing) bool { return m.Err == nil || errors.Is(m.Err, errNotIndexed) })
	for id, err := range c.strays {
		if err != nil && !named[id] {
			f := c.find(packName(id), fmt.Errorf("%w, and its directory: %w", errNotIndexed, err))
			f.Harmless = !lost
		}
	}
}

// list takes stock of all objects. Names that no object of this format has are junk.
func (c *checker) list(ctx context.Context) ([]string, error) {
	var small []string
	for info, err := range c.repo.backend.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		switch prefix, rest, _ := strings.Cut(info.Name, "/"); prefix + "/" {
		case packsPrefix:
			id, ok := parsePackName(info.Name)
			if !ok {
				c.junk(info.Name)
				continue
			}
			c.packs[id] = info
		case indexPrefix:
			if len(rest) != 64 || !isHex(rest) {
				c.junk(info.Name)
			}
		case configPrefix, keysPrefix, snapshotsPrefix, sessionsPrefix, gcPrefix, forgottenPrefix:
			small = append(small, info.Name)
		default:
			c.junk(info.Name)
		}
	}
	slices.Sort(small)
	return small, nil
}

func (c *checker) junk(name string) {
	c.find(name, errNoSuchName).Harmless = true
}

func parsePackName(name string) (id pack.ID, ok bool) {
	rest := strings.TrimPrefix(name, packsPrefix)
	if len(rest) != 67 || rest[2] != '/' || rest[:2] != rest[3:5] || !isHex(rest[3:]) {
		return id, false
	}
	for i := range id {
		id[i] = hexByte(rest[3+2*i], rest[4+2*i])
	}
	return id, true
}

func hexByte(hi, lo byte) byte {
	return byte(strings.IndexByte(hexDigits, hi)<<4 | strings.IndexByte(hexDigits, lo))
}

// small reads every object that is neither pack nor segment.
func (c *checker) small(ctx context.Context, names []string) error {
	r := c.repo
	var mu sync.Mutex
	var committed []string
	there := map[string]bool{}
	configs, slots := 0, 0
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range names {
		there[name] = true
		g.Go(func() error {
			switch prefix, rest, _ := strings.Cut(name, "/"); prefix + "/" {
			case configPrefix:
				if _, ok := number(rest); !ok {
					c.junk(name)
					return nil
				}
				mu.Lock()
				configs++
				mu.Unlock()
				_, err := readConfig(gctx, r.backend, r.keys, name)
				return c.damage(name, missing(name, err))
			case keysPrefix:
				object, err := r.backend.Get(gctx, name, 0, -1, nil)
				if err == nil {
					_, err = crypt.ParseSlot(name, object)
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil // removed since it was listed
				}
				if err == nil {
					mu.Lock()
					slots++
					mu.Unlock()
				}
				return c.damage(name, err)
			case sessionsPrefix:
				session, ok := sessionOfMarker(rest)
				if !ok {
					c.junk(name)
					return nil
				}
				object, err := r.backend.Get(gctx, name, 0, -1, nil)
				if err == nil {
					err = crypt.Verify(name, object)
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil // collected since it was listed
				}
				if err == nil && strings.HasSuffix(name, endSuffix) && bytes.Contains(object, []byte("\ncommitted\n")) {
					mu.Lock()
					committed = append(committed, session)
					mu.Unlock()
				}
				if errors.Is(err, crypt.ErrDamaged) {
					// It does its work all the same: name and store time are what counts.
					c.find(name, err).Harmless = true
					return nil
				}
				return err
			case snapshotsPrefix:
				s, err := r.openSnapshot(gctx, name)
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return nil // collected since it was listed
				case errors.Is(err, errNoSuchName):
					c.junk(name)
					return nil
				case err != nil:
					return c.damage(name, err)
				}
				if s != nil {
					mu.Lock()
					c.snaps = append(c.snaps, s)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if configs == 0 {
		c.find(configName(1), fs.ErrNotExist)
	}
	if slots == 0 {
		c.find(keysPrefix, fmt.Errorf("no slot is left, nobody can open the repository again: %w", fs.ErrNotExist))
	}
	forgotten, junk, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	for _, d := range junk {
		c.find(d.Object, d.Err).Harmless = errors.Is(d.Err, errNoSuchName)
	}
	// What is wrong in the place of a commit hurts that snapshot.
	for name, f := range c.hurt {
		if strings.HasPrefix(name, snapshotsPrefix) && !f.Harmless && !f.Elsewhere {
			if session := sessionOf(name); forgotten[session].forgotten {
				f.Harmless = true
			} else {
				f.Snapshots = []string{session}
			}
		}
	}
	// A manifest that something else speaks of must be there, unless it was forgotten.
	for _, s := range c.snaps {
		if s.Parent != "" {
			committed = append(committed, s.Parent)
		}
	}
	for _, session := range committed {
		name := snapshotName(session)
		if forgotten[session].forgotten || there[name] {
			continue
		}
		// It may have been committed after the list was taken.
		switch _, err := r.backend.Stat(ctx, name); {
		case errors.Is(err, fs.ErrNotExist):
			f := c.find(name, fmt.Errorf("the snapshot is gone: %w", fs.ErrNotExist))
			f.Snapshots = []string{session}
		case err != nil:
			return err
		}
	}
	c.snaps = slices.DeleteFunc(c.snaps, func(s *Snapshot) bool { return forgotten[s.ID].forgotten })
	slices.SortFunc(c.snaps, func(a, b *Snapshot) int { return strings.Compare(a.ID, b.ID) })
	return nil
}

func missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &DamageError{Object: name, Err: fs.ErrNotExist}
	}
	return err
}

// sessionOfMarker takes apart the rest of a name under sessions/.
func sessionOfMarker(rest string) (string, bool) {
	session, suffix, has := strings.Cut(rest, ".")
	if !validSession(session) {
		return "", false
	}
	if has && suffix != "end" {
		_, ok := number(suffix)
		return session, ok
	}
	return session, true
}

// stored compares the index with the packs that are there.
func (c *checker) stored(ctx context.Context) error {
	x := c.view.x
	gone := make([]bool, x.Packs())
	for i := range x.Packs() {
		p := x.Pack(uint32(i))
		name := packName(p.ID)
		info, ok := c.packs[p.ID]
		if !ok && p.State != index.Freed {
			// The index is younger than the list.
			var err error
			if info, err = c.repo.backend.Stat(ctx, name); err == nil {
				c.packs[p.ID], ok = info, true
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		switch {
		case ok && info.Size == int64(p.Size):
			continue
		case p.State == index.Freed:
		case c.elsewhere(ctx, name):
			c.packs[p.ID] = backend.Info{Name: name, Size: int64(p.Size), Modified: info.Modified}
			continue
		case !ok:
			c.find(name, fs.ErrNotExist)
		default:
			c.find(name, fmt.Errorf("it has %d bytes, the index says %d", info.Size, p.Size))
		}
		gone[i] = !ok
		c.any = true
	}
	if c.any {
		for _, copy := range x.All() {
			f := x.Frame(copy.Frame)
			p := x.Pack(f.Pack)
			// Of a pack that is cut, the frames before the cut are whole.
			if gone[f.Pack] || int64(f.Offset)+int64(f.Stored) > c.packs[p.ID].Size {
				c.bad.Set(copy.Ordinal)
			}
		}
	}
	return nil
}

// elsewhere tells whether a pack that is not what it should be, or gone, is whole in another version.
func (c *checker) elsewhere(ctx context.Context, name string) bool {
	object, err := c.repo.backend.Get(ctx, name, 0, -1, nil)
	return err == nil && crypt.Verify(name, object) == nil
}

// trees walks all snapshots.
func (c *checker) trees(ctx context.Context) (*walk.Result, error) {
	var roots []pack.ID
	for _, s := range c.snaps {
		roots = append(roots, s.root)
		if s.unread != nil {
			roots = append(roots, *s.unread)
		}
	}
	return walk.Run(ctx, c.view.x, c.view.node, roots, c.repo.opts.Workers)
}

// hints looks at the hints that the next backups look at. What is wrong with them costs time and nothing else.
func (c *checker) hints(ctx context.Context) error {
	x := c.view.x
	res, err := walk.Hints(ctx, x, c.view.hint, hintRoots(c.snaps), c.repo.opts.Workers)
	if err != nil {
		return err
	}
	// A pack of which nothing is wrong but hints.
	only := map[string]bool{}
	if c.any {
		for _, copy := range x.All() {
			if c.bad.Has(copy.Ordinal) {
				name := packName(x.Pack(x.Frame(copy.Frame).Pack).ID)
				if hint := x.Kind(copy.Frame) == walk.Hint; !hint {
					only[name] = false
				} else if _, known := only[name]; !known {
					only[name] = true
				}
			}
		}
	}
	for name, hint := range only {
		if f := c.hurt[name]; hint && f != nil && len(f.Snapshots) == 0 {
			f.Harmless = true
		}
	}
	for _, m := range res.Missing {
		object, why := "blob "+m.ID.String(), m.Err
		if d, ok := errors.AsType[*DamageError](m.Err); ok {
			object, why = d.Object, d.Err
		} else if why == nil {
			why = errNotIndexed
		}
		if c.hurt[object] == nil {
			c.find(object, fmt.Errorf("hints, without which a backup reads files again: %w", why)).Harmless = true
		}
	}
	return nil
}

func (c *checker) report() *CheckReport {
	rep := &CheckReport{Snapshots: len(c.snaps), Segments: len(c.view.segments), Packs: len(c.packs), Blobs: c.view.x.Len(), PacksRead: int(c.read.Load()),
		BytesRead: c.bytes.Load()}
	for _, name := range sortedKeys(c.hurt) {
		f := c.hurt[name]
		slices.Sort(f.Snapshots)
		f.Snapshots = slices.Compact(f.Snapshots)
		slices.Sort(f.Paths)
		f.Paths = slices.Compact(f.Paths)
		rep.Findings = append(rep.Findings, *f)
	}
	return rep
}
