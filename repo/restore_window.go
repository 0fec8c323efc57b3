package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/target"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// A restore plans a window: the pieces of many files, by the frames that hold them, in the order in which they come up. Then it fetches frame after frame and writes each to
// all places that want something of it. A file that is longer than a window goes on in the next one.
type restoreWindow struct {
	frames []windowFrame
	slots  map[uint32]int // frame to its place in frames
	files  []*restoreFile // those of which something is planned
	long   int            // files that may stay open while much of the window is written
	cost   int64          // bytes of memory
}

type windowFrame struct {
	n      uint32
	pieces []restorePiece
}

type restorePiece struct {
	file    *restoreFile
	off     uint64
	ordinal uint32
}

const (
	costFile  = 512 // rather more than what a planned file or folder takes, with its path and metadata
	costPiece = 64
	maxLong   = 256 // and so many file descriptors

	nextFrames = 8 // at the end of a window, which are remembered
)

// restoreFile is one file that is written.
type restoreFile struct {
	path string
	size int64
	meta *target.Meta
	left atomic.Int64 // pieces to be written, and one until all are planned

	mu   sync.Mutex // guards what follows
	file *target.File
	over bool // finished, failed, or kept as it was: other pieces are not wanted
}

// errOver says that a file is over.
var errOver = errors.New("repo: a file that is not written")

// abort gives up all files that are not complete.
func (w *restoreWindow) abort() {
	for _, f := range w.files {
		f.abort()
	}
}

// planned notes the memory that something planned takes, and writes the window when that is enough.
func (rs *restorer) planned(ctx context.Context, cost int64) error {
	w := &rs.window
	if w.cost += cost; w.cost < rs.repo.opts.MaxMemory/4 && w.long < maxLong {
		return nil
	}
	return rs.flush(ctx)
}

// file plans a file.
func (rs *restorer) file(ctx context.Context, f *restoreFile, e *tree.Entry) error {
	w := &rs.window
	f.left.Store(1)
	w.files = append(w.files, f)
	begun := len(w.frames) // of frames when the file began
	first, last := -1, -1  // of its own frames
	long := false
	for run, err := range tree.Pieces(ctx, rs.repo.node, e, 0) {
		if err != nil {
			if err := rs.failFile(ctx, f, err); err != nil {
				return err
			}
			break
		}
		if run.Hole() {
			rs.passed.Add(int64(run.Length))
			continue
		}
		c, ok := rs.find(pack.ID(run.ID), run.Length)
		if !ok {
			data, err := rs.elsewhere(ctx, pack.ID(run.ID), run.Length)
			if err == nil {
				err = rs.write(f, data, run.Offset)
			}
			if err == nil || errors.Is(err, errOver) {
				continue
			}
			if err := rs.failFile(ctx, f, err); err != nil {
				return err
			}
			break
		}
		if w.slots == nil {
			w.slots = map[uint32]int{}
		}
		i, ok := w.slots[c.Frame]
		if !ok {
			i = len(w.frames)
			w.slots[c.Frame] = i
			w.frames = append(w.frames, windowFrame{n: c.Frame})
		}
		w.frames[i].pieces = append(w.frames[i].pieces, restorePiece{file: f, off: run.Offset, ordinal: c.Ordinal})
		f.left.Add(1)
		// Frames are written in the order of the window. A file that wants one from long before it, and others, stays open meanwhile.
		if first < 0 {
			first, last = i, i
		}
		first, last = min(first, i), max(last, i)
		if first < begun-1 && first < last && !long {
			long = true
			w.long++
		}
		if err := rs.planned(ctx, costPiece); err != nil {
			return err
		}
		if len(w.frames) == 0 {
			begun, first, last, long = 0, -1, -1, false
		}
	}
	if err := rs.wrote(ctx, f); err != nil {
		return err
	}
	return rs.planned(ctx, costFile)
}

// find returns a copy of a blob that has the right length.
func (rs *restorer) find(id pack.ID, length uint64) (index.Copy, bool) {
	var copies [4]index.Copy
	for _, c := range rs.view.x.Find(copies[:0], id, crypt.SectionContent) {
		if uint64(c.Length) == length {
			return c, true
		}
	}
	return index.Copy{}, false
}

// elsewhere returns a blob from another copy, or as a newer index knows it; else its error says what is wrong.
func (rs *restorer) elsewhere(ctx context.Context, id pack.ID, length uint64) ([]byte, error) {
	data, err := rs.repo.blob(ctx, id, crypt.SectionContent)
	if err == nil && uint64(len(data)) != length {
		err = fmt.Errorf("%w: a chunk of %d bytes, its list says %d", tree.ErrDamaged, len(data), length)
	}
	return data, err
}

// onlyIn tells whether the newest index knows no copy of a blob but that in frame n.
func (rs *restorer) onlyIn(ctx context.Context, n uint32, id pack.ID) bool {
	v, err := rs.repo.reading(ctx)
	if err != nil {
		return false
	}
	f := rs.view.x.Frame(n)
	pack := rs.view.x.Pack(f.Pack).ID
	for _, c := range v.x.Find(nil, id, crypt.SectionContent) {
		if g := v.x.Frame(c.Frame); g.Offset != f.Offset || v.x.Pack(g.Pack).ID != pack {
			return false
		}
	}
	return true
}

// flush writes the window. After it, all files that were planned wholly are complete, links to them are made, and the folders that were left are finished.
func (rs *restorer) flush(ctx context.Context) error {
	w := &rs.window
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(rs.repo.opts.Workers+1, len(w.frames)) {
		g.Go(func() error {
			var buf []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= len(w.frames) {
					return nil
				}
				// What the next window wants as well is mostly at the end of this one.
				if buf == nil && i < len(w.frames)-nextFrames {
					buf = make([]byte, 0, sizes.contentFrame+1<<20)
				}
				into := buf
				if i >= len(w.frames)-nextFrames {
					into = nil
				}
				if err := rs.fromFrame(gctx, &w.frames[i], into); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// Only the file that is being planned goes on.
	files := w.files
	w.files = nil
	for _, f := range files {
		if f.left.Load() > 0 {
			w.files = append(w.files, f)
		}
	}
	clear(w.frames)
	clear(w.slots)
	w.frames, w.long, w.cost = w.frames[:0], 0, 0
	if err := rs.finishLinks(ctx); err != nil {
		return err
	}
	err := rs.finishDirs(ctx, rs.left)
	rs.left = rs.left[:0]
	return err
}

// fromFrame writes the pieces that lie in one frame. If there is a buffer for it, the frame is not remembered.
func (rs *restorer) fromFrame(ctx context.Context, w *windowFrame, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var plain []byte
	var ferr error
	if buf != nil {
		plain, ferr = rs.view.frameOnce(ctx, w.n, buf)
	} else {
		plain, ferr = rs.view.frame(ctx, w.n, &chain{})
	}
	if ferr != nil && (ctx.Err() != nil || errors.Is(ferr, ErrRole)) {
		return ferr
	}
	var lost error // what a blob of this frame, and with it all that have no other copy, came to
	for _, p := range w.pieces {
		id, c := rs.view.x.At(p.ordinal)
		var data []byte
		err := ferr
		if err == nil {
			if data = plain[c.Offset : c.Offset+c.Length]; rs.repo.id(crypt.SectionContent, data) != id {
				err = errors.New("a blob's bytes do not match its id")
			}
		}
		if err != nil && lost != nil && rs.onlyIn(ctx, w.n, id) {
			err = lost
		} else if err != nil {
			if data, err = rs.elsewhere(ctx, id, uint64(c.Length)); ferr != nil {
				lost = err
			}
		}
		if err == nil {
			err = rs.write(p.file, data, p.off)
		}
		if err != nil && !errors.Is(err, errOver) {
			if err := rs.failFile(ctx, p.file, err); err != nil {
				return err
			}
		}
		if err := rs.wrote(ctx, p.file); err != nil {
			return err
		}
	}
	return nil
}

// start creates the file if it is not yet. f.mu is held.
func (rs *restorer) start(f *restoreFile) error {
	if f.over {
		return errOver
	}
	if f.file != nil {
		return nil
	}
	file, err := rs.target.Create(f.path, f.meta, f.size)
	if err == nil {
		f.file = file
	}
	return err
}

func (rs *restorer) write(f *restoreFile, data []byte, off uint64) error {
	f.mu.Lock()
	err := rs.start(f)
	file := f.file
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(data, int64(off)); err != nil {
		return err
	}
	rs.counts.bytes.Add(int64(len(data)))
	return nil
}

// abort removes a file that is not complete. It returns false if it was over before.
func (f *restoreFile) abort() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false
	}
	if f.over = true; f.file != nil {
		f.file.Abort()
	}
	return true
}

// failFile gives a file up, because of err or because target keeps what is there.
func (rs *restorer) failFile(ctx context.Context, f *restoreFile, err error) error {
	if !f.abort() {
		return nil // that is known
	}
	return rs.skip(ctx, f.path, err, &rs.counts.files)
}

// wrote notes that a piece was written, or all are planned, and completes the file after the last.
func (rs *restorer) wrote(ctx context.Context, f *restoreFile) error {
	if f.left.Add(-1) > 0 {
		return nil
	}
	f.mu.Lock()
	err := rs.start(f)
	if err == nil {
		err = f.file.Finish()
	}
	f.over = true
	f.mu.Unlock()
	if errors.Is(err, errOver) {
		return nil
	}
	return rs.skip(ctx, f.path, err, &rs.counts.files)
}
