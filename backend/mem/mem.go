// Package mem is a store in memory, for tests and for repositories that live no
// longer than the process.
//
// A [Mem] keeps the contract of [backend.Backend], but for what outlives a
// process. Its clock can be given, so that a simulation owns the store's time.
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

// Options changes what New makes. Nil and zero: the system's clock.
type Options struct {
	// Now is the store's clock. It is called once for each object that is put,
	// one call at a time.
	Now func() time.Time
}

// A Mem is a backend.Backend in memory. It shares no bytes with its callers.
type Mem struct {
	now func() time.Time

	mu      sync.RWMutex // guards objects, and calls of now
	objects map[string]object
}

type object struct {
	data     []byte // never written to again
	modified time.Time
}

// New returns an empty store.
func New(o *Options) *Mem {
	m := &Mem{now: time.Now, objects: make(map[string]object)}
	if o != nil && o.Now != nil {
		m.now = o.Now
	}
	return m
}

// check is what every method but List begins with.
func check(ctx context.Context, op, name string) error {
	if !backend.ValidName(name) {
		return fmt.Errorf("backend/mem: %s %q: not a name for an object: %w", op, name, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("backend/mem: %s %s: %w", op, name, err)
	}
	return nil
}

// Put implements [backend.Backend].
func (m *Mem) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if err := check(ctx, "put", name); err != nil {
		return err
	}
	if size < 0 || size > backend.MaxSize {
		return fmt.Errorf("backend/mem: put %s: size %d: %w", name, size, fs.ErrInvalid)
	}
	if o != nil && !o.Retain.IsZero() {
		return fmt.Errorf("backend/mem: put %s: no locks here: %w", name, errors.ErrUnsupported)
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
	if _, ok := m.objects[name]; ok && o != nil && o.IfAbsent {
		return fmt.Errorf("backend/mem: put %s: %w", name, fs.ErrExist)
	}
	m.objects[name] = object{data, m.now()}
	return nil
}

func (m *Mem) lookup(ctx context.Context, op, name string) (object, error) {
	if err := check(ctx, op, name); err != nil {
		return object{}, err
	}
	m.mu.RLock()
	obj, ok := m.objects[name]
	m.mu.RUnlock()
	if !ok {
		return object{}, fmt.Errorf("backend/mem: %s %s: %w", op, name, fs.ErrNotExist)
	}
	return obj, nil
}

// Get implements [backend.Backend].
func (m *Mem) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if off < 0 || n > backend.MaxSize {
		return dst, fmt.Errorf("backend/mem: get %s: %d bytes from %d: %w", name, n, off, fs.ErrInvalid)
	}
	obj, err := m.lookup(ctx, "get", name)
	if err != nil {
		return dst, err
	}
	size := int64(len(obj.data))
	if off > size || n > size-off {
		return dst, fmt.Errorf("backend/mem: get %s: %d bytes from %d of %d: %w", name, n, off, size, io.ErrUnexpectedEOF)
	}
	if n < 0 {
		n = size - off
	}
	return append(dst, obj.data[off:off+n]...), nil
}

// Stat implements [backend.Backend].
func (m *Mem) Stat(ctx context.Context, name string) (backend.Info, error) {
	obj, err := m.lookup(ctx, "stat", name)
	if err != nil {
		return backend.Info{}, err
	}
	return obj.info(name), nil
}

func (o object) info(name string) backend.Info {
	return backend.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}
}

// List implements [backend.Backend]: in order of names, as they are when the
// loop begins, without what is deleted before its turn.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		if !backend.ValidPrefix(prefix) {
			yield(backend.Info{}, fmt.Errorf("backend/mem: list %q: no name begins so: %w", prefix, fs.ErrInvalid))
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
			obj, ok := m.objects[name]
			m.mu.RUnlock()
			if ok && !yield(obj.info(name), nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(backend.Info{}, fmt.Errorf("backend/mem: list %s: %w", prefix, err))
		}
	}
}

// Delete implements [backend.Backend].
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := check(ctx, "delete", name); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.objects, name)
	m.mu.Unlock()
	return nil
}
