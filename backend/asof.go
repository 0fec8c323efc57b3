package backend

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"sync"
	"time"
)

// AsOf returns a read-only view of what b, a store that keeps versions, held at
// time t by its own clock: of each name the newest version that was there, if
// that is no mark of a deletion. Put and Delete are refused with
// [fs.ErrPermission]; the error of reading is [errors.ErrUnsupported] where b is
// no [Versioner].
//
// Each name that is read costs a listing of its versions, once: which version
// it is, is remembered.
func AsOf(b Backend, t time.Time) Backend {
	return &asOf{Backend: ReadOnly(b), b: b, t: t, known: map[string]Version{}}
}

type asOf struct {
	Backend // for what is refused
	b       Backend
	t       time.Time

	mu    sync.Mutex // guards known
	known map[string]Version
}

// current yields the versions that were the newest at the time, marks too.
func (a *asOf) current(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		last := ""
		for v, err := range Versions(ctx, a.b, prefix) {
			if err != nil {
				yield(Version{}, err)
				return
			}
			if v.Modified.After(a.t) || v.Name == last {
				continue
			}
			last = v.Name
			if !yield(v, nil) {
				return
			}
		}
	}
}

func (a *asOf) version(ctx context.Context, op, name string) (Version, error) {
	if !ValidName(name) {
		return Version{}, fmt.Errorf("backend: %s %q: not a name for an object: %w", op, name, fs.ErrInvalid)
	}
	a.mu.Lock()
	v, ok := a.known[name]
	a.mu.Unlock()
	if !ok {
		for w, err := range a.current(ctx, name) {
			if err != nil {
				return Version{}, err
			}
			if w.Name == name {
				v, ok = w, true
				break
			}
		}
		if !ok {
			v.Deleted = true
		}
		a.mu.Lock()
		a.known[name] = v
		a.mu.Unlock()
	}
	if v.Deleted {
		return Version{}, fmt.Errorf("backend: %s %s: as of %s: %w", op, name, a.t.UTC().Format(time.RFC3339), fs.ErrNotExist)
	}
	return v, nil
}

func (a *asOf) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if off < 0 || n > MaxSize {
		return dst, fmt.Errorf("backend: get %s: %d bytes from %d: %w", name, n, off, fs.ErrInvalid)
	}
	v, err := a.version(ctx, "get", name)
	if err != nil {
		return dst, err
	}
	out, err := GetVersion(ctx, a.b, name, v.ID, off, n, dst)
	if err != nil {
		return dst, err
	}
	return out, nil
}

func (a *asOf) Stat(ctx context.Context, name string) (Info, error) {
	v, err := a.version(ctx, "stat", name)
	return v.Info, err
}

func (a *asOf) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for v, err := range a.current(ctx, prefix) {
			if err == nil && v.Deleted {
				continue
			}
			if !yield(v.Info, err) || err != nil {
				return
			}
		}
	}
}

func (a *asOf) Retention(ctx context.Context, name, version string) (Retention, error) {
	if version == "" {
		v, err := a.version(ctx, "retention", name)
		if err != nil {
			return Retention{}, err
		}
		version = v.ID
	}
	return RetentionOf(ctx, a.b, name, version)
}

// Versions yields those that came no later; Latest is which was then.
func (a *asOf) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		last := ""
		for v, err := range Versions(ctx, a.b, prefix) {
			if err == nil {
				if v.Modified.After(a.t) {
					continue
				}
				v.Latest = v.Name != last
				last = v.Name
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

func (a *asOf) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return GetVersion(ctx, a.b, name, id, off, n, dst)
}

func (a *asOf) Retain(ctx context.Context, name, version string, r Retention) error {
	return Retain(ctx, a.Backend, name, version, r) // refused
}

func (a *asOf) Shorten(ctx context.Context, name, version string, r Retention) error {
	return Shorten(ctx, a.Backend, name, version, r)
}

func (a *asOf) DeleteVersion(ctx context.Context, name, id string) error {
	return DeleteVersion(ctx, a.Backend, name, id)
}

func (a *asOf) Unwrap() Backend { return a.b }
