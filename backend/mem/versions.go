package mem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"time"

	"github.com/varvebackup/varve/backend"
)

func (v version) locked(now time.Time) bool { return v.lock.Until.After(now) }

// checkLock returns a lock as it is kept, or what is wrong with it.
func checkLock(op, name string, r backend.Retention, now time.Time) (backend.Retention, error) {
	if r.Mode != backend.Governance && r.Mode != backend.Compliance {
		return r, fmt.Errorf("backend/mem: %s %s: no mode of locks: %q: %w", op, name, r.Mode, fs.ErrInvalid)
	}
	if r = r.RoundUp(); !r.Until.After(now) {
		return r, fmt.Errorf("backend/mem: %s %s: the lock would be over already, by the clock of the store: %w", op, name, fs.ErrInvalid)
	}
	return r, nil
}

// at finds a version, the newest if id is empty, and calls f with it and the
// time, with the lock held.
func (m *Mem) at(ctx context.Context, op, name, id string, f func(v *version, now time.Time) error) error {
	if err := check(ctx, op, name); err != nil {
		return err
	}
	if !m.keep {
		return noLocks(op, name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	vs := m.objects[name]
	for i := range slices.Backward(vs) {
		if v := &vs[i]; v.id == id || id == "" {
			if v.deleted {
				break
			}
			return f(v, m.now())
		}
	}
	return fmt.Errorf("backend/mem: %s %s: version %q: %w", op, name, id, fs.ErrNotExist)
}

// Retain implements [backend.Retainer].
func (m *Mem) Retain(ctx context.Context, name, id string, r backend.Retention) error {
	return m.at(ctx, "retain", name, id, func(v *version, now time.Time) error {
		r, err := checkLock("retain", name, r, now)
		if err != nil {
			return err
		}
		if v.locked(now) {
			r = r.Stricter(v.lock)
		}
		v.lock = r
		return nil
	})
}

// Retention implements [backend.Retainer].
func (m *Mem) Retention(ctx context.Context, name, id string) (r backend.Retention, err error) {
	err = m.at(ctx, "retention", name, id, func(v *version, now time.Time) error {
		if v.locked(now) {
			r = v.lock
		}
		return nil
	})
	return r, err
}

// Shorten implements [backend.Retainer]. Everybody may end a lock of governance.
func (m *Mem) Shorten(ctx context.Context, name, id string, r backend.Retention) error {
	return m.at(ctx, "shorten", name, id, func(v *version, now time.Time) (err error) {
		if !r.IsZero() {
			if r, err = checkLock("shorten", name, r, now); err != nil {
				return err
			}
		}
		if v.locked(now) && v.lock.Mode == backend.Compliance && (r.Mode != backend.Compliance || r.Until.Before(v.lock.Until)) {
			return fmt.Errorf("backend/mem: shorten %s: locked in compliance mode until %s: %w", name, v.lock.Until.Format(time.RFC3339), fs.ErrPermission)
		}
		v.lock = r
		return nil
	})
}

func noVersions(op, name string) error {
	return fmt.Errorf("backend/mem: %s %s: this store keeps no versions: %w", op, name, errors.ErrUnsupported)
}

// Versions implements [backend.Versioner], otherwise like List.
func (m *Mem) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	const op = "list versions of"
	if !m.keep && backend.ValidPrefix(prefix) {
		return func(yield func(backend.Version, error) bool) { yield(backend.Version{}, noVersions(op, prefix)) }
	}
	return list(ctx, m, op, prefix, func(name string) (all []backend.Version) {
		for _, v := range slices.Backward(m.objects[name]) {
			all = append(all, backend.Version{Info: v.info(name), ID: v.id, Latest: len(all) == 0, Deleted: v.deleted})
		}
		return all
	})
}

func (m *Mem) checkID(ctx context.Context, op, name, id string) error {
	if err := check(ctx, op, name); err != nil {
		return err
	}
	if !m.keep {
		return noVersions(op, name)
	}
	if id == "" {
		return fmt.Errorf("backend/mem: %s %s: an empty id: %w", op, name, fs.ErrInvalid)
	}
	return nil
}

// GetVersion implements [backend.Versioner].
func (m *Mem) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return get(name, off, n, dst, func() (version, error) {
		const op = "get a version of"
		if err := m.checkID(ctx, op, name, id); err != nil {
			return version{}, err
		}
		m.mu.RLock()
		defer m.mu.RUnlock()
		for _, v := range m.objects[name] {
			if v.id == id && !v.deleted {
				return v, nil
			}
		}
		return version{}, fmt.Errorf("backend/mem: %s %s: version %q: %w", op, name, id, fs.ErrNotExist)
	})
}

// DeleteVersion implements [backend.Versioner].
func (m *Mem) DeleteVersion(ctx context.Context, name, id string) error {
	const op = "delete a version of"
	if err := m.checkID(ctx, op, name, id); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	vs := m.objects[name]
	i := slices.IndexFunc(vs, func(v version) bool { return v.id == id })
	if i < 0 {
		return nil
	}
	if vs[i].locked(m.now()) {
		return fmt.Errorf("backend/mem: %s %s: version %s is locked until %s: %w", op, name, id, vs[i].lock.Until.Format(time.RFC3339), backend.ErrRetained)
	}
	if vs = slices.Delete(slices.Clone(vs), i, i+1); len(vs) == 0 {
		delete(m.objects, name)
	} else {
		m.objects[name] = vs
	}
	return nil
}

// Hide implements [backend.Thief].
func (m *Mem) Hide(ctx context.Context, name string) error {
	if !m.keep {
		return m.Delete(ctx, name)
	}
	if err := check(ctx, "hide", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids++
	m.objects[name] = append(m.objects[name], version{id: fmt.Sprint(m.ids), modified: m.now(), deleted: true})
	return nil
}
