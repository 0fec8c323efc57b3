package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// noSegment is the object of a finding about blobs that no segment names: which segment did is not known any more.
const noSegment = indexPrefix + "?"

// paths finds what the findings hurt: it walks every snapshot by path and asks for each blob whether it can be had. Folders that are whole are walked once.
func (c *checker) paths(ctx context.Context, res *walk.Result) error {
	h := &hurtWalk{c: c, whole: map[pack.ID]bool{}}
	// Findings about packs that no snapshot needs hurt nobody.
	needed := map[string]bool{}
	for id, copy := range c.view.x.All() {
		_ = id
		if res.Needed.Has(copy.Ordinal) && c.bad.Has(copy.Ordinal) {
			needed[packName(c.view.x.Pack(c.view.x.Frame(copy.Frame).Pack).ID)] = true
		}
	}
	for _, s := range c.snaps {
		if err := h.snapshot(ctx, s); err != nil {
			return err
		}
	}
	for name, f := range c.hurt {
		if id, ok := parsePackName(name); ok && !needed[name] && len(f.Snapshots) == 0 && c.view.maint.of(id) != index.Live {
			f.Harmless = true
		}
	}
	return nil
}

type hurtWalk struct {
	c     *checker
	snap  *Snapshot
	whole map[pack.ID]bool // folders with nothing lost in them
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
		reason = errors.New("no index segment names something that snapshots need: a segment is missing or damaged; reading finds it in the packs if it is there")
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
	for c, err := range tree.Entries(ctx, h.c.view.node, id) {
		if err != nil {
			return false, h.lost(ctx, at, err)
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
		if run.Hole() {
			continue
		}
		for o, reason := range h.blob(pack.ID(run.ID), run.Length) {
			objects[o] = reason
		}
	}
	for o, reason := range objects {
		if o == noSegment {
			if err := h.lost(ctx, path, reason); err != nil {
				return false, err
			}
			continue
		}
		h.note(o, reason, path)
	}
	return len(objects) == 0, nil
}

// blob returns the objects because of which a blob cannot be had: none if one copy is whole.
func (h *hurtWalk) blob(id pack.ID, length uint64) map[string]error {
	x := h.c.view.x
	var copies [4]index.Copy
	objects := map[string]error{}
	for _, c := range x.Find(copies[:0], id, crypt.SectionContent) {
		name := packName(x.Pack(x.Frame(c.Frame).Pack).ID)
		switch {
		case uint64(c.Length) != length:
			objects[name] = fmt.Errorf("a chunk of %d bytes, a list says %d", c.Length, length)
		case !h.c.bad.Has(c.Ordinal):
			if broken, ok := h.bases(c.Frame, 0); ok {
				return nil
			} else {
				objects[broken] = errors.New("a base of a delta frame is lost")
			}
		default:
			objects[name] = errors.New("it is damaged or gone")
		}
	}
	if len(objects) == 0 {
		objects[noSegment] = &DamageError{Object: "blob " + id.String(), Err: errNotIndexed}
	}
	return objects
}

// bases tells whether every base of a frame can be had; else in which pack the lost one was.
func (h *hurtWalk) bases(n uint32, depth int) (broken string, ok bool) {
	x := h.c.view.x
	f := x.Frame(n)
	for _, id := range f.Bases {
		found := false
		broken := noSegment
		for _, c := range x.Find(nil, id, x.Kind(n)) {
			g := x.Frame(c.Frame)
			if g.Depth >= f.Depth {
				continue
			}
			broken = packName(x.Pack(g.Pack).ID)
			if h.c.bad.Has(c.Ordinal) || depth > pack.MaxDepth {
				continue
			}
			if b, ok := h.bases(c.Frame, depth+1); ok {
				found = true
				break
			} else {
				broken = b
			}
		}
		if !found {
			return broken, false
		}
	}
	return "", true
}
