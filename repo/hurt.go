package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// noSegment is the object of a finding about blobs that are neither indexed nor in any pack: in which segment and pack they were is not known any more.
const noSegment = indexPrefix + "?"

var errNowhere = errors.New("something that snapshots need is neither indexed nor in any pack")

// deltas tells whether a frame that snapshots need cannot be had because of its bases.
func (h *hurtWalk) deltas(res *walk.Result) bool {
	x := h.c.view.x
	for _, c := range x.All() {
		if res.Needed.Has(c.Ordinal) && len(x.Frame(c.Frame).Bases) > 0 && h.bases(c.Frame).broken != "" {
			return true
		}
	}
	return false
}

// paths finds what the findings hurt: it walks every snapshot by path and asks for each blob whether it can be had. Folders that are whole are walked once.
func (h *hurtWalk) paths(ctx context.Context) error {
	c := h.c
	for _, s := range c.snaps {
		if err := h.snapshot(ctx, s); err != nil {
			return err
		}
	}
	for name, f := range c.hurt {
		if id, ok := parsePackName(name); ok && len(f.Snapshots) == 0 && c.view.maint.of(id) != index.Live {
			f.Harmless = true // no one will rely upon it any more
		}
	}
	return nil
}

type hurtWalk struct {
	c      *checker
	snap   *Snapshot
	whole  map[pack.ID]bool // folders with nothing lost in them
	frames map[uint32]*based
}

func (h *hurtWalk) snapshot(ctx context.Context, s *Snapshot) error {
	h.snap = s
	if s.unread != nil {
		if _, err := tree.LoadUnread(ctx, h.c.view.node, *s.unread); err != nil {
			if err := h.lost(ctx, ".", err); err != nil {
				return err
			}
		}
	}
	root, err := tree.LoadRoot(ctx, h.c.view.node, s.root)
	if err != nil {
		return h.lost(ctx, ".", err)
	}
	_, err = h.folder(ctx, "", root, 0)
	return err
}

// lost notes that a path cannot be had, for a reason. Other errors than damage come back.
func (h *hurtWalk) lost(ctx context.Context, path string, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	object, reason := noSegment, err
	d, ok := errors.AsType[*DamageError](err)
	switch {
	case errors.Is(err, errNotIndexed):
		reason = errNowhere
	case ok:
		object, reason = d.Object, d.Err
	case errors.Is(err, tree.ErrDamaged):
		object = snapshotName(h.snap.ID)
	default:
		return err
	}
	h.note(object, reason, path)
	return nil
}

func (h *hurtWalk) note(object string, reason error, path string) {
	f := h.c.find(object, reason)
	f.Harmless = false
	if n := len(f.Snapshots); n == 0 || f.Snapshots[n-1] != h.snap.ID {
		f.Snapshots = append(f.Snapshots, h.snap.ID)
	}
	if len(f.Paths) >= maxPaths {
		f.More++
		return
	}
	f.Paths = append(f.Paths, h.snap.ID+":"+Escape(path))
}

// folder walks what is below e. whole is false if anything of it is lost.
func (h *hurtWalk) folder(ctx context.Context, dir string, e *tree.Entry, depth int) (whole bool, err error) {
	id := pack.ID(e.Folder)
	if h.whole[id] {
		return true, nil
	}
	at := dir
	if at == "" {
		at = "."
	}
	if depth > tree.MaxDepth {
		return false, h.lost(ctx, at, fmt.Errorf("%w: folders nest deeper than %d", tree.ErrDamaged, tree.MaxDepth))
	}
	whole = true
	for c, err := range tree.Salvage(ctx, h.c.view.node, id) {
		if err != nil {
			if err := h.lost(ctx, at, err); err != nil {
				return false, err
			}
			whole = false
			continue // what lies behind may be hurt by something else
		}
		path := join(dir, string(c.Name))
		ok := true
		if c.IsDir() {
			ok, err = h.folder(ctx, path, c, depth+1)
		} else {
			ok, err = h.file(ctx, path, c)
		}
		if err != nil {
			return false, err
		}
		whole = whole && ok
	}
	if whole {
		h.whole[id] = true
	}
	return whole, nil
}

func (h *hurtWalk) file(ctx context.Context, path string, e *tree.Entry) (whole bool, err error) {
	objects := map[string]error{}
	for run, err := range tree.Pieces(ctx, h.c.view.node, e, 0) {
		if err != nil {
			return false, h.lost(ctx, path, err)
		}
		if !run.Hole() {
			h.blob(objects, pack.ID(run.ID), run.Length)
		}
	}
	for o, reason := range objects {
		h.note(o, reason, path)
	}
	return len(objects) == 0, nil
}

// blob adds the objects because of which a blob cannot be had: none if one copy is whole.
func (h *hurtWalk) blob(objects map[string]error, id pack.ID, length uint64) {
	x := h.c.view.x
	var room [4]index.Copy
	copies := x.Find(room[:0], id, crypt.SectionContent)
	why := map[string]error{}
	for _, c := range copies {
		if h.c.bad.Has(c.Ordinal) {
			object, err := h.reason(c)
			why[object] = err
		} else if b := h.bases(c.Frame); b.broken != "" {
			why[b.broken] = b.why
		} else if uint64(c.Length) != length {
			why[snapshotName(h.snap.ID)] = fmt.Errorf("%w: a chunk of %d bytes, its list says %d", tree.ErrDamaged, c.Length, length)
		} else {
			return
		}
	}
	if len(copies) == 0 {
		why[noSegment] = errNowhere
	}
	maps.Copy(objects, why)
}

// reason says which object is why a copy is bad.
func (h *hurtWalk) reason(c index.Copy) (object string, err error) {
	if d := h.c.blame[c.Frame]; d != nil {
		return d.Object, d.Err
	}
	x := h.c.view.x
	return packName(x.Pack(x.Frame(c.Frame).Pack).ID), errors.New("it is damaged or gone")
}

// based is what is known of a frame: what it needs through all its bases, or in which pack one was that is lost, and why.
type based struct {
	chain  chain
	broken string
	why    error
}

// bases looks whether all bases of frame n can be had. Depth falls with each step, so it ends.
func (h *hurtWalk) bases(n uint32) *based {
	if b, ok := h.frames[n]; ok {
		return b
	}
	x := h.c.view.x
	f := x.Frame(n)
	b := &based{}
	h.frames[n] = b
	err := b.chain.add(x, n)
	for _, id := range f.Bases {
		at, why := noSegment, errNowhere
		for _, c := range x.Find(nil, id, x.Kind(n)) {
			g := x.Frame(c.Frame)
			if g.Depth >= f.Depth {
				continue
			}
			if h.c.bad.Has(c.Ordinal) {
				at, why = h.reason(c)
			} else if d := h.bases(c.Frame); d.broken != "" {
				at, why = d.broken, d.why
			} else {
				at = ""
				if err == nil {
					err = b.chain.add(x, d.chain.frames...)
				}
				break
			}
		}
		if at != "" {
			b.broken, b.why = at, why
			return b
		}
	}
	if err != nil {
		b.broken, b.why = packName(x.Pack(f.Pack).ID), err
	}
	return b
}
