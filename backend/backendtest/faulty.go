package backendtest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvebackup/varve/backend"
)

// An Op names a method of a Backend, and one more moment.
type Op string

const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list" // Before: the prefix, when the loop begins; After: when it ends
	Delete Op = "delete"
	Entry  Op = "entry" // an object that List is about to yield; Before only
)

// A Faulty is a Backend around another one that counts, delays and fails calls.
// Set its fields before the first call. Hooks may run in several goroutines at
// once.
type Faulty struct {
	Backend backend.Backend

	// Before, if it returns an error, ends the call with that error; nothing
	// reaches Backend.
	Before func(ctx context.Context, op Op, name string) error

	// After sees what Backend returned and says what the caller gets: a reply
	// that is lost is an error in place of nil. It can't undo an error of a Get,
	// Stat or List.
	After func(ctx context.Context, op Op, name string, err error) error

	// Corrupt may change the bytes that Get read from off on.
	Corrupt func(name string, off int64, p []byte)

	// Latency is waited for before each call, or until the context is done.
	Latency time.Duration

	counts [5]atomic.Int64 // calls, in the order of Counts
	bytes  [2]atomic.Int64 // read, written
}

// Counts is what went through a Faulty: calls, also those that failed, and the
// bytes of objects that a Get returned or a Put that succeeded stored.
type Counts struct {
	Puts, Gets, Stats, Lists, Deletes int64
	BytesRead, BytesWritten           int64
}

// Counts returns the counts since the start or the last Reset.
func (f *Faulty) Counts() Counts {
	c := func(i int) int64 { return f.counts[i].Load() }
	return Counts{c(0), c(1), c(2), c(3), c(4), f.bytes[0].Load(), f.bytes[1].Load()}
}

// Reset sets all counts to zero.
func (f *Faulty) Reset() {
	for i := range f.counts {
		f.counts[i].Store(0)
	}
	for i := range f.bytes {
		f.bytes[i].Store(0)
	}
}

// Unwrap returns the Backend inside.
func (f *Faulty) Unwrap() backend.Backend { return f.Backend }

// Nth returns a hook for Before that fails the nth, counted from 1, of the calls
// of op with err; with Lost, one for After.
func Nth(op Op, err error, nth ...int) func(context.Context, Op, string) error {
	var mu sync.Mutex
	count := 0
	return func(_ context.Context, o Op, _ string) error {
		if o != op {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		count++
		if slices.Contains(nth, count) {
			return err
		}
		return nil
	}
}

// Lost turns a hook for Before into one for After: the call takes effect, and
// its reply is the hook's error.
func Lost(before func(context.Context, Op, string) error) func(context.Context, Op, string, error) error {
	return func(ctx context.Context, op Op, name string, err error) error {
		if lost := before(ctx, op, name); lost != nil {
			return lost
		}
		return err
	}
}

func (f *Faulty) before(ctx context.Context, op Op, i int, name string) error {
	f.counts[i].Add(1)
	if f.Latency > 0 {
		t := time.NewTimer(f.Latency)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("backendtest: %s %s: %w", op, name, ctx.Err())
		}
	}
	return f.hook(ctx, op, name)
}

func (f *Faulty) hook(ctx context.Context, op Op, name string) error {
	if f.Before != nil {
		if err := f.Before(ctx, op, name); err != nil {
			return fmt.Errorf("backendtest: %s %s: %w", op, name, err)
		}
	}
	return nil
}

func (f *Faulty) after(ctx context.Context, op Op, name string, err error) error {
	if f.After == nil {
		return err
	}
	aerr := f.After(ctx, op, name, err)
	if aerr == nil && op != Put && op != Delete {
		return err
	}
	return aerr
}

// Put implements [backend.Backend].
func (f *Faulty) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if err := f.before(ctx, Put, 0, name); err != nil {
		return err
	}
	err := f.Backend.Put(ctx, name, r, size, o)
	if err == nil {
		f.bytes[1].Add(size)
	}
	return f.after(ctx, Put, name, err)
}

// Get implements [backend.Backend].
func (f *Faulty) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if err := f.before(ctx, Get, 1, name); err != nil {
		return dst, err
	}
	out, err := f.Backend.Get(ctx, name, off, n, dst)
	f.bytes[0].Add(int64(len(out) - len(dst)))
	if err = f.after(ctx, Get, name, err); err != nil {
		return dst, err
	}
	if f.Corrupt != nil {
		f.Corrupt(name, off, out[len(dst):])
	}
	return out, nil
}

// Stat implements [backend.Backend].
func (f *Faulty) Stat(ctx context.Context, name string) (backend.Info, error) {
	if err := f.before(ctx, Stat, 2, name); err != nil {
		return backend.Info{}, err
	}
	info, err := f.Backend.Stat(ctx, name)
	if err = f.after(ctx, Stat, name, err); err != nil {
		return backend.Info{}, err
	}
	return info, nil
}

// List implements [backend.Backend].
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		err := f.before(ctx, List, 3, prefix)
		if err != nil {
			yield(backend.Info{}, err)
			return
		}
		for info, lerr := range f.Backend.List(ctx, prefix) {
			if lerr != nil {
				err = lerr
				break
			}
			if err = f.hook(ctx, Entry, info.Name); err != nil {
				break
			}
			if !yield(info, nil) {
				return
			}
		}
		if err = f.after(ctx, List, prefix, err); err != nil {
			yield(backend.Info{}, err)
		}
	}
}

// Delete implements [backend.Backend].
func (f *Faulty) Delete(ctx context.Context, name string) error {
	if err := f.before(ctx, Delete, 4, name); err != nil {
		return err
	}
	return f.after(ctx, Delete, name, f.Backend.Delete(ctx, name))
}
