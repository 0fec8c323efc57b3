package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/target"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Overwrite says what Restore does with what is already there. A folder is always used as it is, and never replaced unless it is empty.
type Overwrite = target.Overwrite

// What is replaced stays until the new file is whole; on a crash that may lie beside it, under a name that begins with ".varve-".
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
// links are there. Each frame is fetched once, several at a time (again only for what lies further apart than Options.MaxMemory lets it look ahead); holes become holes; modes, times,
// links, hard links, extended attributes and, for root, owners are set.
//
// What cannot be restored does not stop the rest: the error is then a *RestoreError that lists it. Other errors ended the restore: ErrRole, fs.ErrNotExist (no such path in the
// snapshot; nothing was written), a full disk, ctx.Err(). A restore that was interrupted goes on where it stopped with OverwriteIfDifferent: what is complete is not fetched again.
func (r *Repo) Restore(ctx context.Context, s *Snapshot, dir string, o *RestoreOptions) (*RestoreReport, error) {
	if o == nil {
		o = &RestoreOptions{}
	}
	rs := &restorer{repo: r, opts: o, begun: time.Now(), links: map[link]string{}}
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

const maxFailures = 10_000

// noOrdinal is the ordinal of no blob.
const noOrdinal = ^uint32(0)

type restorer struct {
	repo   *Repo
	opts   *RestoreOptions
	view   *view
	target *target.Target
	begun  time.Time
	wanted map[string]bool // raw paths: true for those to restore with all below, false for the folders on the way; nil for all
	total  atomic.Int64

	window restoreWindow
	left   []restoredDir   // folders below which all is planned, to be finished: children before parents
	late   []restoredDir   // those that only the end may finish
	links  map[link]string // the first name of each group
	unmade map[string]bool // folders that could not be made: there is nothing below them to be verified
	hard   [][2]string     // links to be made: new name, existing name

	counts counters
	skips  atomic.Int64
	passed atomic.Int64 // bytes of content that need not be written: of holes, hard links and what is kept

	mu      sync.Mutex // guards what follows
	kept    map[string]bool
	failed  []RestoreFailure
	broken  map[string]bool // what is not there, or not wholly; kept is what was not looked at. Both only with Verify
	dropped int
}

// link tells which names are one file. The numbers alone do not: an inode may have been freed and used again while the backup ran, or changed between the
// reading of its names.
type link struct {
	numbers tree.Numbers
	content [32]byte
}

func linkOf(e *tree.Entry) link {
	h := blake3.New()
	h.Write(binary.LittleEndian.AppendUint64(nil, e.Size))
	h.Write(e.List)
	for i := range e.Inline {
		h.Write(binary.LittleEndian.AppendUint64(nil, e.Inline[i].Length))
		h.Write(e.Inline[i].ID)
	}
	l := link{numbers: *e.Link}
	h.Sum(l.content[:0])
	return l
}

// restoredDir is a folder that is to get its metadata when all below it was written.
type restoredDir struct {
	path string
	meta *target.Meta
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
	// Only root may give files away; for all others a recorded owner is not a thing that could fail.
	noOwner := rs.opts.NoOwner || os.Geteuid() != 0
	if rs.target, err = target.Open(dir, &target.Options{Overwrite: rs.opts.Overwrite, NoOwner: noOwner}); err != nil {
		return nil, err
	}
	defer rs.target.Close()
	defer rs.window.abort()
	stop := report(rs.opts.Progress, func() Progress {
		c := &rs.counts
		return Progress{Stats: Stats{Files: c.files.Load(), Folders: c.folders.Load(), Others: c.others.Load(), Bytes: c.bytes.Load() + rs.passed.Load(),
			Unread: c.unread.Load()}, Total: rs.total.Load(), Elapsed: time.Since(rs.begun)}
	})
	defer stop()

	if base.IsDir() {
		if rs.opts.Base == "" || rs.opts.Base == "." {
			rs.total.Store(s.Stats.Bytes)
		}
		if err = rs.folder(ctx, "", base, 0, rs.wanted == nil); err == nil &&
			(errors.Is(staterr, fs.ErrNotExist) || rs.opts.Overwrite != OverwriteNever) {
			rs.late = append(rs.late, restoredDir{".", metaOf(base)})
		}
	} else {
		rs.total.Store(int64(base.Size))
		err = rs.entry(ctx, string(base.Name), base)
	}
	if err == nil {
		err = rs.flush(ctx)
	}
	if err == nil && rs.opts.Verify {
		err = rs.verify(ctx, base)
	}
	if err == nil {
		err = rs.finishDirs(ctx, rs.late)
	}
	stop()
	c := &rs.counts
	rep := &RestoreReport{Files: c.files.Load(), Folders: c.folders.Load(), Others: c.others.Load(), Bytes: c.bytes.Load(), Skipped: rs.skips.Load(),
		Fetched: view.fetched.Load() - fetched}
	if err == nil && len(rs.failed) > 0 {
		slices.SortStableFunc(rs.failed, func(a, b RestoreFailure) int { return strings.Compare(a.Path, b.Path) })
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
	all := false
	for _, p := range rs.opts.Paths {
		if p == "." {
			all = true
			continue
		}
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
		rs.wanted[raw] = true
		for i := strings.LastIndexByte(raw, '/'); i > 0; i = strings.LastIndexByte(raw[:i], '/') {
			if !rs.wanted[raw[:i]] {
				rs.wanted[raw[:i]] = false
			}
		}
	}
	if all {
		rs.wanted = nil
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
	// A file system says also of a single attribute that it has no room for it.
	_, meta := errors.AsType[*target.MetaError](err)
	if !meta && (errors.Is(err, ErrRole) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)) {
		return err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.counts.unread.Add(1)
	if !meta && rs.opts.Verify {
		if rs.broken == nil {
			rs.broken = map[string]bool{}
		}
		rs.broken[path] = true
	}
	if len(rs.failed) == maxFailures {
		rs.dropped++
		return nil
	}
	if path == "" {
		path = "."
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
	lost := false
	for c, err := range tree.Salvage(ctx, rs.repo.node, pack.ID(e.Folder)) {
		if err != nil && lost {
			continue // one failure says that some of the folder is lost
		} else if err != nil {
			if err := rs.fail(ctx, dir, err); err != nil {
				return err
			}
			lost = true
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		path := join(dir, string(c.Name))
		want, below := rs.wants(path, all)
		if !want {
			continue
		}
		if c.IsDir() {
			err = rs.subfolder(ctx, path, c, depth, below)
		} else {
			err = rs.entry(ctx, path, c)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (rs *restorer) subfolder(ctx context.Context, path string, e *tree.Entry, depth int, all bool) error {
	err := rs.target.Mkdir(path)
	skipped := errors.Is(err, target.ErrSkipped)
	if err != nil && !skipped {
		if rs.unmade == nil {
			rs.unmade = map[string]bool{}
		}
		rs.unmade[path] = true
		return rs.fail(ctx, path, err)
	}
	meta := metaOf(e)
	if err := rs.folder(ctx, path, e, depth+1, all); err != nil || skipped {
		return err
	}
	rs.counts.folders.Add(1)
	d := restoredDir{path, meta}
	if os.Geteuid() != 0 && meta.Mode&0o700 != 0o700 {
		rs.late = append(rs.late, d) // a link to something in it may have to be made yet, or it is to be verified
		return nil
	}
	rs.left = append(rs.left, d)
	return rs.planned(ctx, costFile)
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

// entry restores one entry that is no folder: what has content is planned, all else is made at once.
func (rs *restorer) entry(ctx context.Context, path string, e *tree.Entry) error {
	switch e.Mode & tree.ModeType {
	case tree.ModeLink:
		return rs.skip(ctx, path, rs.target.Symlink(path, string(e.Target), metaOf(e)), &rs.counts.others)
	case tree.ModeRegular:
	default:
		return rs.skip(ctx, path, rs.target.Special(path, metaOf(e)), &rs.counts.others)
	}
	if e.Link != nil {
		if first, ok := rs.links[linkOf(e)]; ok {
			rs.passed.Add(int64(e.Size))
			rs.hard = append(rs.hard, [2]string{path, first})
			return rs.planned(ctx, costFile)
		}
	}
	meta := metaOf(e)
	err := rs.target.Keep(path, meta, int64(e.Size))
	// What OverwriteNever keeps may be any file: further names of the group are not for that one.
	if e.Link != nil && (err == nil || rs.opts.Overwrite != OverwriteNever) {
		rs.links[linkOf(e)] = path
	}
	if err != nil {
		rs.passed.Add(int64(e.Size))
		return rs.skip(ctx, path, err, &rs.counts.files)
	}
	return rs.file(ctx, &restoreFile{path: path, size: int64(e.Size), meta: meta}, e)
}

// finishLinks makes the hard links whose files are there by now.
func (rs *restorer) finishLinks(ctx context.Context) error {
	for _, h := range rs.hard {
		if err := rs.skip(ctx, h[0], rs.target.Link(h[0], h[1]), &rs.counts.files); err != nil {
			return err
		}
	}
	rs.hard = rs.hard[:0]
	return nil
}

// finishDirs gives folders their metadata.
func (rs *restorer) finishDirs(ctx context.Context, dirs []restoredDir) error {
	for _, d := range dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := rs.target.FinishDir(d.path, d.meta); err != nil {
			if err := rs.fail(ctx, d.path, err); err != nil {
				return err
			}
		}
	}
	return nil
}
