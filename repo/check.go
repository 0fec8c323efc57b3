package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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
	// Progress is called at most five times a second and once at the end, from one goroutine.
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
	Object    string   // name of the object that is wrong
	Err       error    // what is wrong with it
	Snapshots []string // ids of the snapshots that it hurts, sorted
	Paths     []string // "<snapshot id>:<path>" of what cannot be restored, sorted, at most 1,000
	More      int      // paths beyond those
	Harmless  bool     // nothing that anyone needs: junk, or what only forgotten or unfinished things used
}

// CheckReport is the result of a check.
type CheckReport struct {
	Snapshots, Segments, Packs, Blobs int
	PacksRead                         int
	BytesRead                         int64
	Findings                          []Finding // sorted by object
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
// need is indexed and stored; with ReadData it reads packs too. It reads from the backend, never from the cache, and changes nothing.
//
// What is wrong is in the report. The error is for a check that could not be made: the backend failed, ctx is done, a newer format (*crypt.VersionError). A writer's key cannot read trees: ErrRole.
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
	c := &checker{opts: o, begun: time.Now(), hurt: map[string]*Finding{}, packs: map[pack.ID]int64{}}
	c.repo = &Repo{backend: r.backend, keys: r.keys, slot: r.slot, config: r.config, opts: r.opts}
	c.repo.opts.Cache = ""
	rep, err := c.run(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("check: %w", err)
	}
	return rep, nil
}

type checker struct {
	repo  *Repo
	opts  *CheckOptions
	begun time.Time
	view  *view
	snaps []*Snapshot
	packs map[pack.ID]int64 // listed, with their sizes

	read, bytes atomic.Int64
	toRead      int

	mu   sync.Mutex          // guards what follows
	hurt map[string]*Finding // by object
	bad  walk.Bitmap         // copies that cannot be had, or are not what they should be
	any  bool                // bad is not empty
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
	// Everything that follows is as a reader sees it: maintenance's word, then the index, then what it names.
	if c.view, err = c.repo.loadView(ctx); err != nil {
		return nil, err
	}
	for _, d := range c.view.maint.junk {
		c.find(d.Object, d.Err)
	}
	for _, d := range c.view.damaged {
		c.find(d.Object, d.Err)
	}
	c.bad = walk.NewBitmap(c.view.x.Len())
	c.stored()
	if c.opts.ReadData {
		if err := c.data(ctx); err != nil {
			return nil, err
		}
	}
	res, err := c.trees(ctx)
	if err != nil {
		return nil, err
	}
	if c.any || len(res.Missing) > 0 {
		if err := c.paths(ctx, res); err != nil {
			return nil, err
		}
	}
	return c.report(), nil
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
			c.packs[id] = info.Size
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
	c.find(name, errors.New("no object of this format has that name")).Harmless = true
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
	configs := 0
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
				return c.damage(name, err)
			case sessionsPrefix:
				if strings.HasPrefix(rest, "probe-") {
					return nil // of a Create that is trying the store, or was
				}
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
				// A marker is of use as long as its session is open, whatever is in it.
				if err := c.damage(name, err); err != nil {
					return err
				}
			case snapshotsPrefix:
				s, err := r.openSnapshot(gctx, name)
				if errors.Is(err, fs.ErrNotExist) {
					return nil // collected since it was listed
				}
				if err != nil {
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
	forgotten, junk, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	for _, d := range junk {
		c.find(d.Object, d.Err)
	}
	// A manifest that something else speaks of must be there, unless it was forgotten.
	for _, s := range c.snaps {
		if s.Parent != "" {
			committed = append(committed, s.Parent)
		}
	}
	for _, session := range committed {
		name := snapshotName(session)
		if forgotten[session] || there[name] {
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
	c.snaps = slices.DeleteFunc(c.snaps, func(s *Snapshot) bool { return forgotten[s.ID] })
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
func (c *checker) stored() {
	x := c.view.x
	gone := make([]bool, x.Packs())
	for i := range x.Packs() {
		p := x.Pack(uint32(i))
		size, ok := c.packs[p.ID]
		switch {
		case ok && size == int64(p.Size):
			continue
		case p.State == index.Freed:
		case !ok:
			c.find(packName(p.ID), fs.ErrNotExist)
		default:
			c.find(packName(p.ID), fmt.Errorf("it has %d bytes, the index says %d", size, p.Size))
		}
		gone[i] = true
		c.any = true
	}
	if c.any {
		for _, copy := range x.All() {
			if gone[x.Frame(copy.Frame).Pack] {
				c.bad.Set(copy.Ordinal)
			}
		}
	}
}

// data reads the packs of this part.
func (c *checker) data(ctx context.Context) error {
	x := c.view.x
	// The copies of each pack, so that what is wrong with a frame is wrong with these.
	copies := map[pack.ID][]uint32{}
	var todo []pack.ID
	for id, size := range c.packs {
		if c.opts.Parts > 1 && int(binary.BigEndian.Uint32(id[:4])%uint32(c.opts.Parts)) != c.opts.Part-1 {
			continue
		}
		_ = size
		todo = append(todo, id)
		copies[id] = nil
	}
	slices.SortFunc(todo, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	for _, copy := range x.All() {
		id := x.Pack(x.Frame(copy.Frame).Pack).ID
		if l, ok := copies[id]; ok {
			copies[id] = append(l, copy.Ordinal)
		}
	}
	c.toRead = len(todo)
	progress := c.opts.Progress
	var stop func()
	if progress != nil {
		stop = ticker(func() {
			progress(CheckProgress{Packs: int(c.read.Load()), TotalPacks: c.toRead, Bytes: c.bytes.Load(), Elapsed: time.Since(c.begun)})
		})
		defer stop()
	}
	// Each worker holds a pack.
	workers := min(c.repo.opts.Workers+1, int(c.repo.opts.MaxMemory/(packTarget+4<<20)))
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range max(workers, 1) {
		g.Go(func() error {
			var buf []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= len(todo) {
					return nil
				}
				var err error
				if buf, err = c.pack(gctx, todo[i], copies[todo[i]], buf[:0]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// pack reads one pack and checks the copies in it. buf is memory to use; it comes back.
func (c *checker) pack(ctx context.Context, id pack.ID, copies []uint32, buf []byte) ([]byte, error) {
	name := packName(id)
	data, err := c.repo.backend.Get(ctx, name, 0, -1, buf)
	if errors.Is(err, fs.ErrNotExist) {
		if len(copies) > 0 && c.view.maint.of(id) != index.Freed {
			c.find(name, fs.ErrNotExist)
			c.spoil(copies)
		}
		return buf, nil
	} else if err != nil {
		return buf, err
	}
	c.read.Add(1)
	c.bytes.Add(int64(len(data)))
	if err := crypt.Verify(name, data); err != nil {
		f := c.find(name, errors.New("its bytes are not those that its name promises"))
		f.Harmless = len(copies) == 0
	} else if _, err := pack.ReadDirectory(c.repo.keys, bytes.NewReader(data), int64(len(data))); err != nil {
		if _, ok := errors.AsType[*pack.VersionError](err); ok {
			return data, err
		}
		f := c.find(name, fmt.Errorf("its directory: %w", err))
		f.Harmless = len(copies) == 0
	}
	// Whatever the pack as a whole is, each frame may be whole.
	var frame uint32 = noOrdinal
	var plain []byte
	x := c.view.x
	slices.SortFunc(copies, func(a, b uint32) int {
		_, p := x.At(a)
		_, q := x.At(b)
		return int(p.Frame) - int(q.Frame)
	})
	for _, o := range copies {
		blob, copy := x.At(o)
		if copy.Frame != frame {
			frame = copy.Frame
			plain, err = c.frame(ctx, frame, data)
			if errors.Is(err, ErrRole) {
				// The key may not read it: the pack's bytes have to do.
				if verr := crypt.Verify(name, data); verr != nil {
					c.spoil([]uint32{o})
				}
				frame = noOrdinal
				continue
			}
			if err != nil && ctx.Err() != nil {
				return data, err
			}
			if err != nil {
				if derr := c.damage(name, err); derr != nil {
					return data, derr
				}
			}
		}
		if err != nil {
			c.spoil([]uint32{o})
			continue
		}
		if c.repo.id(x.Kind(frame), plain[copy.Offset:copy.Offset+copy.Length]) != blob {
			c.find(name, errors.New("a blob's bytes do not match its id"))
			c.spoil([]uint32{o})
		}
	}
	return data, nil
}

// frame opens a frame from the bytes of its pack.
func (c *checker) frame(ctx context.Context, n uint32, data []byte) ([]byte, error) {
	v := c.view
	f := v.x.Frame(n)
	if int(f.Offset)+int(f.Stored) > len(data) {
		return nil, v.damage(n, errors.New("it is cut short"))
	}
	if len(f.Bases) > 0 {
		return v.frame(ctx, n, &chain{})
	}
	key, err := v.key(n)
	if err != nil {
		return nil, err
	}
	d := v.decoder()
	defer v.putDecoder(d)
	plain, err := d.Decode(nil, key, &f.Frame, data[f.Offset:f.Offset+f.Stored], nil)
	if err != nil {
		return nil, v.damage(n, err)
	}
	return plain, nil
}

func (c *checker) spoil(ordinals []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range ordinals {
		c.bad.Set(o)
		c.any = true
	}
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

// ticker calls f at most five times a second until the returned function is called, which calls it a last time.
func ticker(f func()) (stop func()) {
	return report(func(Progress) { f() }, func() Progress { return Progress{} })
}

func (c *checker) report() *CheckReport {
	rep := &CheckReport{Snapshots: len(c.snaps), Segments: len(c.view.segments), Packs: len(c.packs), Blobs: c.view.x.Len(), PacksRead: int(c.read.Load()),
		BytesRead: c.bytes.Load()}
	for _, name := range sortedKeys(c.hurt) {
		f := c.hurt[name]
		slices.Sort(f.Snapshots)
		f.Snapshots = slices.Compact(f.Snapshots)
		slices.Sort(f.Paths)
		rep.Findings = append(rep.Findings, *f)
	}
	return rep
}
