package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/target"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Overwrite says what Restore does with what is already there. A folder is always used as it is, and never replaced unless it is empty.
type Overwrite = target.Overwrite

const (
	// OverwriteNever keeps whatever is there.
	OverwriteNever = target.Never
	// OverwriteIfDifferent keeps files of the same size and modification time, and replaces the rest.
	OverwriteIfDifferent = target.IfDifferent
	// OverwriteAlways replaces everything.
	OverwriteAlways = target.Always
)

// RestoreOptions are for Restore. Nil and the zero value: everything, into places where nothing is.
type RestoreOptions struct {
	// Base is the folder of the snapshot whose content lands in the target itself; a file lands in it under its own name. As FS spells it. "": the root.
	Base string
	// Paths restores only these entries below Base and what is below them, at the same places below the target. As FS spells them. Nil: everything.
	Paths     []string
	Overwrite Overwrite
	NoOwner   bool // leave owners as they come; they are only ever set when root
	// Verify reads every file back from the disk and compares.
	Verify bool
	// Progress is called at most five times a second and once at the end, from one goroutine.
	Progress func(Progress)
}

// A RestoreError lists what could not be restored, or not wholly. Everything else was.
type RestoreError struct {
	Failed []RestoreFailure // at most 10,000
	More   int              // beyond those
}

// RestoreFailure is one entry that was not restored, or whose metadata were not all set.
type RestoreFailure struct {
	Path string // below the target, as FS spells it
	Err  error
}

func (e *RestoreError) Error() string {
	return fmt.Sprintf("repo: %d entries could not be restored, the first: %s: %v", len(e.Failed)+e.More, e.Failed[0].Path, e.Failed[0].Err)
}

// Unwrap returns the errors of the entries.
func (e *RestoreError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i := range e.Failed {
		errs[i] = e.Failed[i].Err
	}
	return errs
}

// RestoreReport counts what a restore did.
type RestoreReport struct {
	Files, Folders, Others int64 // entries that were written
	Skipped                int64 // entries that were kept as they were
	Bytes                  int64 // of content
	Fetched                int64 // bytes of frames read from the backend
}

// Restore writes a snapshot, or a part of it, into the folder dir, which is made if it is missing. Nothing outside dir is ever written, whatever the snapshot says and whatever
// links are there. Each frame is fetched once, several at a time; holes become holes; modes, times, links, hard links, extended attributes and, for root, owners are set.
//
// What cannot be restored does not stop the rest: the error is then a *RestoreError that lists it. Other errors ended the restore: ErrRole, fs.ErrNotExist (no such path in the
// snapshot), a full disk, ctx.Err(). A restore that was interrupted goes on where it stopped with OverwriteIfDifferent.
func (r *Repo) Restore(ctx context.Context, s *Snapshot, dir string, o *RestoreOptions) (*RestoreReport, error) {
	if o == nil {
		o = &RestoreOptions{}
	}
	rs := &restorer{repo: r, opts: o, begun: time.Now(), links: map[tree.Numbers]string{}}
	report, err := rs.run(ctx, s, dir)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = cause
		}
		if _, ok := errors.AsType[*RestoreError](err); !ok {
			err = fmt.Errorf("restore snapshot %s: %w", s.ID, err)
		}
	}
	return report, err
}

const (
	windowPieces = 256 << 10 // planned at a time
	windowOpen   = 512       // files that are written in several pieces, and so are open together
	maxFailures  = 10_000
)

// restoreFile is one file of the window.
type restoreFile struct {
	path  string
	entry *tree.Entry
	left  atomic.Int64 // pieces to be written

	mu     sync.Mutex // guards what follows
	file   *target.File
	failed bool
}

type restorePiece struct {
	ordinal uint32
	file    uint32
	off     uint64
}

type restorer struct {
	repo   *Repo
	opts   *RestoreOptions
	view   *view
	target *target.Target
	begun  time.Time
	wanted map[string]bool // raw paths: true for those to restore with all below, false for the folders on the way; nil for all
	total  atomic.Int64

	files  []*restoreFile
	pieces []restorePiece
	open   int

	dirs  []*restoreFile // to be finished, parents before children
	links map[tree.Numbers]string
	hard  [][2]string // new name, existing name

	counts counters
	skips  atomic.Int64

	mu      sync.Mutex // guards what follows
	kept    map[string]bool
	failed  []RestoreFailure
	dropped int
}

func (rs *restorer) run(ctx context.Context, s *Snapshot, dir string) (*RestoreReport, error) {
	view, err := rs.repo.reading(ctx)
	if err != nil {
		return nil, err
	}
	rs.view = view
	fetched := view.fetched.Load()
	fsys, err := rs.repo.FS(ctx, s)
	if err != nil {
		return nil, err
	}
	base, err := rs.choose(fsys.(*snapFS))
	if err != nil {
		return nil, err
	}
	_, staterr := os.Lstat(dir)
	if rs.target, err = target.Open(dir, &target.Options{Overwrite: rs.opts.Overwrite, NoOwner: rs.opts.NoOwner}); err != nil {
		return nil, err
	}
	defer rs.target.Close()
	stop := report(rs.opts.Progress, func() Progress {
		c := &rs.counts
		return Progress{Stats: Stats{Files: c.files.Load(), Folders: c.folders.Load(), Others: c.others.Load(), Bytes: c.bytes.Load(), Unread: c.unread.Load()},
			Total: rs.total.Load(), Elapsed: time.Since(rs.begun)}
	})
	defer stop()

	if base.IsDir() {
		if rs.opts.Base == "" || rs.opts.Base == "." {
			rs.total.Store(s.Stats.Bytes)
		}
		if errors.Is(staterr, fs.ErrNotExist) || rs.opts.Overwrite != OverwriteNever {
			rs.dirs = append(rs.dirs, &restoreFile{path: ".", entry: base})
		}
		err = rs.folder(ctx, "", base, 0, rs.wanted == nil)
	} else {
		err = rs.entry(ctx, "", base)
	}
	if err == nil {
		err = rs.flush(ctx)
	}
	if err == nil {
		err = rs.finish(ctx)
	}
	if err == nil && rs.opts.Verify {
		err = rs.verify(ctx, base)
	}
	stop()
	c := &rs.counts
	rep := &RestoreReport{Files: c.files.Load(), Folders: c.folders.Load(), Others: c.others.Load(), Bytes: c.bytes.Load(), Skipped: rs.skips.Load(),
		Fetched: view.fetched.Load() - fetched}
	if err == nil && len(rs.failed) > 0 {
		slices.SortFunc(rs.failed, func(a, b RestoreFailure) int { return strings.Compare(a.Path, b.Path) })
		err = &RestoreError{Failed: rs.failed, More: rs.dropped}
	}
	return rep, err
}

// choose finds Base and Paths in the snapshot.
func (rs *restorer) choose(fsys *snapFS) (*tree.Entry, error) {
	base := rs.opts.Base
	if base == "" {
		base = "."
	}
	e, err := fsys.find("restore", base)
	if err != nil {
		return nil, err
	}
	if len(rs.opts.Paths) == 0 {
		return e, nil
	}
	rs.wanted = map[string]bool{}
	for _, p := range rs.opts.Paths {
		full := p
		if base != "." {
			full = base + "/" + p
		}
		if _, err := fsys.find("restore", full); err != nil {
			return nil, err
		}
		raw, err := Unescape(p)
		if err != nil {
			return nil, &fs.PathError{Op: "restore", Path: p, Err: fs.ErrInvalid}
		}
		if raw == "." {
			rs.wanted = nil
			return e, nil
		}
		rs.wanted[raw] = true
		for i := strings.LastIndexByte(raw, '/'); i > 0; i = strings.LastIndexByte(raw[:i], '/') {
			if !rs.wanted[raw[:i]] {
				rs.wanted[raw[:i]] = false
			}
		}
	}
	return e, nil
}

// wants tells whether an entry is restored; all is true when everything below it is as well.
func (rs *restorer) wants(path string, above bool) (want, all bool) {
	if rs.wanted == nil || above {
		return true, true
	}
	all, want = rs.wanted[path]
	return want, all
}

// fail records what could not be restored. It returns an error that ends the restore when there is no point in going on.
func (rs *restorer) fail(ctx context.Context, path string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if errors.Is(err, ErrRole) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) {
		return err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.counts.unread.Add(1)
	if len(rs.failed) == maxFailures {
		rs.dropped++
		return nil
	}
	rs.failed = append(rs.failed, RestoreFailure{Path: Escape(path), Err: err})
	return nil
}

// skip handles what the target returned for one entry: nil, ErrSkipped, an error of metadata alone, or that nothing was made.
func (rs *restorer) skip(ctx context.Context, path string, err error, made *atomic.Int64) error {
	if errors.Is(err, target.ErrSkipped) {
		rs.skips.Add(1)
		if rs.opts.Overwrite == OverwriteNever && rs.opts.Verify {
			rs.mu.Lock()
			if rs.kept == nil {
				rs.kept = map[string]bool{}
			}
			rs.kept[path] = true
			rs.mu.Unlock()
		}
		if m, ok := errors.AsType[*target.MetaError](err); ok {
			return rs.fail(ctx, path, m)
		}
		return nil
	}
	if _, ok := errors.AsType[*target.MetaError](err); ok || err == nil {
		made.Add(1)
	}
	return rs.fail(ctx, path, err)
}

// folder restores what is in a folder; all is true when everything is wanted.
func (rs *restorer) folder(ctx context.Context, dir string, e *tree.Entry, depth int, all bool) error {
	if depth > tree.MaxDepth {
		return rs.fail(ctx, dir, fmt.Errorf("%w: folders nest deeper than %d", tree.ErrDamaged, tree.MaxDepth))
	}
	for c, err := range tree.Entries(ctx, rs.repo.node, pack.ID(e.Folder)) {
		if err != nil {
			return rs.fail(ctx, dir, err)
		}
		path := join(dir, string(c.Name))
		want, below := rs.wants(path, all)
		if !want {
			continue
		}
		if c.IsDir() {
			if err := rs.subfolder(ctx, path, c, depth, below); err != nil {
				return err
			}
		} else if err := rs.entry(ctx, dir, c); err != nil {
			return err
		}
	}
	return nil
}

func (rs *restorer) subfolder(ctx context.Context, path string, e *tree.Entry, depth int, all bool) error {
	switch err := rs.target.Mkdir(path); {
	case errors.Is(err, target.ErrSkipped):
	case err != nil:
		return rs.fail(ctx, path, err)
	default:
		rs.counts.folders.Add(1)
		rs.dirs = append(rs.dirs, &restoreFile{path: path, entry: e})
	}
	return rs.folder(ctx, path, e, depth+1, all)
}

func metaOf(e *tree.Entry) *target.Meta {
	m := &target.Meta{Mode: fsMode(e.Mode), ModTime: e.ModTime.Time()}
	if e.UID != nil {
		m.Owned, m.UID, m.GID = true, *e.UID, *e.GID
	}
	if e.Device != nil {
		m.Major, m.Minor = uint32(e.Device.A), uint32(e.Device.B)
	}
	if len(e.Xattrs) > 0 {
		m.Xattrs = make(map[string][]byte, len(e.Xattrs))
		for _, x := range e.Xattrs {
			m.Xattrs[string(x.Name)] = x.Value
		}
	}
	return m
}

// entry plans one entry that is no folder; those without content are made at once.
func (rs *restorer) entry(ctx context.Context, dir string, e *tree.Entry) error {
	path := join(dir, string(e.Name))
	switch e.Mode & tree.ModeType {
	case tree.ModeLink:
		return rs.skip(ctx, path, rs.target.Symlink(path, string(e.Target), metaOf(e)), &rs.counts.others)
	case tree.ModeRegular:
	default:
		return rs.skip(ctx, path, rs.target.Special(path, metaOf(e)), &rs.counts.others)
	}
	if e.Link != nil {
		if first, ok := rs.links[*e.Link]; ok {
			rs.hard = append(rs.hard, [2]string{path, first})
			return nil
		}
		rs.links[*e.Link] = path
	}
	f := &restoreFile{path: path, entry: e}
	number, first := uint32(len(rs.files)), len(rs.pieces)
	rs.files = append(rs.files, f)
	for run, err := range tree.Pieces(ctx, rs.repo.node, e, 0) {
		if err != nil {
			rs.pieces = rs.pieces[:first]
			f.left.Store(0)
			rs.abort(f)
			return rs.fail(ctx, path, err)
		}
		if run.Hole() {
			continue
		}
		p := restorePiece{ordinal: rs.find(pack.ID(run.ID), run.Length), file: number, off: run.Offset}
		if p.ordinal == noOrdinal {
			// Another view may know it; else its error says what is wrong.
			data, err := rs.repo.blob(ctx, pack.ID(run.ID), crypt.SectionContent)
			if err == nil && uint64(len(data)) != run.Length {
				err = fmt.Errorf("%w: a chunk of %d bytes, its list says %d", tree.ErrDamaged, len(data), run.Length)
			}
			if err == nil {
				err = rs.write(f, data, run.Offset)
			}
			if err != nil {
				rs.pieces = rs.pieces[:first]
				f.left.Store(0)
				rs.abort(f)
				return rs.skip(ctx, path, err, &rs.counts.files)
			}
			continue
		}
		rs.pieces = append(rs.pieces, p)
		f.left.Add(1)
	}
	if f.left.Load() == 0 {
		return rs.complete(ctx, f)
	}
	if f.left.Load() > 1 {
		rs.open++
	}
	if len(rs.pieces) >= windowPieces || rs.open >= windowOpen || len(rs.files) >= windowPieces {
		return rs.flush(ctx)
	}
	return nil
}

const noOrdinal = ^uint32(0)

func (rs *restorer) find(id pack.ID, length uint64) uint32 {
	var copies [4]index.Copy
	for _, c := range rs.view.x.Find(copies[:0], id, crypt.SectionContent) {
		if uint64(c.Length) == length {
			return c.Ordinal
		}
	}
	return noOrdinal
}

// flush writes the window: frame after frame, each to all places that want something of it.
func (rs *restorer) flush(ctx context.Context) error {
	x := rs.view.x
	slots := map[uint32]int{}
	var frames []uint32
	var wants [][]restorePiece
	for _, p := range rs.pieces {
		_, c := x.At(p.ordinal)
		i, ok := slots[c.Frame]
		if !ok {
			i = len(frames)
			slots[c.Frame] = i
			frames, wants = append(frames, c.Frame), append(wants, nil)
		}
		wants[i] = append(wants[i], p)
	}
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range rs.repo.opts.Workers + 1 {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(frames) {
					return nil
				}
				if err := rs.fromFrame(gctx, frames[i], wants[i]); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	for _, f := range rs.files {
		if f.left.Load() > 0 {
			rs.abort(f) // of a restore that ends with an error
		}
	}
	rs.files, rs.pieces, rs.open = nil, rs.pieces[:0], 0
	return err
}

// fromFrame writes the pieces that lie in one frame.
func (rs *restorer) fromFrame(ctx context.Context, n uint32, pieces []restorePiece) error {
	plain, ferr := rs.view.frame(ctx, n, &chain{})
	if ferr != nil && (ctx.Err() != nil || errors.Is(ferr, ErrRole)) {
		return ferr
	}
	for _, p := range pieces {
		f := rs.files[p.file]
		id, c := rs.view.x.At(p.ordinal)
		var data []byte
		err := ferr
		if err == nil {
			if data = plain[c.Offset : c.Offset+c.Length]; rs.repo.id(crypt.SectionContent, data) != id {
				err = errors.New("a blob's bytes do not match its id")
			}
		}
		if err != nil {
			// Another copy may be whole, or the index newer than this view.
			if data, err = rs.repo.blob(ctx, id, crypt.SectionContent); err == nil && len(data) != int(c.Length) {
				err = fmt.Errorf("%w: a chunk of %d bytes, its list says %d", tree.ErrDamaged, len(data), c.Length)
			}
		}
		if err == nil {
			err = rs.write(f, data, p.off)
		} else if !rs.abort(f) {
			err = errGone
		}
		if err != nil && !errors.Is(err, errGone) {
			if err := rs.skip(ctx, f.path, err, &rs.counts.others); err != nil {
				return err
			}
		}
		if f.left.Add(-1) == 0 {
			if err := rs.complete(ctx, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// errGone says that a file failed, or is kept as it was: its other pieces are not wanted.
var errGone = errors.New("repo: a file that is not written")

// start creates the file if it is not yet. f.mu is held.
func (rs *restorer) start(f *restoreFile) error {
	if f.failed {
		return errGone
	}
	if f.file != nil {
		return nil
	}
	file, err := rs.target.Create(f.path, metaOf(f.entry), int64(f.entry.Size))
	if err != nil {
		f.failed = true
		return err
	}
	f.file = file
	return nil
}

func (rs *restorer) write(f *restoreFile, data []byte, off uint64) error {
	f.mu.Lock()
	err := rs.start(f)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := f.file.WriteAt(data, int64(off)); err != nil {
		if !rs.abort(f) {
			return errGone
		}
		return err
	}
	rs.counts.bytes.Add(int64(len(data)))
	return nil
}

// abort removes a file that failed. It returns false if that was known before.
func (rs *restorer) abort(f *restoreFile) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed {
		return false
	}
	if f.failed = true; f.file != nil {
		f.file.Abort()
	}
	return true
}

// complete ends a file whose pieces are all written.
func (rs *restorer) complete(ctx context.Context, f *restoreFile) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := rs.start(f)
	if errors.Is(err, errGone) {
		return nil
	}
	if err == nil {
		err = f.file.Finish()
		f.failed = true // done: whatever comes now is too late
	}
	return rs.skip(ctx, f.path, err, &rs.counts.files)
}

// finish makes hard links and gives the folders their metadata, the deepest first.
func (rs *restorer) finish(ctx context.Context) error {
	for _, h := range rs.hard {
		if err := rs.skip(ctx, h[0], rs.target.Link(h[0], h[1]), &rs.counts.files); err != nil {
			return err
		}
	}
	for _, d := range slices.Backward(rs.dirs) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := rs.target.FinishDir(d.path, metaOf(d.entry)); err != nil {
			if err := rs.fail(ctx, d.path, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify reads every restored file back, several at a time.
func (rs *restorer) verify(ctx context.Context, base *tree.Entry) error {
	failed := map[string]bool{}
	for _, f := range rs.failed {
		failed[f.Path] = true
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rs.repo.opts.Workers + 1)
	check := func(path string, e *tree.Entry) {
		if e.IsRegular() && !rs.kept[path] && !failed[Escape(path)] {
			g.Go(func() error { return rs.fail(gctx, path, rs.compare(gctx, path, e)) })
		}
	}
	var walk func(dir string, e *tree.Entry, all bool) error
	walk = func(dir string, e *tree.Entry, all bool) error {
		for c, err := range tree.Entries(gctx, rs.repo.node, pack.ID(e.Folder)) {
			if err != nil {
				return rs.fail(gctx, dir, err)
			}
			path := join(dir, string(c.Name))
			want, below := rs.wants(path, all)
			if !want {
				continue
			}
			if c.IsDir() {
				if err := walk(path, c, below); err != nil {
					return err
				}
			}
			check(path, c)
		}
		return nil
	}
	var err error
	if base.IsDir() {
		err = walk("", base, rs.wanted == nil)
	} else {
		check(string(base.Name), base)
	}
	if gerr := g.Wait(); err == nil {
		err = gerr
	}
	return err
}

// compare reads a restored file and compares each piece with its id.
func (rs *restorer) compare(ctx context.Context, path string, e *tree.Entry) error {
	f, err := rs.target.Open(path)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || uint64(st.Size()) != e.Size {
		return fmt.Errorf("read back: its size is not %d", e.Size)
	}
	buf := make([]byte, 64<<10)
	for run, err := range tree.Pieces(ctx, rs.repo.node, e, 0) {
		if err != nil {
			return err
		}
		if run.Hole() {
			for left := run.Length; left > 0; {
				n := min(left, uint64(len(buf)))
				if _, err := f.ReadAt(buf[:n], int64(run.Offset+run.Length-left)); err != nil {
					return fmt.Errorf("read back: %w", err)
				}
				if slices.ContainsFunc(buf[:n], func(c byte) bool { return c != 0 }) {
					return fmt.Errorf("read back: bytes from %d on are not what was written", run.Offset)
				}
				left -= n
			}
			continue
		}
		if uint64(cap(buf)) < run.Length {
			buf = make([]byte, run.Length)
		}
		p := buf[:run.Length]
		if _, err := f.ReadAt(p, int64(run.Offset)); err != nil && err != io.EOF {
			return fmt.Errorf("read back: %w", err)
		}
		if rs.repo.id(crypt.SectionContent, p) != pack.ID(run.ID) {
			return fmt.Errorf("read back: bytes from %d on are not what was written", run.Offset)
		}
		buf = buf[:cap(buf)]
	}
	return nil
}
