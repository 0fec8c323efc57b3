package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// examine tells why something that a person condemned has to stay. Only what is of no use goes: what cannot be opened, and snapshots that cannot be restored whole. For others there is
// Forget, which can be taken back; a slip in a name costs nothing.
func (p *pruner) examine(ctx context.Context) error {
	r := p.repo
	// What counts is what this store has, neither a cache nor a replica.
	bare := &Repo{backend: &store{Backend: r.backend.Backend, log: r.opts.Logger}, keys: r.keys, opts: r.opts}
	unread := map[string]bool{}
	var snaps []*Snapshot
	for _, name := range sortedKeys(p.junk) {
		snap, err := bare.tryOpen(ctx, name)
		if damaged(err) {
			snap, err = bare.tryOpen(ctx, name) // it may have been read wrong, once
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("there is no %s to condemn: %w", name, fs.ErrNotExist)
		case damaged(err):
			unread[name] = true
		case err != nil:
			return err
		case snap == nil:
			return fmt.Errorf("%s is in order, it stays: %w", name, fs.ErrInvalid)
		default:
			snaps = append(snaps, snap)
		}
	}
	if len(snaps) == 0 {
		return nil
	}
	v, err := r.lookWithout(ctx, nil, unread, r.listIndex)
	switch {
	case err != nil:
		return err
	case len(v.maint.lost) > 0:
		return &blockedError{v.maint.lost[0]}
	case len(v.damaged) > 0:
		return &blockedError{v.damaged[0]}
	}
	packs, err := r.listPacks(ctx)
	if err != nil {
		return err
	}
	for _, snap := range snaps {
		roots := []pack.ID{snap.root}
		if snap.unread != nil {
			roots = append(roots, *snap.unread)
		}
		res, err := walk.Run(ctx, v.x, v.node, roots, r.opts.Workers)
		if err != nil {
			return err
		}
		if res.Gone() != nil {
			continue
		}
		kept := collect.Keep(v.x, res.Reached, func(n uint32) bool {
			info, ok := packs[v.x.Pack(n).ID]
			return v.x.Pack(n).State != index.Freed && ok && info.Size == int64(v.x.Pack(n).Size)
		})
		if len(kept.Lost) == 0 {
			return fmt.Errorf("%s can be restored whole, it stays, and Forget is for it: %w", snapshotName(snap.ID), fs.ErrInvalid)
		}
	}
	return nil
}

// tryOpen opens an object that may be junk: a *DamageError says that it is. The snapshot is nil for what is none.
func (r *Repo) tryOpen(ctx context.Context, name string) (*Snapshot, error) {
	if _, err := r.backend.Stat(ctx, name); err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(name, snapshotsPrefix):
		return r.openSnapshot(ctx, name)
	case strings.HasPrefix(name, gcPrefix):
		kind, _, ok := gcKind(name)
		if !ok {
			return nil, &DamageError{Object: name, Err: errNoSuchName}
		}
		_, _, err := r.fetchSealed(ctx, name, kind)
		return nil, err
	}
	if strings.HasPrefix(name, forgottenPrefix) {
		_, err := r.readForgotten(ctx, name)
		return nil, err
	}
	o, err := r.openSegment(ctx, name)
	switch {
	case errors.Is(err, errVanished):
		return nil, fs.ErrNotExist
	case err != nil:
		return nil, err
	case o.damage != nil:
		return nil, o.damage
	}
	if err := index.NewBuilder(func(pack.ID) index.State { return index.Live }).Add(o.payload, 0, o.rewritten); err != nil {
		return nil, &DamageError{Object: name, Err: err}
	}
	return nil, nil
}

// takeOut deletes what a person condemned. What is locked is taken for not there as long as that person says so.
func (p *pruner) takeOut(ctx context.Context) error {
	for _, name := range sortedKeys(p.junk) {
		err := p.repo.backend.Delete(ctx, name)
		switch {
		case errors.Is(err, backend.ErrRetained):
			p.rep.Retained++
		case err != nil:
			return err
		default:
			p.rep.TakenOut = append(p.rep.TakenOut, name)
		}
	}
	return nil
}

// without returns the repository as it will be when what a person condemned is deleted, for a dry run.
func (p *pruner) without() *Repo {
	r := p.repo
	w := &Repo{backend: &store{Backend: hiding{r.backend.Backend, p.junk}, log: r.opts.Logger}, keys: r.keys, slot: r.slot, opts: r.opts, cache: r.cache}
	w.own = w
	w.configure(r.config, r.broken)
	return w
}

// hiding is a store without some objects.
type hiding struct {
	backend.Backend
	names map[string]bool
}

func (h hiding) Unwrap() backend.Backend { return h.Backend }

func (h hiding) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if h.names[name] {
		return dst, fmt.Errorf("get %s: %w", name, fs.ErrNotExist)
	}
	return h.Backend.Get(ctx, name, off, n, dst)
}

func (h hiding) Stat(ctx context.Context, name string) (backend.Info, error) {
	if h.names[name] {
		return backend.Info{}, fmt.Errorf("stat %s: %w", name, fs.ErrNotExist)
	}
	return h.Backend.Stat(ctx, name)
}

func (h hiding) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range h.Backend.List(ctx, prefix) {
			if err == nil && h.names[info.Name] {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}
