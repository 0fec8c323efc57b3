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
	Entry  Op = "entry" // an object that List, or a version that Versions, is about to yield; Before only

	// Of a Retainer and a Versioner.
	Retain        Op = "retain"
	Retention     Op = "retention"
	Shorten       Op = "shorten"
	Versions      Op = "versions" // like List
	GetVersion    Op = "get version"
	DeleteVersion Op = "delete version"
)

// order is that of Faulty.counts.
var order = []Op{Put, Get, Stat, List, Delete, Retain, Retention, Shorten, Versions, GetVersion, DeleteVersion}

// A Faulty is a Backend around another one that counts, delays and fails calls,
// those of a [backend.Retainer] and a [backend.Versioner] too.
// Set its fields before the first call. Hooks may run in several goroutines at
// once.
type Faulty struct {
	Backend backend.Backend

	// Before, if it returns an error, ends the call with that error; nothing
	// reaches Backend.
	Before func(ctx context.Context, op Op, name string) error

	// After sees what Backend returned and says what the caller gets: a reply
	// that is lost is an error in place of nil. It can't undo an error of a call
	// that reads.
	After func(ctx context.Context, op Op, name string, err error) error

	// Corrupt may change the bytes that Get or GetVersion read from off on.
	Corrupt func(name string, off int64, p []byte)

	// Latency is waited for before each call, or until the context is done.
	Latency time.Duration

	counts [11]atomic.Int64 // calls
	bytes  [2]atomic.Int64  // read, written
}

// Counts is what went through a Faulty: calls, also those that failed, and the
// bytes of objects that a Get or GetVersion returned or a Put that succeeded
// stored.
type Counts struct {
	Puts, Gets, Stats, Lists, Deletes int64
	BytesRead, BytesWritten           int64

	Retains, Retentions, Shortens               int64
	VersionLists, VersionGets, VersionDeletions int64
}

// Counts returns the counts since the start or the last Reset.
func (f *Faulty) Counts() Counts {
	c := func(op Op) int64 { return f.counts[slices.Index(order, op)].Load() }
	return Counts{
		Puts: c(Put), Gets: c(Get), Stats: c(Stat), Lists: c(List), Deletes: c(Delete),
		BytesRead: f.bytes[0].Load(), BytesWritten: f.bytes[1].Load(),
		Retains: c(Retain), Retentions: c(Retention), Shortens: c(Shorten),
		VersionLists: c(Versions), VersionGets: c(GetVersion), VersionDeletions: c(DeleteVersion),
	}
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

func (f *Faulty) before(ctx context.Context, op Op, name string) error {
	f.counts[slices.Index(order, op)].Add(1)
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
	if aerr == nil {
		switch op {
		case Get, Stat, List, Retention, Versions, GetVersion:
			return err
		}
	}
	return aerr
}

// Put implements [backend.Backend].
func (f *Faulty) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if err := f.before(ctx, Put, name); err != nil {
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
	return f.get(ctx, Get, name, off, dst, func() ([]byte, error) { return f.Backend.Get(ctx, name, off, n, dst) })
}

// get calls read, which appends to dst.
func (f *Faulty) get(ctx context.Context, op Op, name string, off int64, dst []byte, read func() ([]byte, error)) ([]byte, error) {
	if err := f.before(ctx, op, name); err != nil {
		return dst, err
	}
	out, err := read()
	f.bytes[0].Add(int64(len(out) - len(dst)))
	if err = f.after(ctx, op, name, err); err != nil {
		return dst, err
	}
	if f.Corrupt != nil {
		f.Corrupt(name, off, out[len(dst):])
	}
	return out, nil
}

// Stat implements [backend.Backend].
func (f *Faulty) Stat(ctx context.Context, name string) (backend.Info, error) {
	if err := f.before(ctx, Stat, name); err != nil {
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
	return list(ctx, f, List, prefix, f.Backend.List(ctx, prefix), func(i backend.Info) string { return i.Name })
}

func list[T any](ctx context.Context, f *Faulty, op Op, prefix string, all iter.Seq2[T, error], name func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		err := f.before(ctx, op, prefix)
		if err != nil {
			yield(none, err)
			return
		}
		for v, lerr := range all {
			if lerr != nil {
				err = lerr
				break
			}
			if err = f.hook(ctx, Entry, name(v)); err != nil {
				break
			}
			if !yield(v, nil) {
				return
			}
		}
		if err = f.after(ctx, op, prefix, err); err != nil {
			yield(none, err)
		}
	}
}

// Delete implements [backend.Backend].
func (f *Faulty) Delete(ctx context.Context, name string) error {
	if err := f.before(ctx, Delete, name); err != nil {
		return err
	}
	return f.after(ctx, Delete, name, f.Backend.Delete(ctx, name))
}

// Retain implements [backend.Retainer].
func (f *Faulty) Retain(ctx context.Context, name, version string, r backend.Retention) error {
	if err := f.before(ctx, Retain, name); err != nil {
		return err
	}
	return f.after(ctx, Retain, name, backend.Retain(ctx, f.Backend, name, version, r))
}

// Retention implements [backend.Retainer].
func (f *Faulty) Retention(ctx context.Context, name, version string) (backend.Retention, error) {
	if err := f.before(ctx, Retention, name); err != nil {
		return backend.Retention{}, err
	}
	r, err := backend.RetentionOf(ctx, f.Backend, name, version)
	if err = f.after(ctx, Retention, name, err); err != nil {
		return backend.Retention{}, err
	}
	return r, nil
}

// Shorten implements [backend.Retainer].
func (f *Faulty) Shorten(ctx context.Context, name, version string, r backend.Retention) error {
	if err := f.before(ctx, Shorten, name); err != nil {
		return err
	}
	return f.after(ctx, Shorten, name, backend.Shorten(ctx, f.Backend, name, version, r))
}

// Versions implements [backend.Versioner].
func (f *Faulty) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	return list(ctx, f, Versions, prefix, backend.Versions(ctx, f.Backend, prefix), func(v backend.Version) string { return v.Name })
}

// GetVersion implements [backend.Versioner].
func (f *Faulty) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return f.get(ctx, GetVersion, name, off, dst, func() ([]byte, error) { return backend.GetVersion(ctx, f.Backend, name, id, off, n, dst) })
}

// DeleteVersion implements [backend.Versioner].
func (f *Faulty) DeleteVersion(ctx context.Context, name, id string) error {
	if err := f.before(ctx, DeleteVersion, name); err != nil {
		return err
	}
	return f.after(ctx, DeleteVersion, name, backend.DeleteVersion(ctx, f.Backend, name, id))
}
