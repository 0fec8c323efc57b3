// Package mem is a store in memory, for tests and for repositories that live no
// longer than the process.
//
// A [Mem] keeps the contract of [backend.Backend], but for what outlives a
// process, and on request those of [backend.Versioner] and [backend.Retainer].
// Its clock can be given, so that a simulation owns the store's time.
package mem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/varvebackup/varve/backend"
)

// Options changes what New makes. Nil and zero: the system's clock, no versions.
type Options struct {
	// Now is the store's clock. It is called once for each object that is put
	// and, where there are versions, for each that is deleted and each call that
	// has to do with locks; one call at a time.
	Now func() time.Time

	// Versions keeps what is replaced, and has locks.
	Versions bool
}

// A Mem is a backend.Backend in memory. It shares no bytes with its callers.
type Mem struct {
	now  func() time.Time
	keep bool // versions

	mu      sync.RWMutex // guards what follows, and calls of now
	objects map[string][]version
	ids     int // that were given
}

// A version is one of those of a name; the last one is the newest. There is at
// least one, and exactly one where no versions are kept.
type version struct {
	id       string
	data     []byte // never written to again
	modified time.Time
	deleted  bool // a mark
	lock     backend.Retention
}

// New returns an empty store.
func New(o *Options) *Mem {
	m := &Mem{now: time.Now, objects: make(map[string][]version)}
	if o != nil {
		m.keep = o.Versions
		if o.Now != nil {
			m.now = o.Now
		}
	}
	return m
}

// check is what every method but the lists begins with.
func check(ctx context.Context, op, name string) error {
	if !backend.ValidName(name) {
		return fmt.Errorf("backend/mem: %s %q: not a name for an object: %w", op, name, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("backend/mem: %s %s: %w", op, name, err)
	}
	return nil
}

// newest returns what Get reads. The caller holds the lock.
func (m *Mem) newest(name string) (version, bool) {
	vs := m.objects[name]
	if len(vs) == 0 || vs[len(vs)-1].deleted {
		return version{}, false
	}
	return vs[len(vs)-1], true
}

// Put implements [backend.Backend].
func (m *Mem) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if err := check(ctx, "put", name); err != nil {
		return err
	}
	if size < 0 || size > backend.MaxSize {
		return fmt.Errorf("backend/mem: put %s: size %d: %w", name, size, fs.ErrInvalid)
	}
	if o == nil {
		o = new(backend.PutOptions)
	}
	if !o.Retain.IsZero() && !m.keep {
		return noLocks("put", name)
	}
	data := make([]byte, size)
	const piece = 1 << 20
	for off := 0; off < len(data); {
		n, err := r.ReadAt(data[off:min(off+piece, len(data))], int64(off))
		off += n
		if cerr := ctx.Err(); cerr != nil {
			return fmt.Errorf("backend/mem: put %s: %w", name, cerr)
		}
		if err == io.EOF && off < len(data) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("backend/mem: put %s: reading the object to be put: %w", name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.newest(name); ok && o.IfAbsent {
		return fmt.Errorf("backend/mem: put %s: %w", name, fs.ErrExist)
	}
	v := version{id: "null", data: data, modified: m.now()}
	if !o.Retain.IsZero() {
		lock, err := checkLock("put", name, o.Retain, v.modified)
		if err != nil {
			return err
		}
		v.lock = lock
	}
	if !m.keep {
		m.objects[name] = []version{v}
		return nil
	}
	m.ids++
	v.id = fmt.Sprint(m.ids)
	m.objects[name] = append(m.objects[name], v)
	return nil
}

func (m *Mem) lookup(ctx context.Context, op, name string) (version, error) {
	if err := check(ctx, op, name); err != nil {
		return version{}, err
	}
	m.mu.RLock()
	v, ok := m.newest(name)
	m.mu.RUnlock()
	if !ok {
		return version{}, fmt.Errorf("backend/mem: %s %s: %w", op, name, fs.ErrNotExist)
	}
	return v, nil
}

// Get implements [backend.Backend].
func (m *Mem) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return get(name, off, n, dst, func() (version, error) { return m.lookup(ctx, "get", name) })
}

// get appends a part of what find returns to dst.
func get(name string, off, n int64, dst []byte, find func() (version, error)) ([]byte, error) {
	if off < 0 || n > backend.MaxSize {
		return dst, fmt.Errorf("backend/mem: get %s: %d bytes from %d: %w", name, n, off, fs.ErrInvalid)
	}
	v, err := find()
	if err != nil {
		return dst, err
	}
	size := int64(len(v.data))
	if off > size || n > size-off {
		return dst, fmt.Errorf("backend/mem: get %s: %d bytes from %d of %d: %w", name, n, off, size, io.ErrUnexpectedEOF)
	}
	if n < 0 {
		n = size - off
	}
	return append(dst, v.data[off:off+n]...), nil
}

// Stat implements [backend.Backend].
func (m *Mem) Stat(ctx context.Context, name string) (backend.Info, error) {
	v, err := m.lookup(ctx, "stat", name)
	if err != nil {
		return backend.Info{}, err
	}
	return v.info(name), nil
}

func (v version) info(name string) backend.Info {
	return backend.Info{Name: name, Size: int64(len(v.data)), Modified: v.modified}
}

// List implements [backend.Backend]: in order of names, as they are when the
// loop begins, without what is deleted before its turn.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return list(ctx, m, "list", prefix, func(name string) []backend.Info {
		if v, ok := m.newest(name); ok {
			return []backend.Info{v.info(name)}
		}
		return nil
	})
}

// list yields what of returns for each name that begins with prefix, in order of
// names. It calls of with the lock held.
func list[T any](ctx context.Context, m *Mem, op, prefix string, of func(name string) []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if !backend.ValidPrefix(prefix) {
			yield(none, fmt.Errorf("backend/mem: %s %q: no name begins so: %w", op, prefix, fs.ErrInvalid))
			return
		}
		var names []string
		m.mu.RLock()
		for name := range m.objects {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		m.mu.RUnlock()
		slices.Sort(names)
		for _, name := range names {
			if ctx.Err() != nil {
				break
			}
			m.mu.RLock()
			vs := of(name)
			m.mu.RUnlock()
			for _, v := range vs {
				if ctx.Err() != nil {
					break
				}
				if !yield(v, nil) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(none, fmt.Errorf("backend/mem: %s %s: %w", op, prefix, err))
		}
	}
}

// Delete implements [backend.Backend].
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := check(ctx, "delete", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	vs := m.objects[name]
	if m.keep && len(vs) > 0 {
		now := m.now()
		// Older ones go anyway; the newest hides those that stay.
		last := len(vs) - 1
		left := slices.DeleteFunc(slices.Clone(vs[:last]), func(v version) bool { return !v.locked(now) })
		if len(left) > 0 || vs[last].locked(now) {
			m.objects[name] = append(left, vs[last])
			return fmt.Errorf("backend/mem: delete %s: %w", name, backend.ErrRetained)
		}
	}
	delete(m.objects, name)
	return nil
}

var (
	_ backend.Backend   = (*Mem)(nil)
	_ backend.Retainer  = (*Mem)(nil)
	_ backend.Versioner = (*Mem)(nil)
)

func noLocks(op, name string) error {
	return fmt.Errorf("backend/mem: %s %s: this store has no locks: %w", op, name, errors.ErrUnsupported)
}
