package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// hintTokens finds change tokens in the hints of the last snapshot. It reads along with the walk, in bounded memory: a file is mostly the next one of the list. What comes before
// the one that was found is of files that are gone. What is not found among the next ones is a new file; but where more files are gone than fit there, it would look in vain from
// then on. So after some files that were not found a second window goes on, ever farther ahead, until the walk is there.
type hintTokens struct {
	s      *session
	ctx    context.Context // of the walk
	key    *hintKey
	root   tree.Piece
	near   *hintWindow
	far    *hintWindow // nil, unless many files in a row were not found
	missed int         // in a row
	known  known
	warned bool
}

const (
	hintWindowBytes = 8 << 20 // about what the files of a window take
	hintStride      = 64      // files that the far window goes on, for each that was not found
	hintPatience    = 64      // files in a row that are not found before there is one
	hintKept        = 64      // pieces that are kept of a file; of more, it is kept where they are
)

// openHints returns nil where the last snapshot has none.
func openHints(ctx context.Context, s *session, parent *Snapshot, series string) lastTokens {
	if parent == nil || parent.hints == nil || s.repo.keys.Role() != crypt.Writer {
		return nil
	}
	s.view.limit = min(s.view.limit, lastTreeMemory)
	t := &hintTokens{s: s, ctx: ctx, key: newHintKey(s.repo.keys.HintKey(series)), root: *parent.hints}
	t.near = t.window(0)
	return t
}

func (t *hintTokens) close() {
	t.near.close()
	t.far.close()
}

func (t *hintTokens) warn(err error) {
	if !t.warned && t.ctx.Err() == nil {
		t.warned = true
		t.s.repo.opts.Logger.Warn("hints of the last snapshot cannot be read, so files are read again", "error", err)
	}
}

// find is lastTokens.
func (t *hintTokens) find(_ context.Context, path string, token []byte) *known {
	hash := t.key.path(path)
	h := t.near.find(t, hash)
	switch {
	case h != nil:
		t.far.close()
		t.far, t.missed = nil, 0
	case t.near.done:
	default:
		if t.missed++; t.missed < hintPatience {
			return nil
		}
		if t.far == nil {
			t.far = t.window(t.near.parts.offset())
		}
		if h = t.far.advance(t, hash); h == nil {
			return nil
		}
		t.near.close()
		t.near, t.far, t.missed = t.far, nil, 0
	}
	if h == nil {
		return nil
	}
	return t.open(h, path, token)
}

// open returns what a hint says of a file with this token, if it says anything.
func (t *hintTokens) open(h *aHint, path string, token []byte) *known {
	extras := bytes.Clone(h.extras)
	t.key.seal(path, token, h.check, extras)
	if t.key.check(path, token, extras) != h.check {
		return nil
	}
	k := &t.known
	*k = known{token: token}
	if len(extras) > 0 {
		// Whoever has a writer's key and knows the token could have made this: it must not fail the backup.
		var x hintExtras
		err := tree.Unmarshal(extras, &x)
		e := &tree.Entry{Xattrs: x.Xattrs, Type: x.Type, Meta: x.Meta}
		if err == nil {
			err = e.CheckExtras()
		}
		if err == nil && extrasSize(e) > tree.MaxEntry/2 {
			err = errHints
		}
		if err != nil {
			t.warn(err)
			return nil
		}
		k.xattrs, k.typ, k.meta = x.Xattrs, x.Type, x.Meta
	}
	if h.pieces == nil {
		k.stream = t.again(h)
		return k
	}
	var err error
	if k.pieces, err = parsePieces(h.pieces, h.n); err != nil {
		t.warn(err)
		return nil
	}
	return k
}

// again reads the pieces of a file.
func (t *hintTokens) again(h *aHint) iter.Seq2[tree.Piece, error] {
	return func(yield func(tree.Piece, error) bool) {
		r := t.parts(h.begin)
		defer r.close()
		for {
			p, ok, err := r.next()
			var list []tree.Piece
			if err == nil && (!ok || p.kind == hintDrop) {
				err = errHints
			}
			if err == nil {
				list, err = parsePieces(p.pieces, p.n)
			}
			if err != nil {
				yield(tree.Piece{}, err)
				return
			}
			for i := range list {
				if !yield(list[i], nil) {
					return
				}
			}
			if p.kind == hintLast {
				return
			}
		}
	}
}

// aHint is what the list says of one file.
type aHint struct {
	begin       int64 // where its first part is
	path, check [hintHash]byte
	n           int
	pieces      []byte // encoded; nil: they are read again when they are wanted
	extras      []byte
}

// size is about what a hint takes in a window.
func (h *aHint) size() int { return len(h.pieces) + len(h.extras) + 256 }

// A hintWindow is some hints in a row.
type hintWindow struct {
	parts *hintParts
	at    map[[hintHash]byte]*aHint
	queue []*aHint // in their order
	bytes int
	done  bool // nothing follows
}

func (t *hintTokens) window(from int64) *hintWindow {
	return &hintWindow{parts: t.parts(from), at: map[[hintHash]byte]*aHint{}}
}

func (w *hintWindow) close() {
	if w != nil {
		w.parts.close()
	}
}

func (w *hintWindow) full() bool {
	return len(w.queue) >= sizes.hintFiles || w.bytes >= hintWindowBytes
}

// read adds the next hint to the window; nil at the end.
func (w *hintWindow) read(t *hintTokens) *aHint {
	if w.done {
		return nil
	}
	h, err := w.parts.file()
	if err != nil {
		t.warn(err)
	}
	if h == nil {
		w.done = true
		return nil
	}
	w.queue = append(w.queue, h)
	w.at[h.path] = h
	w.bytes += h.size()
	return h
}

// pop takes the first hint out.
func (w *hintWindow) pop() *aHint {
	h := w.queue[0]
	w.queue[0] = nil
	w.queue = w.queue[1:]
	w.bytes -= h.size()
	if w.at[h.path] == h {
		delete(w.at, h.path)
	}
	return h
}

// take takes a hint of the window out, with all before it.
func (w *hintWindow) take(h *aHint) *aHint {
	for w.pop() != h {
	}
	return h
}

// find takes the hint of a hash out, with all before it. It reads on until the window is full.
func (w *hintWindow) find(t *hintTokens, hash [hintHash]byte) *aHint {
	if h := w.at[hash]; h != nil {
		return w.take(h)
	}
	for !w.full() {
		h := w.read(t)
		if h == nil {
			return nil
		}
		if h.path == hash {
			return w.take(h)
		}
	}
	return nil
}

// advance is find for a window that goes on when it is full.
func (w *hintWindow) advance(t *hintTokens, hash [hintHash]byte) *aHint {
	for range hintStride {
		if w.read(t) == nil {
			break
		}
		for w.full() && len(w.queue) > 1 {
			w.pop()
		}
	}
	if h := w.at[hash]; h != nil {
		return w.take(h)
	}
	return nil
}

// hintParts reads the parts of a list one after the other.
type hintParts struct {
	t     *hintTokens
	runs  func() (tree.Run, error, bool)
	stop  func()
	from  int64
	chunk []byte // what is left of it
	end   int64  // of the chunk
	err   error
}

// parts reads from an offset on, where a part begins.
func (t *hintTokens) parts(from int64) *hintParts {
	p := &hintParts{t: t, from: from, end: from}
	list := &tree.Entry{List: t.root.ID, Size: t.root.Length}
	p.runs, p.stop = iter.Pull2(tree.Pieces(t.ctx, t.s.view.hint, list, uint64(from)))
	return p
}

func (p *hintParts) close() { p.stop() }

// offset is where the next part begins.
func (p *hintParts) offset() int64 { return p.end - int64(len(p.chunk)) }

// next returns the next part, a view; not ok at the end.
func (p *hintParts) next() (part aPart, ok bool, err error) {
	if p.err != nil {
		return part, false, p.err
	}
	for len(p.chunk) == 0 {
		run, err, more := p.runs()
		if err == nil && !more {
			return part, false, nil
		}
		if err == nil {
			err = p.load(&run)
		}
		if p.err = err; err != nil {
			return part, false, err
		}
	}
	part, p.chunk, p.err = parsePart(p.chunk)
	return part, p.err == nil, p.err
}

func (p *hintParts) load(run *tree.Run) error {
	if run.Hole() || run.Length > hintMost {
		return errHints
	}
	chunk, err := p.t.s.view.hint(p.t.ctx, pack.ID(run.ID))
	if err != nil {
		return err
	}
	if uint64(len(chunk)) != run.Length {
		return fmt.Errorf("%w: a chunk of %d bytes, its list says %d", errHints, len(chunk), run.Length)
	}
	p.chunk, p.end = chunk, int64(run.Offset+run.Length)
	if skip := p.from - int64(run.Offset); skip > 0 { // the first one
		p.chunk = chunk[skip:]
	}
	return nil
}

// file returns the next file; nil at the end.
func (p *hintParts) file() (*aHint, error) {
	h := &aHint{begin: p.offset()}
	for long := false; ; {
		part, ok, err := p.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			if long {
				return nil, errors.Join(errHints, errors.New("a file without an end"))
			}
			return nil, nil
		}
		switch part.kind {
		case hintMore:
			long = true
		case hintDrop:
			*h, long = aHint{begin: p.offset()}, false
		default:
			h.path, h.check, h.n = part.path, part.check, part.n
			if !long && part.n <= hintKept {
				h.pieces = append(make([]byte, 0, len(part.pieces)+1), part.pieces...) // not nil
			}
			h.extras = bytes.Clone(part.extras)
			return h, nil
		}
	}
}
