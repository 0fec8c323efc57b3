package repo

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// A view is what the index said at one moment, and the way to the blobs that it names. Safe for concurrent use.
type view struct {
	repo     *Repo
	maint    *maintenance
	x        *index.Index
	segments []backend.Info // as they were listed, in the order in which the index numbers them
	listed   []string       // all that were listed, sorted
	damaged  []*DamageError // segments that could not be opened
	fetched  atomic.Int64   // bytes of frames that were read

	// Guarded by the Repo's mu: when packs were last looked for that no segment names, and one of them that only a later version reads.
	scanned time.Time
	later   error

	mu       sync.Mutex // guards what follows
	frames   map[uint32]*list.Element
	lru      *list.List // of *plainFrame, the last used in front
	bytes    int64
	limit    int64
	keys     map[*pack.Section]*pack.SectionKey
	decoders []*pack.Decoder
	sealed   [][]byte // buffers for sealed frames that nobody uses
}

type plainFrame struct {
	n     uint32
	done  chan struct{} // closed when the rest is set
	data  []byte
	err   error
	needs []uint32 // itself and the frames of its bases, through all depths
}

var (
	errNotIndexed = errors.New("no index segment names it")
	errChain      = errors.New("through all bases it needs more than a frame may")
)

// reading returns the view for readers, loading it when there is none.
func (r *Repo) reading(ctx context.Context) (*view, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("repo: %w", fs.ErrClosed)
	}
	if r.view == nil {
		v, err := r.look(ctx, nil)
		if err != nil {
			return nil, err
		}
		r.view = v
	}
	return r.view, nil
}

// rescan is how long the search for packs that no segment names is good for: it lists all packs.
const rescan = time.Minute

// renewed returns a view that may have what old lacks: with a newer index if there is one, else one that also knows what is in packs that no
// segment names. It returns old when there is nothing more to be found.
func (r *Repo) renewed(ctx context.Context, old *view) (*view, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("repo: %w", fs.ErrClosed)
	}
	if r.view != nil && r.view != old {
		return r.view, nil
	}
	listed, err := listNames(ctx, r.backend, indexPrefix)
	if err != nil {
		return nil, err
	}
	if r.view == nil || !slices.Equal(listed, old.listed) {
		v, err := r.look(ctx, nil)
		if err != nil {
			return nil, err
		}
		r.view = v
		return v, nil
	}
	if time.Since(old.scanned) < rescan {
		return old, nil
	}
	packs, err := r.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	strays, err := old.strays(ctx, packs)
	if err != nil {
		return nil, err
	}
	v, use := old, false
	for i := range strays {
		use = use || strays[i].err == nil
	}
	if use {
		if v, err = r.look(ctx, strays); err != nil {
			return nil, err
		}
		r.opts.Logger.Warn("something is not indexed: packs that no segment names are searched too; a check tells more", "packs", len(strays))
	}
	v.scanned, v.later = time.Now(), nil
	for i := range strays {
		if _, ok := errors.AsType[*pack.VersionError](strays[i].err); ok {
			v.later = strays[i].err
		}
	}
	r.view = v
	return v, nil
}

// outdated drops the view: something was written that it does not know.
func (r *Repo) outdated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = nil
}

// blob returns a blob, verified. Where it cannot be had, the view may be out of date, or its segment lost: it looks again, and in the end in packs that no
// segment names. The caller does not modify the result.
func (r *Repo) blob(ctx context.Context, id pack.ID, kind uint8) ([]byte, error) {
	v, err := r.reading(ctx)
	if err != nil {
		return nil, err
	}
	const tries = 5
	for try := 1; ; try++ {
		data, err := v.blob(ctx, id, kind)
		if _, ok := errors.AsType[*DamageError](err); !ok || try == tries {
			return data, err
		}
		w, rerr := r.renewed(ctx, v)
		if rerr != nil {
			return nil, rerr
		}
		if w == v {
			if later := r.laterPack(v); later != nil && errors.Is(err, errNotIndexed) {
				err = later
			}
			return nil, err
		}
		v = w
	}
}

func (r *Repo) laterPack(v *view) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return v.later
}

// node is tree.Load over the Repo.
func (r *Repo) node(ctx context.Context, id pack.ID) ([]byte, error) {
	return r.blob(ctx, id, crypt.SectionTree)
}

// node is tree.Load over the view.
func (v *view) node(ctx context.Context, id pack.ID) ([]byte, error) {
	return v.blob(ctx, id, crypt.SectionTree)
}

// hint is node for what hints are made of.
func (v *view) hint(ctx context.Context, id pack.ID) ([]byte, error) {
	return v.blob(ctx, id, crypt.SectionHint)
}

// blob returns a blob from the first of its copies that is whole. Else the error is that of the first that could not be asked (ErrRole, or the backend's), for it may be whole, or a *DamageError when none is.
func (v *view) blob(ctx context.Context, id pack.ID, kind uint8) ([]byte, error) {
	return v.blobIn(ctx, id, kind, &chain{})
}

// chain is the frames that something needs through all depths. They are counted, not the reads: what is remembered counts like what is not.
type chain struct {
	frames []uint32
	plain  int
}

// add adds frames. errChain: they are more than a frame may need.
func (ch *chain) add(x *index.Index, frames ...uint32) error {
	for _, n := range frames {
		if slices.Contains(ch.frames, n) {
			continue
		}
		ch.frames = append(ch.frames, n)
		if ch.plain += int(x.Frame(n).Plain); len(ch.frames) > pack.MaxChainFrames || ch.plain > pack.MaxChainPlain {
			return fmt.Errorf("%w: %d frames of %d bytes", errChain, len(ch.frames), ch.plain)
		}
	}
	return nil
}

func (v *view) blobIn(ctx context.Context, id pack.ID, kind uint8, ch *chain) ([]byte, error) {
	var copies [4]index.Copy
	var first error
	for _, c := range v.x.Find(copies[:0], id, kind) {
		data, err := v.copy(ctx, id, kind, c, ch)
		if err == nil {
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if first == nil || damaged(first) && !damaged(err) {
			first = err
		}
	}
	if first == nil {
		first = &DamageError{Object: "blob " + id.String(), Err: errNotIndexed}
	}
	return nil, first
}

func (v *view) copy(ctx context.Context, id pack.ID, kind uint8, c index.Copy, ch *chain) ([]byte, error) {
	plain, err := v.frame(ctx, c.Frame, ch)
	if err != nil {
		return nil, err
	}
	data := plain[c.Offset : c.Offset+c.Length : c.Offset+c.Length]
	if v.repo.id(kind, data) != id {
		return nil, v.damage(c.Frame, errors.New("a blob's bytes do not match its id"))
	}
	return data, nil
}

func (v *view) damage(frame uint32, err error) error {
	return &DamageError{Object: packName(v.x.Pack(v.x.Frame(frame).Pack).ID), Err: err}
}

// frame returns the plaintext of a frame, once for all who ask at the same time, and again without reading while it is remembered. What it needs is added to ch.
func (v *view) frame(ctx context.Context, n uint32, ch *chain) ([]byte, error) {
	for {
		v.mu.Lock()
		if e, ok := v.frames[n]; ok {
			v.lru.MoveToFront(e)
			f := e.Value.(*plainFrame)
			v.mu.Unlock()
			select {
			case <-f.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			// Whoever read it may have been cancelled; this caller was not.
			if f.err != nil && ctx.Err() == nil && (errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded)) {
				continue
			}
			if f.err == nil {
				err := ch.add(v.x, f.needs...)
				return f.data, err
			}
			return nil, f.err
		}
		f := &plainFrame{n: n, done: make(chan struct{})}
		v.frames[n] = v.lru.PushFront(f)
		v.mu.Unlock()

		own := &chain{}
		data, err := v.readFrame(ctx, n, own, nil)
		v.mu.Lock()
		f.data, f.err, f.needs = data, err, own.frames
		if f.err != nil {
			v.forget(n)
		} else {
			v.bytes += int64(len(f.data))
			for e := v.lru.Back(); e != nil && v.bytes > v.limit; {
				old, prev := e.Value.(*plainFrame), e.Prev()
				if old != f && old.data != nil {
					v.bytes -= int64(len(old.data))
					v.forget(old.n)
				}
				e = prev
			}
		}
		v.mu.Unlock()
		close(f.done)
		if err == nil {
			err = ch.add(v.x, f.needs...)
		}
		return data, err
	}
}

// forget removes a frame from the remembered ones. v.mu is held.
func (v *view) forget(n uint32) {
	if e, ok := v.frames[n]; ok {
		v.lru.Remove(e)
		delete(v.frames, n)
	}
}

// shed forgets all frames that it remembers.
func (v *view) shed() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frames, v.bytes = map[uint32]*list.Element{}, 0
	v.lru.Init()
}

// frameOnce is frame for a caller who will not ask for it again: it is not remembered, and its plaintext lies in buf if that is large enough. Where frames have bases they may be
// others' bases, and then they are remembered.
func (v *view) frameOnce(ctx context.Context, n uint32, buf []byte) ([]byte, error) {
	v.mu.Lock()
	_, known := v.frames[n]
	v.mu.Unlock()
	if known || v.x.Deltas() {
		return v.frame(ctx, n, &chain{})
	}
	return v.readFrame(ctx, n, &chain{}, buf)
}

// readFrame reads, opens and decompresses a frame, its bases before it, into buf if that is large enough.
func (v *view) readFrame(ctx context.Context, n uint32, ch *chain, buf []byte) ([]byte, error) {
	f := v.x.Frame(n)
	if err := ch.add(v.x, n); err != nil {
		return nil, v.damage(n, err)
	}
	key, err := v.key(n)
	if err != nil {
		return nil, err
	}
	var dict []byte
	for _, id := range f.Bases {
		base, err := v.base(ctx, id, v.x.Kind(n), f.Depth, ch)
		if errors.Is(err, errChain) {
			err = v.damage(n, err)
		}
		if err != nil {
			return nil, err
		}
		if len(dict)+len(base) > pack.MaxChainPlain {
			return nil, v.damage(n, fmt.Errorf("bases of more than %d bytes", pack.MaxChainPlain))
		}
		dict = append(dict, base...)
	}
	name := packName(v.x.Pack(f.Pack).ID)
	off, size := int64(f.Offset), int64(f.Stored)
	room := v.room(int(size))
	defer v.putRoom(room)
	sealed, err := v.repo.backend.Get(ctx, name, off, size, room)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &DamageError{Object: name, Err: fs.ErrNotExist}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &DamageError{Object: name, Err: errors.New("it is cut short")}
	case err != nil:
		return nil, err
	}
	v.fetched.Add(int64(len(sealed)))
	d := v.decoder()
	defer v.putDecoder(d)
	if cap(buf) < int(f.Plain) {
		buf = make([]byte, 0, f.Plain)
	}
	plain, err := d.Decode(buf[:0], key, &f.Frame, sealed, dict)
	if err == nil {
		return plain, nil
	}
	for get := range v.repo.backend.others(ctx, name) {
		if sealed, oerr := get(off, size); oerr == nil {
			if plain, oerr := d.Decode(make([]byte, 0, f.Plain), key, &f.Frame, sealed, dict); oerr == nil {
				v.repo.backend.heard(name, err)
				return plain, nil
			}
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, &DamageError{Object: name, Err: err}
}

// base returns a base blob for a frame of the given depth: from a copy in a frame that lies less deep.
func (v *view) base(ctx context.Context, id pack.ID, kind, depth uint8, ch *chain) ([]byte, error) {
	var copies [4]index.Copy
	var first error
	for _, c := range v.x.Find(copies[:0], id, kind) {
		if v.x.Frame(c.Frame).Depth >= depth {
			continue
		}
		data, err := v.copy(ctx, id, kind, c, ch)
		if err == nil {
			return data, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = &DamageError{Object: "blob " + id.String(), Err: errNotIndexed}
	}
	return nil, first
}

// key opens the section of frame n, once.
func (v *view) key(n uint32) (*pack.SectionKey, error) {
	s := v.x.Section(n)
	v.mu.Lock()
	k := v.keys[s]
	v.mu.Unlock()
	if k != nil {
		return k, nil
	}
	k, err := openKey.section(v.repo.keys, *s)
	if err != nil {
		if errors.Is(err, crypt.ErrDamaged) {
			err = v.damage(n, err)
		}
		return nil, err
	}
	v.mu.Lock()
	v.keys[s] = k
	v.mu.Unlock()
	return k, nil
}

func (v *view) decoder() *pack.Decoder {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n := len(v.decoders); n > 0 {
		d := v.decoders[n-1]
		v.decoders = v.decoders[:n-1]
		return d
	}
	return pack.NewDecoder()
}

func (v *view) putDecoder(d *pack.Decoder) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.decoders) < v.repo.opts.Workers {
		v.decoders = append(v.decoders, d)
		return
	}
	d.Close()
}

// room returns an empty buffer for n bytes of a sealed frame.
func (v *view) room(n int) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.sealed) - 1; i >= 0; i-- {
		if b := v.sealed[i]; cap(b) >= n {
			v.sealed = slices.Delete(v.sealed, i, i+1)
			return b
		}
	}
	return make([]byte, 0, n)
}

// putRoom takes a buffer back when nobody uses it any more. Large ones, and more than there are workers, are not kept.
func (v *view) putRoom(b []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if cap(b) > 2*sizes.contentFrame {
		return
	}
	if len(v.sealed) > v.repo.opts.Workers {
		v.sealed = slices.Delete(v.sealed, 0, 1)
	}
	v.sealed = append(v.sealed, b[:0])
}

// damaged tells whether an error is about what an object holds, and not about who asked or how.
func damaged(err error) bool {
	_, ok := errors.AsType[*DamageError](err)
	return ok
}
