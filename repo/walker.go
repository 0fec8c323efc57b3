package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// maxUnread bounds the list of what could not be read; the rest is counted.
const maxUnread = 10_000

// A walker reads a source in order and hands what it finds to the pipeline. It is the pipeline's first box.
type walker struct {
	p        *pipeline
	fsys     fs.FS
	begun    time.Time
	tolerate func(string, error) bool
	parent   *Snapshot // nil: none

	cutStreams, cutFiles *chunk.Chunker

	old     lastTokens
	batch   *batch
	unread  []tree.Unread
	dropped int   // unread ones beyond maxUnread
	missing int64 // unread ones that were not tolerated
	current atomic.Pointer[string]

	optional bool // what is read belongs to a part that may fail
	parts    []partTimes
}

// partTimes is when a part of a joined source was read.
type partTimes struct {
	name         string
	begun, ended time.Time
}

func (w *walker) at() string {
	if p := w.current.Load(); p != nil {
		return *p
	}
	return ""
}

// fatal marks an error that fails the backup instead of being recorded.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// run walks the whole source.
func (w *walker) run(series string) error {
	ctx := w.p.ctx
	info, err := fs.Lstat(w.fsys, ".")
	if err != nil {
		return fmt.Errorf("read the root of the source: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("read the root of the source: it is no folder")
	}
	var parts []string
	joined, isJoined := w.fsys.(JoinedFS)
	rank := func(string) int { return 0 }
	if isJoined {
		parts = joined.Parts()
		rank = func(top string) int { return slices.Index(parts, top) }
	}
	w.old = w.last(series, rank)
	defer w.old.close()
	if w.batch, err = w.p.batch(); err != nil {
		return err
	}
	enter := op{kind: opEnter}
	if isJoined {
		enter.n = 1
	}
	if err := w.add(enter); err != nil {
		return err
	}
	if isJoined {
		optional, _ := w.fsys.(OptionalFS)
		for _, part := range parts {
			w.optional = optional != nil && optional.Optional(part)
			begun := time.Now()
			info, err := fs.Lstat(w.fsys, part)
			if err != nil && w.optional {
				err = w.record(part, err)
			} else if err != nil {
				err = fmt.Errorf("read %s: %w", part, err)
			} else {
				err = w.entry(ctx, "", "", part, info, true, 0)
			}
			if err != nil {
				return err
			}
			w.parts = append(w.parts, partTimes{part, begun, time.Now()})
		}
		w.optional = false
	} else if err := w.entries(ctx, ".", "", 0); err != nil {
		return fmt.Errorf("read the root of the source: %w", err)
	}
	root, err := w.describe(".", "", info, nil)
	if err != nil {
		return err
	}
	if list := w.unread; len(list) > 0 {
		if w.dropped > 0 {
			list = append(list, tree.Unread{Message: fmt.Sprintf("and %d more", w.dropped)})
		}
		node, err := tree.UnreadNode(list)
		if err != nil {
			return err
		}
		if err := w.add(op{kind: opUnread, node: node}); err != nil {
			return err
		}
	}
	return w.add(op{kind: opRoot, entry: root})
}

// finish passes on the last batch.
func (w *walker) finish() error {
	b := w.batch
	w.batch = nil
	return w.p.send(b)
}

func (w *walker) add(o op) error {
	if len(w.batch.ops) >= batchOps {
		if err := w.next(); err != nil {
			return err
		}
	}
	w.batch.ops = append(w.batch.ops, o)
	return nil
}

func (w *walker) next() error {
	if err := w.p.send(w.batch); err != nil {
		return err
	}
	b, err := w.p.batch()
	w.batch = b
	return err
}

// record notes that something could not be read, or changed; ctx's end is not the source's fault and is returned.
func (w *walker) record(path string, err error) error {
	if _, ok := errors.AsType[fatal](err); ok {
		return err
	}
	if cerr := w.p.ctx.Err(); cerr != nil {
		return cerr
	}
	tolerated := w.tolerate != nil && w.tolerate(path, err)
	if !tolerated {
		w.missing++
	}
	w.p.counts.unread.Add(1)
	if len(w.unread) == maxUnread {
		w.dropped++
		return nil
	}
	w.unread = append(w.unread, tree.Unread{Path: []byte(path), Message: strings.ToValidUTF8(err.Error(), "?"), Tolerated: tolerated})
	return nil
}

// join appends a name to a path of the source; "." is the root.
func join(dir, name string) string {
	if dir == "." || dir == "" {
		return name
	}
	return dir + "/" + name
}

// statAhead is how many entries are described ahead of the walk.
const statAhead = 256

// described is an entry of a folder with what DirEntry.Info said.
type described struct {
	entry fs.DirEntry
	info  fs.FileInfo
	err   error
}

// entries walks a folder: dir as the source spells it, raw as it is recorded. While some of its entries are walked, the next ones are described, by several goroutines: that
// is most of the work where nothing has changed. They are not ahead of a folder below, which may take long and would let them get old.
func (w *walker) entries(ctx context.Context, dir, raw string, depth int) error {
	if depth > tree.MaxDepth {
		return fmt.Errorf("folders nest deeper than %d", tree.MaxDepth)
	}
	_, ahead := w.fsys.(EntriesFS)
	var now, next []described
	var wait func()
	walk := func(batch []described) error {
		for i := range batch {
			d := &batch[i]
			name, info, err := d.entry.Name(), d.info, d.err
			*d = described{}
			if err != nil {
				err = w.record(join(raw, name), err)
			} else {
				err = w.entry(ctx, dir, raw, name, info, false, depth)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	// turn walks the entries that are described, and has those that were listed since described meanwhile.
	turn := func() error {
		if wait != nil {
			wait()
		}
		wait = w.describeAll(next)
		err := walk(now)
		now, next = next, now[:0]
		return err
	}
	defer func() {
		if wait != nil {
			wait()
		}
	}()
	for d, err := range sortedEntries(ctx, w.fsys, dir) {
		if err != nil {
			// What was listed before is there all the same.
			for range 2 {
				if err := turn(); err != nil {
					return err
				}
			}
			return err
		}
		next = append(next, described{entry: d})
		if len(next) < statAhead && ahead && !d.IsDir() {
			continue
		}
		if err := turn(); err != nil {
			return err
		}
		if !ahead || d.IsDir() {
			if err := turn(); err != nil {
				return err
			}
		}
	}
	for range 2 {
		if err := turn(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// describeAll calls Info of all, and returns a function that waits for it.
func (w *walker) describeAll(batch []described) (wait func()) {
	describe := func(part []described) {
		for i := range part {
			part[i].info, part[i].err = part[i].entry.Info()
		}
	}
	if len(batch) < 16 {
		describe(batch)
		return nil
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(batch, (len(batch)+w.p.s.repo.opts.Workers-1)/w.p.s.repo.opts.Workers) {
		wg.Go(func() { describe(part) })
	}
	return wg.Wait
}

// rawNameOf returns an entry's raw name. Only a name with a backslash may be the readable form of another one.
func rawNameOf(d fs.DirEntry) string {
	if strings.Contains(d.Name(), `\`) {
		if info, err := d.Info(); err == nil {
			if a := attrOf(info); a.Name != nil {
				return string(a.Name)
			}
		}
	}
	return d.Name()
}

// sortedEntries yields the entries of a folder in order of their raw names.
func sortedEntries(ctx context.Context, fsys fs.FS, dir string) iter.Seq2[fs.DirEntry, error] {
	if e, ok := fsys.(EntriesFS); ok {
		return e.Entries(ctx, dir)
	}
	return func(yield func(fs.DirEntry, error) bool) {
		list, err := fs.ReadDir(fsys, dir)
		slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(rawNameOf(a), rawNameOf(b)) })
		// A folder that changes while it is listed may name an entry twice.
		list = slices.CompactFunc(list, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() })
		for _, d := range list {
			if !yield(d, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// entry walks one entry and all below it. A part of a joined source that is a folder must be readable, as a root must.
func (w *walker) entry(ctx context.Context, dir, raw, name string, info fs.FileInfo, part bool, depth int) error {
	a := attrOf(info)
	rawName := name
	if a.Name != nil {
		rawName = string(a.Name)
	}
	path, rawPath := join(dir, name), join(raw, rawName)
	if err := tree.CheckName([]byte(rawName)); err != nil {
		return w.record(rawPath, fmt.Errorf("a name that cannot be kept: %w", err))
	}
	w.current.Store(&rawPath)
	switch info.Mode().Type() {
	case fs.ModeDir:
		e, err := w.describe(path, rawName, info, nil)
		if err != nil {
			return err
		}
		if err := w.add(op{kind: opEnter}); err != nil {
			return err
		}
		if err := w.entries(ctx, path, rawPath, depth+1); err != nil {
			if part && !w.optional {
				return fmt.Errorf("read %s: %w", rawPath, err)
			}
			if err := w.record(rawPath, err); err != nil {
				return err
			}
		}
		return w.add(op{kind: opLeave, entry: e})
	case 0:
		return w.file(ctx, path, rawPath, rawName, info, a)
	default:
		e, err := w.describe(path, rawName, info, nil)
		if err != nil {
			return err
		}
		if e == nil {
			return w.record(rawPath, fmt.Errorf("an entry of a kind that cannot be kept (%v)", info.Mode().Type()))
		}
		if info.Mode().Type() == fs.ModeSymlink {
			target, err := fs.ReadLink(w.fsys, path)
			if err != nil {
				return w.record(rawPath, err)
			}
			if len(target) > tree.MaxEntry/4 {
				return w.record(rawPath, fmt.Errorf("a link of %d bytes, at most %d are kept", len(target), tree.MaxEntry/4))
			}
			e.Target = []byte(target)
		}
		return w.add(op{kind: opEntry, entry: e})
	}
}

// describe returns the entry that info describes, with extended attributes; nil for a type that cannot be kept. Attributes that cannot be read, or are too large, are recorded.
func (w *walker) describe(path, rawName string, info fs.FileInfo, f fs.File) (*tree.Entry, error) {
	a := attrOf(info)
	xattrs := a.Xattrs
	if xattrs == nil {
		var err error
		if x, ok := f.(XattrFile); ok {
			xattrs, err = x.Xattrs()
		} else if x, ok := w.fsys.(XattrFS); ok {
			xattrs, err = x.Xattrs(path)
		}
		if err != nil {
			if err := w.record(path, fmt.Errorf("extended attributes: %w", err)); err != nil {
				return nil, err
			}
		}
	}
	e, ok := newEntry(rawName, info, a, xattrs)
	if !ok {
		return nil, nil
	}
	// What no tree can hold is left out, and said so.
	if n := extrasSize(e); n > tree.MaxEntry/2 || len(e.Xattrs) > maxExtras || len(e.Meta) > maxExtras {
		if err := w.record(path, fmt.Errorf("%d attributes of %d bytes: at most %d of %d are kept", len(e.Xattrs)+len(e.Meta), n, maxExtras, tree.MaxEntry/2)); err != nil {
			return nil, err
		}
		e.Xattrs, e.Meta, e.Type, e.User, e.Group = nil, nil, "", "", ""
	}
	return e, nil
}

// maxExtras is how many extended attributes, or items of metadata, an entry may have.
const maxExtras = 1 << 16

// extrasSize returns the size of what an entry holds besides its name, and a little for each item.
func extrasSize(e *tree.Entry) int {
	n := len(e.User) + len(e.Group) + len(e.Type)
	for i := range e.Xattrs {
		n += len(e.Xattrs[i].Name) + len(e.Xattrs[i].Value) + 12
	}
	for i := range e.Meta {
		n += len(e.Meta[i].Key) + len(e.Meta[i].Value) + 12
	}
	return n
}

// file walks one regular file.
func (w *walker) file(ctx context.Context, path, rawPath, rawName string, info fs.FileInfo, a *Attr) error {
	if k := w.unchanged(ctx, rawPath, info, a); k != nil {
		e, _ := newEntry(rawName, info, a, nil)
		e.Token, e.Xattrs = k.token, k.xattrs
		if e.Type == "" && len(e.Meta) == 0 {
			e.Type, e.Meta = k.typ, k.meta // a source may know them only of what it opens
		}
		err := k.each(tokenPieces, func(pieces []tree.Piece) error { return w.add(op{kind: opKnown, pieces: pieces}) })
		if _, lost := errors.AsType[lostPieces](err); !lost {
			if err != nil {
				return err
			}
			return w.add(op{kind: opFile, entry: e, path: rawPath})
		}
		if err := w.add(op{kind: opDrop}); err != nil {
			return err
		}
	}
	e, err := w.readTwice(ctx, path, rawName, info, a)
	if err != nil {
		if a.Stream && !w.optional {
			return fatal{fmt.Errorf("read %s: %w", rawPath, err)}
		}
		if err := w.record(rawPath, err); err != nil {
			return err
		}
	}
	if e == nil {
		return w.add(op{kind: opDrop})
	}
	return w.add(op{kind: opFile, entry: e, path: rawPath})
}

// unchanged returns what was known of a file in the last snapshot, if its token says that it has not changed and every chunk of it is still present; else nil.
func (w *walker) unchanged(ctx context.Context, rawPath string, info fs.FileInfo, a *Attr) *known {
	if a.Stream || len(a.Token) == 0 || w.old == nil {
		return nil
	}
	k := w.old.find(ctx, rawPath, token(a.Token))
	if k == nil {
		return nil
	}
	var sum uint64
	x := w.p.s.view.x
	err := k.each(tokenPieces, func(pieces []tree.Piece) error {
		for i := range pieces {
			p := &pieces[i]
			if sum += p.Length; p.Length > uint64(info.Size()) || sum > uint64(info.Size()) {
				return fs.ErrNotExist
			} else if !p.Hole() && (len(p.ID) != len(pack.ID{}) || !x.Has(pack.ID(p.ID), crypt.SectionContent, uint32(p.Length))) {
				return fs.ErrNotExist
			}
		}
		return ctx.Err()
	})
	if err != nil || sum != uint64(info.Size()) {
		return nil
	}
	return k
}

// Bounds of Attr.Block.
const (
	minBlock = 4 << 10
	maxBlock = 64 << 10
)

var errChanged = errors.New("it changed while it was read")

// readTwice reads a file and, if it changed meanwhile, once more.
func (w *walker) readTwice(ctx context.Context, path, rawName string, info fs.FileInfo, a *Attr) (*tree.Entry, error) {
	f, err := w.open(ctx, path)
	if err != nil {
		return nil, err
	}
	e, err := w.read(ctx, f, path, rawName, info, a)
	if err != errChanged {
		return e, err
	}
	if f, err = w.open(ctx, path); err != nil {
		return e, errChanged // what was read of it is better than nothing
	}
	if err := w.add(op{kind: opDrop}); err != nil {
		f.Close()
		return nil, fatal{err}
	}
	return w.read(ctx, f, path, rawName, info, a)
}

// read reads a file, closes it, and returns its entry. With an error, the entry is nil if nothing of it is to be kept.
func (w *walker) read(ctx context.Context, f fs.File, path, rawName string, info fs.FileInfo, a *Attr) (_ *tree.Entry, err error) {
	defer func() {
		if cerr := f.Close(); cerr != nil && err == nil && a.Stream {
			err = cerr
		}
	}()
	if !a.Stream {
		if info, err = f.Stat(); err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, errors.New("it became something else before it was read")
		}
		a = attrOf(info)
	}
	if a.Stream || len(a.Token) == 0 {
		if err := w.add(op{kind: opUntold}); err != nil {
			return nil, fatal{err}
		}
	}
	var size int64
	if sparse, ok := f.(SparseFile); ok && !a.Stream {
		size, err = w.readExtents(ctx, sparse, info.Size())
	} else {
		cut := w.cutFiles
		if a.Stream {
			cut = w.cutStreams
			if a.Block > 0 {
				cut = chunk.Blocks(min(max(a.Block, minBlock), maxBlock))
			}
		}
		size, err = w.cut(ctx, f, cut)
	}
	if err != nil {
		return nil, err
	}
	unread := w.p.counts.unread.Load()
	e, err := w.describe(path, rawName, info, f)
	if err != nil || e == nil || a.Stream {
		return e, err
	}
	whole := w.p.counts.unread.Load() == unread // else the next backup has to try again, and to say so
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := attrOf(after)
	if string(a.Token) != string(b.Token) || info.Size() != after.Size() || !info.ModTime().Equal(after.ModTime()) || size != info.Size() {
		e.Flags |= tree.FlagChanged
		return e, errChanged
	}
	if whole && len(a.Token) > 0 && (a.Changed.IsZero() || w.begun.Sub(a.Changed) >= times.racy) {
		e.Token = token(a.Token)
	}
	return e, nil
}

func (w *walker) open(ctx context.Context, path string) (fs.File, error) {
	if c, ok := w.fsys.(ContextFS); ok {
		return c.OpenContext(ctx, path)
	}
	return w.fsys.Open(path)
}

// cut reads r to its end, in chunks.
func (w *walker) cut(ctx context.Context, r io.Reader, c *chunk.Chunker) (size int64, err error) {
	c.Reset(r)
	for {
		data, err := c.Next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		if err := ctx.Err(); err != nil {
			return size, err
		}
		size += int64(len(data))
		w.p.counts.read.Add(int64(len(data)))
		b := w.batch
		if b.data == nil { // an unchanged tree needs none
			b.data = make([]byte, 0, w.p.batchSize)
		}
		if len(b.data)+len(data) > cap(b.data) || len(b.ops) >= batchOps {
			if err := w.next(); err != nil {
				return size, fatal{err}
			}
			if b = w.batch; b.data == nil {
				b.data = make([]byte, 0, w.p.batchSize)
			}
		}
		off := len(b.data)
		b.data = append(b.data, data...)
		b.chunks = append(b.chunks, chunkRef{off: uint32(off), len: uint32(len(data))})
		b.ops = append(b.ops, op{kind: opChunk, n: int64(len(b.chunks) - 1)})
	}
}

// readExtents reads a file that may have holes.
func (w *walker) readExtents(ctx context.Context, f SparseFile, size int64) (int64, error) {
	extents, err := f.Extents()
	if err != nil {
		return 0, err
	}
	at, isAt := f.(io.ReaderAt)
	if extents == nil || !isAt {
		return w.cut(ctx, f, w.cutFiles)
	}
	var off int64
	hole := func(end int64) error {
		if end <= off {
			return nil
		}
		err := w.add(op{kind: opHole, n: end - off})
		off = end
		if err != nil {
			return fatal{err}
		}
		return nil
	}
	for _, x := range extents {
		if err := hole(x.Offset); err != nil {
			return off, err
		}
		n, err := w.cut(ctx, io.NewSectionReader(at, x.Offset, x.Length), w.cutFiles)
		off += n
		if err != nil {
			return off, err
		}
		if n != x.Length {
			return off, nil // it became shorter: the size will tell
		}
	}
	return max(off, size), hole(size)
}
