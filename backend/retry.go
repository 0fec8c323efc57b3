package backend

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// RetryOptions says how often and how long [Retry] tries.
type RetryOptions struct {
	Tries   int           // at most so many tries of one call; 0: no limit but Elapsed
	Elapsed time.Duration // no new try begins later than this after the first; 0: 5 minutes
	Wait    time.Duration // the first pause, later ones grow by half; 0: 500 ms
	MaxWait time.Duration // the longest pause; 0: 30 s

	// Notify, if not nil, hears of every failed try that is followed by
	// another, and of the pause before it. Calls may come from several
	// goroutines at once.
	Notify func(err error, pause time.Duration)
}

// Retry returns b with another try, after a pause, for calls that failed in a
// way that may pass. Statements about objects ([fs.ErrNotExist], [fs.ErrExist],
// [io.ErrUnexpectedEOF]), refusals ([fs.ErrPermission], [fs.ErrInvalid],
// [errors.ErrUnsupported], a full or read-only disk), errors of the io.ReaderAt
// of a Put, and a done context are final at once.
//
// A Put with IfAbsent whose first try failed and whose second finds the object
// may have found its own: the object is read back, and if it has the same bytes
// the Put succeeded. So of several such Puts of equal bytes more than one may
// succeed, if replies get lost; where that matters, the bytes must tell the
// writers apart. If the Put asks for a lock, that object is given it.
//
// A List that starts over yields nothing twice, for which it remembers 16 bytes
// for each name.
func Retry(b Backend, o *RetryOptions) Backend {
	t := &retrying{b: b}
	if o != nil {
		t.o = *o
	}
	if t.o.Elapsed <= 0 {
		t.o.Elapsed = 5 * time.Minute
	}
	if t.o.Wait <= 0 {
		t.o.Wait = 500 * time.Millisecond
	}
	if t.o.MaxWait <= 0 {
		t.o.MaxWait = 30 * time.Second
	}
	return t
}

type retrying struct {
	b Backend
	o RetryOptions
}

func (t *retrying) Unwrap() Backend { return t.b }

// do calls f until it succeeds, or fails for good. f gets the number of the
// try, from 1.
func (t *retrying) do(ctx context.Context, op, name string, f func(try int) error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = t.o.Wait
	pauses.MaxInterval = t.o.MaxWait
	opts := []backoff.RetryOption{
		backoff.WithBackOff(pauses),
		backoff.WithMaxElapsedTime(t.o.Elapsed),
		backoff.WithMaxTries(uint(max(0, t.o.Tries))),
	}
	if t.o.Notify != nil {
		opts = append(opts, backoff.WithNotify(t.o.Notify))
	}
	try := 0
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		try++
		last = f(try)
		if last != nil && (final(last) || ctx.Err() != nil) {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, opts...)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !errors.Is(last, ctx.Err()) && !final(last):
		return fmt.Errorf("backend: %s %s: %w, after %d tries, the last of which: %w", op, name, ctx.Err(), try, last)
	case try > 1 && !final(last):
		return fmt.Errorf("backend: gave up after %d tries: %w", try, last)
	}
	return last
}

// errReader marks an error of the io.ReaderAt of a Put.
type errReader struct{ error }

func (e errReader) Unwrap() error { return e.error }

// final reports whether another try would end the same way. It doesn't look for
// the errors of contexts: those of a context other than the call's own are a
// time limit inside the store, and pass.
func final(err error) bool {
	for _, e := range []error{
		fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, fs.ErrClosed,
		io.ErrUnexpectedEOF, errors.ErrUnsupported, ErrRetained,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EFBIG,
		syscall.EISDIR, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EXDEV,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, new(errReader))
}

func (t *retrying) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *PutOptions) error {
	src := &notingReader{r: r}
	return t.do(ctx, "put", name, func(try int) error {
		err := t.b.Put(ctx, name, src, size, o)
		if err == nil {
			return nil
		}
		if src.failed() {
			return errReader{err}
		}
		if try > 1 && o != nil && o.IfAbsent && errors.Is(err, fs.ErrExist) {
			same, herr := Holds(ctx, t, name, src, size)
			if same && !o.Retain.IsZero() { // it may be another's, who did not lock it
				herr = Retain(ctx, t.b, name, "", o.Retain)
			}
			switch {
			case src.failed():
				return errReader{fmt.Errorf("backend: put %s: %w", name, herr)}
			case errors.Is(herr, fs.ErrNotExist):
				// Not wrapped: it says nothing about the Put, which is tried again.
				return fmt.Errorf("backend: reading back what a failed try may have put: %v", herr)
			case herr != nil:
				return herr
			case same:
				return nil
			}
		}
		return err
	})
}

// A notingReader remembers whether reading failed. (io.EOF is part of reading;
// an object that ends early is io.ErrUnexpectedEOF in the Put's error.)
type notingReader struct {
	r io.ReaderAt

	mu  sync.Mutex // guards bad
	bad bool
}

func (n *notingReader) ReadAt(p []byte, off int64) (int, error) {
	k, err := n.r.ReadAt(p, off)
	if err != nil && err != io.EOF {
		n.mu.Lock()
		n.bad = true
		n.mu.Unlock()
	}
	return k, err
}

func (n *notingReader) failed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bad
}

func (t *retrying) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return t.get(ctx, name, dst, func() ([]byte, error) { return t.b.Get(ctx, name, off, n, dst) })
}

// get returns what read does, which appends to dst, or dst.
func (t *retrying) get(ctx context.Context, name string, dst []byte, read func() ([]byte, error)) ([]byte, error) {
	out := dst
	err := t.do(ctx, "get", name, func(int) (err error) {
		out, err = read()
		return err
	})
	if err != nil {
		return dst, err
	}
	return out, nil
}

func (t *retrying) Stat(ctx context.Context, name string) (info Info, err error) {
	err = t.do(ctx, "stat", name, func(int) (err error) {
		info, err = t.b.Stat(ctx, name)
		return err
	})
	return info, err
}

func (t *retrying) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return retryList(ctx, t, prefix, func() iter.Seq2[Info, error] { return t.b.List(ctx, prefix) }, func(i Info) string { return i.Name })
}

// retryList yields what list does, which it calls again when it fails, each key
// once.
func retryList[T any](ctx context.Context, t *retrying, prefix string, list func() iter.Seq2[T, error], key func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		// A collision of half a SHA-256 is out of reach, by chance or on
		// purpose; the names themselves would be several times larger.
		seen := make(map[[16]byte]struct{})
		stopped := false
		err := t.do(ctx, "list", prefix, func(int) error {
			for v, err := range list() {
				if err != nil {
					return err
				}
				sum := sha256.Sum256([]byte(key(v)))
				k := [16]byte(sum[:])
				if _, ok := seen[k]; ok {
					continue
				}
				seen[k] = struct{}{}
				if !yield(v, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			var none T
			yield(none, err)
		}
	}
}

func (t *retrying) Delete(ctx context.Context, name string) error {
	return t.do(ctx, "delete", name, func(int) error { return t.b.Delete(ctx, name) })
}

func (t *retrying) Retain(ctx context.Context, name, version string, r Retention) error {
	return t.do(ctx, "retain", name, func(int) error { return Retain(ctx, t.b, name, version, r) })
}

func (t *retrying) Retention(ctx context.Context, name, version string) (r Retention, err error) {
	err = t.do(ctx, "retention", name, func(int) (err error) {
		r, err = RetentionOf(ctx, t.b, name, version)
		return err
	})
	return r, err
}

func (t *retrying) Shorten(ctx context.Context, name, version string, r Retention) error {
	return t.do(ctx, "shorten", name, func(int) error { return Shorten(ctx, t.b, name, version, r) })
}

// Versions starts over like List. A version that comes meanwhile is behind
// those of its name that were yielded before.
func (t *retrying) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return retryList(ctx, t, prefix, func() iter.Seq2[Version, error] { return Versions(ctx, t.b, prefix) }, func(v Version) string { return v.Name + " " + v.ID })
}

func (t *retrying) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return t.get(ctx, name, dst, func() ([]byte, error) { return GetVersion(ctx, t.b, name, id, off, n, dst) })
}

func (t *retrying) DeleteVersion(ctx context.Context, name, id string) error {
	return t.do(ctx, "delete a version of", name, func(int) error { return DeleteVersion(ctx, t.b, name, id) })
}
