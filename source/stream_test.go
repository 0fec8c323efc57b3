package source_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// deaf is a reader whose Read blocks until freed, whatever becomes of it; its Close blocks as well if shut is set.
type deaf struct {
	free, reading chan struct{}
	shut          bool
}

func (d *deaf) Read(p []byte) (int, error) {
	close(d.reading)
	<-d.free
	clear(p) // late, and of nobody's memory
	return len(p), nil
}

func (d *deaf) Close() error {
	if d.shut {
		<-d.free
	}
	return nil
}

func openStream(t *testing.T, ctx context.Context, r io.ReadCloser) fs.File {
	t.Helper()
	s := source.Stream("s", func(context.Context) (io.ReadCloser, error) { return r, nil })
	f, err := s.(repo.ContextFS).OpenContext(ctx, "s")
	must(t, err)
	return f
}

func quick(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > limit {
		t.Errorf("%s took %v", what, d)
	}
}

func TestStreamCancelPipe(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	f := openStream(t, ctx, pr)
	go func() {
		pw.Write([]byte("some"))
		cancel()
	}()
	p := make([]byte, 3)
	_, err := io.ReadFull(f, p)
	if err == nil && string(p) != "som" {
		t.Errorf("%q", p)
	}
	quick(t, 5*time.Second, "Read", func() {
		for err == nil {
			_, err = f.Read(p)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, f.Close())
	if _, err := pw.Write([]byte("x")); err != io.ErrClosedPipe {
		t.Error(err)
	}
	if _, err := f.Read(p); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestStreamCancelDeaf(t *testing.T) {
	for _, shut := range []bool{false, true} {
		func() {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			d := &deaf{free: make(chan struct{}), reading: make(chan struct{}), shut: shut}
			defer close(d.free)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := openStream(t, ctx, d)
			go func() {
				<-d.reading
				cancel()
			}()
			p := []byte("mine")
			quick(t, 5*time.Second, "Read", func() {
				if n, err := f.Read(p); n != 0 || !errors.Is(err, context.Canceled) {
					t.Error(n, err)
				}
			})
			quick(t, 10*time.Second, "Close", func() {
				if err := f.Close(); (err != nil) != shut {
					t.Error(err)
				}
			})
			if string(p) != "mine" {
				t.Errorf("%q", p)
			}
		}()
	}
}

// A reader that ends with its context is closed after its Read, not during that.
func TestStreamCancelFollows(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(t.Context())
	r := &follower{ctx: ctx, reading: make(chan struct{})}
	f := openStream(t, ctx, r)
	go func() {
		<-r.reading
		cancel()
	}()
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, f.Close())
	if r.state != "read, closed" {
		t.Error(r.state)
	}
}

type follower struct {
	ctx     context.Context
	reading chan struct{}
	state   string
}

func (r *follower) Read([]byte) (int, error) {
	close(r.reading)
	<-r.ctx.Done()
	r.state += "read"
	return 0, r.ctx.Err()
}

func (r *follower) Close() error { r.state += ", closed"; return nil }

// Close during a Read ends that.
func TestStreamCloseDuringRead(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pr, pw := io.Pipe()
	f := openStream(t, ctx, pr)
	got := make(chan error)
	go func() {
		p := make([]byte, 1)
		_, err := f.Read(p)
		if err == nil {
			_, err = f.Read(p)
		}
		got <- err
	}()
	pw.Write([]byte("x"))
	must(t, f.Close())
	if err := <-got; !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
}

func TestStreamContent(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	boom := errors.New("boom")
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"plain": func(r io.Reader) io.Reader { return r },
		"half":  iotest.HalfReader,
		"last":  iotest.DataErrReader,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		f := openStream(t, ctx, io.NopCloser(wrap(bytes.NewReader(want))))
		got, err := io.ReadAll(f)
		if !bytes.Equal(got, want) || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		must(t, f.Close())
		f = openStream(t, ctx, io.NopCloser(wrap(io.MultiReader(bytes.NewReader(want[:5]), iotest.ErrReader(boom)))))
		got, err = io.ReadAll(f)
		if string(got) != "01234" || err != boom {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		must(t, f.Close())
		cancel()
	}
}
