package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
)

var errReset = errors.New("connection reset")

func TestRetryPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &backendtest.Faulty{Backend: mem.New(nil), Before: backendtest.Nth(backendtest.Get, errReset, 1, 2, 3)}
		var heard int
		r := backend.Retry(f, &backend.RetryOptions{Notify: func(err error, pause time.Duration) {
			heard++
			if !errors.Is(err, errReset) || pause <= 0 {
				t.Errorf("notified of %v, pause %v", err, pause)
			}
		}})
		put(t, r, "x", "data")
		got, err := r.Get(t.Context(), "x", 1, 2, []byte("got "))
		if err != nil || string(got) != "got at" {
			t.Errorf("get: %q, %v", got, err)
		}
		if c := f.Counts(); c.Gets != 4 || heard != 3 || c.BytesRead != 2 || c.BytesWritten != 4 {
			t.Errorf("%+v, notified %d times", c, heard)
		}
	})
}

func TestRetryGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		always := func(context.Context, backendtest.Op, string) error { return errReset }
		f := &backendtest.Faulty{Backend: mem.New(nil), Before: always}

		_, err := backend.Retry(f, &backend.RetryOptions{Tries: 4}).Stat(t.Context(), "x")
		if !errors.Is(err, errReset) || !strings.Contains(err.Error(), "4 tries") || f.Counts().Stats != 4 {
			t.Errorf("after 4 tries: %v, %+v", err, f.Counts())
		}

		start := time.Now()
		err = backend.Retry(f, &backend.RetryOptions{Elapsed: time.Minute}).Delete(t.Context(), "x")
		if d := time.Since(start); !errors.Is(err, errReset) || d < 15*time.Second || d > time.Minute {
			t.Errorf("after a minute: %v, %v", err, d)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start = time.Now()
		err = backend.PutBytes(ctx, backend.Retry(f, nil), "x", nil, nil)
		if d := time.Since(start); d != 10*time.Second || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errReset) {
			t.Errorf("context of 10 s: %v, %v; want DeadlineExceeded and the last failure", d, err)
		}
	})
}

func TestRetryFinal(t *testing.T) {
	for _, final := range []error{
		fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, fs.ErrInvalid, io.ErrUnexpectedEOF, errors.ErrUnsupported,
		syscall.ENOSPC, syscall.EROFS,
	} {
		f := &backendtest.Faulty{Backend: mem.New(nil), Before: func(context.Context, backendtest.Op, string) error { return final }}
		_, err := backend.Retry(f, nil).Stat(t.Context(), "x")
		if !errors.Is(err, final) || f.Counts().Stats != 1 {
			t.Errorf("%v: %v after %d tries", final, err, f.Counts().Stats)
		}
	}
	// The object's own reader: whatever its error is.
	f := &backendtest.Faulty{Backend: mem.New(nil)}
	if err := backend.Retry(f, nil).Put(t.Context(), "x", brokenReader{}, 5, nil); !errors.Is(err, errReset) || f.Counts().Puts != 1 {
		t.Errorf("reader's error: %v after %d tries", err, f.Counts().Puts)
	}
}

type brokenReader struct{}

func (brokenReader) ReadAt([]byte, int64) (int, error) { return 0, errReset }

// A timeout inside the store is not the caller's.
func TestRetryTimeoutInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &backendtest.Faulty{Backend: mem.New(nil), Before: backendtest.Nth(backendtest.Put, context.DeadlineExceeded, 1)}
		put(t, backend.Retry(f, nil), "x", "x")
	})
}

func TestRetryIfAbsent(t *testing.T) {
	absent := &backend.PutOptions{IfAbsent: true}
	for _, c := range []struct {
		name  string
		there string // by somebody else, between the first try and the second
		lost  bool   // the first try took effect
		want  error
		holds string
	}{
		{name: "first try took effect", lost: true, holds: "mine"},
		{name: "first try did not", holds: "mine"},
		{name: "somebody else was first", there: "other", want: fs.ErrExist, holds: "other"},
		{name: "somebody else, same length", there: "mime", want: fs.ErrExist, holds: "mime"},
		{name: "somebody else, same bytes", there: "mine", holds: "mine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := mem.New(nil)
				f := &backendtest.Faulty{Backend: m}
				fail := backendtest.Nth(backendtest.Put, errReset, 1)
				if c.lost {
					f.After = backendtest.Lost(fail)
				} else {
					f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
						err := fail(ctx, op, name)
						if err != nil && c.there != "" {
							put(t, m, "x", c.there)
						}
						return err
					}
				}
				err := backend.PutBytes(t.Context(), backend.Retry(f, nil), "x", []byte("mine"), absent)
				if !errors.Is(err, c.want) {
					t.Errorf("put: %v; want %v", err, c.want)
				}
				wantObject(t, m, "x", c.holds)
			})
		})
	}

	// Without a failed try, "exists" is believed: nothing is read back.
	m := mem.New(nil)
	put(t, m, "x", "mine")
	f := &backendtest.Faulty{Backend: m}
	err := backend.PutBytes(t.Context(), backend.Retry(f, nil), "x", []byte("mine"), absent)
	if c := f.Counts(); !errors.Is(err, fs.ErrExist) || c.Gets+c.Stats != 0 {
		t.Errorf("put: %v, %+v", err, c)
	}
}

// An equal object that somebody else put is locked, too, before the put succeeds.
func TestRetryIfAbsentRetain(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := mem.New(&mem.Options{Versions: true})
			fail := backendtest.Nth(backendtest.Put, errReset, 1)
			f := &backendtest.Faulty{Backend: m}
			if lost {
				f.After = backendtest.Lost(fail)
			} else {
				f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
					err := fail(ctx, op, name)
					if err != nil {
						put(t, m, "x", "mine")
					}
					return err
				}
			}
			want := backend.Retention{Mode: backend.Governance, Until: time.Now().UTC().Add(time.Hour)}
			err := backend.PutBytes(t.Context(), backend.Retry(f, nil), "x", []byte("mine"), &backend.PutOptions{IfAbsent: true, Retain: want})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := m.Retention(t.Context(), "x", ""); err != nil || got != want {
				t.Errorf("lost %v: locked %v, %v; want %v", lost, got, err, want)
			}
			wantObject(t, m, "x", "mine")
		})
	}
}

// The read-back may fail, too; and the object may be gone by then.
func TestRetryIfAbsentReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := strings.Repeat("0123456789", 300_000)
		m := mem.New(nil)
		lose, fail := backendtest.Nth(backendtest.Put, errReset, 1), backendtest.Nth(backendtest.Get, errReset, 2)
		f := &backendtest.Faulty{Backend: m, After: backendtest.Lost(lose), Before: fail}
		err := backend.PutBytes(t.Context(), backend.Retry(f, nil), "x", []byte(data), &backend.PutOptions{IfAbsent: true})
		if err != nil {
			t.Errorf("put: %v", err)
		}
		wantObject(t, m, "x", data)

		m = mem.New(nil)
		lose = backendtest.Nth(backendtest.Put, errReset, 1)
		f = &backendtest.Faulty{Backend: m, After: backendtest.Lost(lose)}
		f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Stat && f.Counts().Stats == 1 {
				return m.Delete(ctx, name)
			}
			return nil
		}
		if err := backend.PutBytes(t.Context(), backend.Retry(f, nil), "x", []byte("x"), &backend.PutOptions{IfAbsent: true}); err != nil {
			t.Errorf("put: %v", err)
		}
		wantObject(t, m, "x", "x")
	})
}

func TestRetryList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem.New(nil)
		var want []string
		for i := range 50 {
			name := fmt.Sprintf("l/%02d", i)
			put(t, m, name, "")
			want = append(want, name)
		}
		list := func(o *backend.RetryOptions, fail ...int) (names []string, err error) {
			r := backend.Retry(&backendtest.Faulty{Backend: m, Before: backendtest.Nth(backendtest.Entry, errReset, fail...)}, o)
			for info, err := range r.List(t.Context(), "l/") {
				if err != nil {
					return names, err
				}
				names = append(names, info.Name)
			}
			return names, nil
		}
		if names, err := list(nil, 1, 20, 60, 61, 90); err != nil || !slices.Equal(names, want) {
			t.Errorf("list: %v, %q", err, names)
		}
		names, err := list(&backend.RetryOptions{Tries: 2}, 10, 30)
		if !errors.Is(err, errReset) || !slices.Equal(names, want[:19]) {
			t.Errorf("list that fails: %v, %q", err, names)
		}
	})
}
