package doctor

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
)

// clean removes the probes of this run as far as it may, and returns the names
// of what stays. With wait, it waits for its own locks to end where that helps.
func (r *run) clean(ctx context.Context, wait bool) ([]string, error) {
	var names []string
	r.note(func(*Report) {
		for name := range r.own {
			names = append(names, name)
		}
	})
	if wait {
		old, err := r.old(ctx)
		if err != nil {
			return nil, err
		}
		names = append(names, old...)
	}
	slices.Sort(names)
	var mu sync.Mutex // guards left
	var left []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range names {
		g.Go(func() error {
			there, err := r.remove(gctx, name, wait)
			if there && err == nil && r.own[name] {
				mu.Lock()
				defer mu.Unlock()
				left = append(left, name)
			}
			return err
		})
	}
	err := g.Wait()
	slices.Sort(left)
	return left, err
}

// old returns the names of probes of earlier runs that could not remove them, and
// that these credentials may be able to.
func (r *run) old(ctx context.Context) (names []string, err error) {
	for _, f := range r.rep.Folders {
		if f.Delete != Done {
			continue
		}
		for info, err := range r.b.List(ctx, f.Name+"probe-") {
			if err != nil {
				return nil, err
			}
			if !r.own[info.Name] && time.Now().Add(r.ahead).Sub(info.Modified) > age {
				names = append(names, info.Name)
			}
		}
	}
	return names, nil
}

// remove removes a probe, and reports whether something of it stays.
func (r *run) remove(ctx context.Context, name string, wait bool) (there bool, err error) {
	there, until, err := r.remains(ctx, name)
	if err != nil || !there {
		return false, err
	}
	o, err := result(r.b.Delete(ctx, name))
	if err == nil && o == Locked && wait && !until.IsZero() && r.deletes(name) {
		// By the store's clock, which is known to about a second.
		if d := time.Until(until.Add(-r.ahead)) + time.Second; d < lockMax {
			select {
			case <-time.After(max(d, 0)):
				_, err = result(r.b.Delete(ctx, name))
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
	}
	if err != nil {
		return true, err
	}
	there, _, err = r.remains(ctx, name)
	return there, err
}

// deletes reports whether these credentials can delete in the folder of a name.
func (r *run) deletes(name string) bool {
	return slices.ContainsFunc(r.rep.Folders, func(f Folder) bool { return strings.HasPrefix(name, f.Name) && f.Delete == Done })
}

// remains reports whether there is any version of an object, having ended the
// locks that it may end, and until when the last of the others lasts.
func (r *run) remains(ctx context.Context, name string) (there bool, until time.Time, err error) {
	ids := []string{}
	for v, verr := range backend.Versions(ctx, r.b, name) {
		o, err := result(verr)
		if err != nil {
			return false, until, err
		}
		if o != Done {
			_, err := r.b.Stat(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				return false, until, nil
			} else if err != nil {
				return false, until, err
			}
			return true, until, nil
		}
		if v.Name == name {
			there = true
			if !v.Deleted {
				ids = append(ids, v.ID)
			}
		}
	}
	for _, id := range ids {
		is, err := backend.RetentionOf(ctx, r.b, name, id)
		if err != nil || is.IsZero() {
			continue // then no lock keeps it, or nobody can tell
		}
		if backend.Shorten(ctx, r.b, name, id, backend.Retention{}) != nil && is.Until.After(until) {
			until = is.Until
		}
	}
	return there, until, ctx.Err()
}
