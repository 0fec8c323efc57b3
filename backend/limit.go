package backend

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// LimitOptions says what [Limit] holds back. Zero means no limit, for each.
type LimitOptions struct {
	// Concurrent is how many of Put, Get, Stat and Delete run at a time. Lists
	// don't count, since the body of a list's loop may use the Backend.
	Concurrent int

	// ReadRate and WriteRate are bytes of objects per second, all calls taken
	// together, on average from the first byte on: idle time is not saved up.
	ReadRate, WriteRate int64
}

// Limit returns b with a bound on how many calls run at a time and on how fast
// objects are read and written. A nil o limits nothing. A call that waits for
// its turn ends when its context does.
//
// A Put is slowed down while it reads its object, a Get before it begins; a Get
// of an unknown length is paid for by those that follow. What [Retry] inside b
// sends again isn't counted again; around it, it is.
func Limit(b Backend, o *LimitOptions) Backend {
	if o == nil {
		o = new(LimitOptions)
	}
	l := &limited{Backend: b, read: meter{rate: o.ReadRate}, write: meter{rate: o.WriteRate}}
	if o.Concurrent > 0 {
		l.slots = make(chan struct{}, o.Concurrent)
	}
	return l
}

type limited struct {
	Backend
	slots       chan struct{} // holds one element for each call that runs; nil: no limit
	read, write meter
}

func (l *limited) Unwrap() Backend { return l.Backend }

// enter waits for a slot; leave gives it back.
func (l *limited) enter(ctx context.Context, op, name string) error {
	if l.slots == nil {
		return nil
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("backend: %s %s: waiting for a turn: %w", op, name, ctx.Err())
	}
}

func (l *limited) leave() {
	if l.slots != nil {
		<-l.slots
	}
}

func (l *limited) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *PutOptions) error {
	if err := l.enter(ctx, "put", name); err != nil {
		return err
	}
	defer l.leave()
	if l.write.rate > 0 {
		r = &pacedReader{ctx: ctx, r: r, m: &l.write}
	}
	return l.Backend.Put(ctx, name, r, size, o)
}

func (l *limited) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return l.get(ctx, name, n, dst, func() ([]byte, error) { return l.Backend.Get(ctx, name, off, n, dst) })
}

// get calls read, which appends n bytes of an object, or all if n is negative,
// to dst.
func (l *limited) get(ctx context.Context, name string, n int64, dst []byte, read func() ([]byte, error)) ([]byte, error) {
	if err := l.enter(ctx, "get", name); err != nil {
		return dst, err
	}
	defer l.leave()
	if err := l.read.take(ctx, min(max(n, 0), MaxSize)); err != nil {
		return dst, fmt.Errorf("backend: get %s: waiting for a turn: %w", name, err)
	}
	had := len(dst)
	dst, err := read()
	if n < 0 {
		l.read.charge(int64(len(dst) - had))
	}
	return dst, err
}

func (l *limited) Stat(ctx context.Context, name string) (Info, error) {
	if err := l.enter(ctx, "stat", name); err != nil {
		return Info{}, err
	}
	defer l.leave()
	return l.Backend.Stat(ctx, name)
}

func (l *limited) Delete(ctx context.Context, name string) error {
	if err := l.enter(ctx, "delete", name); err != nil {
		return err
	}
	defer l.leave()
	return l.Backend.Delete(ctx, name)
}

// A meter spreads bytes over time: whoever takes n bytes begins when all bytes
// taken before are paid for, at rate bytes a second.
type meter struct {
	rate int64 // 0: no limit

	mu   sync.Mutex // guards paid
	paid time.Time  // when all that was taken so far is paid for
}

func (m *meter) cost(n int64) time.Duration {
	// No overflow: n is at most MaxSize, 2^26, and a second is below 2^30 ns.
	return time.Duration(n * int64(time.Second) / m.rate)
}

// charge takes n bytes and returns how long to wait before using them.
func (m *meter) charge(n int64) time.Duration {
	if m.rate <= 0 {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.paid.Before(now) {
		m.paid = now
	}
	wait := m.paid.Sub(now)
	m.paid = m.paid.Add(m.cost(n))
	return wait
}

// take takes n bytes and waits. If ctx ends first, it gives them back.
func (m *meter) take(ctx context.Context, n int64) error {
	wait := m.charge(n)
	if wait == 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		m.paid = m.paid.Add(-m.cost(n))
		m.mu.Unlock()
		return ctx.Err()
	}
}

// A pacedReader reads in small pieces, each of which waits for the meter. A
// store may read an object twice (a checksum, then the sending): each byte is
// counted once, by the highest offset that was reached. It lives for one Put,
// whose context it keeps.
type pacedReader struct {
	ctx context.Context
	r   io.ReaderAt
	m   *meter

	mu   sync.Mutex // guards high
	high int64
}

const pacedPiece = 64 << 10

func (p *pacedReader) ReadAt(b []byte, off int64) (int, error) {
	total := 0
	for {
		piece := b[total:min(len(b), total+pacedPiece)]
		p.mu.Lock()
		end := off + int64(len(piece))
		fresh := max(0, end-max(p.high, off))
		p.high = max(p.high, end)
		p.mu.Unlock()
		if err := p.m.take(p.ctx, fresh); err != nil {
			return total, err
		}
		n, err := p.r.ReadAt(piece, off)
		total += n
		off += int64(n)
		if err != nil || total == len(b) {
			return total, err
		}
	}
}

func (l *limited) Retain(ctx context.Context, name, version string, r Retention) error {
	if err := l.enter(ctx, "retain", name); err != nil {
		return err
	}
	defer l.leave()
	return Retain(ctx, l.Backend, name, version, r)
}

func (l *limited) Retention(ctx context.Context, name, version string) (Retention, error) {
	if err := l.enter(ctx, "retention", name); err != nil {
		return Retention{}, err
	}
	defer l.leave()
	return RetentionOf(ctx, l.Backend, name, version)
}

func (l *limited) Shorten(ctx context.Context, name, version string, r Retention) error {
	if err := l.enter(ctx, "shorten", name); err != nil {
		return err
	}
	defer l.leave()
	return Shorten(ctx, l.Backend, name, version, r)
}

func (l *limited) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return Versions(ctx, l.Backend, prefix)
}

func (l *limited) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return l.get(ctx, name, n, dst, func() ([]byte, error) { return GetVersion(ctx, l.Backend, name, id, off, n, dst) })
}

func (l *limited) DeleteVersion(ctx context.Context, name, id string) error {
	if err := l.enter(ctx, "delete a version of", name); err != nil {
		return err
	}
	defer l.leave()
	return DeleteVersion(ctx, l.Backend, name, id)
}
