package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
)

// A split writes through one half and reads through the other, so that a
// wrapper that refuses some calls can be held to the contract with the rest.
type split struct {
	backend.Backend // what is left
	put, read       backend.Backend
}

func (s split) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if o != nil && o.IfAbsent {
		return s.put.Put(ctx, name, r, size, o)
	}
	return s.Backend.Put(ctx, name, r, size, o)
}

func (s split) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return s.read.Get(ctx, name, off, n, dst)
}

func (s split) Stat(ctx context.Context, name string) (backend.Info, error) {
	return s.read.Stat(ctx, name)
}

func (s split) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return s.read.List(ctx, prefix)
}

func (s split) Retain(ctx context.Context, name, version string, r backend.Retention) error {
	return backend.Retain(ctx, s.put, name, version, r)
}

func (s split) Retention(ctx context.Context, name, version string) (backend.Retention, error) {
	return backend.RetentionOf(ctx, s.read, name, version)
}

func (s split) Shorten(ctx context.Context, name, version string, r backend.Retention) error {
	return backend.Shorten(ctx, s.Backend, name, version, r)
}

func (s split) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	return backend.Versions(ctx, s.read, prefix)
}

func (s split) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return backend.GetVersion(ctx, s.read, name, id, off, n, dst)
}

func (s split) DeleteVersion(ctx context.Context, name, id string) error {
	return backend.DeleteVersion(ctx, s.Backend, name, id)
}

// flaky fails one call in five, before or after it took effect, and lists on the
// way.
func flaky(b backend.Backend) backend.Backend {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(3, 4))
	fail := func(_ context.Context, op backendtest.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if p := rng.IntN(100); p < 10 && (op != backendtest.Entry || p < 3) {
			return errReset
		}
		return nil
	}
	lost := backendtest.Lost(fail)
	return &backendtest.Faulty{
		Backend: b,
		Before:  fail,
		After: func(ctx context.Context, op backendtest.Op, name string, err error) error {
			if err != nil {
				return err
			}
			return lost(ctx, op, name, err)
		},
	}
}

// memoryFolder returns a folder in memory, where there is one: the wrappers are
// tested here and not the disk, whose syncs take long.
func memoryFolder(t *testing.T) string {
	path, err := os.MkdirTemp("/dev/shm", "varve-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	return path
}

func TestContract(t *testing.T) {
	stores := map[string]func(t *testing.T) backend.Backend{
		"mem":      func(*testing.T) backend.Backend { return mem.New(nil) },
		"versions": func(*testing.T) backend.Backend { return mem.New(&mem.Options{Versions: true}) },
		"dir": func(t *testing.T) backend.Backend {
			d, err := dir.Create(memoryFolder(t))
			if err != nil {
				t.Fatal(err)
			}
			return d
		},
	}
	wrappers := map[string]func(backend.Backend) backend.Backend{
		"Limit": func(b backend.Backend) backend.Backend {
			return backend.Limit(b, &backend.LimitOptions{Concurrent: 3, ReadRate: 1 << 40, WriteRate: 1 << 40})
		},
		"Prefix": func(b backend.Backend) backend.Backend { return backend.Prefix(b, "p/q/") },
		"Retry":  func(b backend.Backend) backend.Backend { return backend.Retry(b, nil) },
		"Faulty": func(b backend.Backend) backend.Backend { return &backendtest.Faulty{Backend: b} },
		"RetryOfFlaky": func(b backend.Backend) backend.Backend {
			return backend.Retry(flaky(b), &backend.RetryOptions{Wait: time.Microsecond, MaxWait: time.Millisecond})
		},
		"ReadOnly":   func(b backend.Backend) backend.Backend { return split{b, b, backend.ReadOnly(b)} },
		"AppendOnly": func(b backend.Backend) backend.Backend { return split{b, backend.AppendOnly(b), backend.AppendOnly(b)} },
	}
	for store, open := range stores {
		for wrapper, wrap := range wrappers {
			t.Run(wrapper+"/"+store, func(t *testing.T) {
				backendtest.Run(t, func(t *testing.T) backend.Backend { return wrap(open(t)) })
			})
		}
	}
}

func TestPrefix(t *testing.T) {
	ctx := t.Context()
	m := mem.New(nil)
	put(t, m, "shop/a", "shop's")
	put(t, m, "shop-2/a", "another's")
	put(t, m, "b", "nobody's")
	p := backend.Prefix(m, "shop/")
	put(t, p, "c/d", "new")
	var names []string
	for info, err := range p.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	if want := []string{"a", "c/d"}; !slices.Equal(names, want) {
		t.Errorf("list: %q, want %q", names, want)
	}
	if info, err := p.Stat(ctx, "c/d"); err != nil || info.Name != "c/d" {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if info, err := m.Stat(ctx, "shop/c/d"); err != nil || info.Size != 3 {
		t.Errorf("stat below: %+v, %v", info, err)
	}
	if _, err := p.Get(ctx, "../b", 0, -1, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("get ../b: %v", err)
	}
	if backend.Prefix(m, "") != backend.Backend(m) {
		t.Error("an empty prefix changes the backend")
	}
	for _, bad := range []string{"a", "/", "a//", "../", ".a/", "a b/"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Prefix(%q) does not panic", bad)
				}
			}()
			backend.Prefix(m, bad)
		}()
	}
}

func put(t *testing.T, b backend.Backend, name, data string) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, []byte(data), nil); err != nil {
		t.Fatal(err)
	}
}

func wantObject(t *testing.T, b backend.Backend, name, want string) {
	t.Helper()
	if got, err := b.Get(t.Context(), name, 0, -1, nil); err != nil || string(got) != want {
		t.Errorf("get %s: %q, %v; want %q", name, got, err, want)
	}
}

func TestReadOnly(t *testing.T) {
	m := mem.New(nil)
	put(t, m, "x", "x")
	r := backend.ReadOnly(m)
	for _, name := range []string{"x", "y"} {
		for _, o := range []*backend.PutOptions{nil, {IfAbsent: true}} {
			if err := backend.PutBytes(t.Context(), r, name, nil, o); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("put %s: %v", name, err)
			}
		}
		if err := r.Delete(t.Context(), name); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	wantObject(t, r, "x", "x")
}

// What takes a lock or a version away is refused like Delete, and a ReadOnly
// sets no lock either.
func TestPowersRefused(t *testing.T) {
	m := mem.New(&mem.Options{Versions: true})
	put(t, m, "x", "x")
	put(t, m, "x", "y")
	hour := backend.Retention{Mode: backend.Governance, Until: time.Now().Add(time.Hour)}
	for what, b := range map[string]backend.Backend{
		"ReadOnly": backend.ReadOnly(m), "AppendOnly": backend.AppendOnly(m), "AsOf": backend.AsOf(m, time.Now()),
	} {
		err := backend.Retain(t.Context(), b, "x", "", hour)
		if what == "AppendOnly" && err != nil || what != "AppendOnly" && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: retain: %v", what, err)
		}
		if err := backend.Shorten(t.Context(), b, "x", "", backend.Retention{}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: shorten: %v", what, err)
		}
		for v, err := range backend.Versions(t.Context(), m, "x") {
			if err != nil {
				t.Fatal(err)
			}
			if err := backend.DeleteVersion(t.Context(), b, "x", v.ID); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: delete a version: %v", what, err)
			}
		}
		wantObject(t, b, "x", "y")
	}
}

func TestAppendOnly(t *testing.T) {
	m := mem.New(nil)
	a := backend.AppendOnly(m)
	put(t, a, "x", "x")
	put(t, a, "y", "y")
	err := backend.PutBytes(t.Context(), a, "x", []byte("other"), nil)
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist) {
		t.Errorf("replace: %v; want ErrPermission", err)
	}
	err = backend.PutBytes(t.Context(), a, "x", []byte("other"), &backend.PutOptions{IfAbsent: true})
	if !errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission) {
		t.Errorf("put if absent: %v; want ErrExist", err)
	}
	if err := a.Delete(t.Context(), "x"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete: %v; want ErrPermission", err)
	}
	wantObject(t, a, "x", "x")
}

func TestUnwrap(t *testing.T) {
	m := mem.New(nil)
	for _, b := range []backend.Backend{
		backend.Prefix(m, "a/"), backend.ReadOnly(m), backend.AppendOnly(m), backend.Limit(m, nil), backend.Retry(m, nil),
		backend.AsOf(m, time.Now()), &backendtest.Faulty{Backend: m},
	} {
		if u, ok := b.(interface{ Unwrap() backend.Backend }); !ok || u.Unwrap() != backend.Backend(m) {
			t.Errorf("%T does not unwrap", b)
		}
	}
}

// With a virtual clock, how long it takes is exact.
func TestLimitRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 1 << 20, 10 << 20
		l := backend.Limit(mem.New(nil), &backend.LimitOptions{ReadRate: rate, WriteRate: rate})
		data := make([]byte, size)
		took := func(what string, least, most time.Duration, f func() error) {
			t.Helper()
			start := time.Now()
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if d := time.Since(start); d < least || d > most {
				t.Errorf("%s took %v; want %v to %v", what, d, least, most)
			}
		}
		took("put", 9900*time.Millisecond, 10*time.Second, func() error {
			return backend.PutBytes(t.Context(), l, "x", data, nil)
		})
		took("get", 0, 0, func() error { _, err := l.Get(t.Context(), "x", 0, size/2, nil); return err })
		took("get after it", 5*time.Second, 5*time.Second, func() error { _, err := l.Get(t.Context(), "x", 0, -1, nil); return err })
		took("get after that", 10*time.Second, 10*time.Second, func() error { _, err := l.Get(t.Context(), "x", 0, 1, nil); return err })

		// Who waits can be called off, and then has taken nothing.
		time.Sleep(time.Minute)
		took("get", 0, 0, func() error { _, err := l.Get(t.Context(), "x", 0, size, nil); return err })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		took("cancelled get", time.Second, time.Second, func() error {
			if _, err := l.Get(ctx, "x", 0, size, nil); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("%v; want DeadlineExceeded", err)
			}
			return nil
		})
		took("get after it", 9*time.Second, 9*time.Second, func() error { _, err := l.Get(t.Context(), "x", 0, 0, nil); return err })
	})
}

func TestLimitConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := backend.Limit(&backendtest.Faulty{Backend: mem.New(nil), Latency: time.Second}, &backend.LimitOptions{Concurrent: 2})
		start := time.Now()
		done := make(chan error)
		for i := range 6 {
			go func() { done <- backend.PutBytes(t.Context(), l, fmt.Sprint(i), nil, nil) }()
		}
		for range 6 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("six calls of a second, two at a time, took %v", d)
		}
		// A loop over a list may use the backend, however low the limit.
		for info, err := range backend.Limit(l, &backend.LimitOptions{Concurrent: 1}).List(t.Context(), "") {
			if err == nil {
				_, err = l.Stat(t.Context(), info.Name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
