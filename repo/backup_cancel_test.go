//go:build linux

package repo_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestCancelled(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	base := mem.New(nil)
	r, key := crashRepo(t, base, nil)
	_, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	src := crashSource(5, 14<<20)
	rounds := 10
	switch {
	case long():
		rounds = 200
	case raceEnabled:
		rounds = 5
	}
	// The calls of one backup, to be cancelled in or after each of some of them.
	probe := &backendtest.Faulty{Backend: crashCopy(t, base)}
	_, err = crashOpen(t, probe, key, nil).Backup(t.Context(), "shop", src, nil)
	crashMust(t, err)
	calls := int(probe.Counts().Puts)
	cause := errors.New("enough")
	for i := range rounds {
		store := crashCopy(t, base)
		ctx, cancel := context.WithCancelCause(t.Context())
		var cancelled atomic.Pointer[time.Time]
		enough := func() {
			now := time.Now()
			cancelled.Store(&now)
			cancel(cause)
		}
		at, seen := int32(i%calls+1), atomic.Int32{}
		f := &backendtest.Faulty{Backend: store, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Put && seen.Add(1) == at {
				enough()
			}
			return nil
		}}
		if i >= calls { // at a random moment
			f.Before = nil
			time.AfterFunc(time.Duration(rand.Int64N(int64(100*time.Millisecond))), enough)
		}
		r := crashOpen(t, f, key, &repo.Options{Cache: t.TempDir()})
		f.Reset()
		s, err := r.Backup(ctx, "shop", src, nil)
		ended := time.Now()
		cancel(nil)
		if err == nil {
			if i < calls-1 { // the last put is the end
				t.Errorf("cancelled at put %d, and yet %s was made", at, s.ID)
			}
			continue
		}
		if s != nil || !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
			t.Errorf("put %d: %v, %v", at, s, err)
		}
		if took := ended.Sub(*cancelled.Load()); took > 10*time.Second {
			t.Errorf("put %d: it took %v to end", at, took)
		}
		fresh := crashOpen(t, store, key, nil)
		crashIntact(t, fresh)
		began := slices.ContainsFunc(crashNames(t, store, "sessions/"), func(n string) bool {
			return !strings.HasSuffix(n, ".end") && !slices.Contains(crashNames(t, base, "sessions/"), n)
		})
		if ends := crashEnds(t, store); began && (len(ends) != 2 || !slices.Contains(ends, "failed")) {
			t.Errorf("put %d: ends %v", at, ends)
		}
		there, err := repo.IndexedContent(t.Context(), fresh)
		crashMust(t, err)
		next, err := fresh.Backup(t.Context(), "shop", src, nil)
		crashMust(t, err)
		if want := int64(15<<20) + int64(len("file 5")) + 300<<10 + 3; next.Stats.New+there != want {
			t.Errorf("put %d: %d bytes had arrived, %d were new, together not %d", at, there, next.Stats.New, want)
		}
		if packs := len(crashNames(t, store, "packs/")); at >= 5 && i < calls && there < 10<<20 {
			t.Errorf("put %d: of %d packs only %d bytes were named", at, packs, there)
		}
	}
}

// A stream that hangs ends when the context does.
func TestCancelledStream(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r, _ := crashRepo(t, mem.New(nil), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var src fs.FS = source.Stream("dump", func(ctx context.Context) (io.ReadCloser, error) {
		pr, pw := io.Pipe()
		context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
		go func() { pw.Write(make([]byte, 1<<20)); cancel() }()
		return pr, nil
	})
	if s, err := r.Backup(ctx, "shop", src, nil); s != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", s, err)
	}
	if n := len(crashSnapshots(t, r, "")); n != 0 {
		t.Errorf("%d snapshots", n)
	}
}

// A store that stops answering does not hold a cancelled backup for long, wherever it is.
func TestCancelledHang(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	repo.SetTimes(t, repo.Times{Grace: 50 * time.Millisecond})
	base := mem.New(nil)
	_, key := crashRepo(t, base, nil)
	for _, prefix := range []string{"sessions/", "packs/", "index/", "snapshots/"} {
		t.Run(prefix, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			hung := false
			f := &backendtest.Faulty{Backend: crashCopy(t, base), Before: func(c context.Context, op backendtest.Op, name string) error {
				if op == backendtest.Put && (hung || strings.HasPrefix(name, prefix)) {
					hung = true
					cancel()
					<-c.Done()
					return c.Err()
				}
				return nil
			}}
			r := crashOpen(t, f, key, nil)
			done := make(chan error, 1)
			go func() {
				_, err := r.Backup(ctx, "shop", fstest.MapFS{"a": {Data: []byte("x")}}, nil)
				done <- err
			}()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				buf := make([]byte, 1<<20)
				t.Fatalf("it hangs:\n%s", buf[:runtime.Stack(buf, true)])
			}
		})
	}
}
