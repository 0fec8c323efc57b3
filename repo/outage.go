package repo

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/varvebackup/varve/backend"
)

// An outage remembers that a store kept a call waiting and then failed, so that whoever reads waits for it once and not for each object.
type outage struct {
	mu    sync.Mutex // guards what follows
	until time.Time
	err   error
}

const (
	outageAfter = 5 * time.Second // a failure that took so long is one; a disk's bad sector is told at once
	outageFor   = time.Minute     // so long it is not asked again
)

// is returns why the store is left alone just now, or nil.
func (o *outage) is() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Now().Before(o.until) {
		return o.err
	}
	return nil
}

// note takes notice of a call's result.
func (o *outage) note(ctx context.Context, began time.Time, err error) {
	now := time.Now()
	if err == nil || ctx.Err() != nil || now.Sub(began) < outageAfter {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until, o.err = now.Add(outageFor), err
}

// A replica is what a store reads from besides its own: during an outage every call fails at once.
type replica struct {
	backend.Backend
	outage outage
}

func (r *replica) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if err := r.outage.is(); err != nil {
		return dst, err
	}
	began := time.Now()
	data, err := r.Backend.Get(ctx, name, off, n, dst)
	r.outage.note(ctx, began, err)
	return data, err
}

func (r *replica) Stat(ctx context.Context, name string) (backend.Info, error) {
	if err := r.outage.is(); err != nil {
		return backend.Info{}, err
	}
	began := time.Now()
	info, err := r.Backend.Stat(ctx, name)
	r.outage.note(ctx, began, err)
	return info, err
}

func (r *replica) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return during(ctx, &r.outage, r.Backend.List(ctx, prefix))
}

func (r *replica) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	return during(ctx, &r.outage, backend.Versions(ctx, r.Backend, prefix))
}

func (r *replica) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	if err := r.outage.is(); err != nil {
		return dst, err
	}
	began := time.Now()
	data, err := backend.GetVersion(ctx, r.Backend, name, id, off, n, dst)
	r.outage.note(ctx, began, err)
	return data, err
}

// during lists what list does, unless there is an outage.
func during[T any](ctx context.Context, o *outage, list iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		if err := o.is(); err != nil {
			var none T
			yield(none, err)
			return
		}
		began := time.Now()
		for v, err := range list {
			o.note(ctx, began, err)
			if !yield(v, err) || err != nil {
				return
			}
			began = time.Now()
		}
	}
}
