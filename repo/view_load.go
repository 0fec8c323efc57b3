package repo

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// loadView is what a session believes: it reads gc/ and then index/, in this order: a pack that a collection frees in between is known to be condemned. Records that
// say what may vanish and cannot be read are a *DamageError here, for whoever goes on without them relies on what is being deleted.
func (r *Repo) loadView(ctx context.Context) (*view, error) {
	v, err := r.look(ctx, nil)
	if err == nil && len(v.maint.lost) > 0 {
		return nil, fmt.Errorf("it is not known which packs maintenance is about to free: %w", v.maint.lost[0])
	}
	return v, err
}

// look is loadView for readers, who have no use for that knowledge. What is in strays is found as well.
func (r *Repo) look(ctx context.Context, strays []stray) (*view, error) {
	return r.lookWithout(ctx, strays, nil, r.listIndex)
}

// lookWithout is look for a repository without some segments. list is listIndex, or listDated.
func (r *Repo) lookWithout(ctx context.Context, strays []stray, junk map[string]bool, list func(context.Context, map[string]bool) ([]backend.Info, error)) (*view, error) {
	// Somebody who replaces segments again and again, beside a store that is slow, may be faster than a few tries.
	const tries, patience = 10, 2 * time.Minute
	pauses := &backoff.ExponentialBackOff{InitialInterval: 20 * time.Millisecond, Multiplier: 1.5, MaxInterval: 5 * time.Second} // not by chance, so that a simulation replays
	pauses.Reset()
	begun := time.Now()
	for try := 1; ; try++ {
		var listed []backend.Info
		if broken.indexFirst {
			var err error
			if listed, err = list(ctx, junk); err != nil {
				return nil, err
			}
		}
		m, err := r.loadMaintenance(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the state of maintenance: %w", err)
		}
		if !broken.indexFirst {
			if listed, err = list(ctx, junk); err != nil {
				return nil, fmt.Errorf("read the index: %w", err)
			}
		}
		v, err := r.loadIndex(ctx, m, listed, strays)
		// A listed segment that is not there was replaced in the meantime: start over.
		if errors.Is(err, errVanished) && (try < tries || time.Since(begun) < patience) {
			select {
			case <-time.After(pauses.NextBackOff()):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read the index: %w", err)
		}
		return v, nil
	}
}

var errVanished = errors.New("a listed segment is not there")

// opened is one segment, its payload opened.
type opened struct {
	payload   []byte
	stored    int64
	rewritten bool
	damage    *DamageError
}

// listIndex lists the segments, without junk.
func (r *Repo) listIndex(ctx context.Context, junk map[string]bool) (all []backend.Info, err error) {
	for info, err := range r.backend.List(ctx, indexPrefix) {
		if err != nil {
			return nil, err
		}
		if !junk[info.Name] {
			all = append(all, info)
		}
	}
	return all, nil
}

// listDated is listIndex for the collector, which goes by births: a segment is as old as its oldest version. Where versions are kept, and objects may be replaced, somebody could put a segment again as
// it is, and all that it names would be younger than what was claimed meanwhile; so it is with one that was healed. Nobody knows the name of a segment before there is one.
func (r *Repo) listDated(ctx context.Context, junk map[string]bool) ([]backend.Info, error) {
	all, err := r.listIndex(ctx, junk)
	if err != nil {
		return nil, err
	}
	place := make(map[string]int, len(all))
	for i := range all {
		place[all[i].Name] = i
	}
	for v, err := range backend.Versions(ctx, r.backend.Backend, indexPrefix) {
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			break // the newest is all that there is to go by
		} else if err != nil {
			return nil, err
		}
		if i, ok := place[v.Name]; ok && !v.Deleted && v.Modified.Before(all[i].Modified) {
			all[i].Modified = v.Modified
		}
	}
	return all, nil
}

func (r *Repo) loadIndex(ctx context.Context, m *maintenance, all []backend.Info, strays []stray) (*view, error) {
	var size int64
	keep := map[string]bool{}
	for _, info := range all {
		size += info.Size
		keep[strings.TrimPrefix(info.Name, indexPrefix)] = true
	}
	r.cache.keep("index", keep)

	v := &view{repo: r, maint: m, frames: map[uint32]*list.Element{}, lru: list.New(), limit: r.opts.MaxMemory / 4,
		keys: map[*pack.Section]*pack.SectionKey{}}
	state := m.of
	if broken.believeCandidates {
		state = func(id pack.ID) index.State {
			if is := m.of(id); is != index.Condemned {
				return is
			}
			return index.Live
		}
	}
	b := index.NewBuilder(state)
	b.Expect(size)

	// Segments are fetched several at a time and added in the order of the list.
	const ahead = 3
	g, gctx := errgroup.WithContext(ctx)
	results := make(chan chan opened, ahead)
	g.Go(func() error {
		defer close(results)
		for _, l := range all {
			c := make(chan opened, 1)
			select {
			case results <- c:
			case <-gctx.Done():
				return gctx.Err()
			}
			g.Go(func() error {
				o, err := r.openSegment(gctx, l.Name)
				if err != nil {
					close(c)
					return err
				}
				o.stored = l.Modified.Unix()
				c <- o
				return nil
			})
		}
		return nil
	})
	i := 0
	for c := range results {
		info := all[i]
		i++
		o, ok := <-c
		if !ok {
			continue // g has the error
		}
		if o.damage == nil {
			if err := b.Add(o.payload, o.stored, o.rewritten); err != nil {
				o.damage = &DamageError{Object: info.Name, Err: err}
			}
		}
		if o.damage != nil {
			v.damaged = append(v.damaged, o.damage)
			continue
		}
		v.segments = append(v.segments, info)
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, l := range all {
		v.listed = append(v.listed, l.Name)
	}
	slices.Sort(v.listed)
	for i := range strays {
		if s := &strays[i]; s.err == nil {
			s.err = b.Add(s.payload, s.stored, false)
		}
	}
	v.x = b.Index()
	return v, nil
}

// openSegment reads a segment, from the cache if it is there. Damage is no error but a result.
func (r *Repo) openSegment(ctx context.Context, name string) (opened, error) {
	id := strings.TrimPrefix(name, indexPrefix)
	if b := r.cache.get("index", id); len(b) > 1 {
		return opened{payload: b[1:], rewritten: crypt.Kind(b[0]) == crypt.KindRewritten}, nil
	}
	object, err := r.backend.Get(ctx, name, 0, -1, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return opened{}, fmt.Errorf("%w: %s", errVanished, name)
	} else if errors.Is(err, crypt.ErrDamaged) {
		return opened{damage: &DamageError{Object: name, Err: err}}, nil
	} else if err != nil {
		return opened{}, err
	}
	kind, payload, err := r.openObject(name, object, crypt.KindSegment, crypt.KindRewritten)
	if d, ok := errors.AsType[*DamageError](err); ok {
		return opened{damage: d}, nil
	} else if err != nil {
		return opened{}, err
	}
	if r.cache != nil {
		r.remember("index", id, append([]byte{byte(kind)}, payload...))
	}
	return opened{payload: payload, rewritten: kind == crypt.KindRewritten}, nil
}
