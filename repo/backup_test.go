//go:build linux

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// crashSource is a small source with a file that is larger than a pack.
func crashSource(seed uint64, size int) fstest.MapFS {
	return fstest.MapFS{
		"big":      {Data: crashRandom(seed, size)},
		"text":     {Data: crashText(seed, 1<<20)},
		"a/empty":  {},
		"a/b/file": {Data: []byte(fmt.Sprint("file ", seed))},
	}
}

var crashDayOne = sync.OnceValue(func() fstest.MapFS {
	return fstest.MapFS{"old": {Data: crashRandom(9, 300<<10)}, "a/b/file": {Data: []byte("old")}}
})

// crashIntact tells whether exactly the snapshot of crashDayOne is there, whole, in a sound repository.
func crashIntact(t *testing.T, r *repo.Repo) {
	t.Helper()
	snaps := crashSnapshots(t, r, "")
	if len(snaps) != 1 {
		t.Fatalf("%d snapshots, want the first one only", len(snaps))
	}
	crashSame(t, "the first snapshot", crashSnapshotDigest(t, r, snaps[0]), crashDigest(t, crashDayOne()))
	crashSound(t, r, true)
}

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
		at, seen := int32(i%calls+1), atomic.Int32{}
		f := &backendtest.Faulty{Backend: store, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Put && seen.Add(1) == at {
				cancel(cause)
			}
			return nil
		}}
		if i >= calls { // at a random moment
			f.Before = nil
			time.AfterFunc(time.Duration(rand.Int64N(int64(100*time.Millisecond))), func() { cancel(cause) })
		}
		r := crashOpen(t, f, key, &repo.Options{Cache: t.TempDir()})
		f.Reset()
		begun := time.Now()
		s, err := r.Backup(ctx, "shop", src, nil)
		took := time.Since(begun)
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
		if took > 10*time.Second {
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

// Each call of a small backup fails once, with and without having taken effect.
func TestBackendFails(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	repo.SetTimes(t, repo.Times{Segment: time.Nanosecond})
	base := mem.New(nil)
	r, key := crashRepo(t, base, nil)
	_, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	size := 14 << 20
	if raceEnabled {
		size = 1 << 20
	}
	src := crashSource(6, size)
	failure := errors.New("the store is unwell")
	for _, op := range []backendtest.Op{backendtest.Put, backendtest.Get, backendtest.List, backendtest.Entry, backendtest.Stat} {
		for _, lost := range []bool{false, true} {
			if lost && op != backendtest.Put {
				continue
			}
			for n := 1; ; n++ {
				what := fmt.Sprintf("%s %d, lost %v", op, n, lost)
				store := crashCopy(t, base)
				f := &backendtest.Faulty{Backend: store}
				r := crashOpen(t, f, key, nil)
				var failed atomic.Pointer[string]
				nth := backendtest.Nth(op, failure, n)
				hook := func(ctx context.Context, o backendtest.Op, name string) error {
					err := nth(ctx, o, name)
					if err != nil {
						failed.Store(&name)
					}
					return err
				}
				if lost {
					f.After = backendtest.Lost(func(ctx context.Context, o backendtest.Op, name string) error {
						if err := hook(ctx, o, name); err != nil {
							return fmt.Errorf("%s: %w", name, err)
						}
						return nil
					})
				} else {
					f.Before = hook
				}
				s, err := r.Backup(t.Context(), "shop", src, nil)
				name := failed.Load()
				if name == nil { // there are no more
					crashMust(t, err)
					if n == 1 && op == backendtest.Put {
						t.Error("no puts?")
					}
					break
				}
				fresh := crashOpen(t, store, key, nil)
				switch {
				case err == nil && (strings.HasSuffix(*name, ".end") || lost && strings.HasPrefix(*name, "snapshots/")):
					// Neither makes the snapshot less of one: what the store holds decides.
					crashSame(t, what, crashSnapshotDigest(t, fresh, s), crashDigest(t, src))
					crashSound(t, fresh, true)
				case err == nil:
					t.Errorf("%s (%s): no error", what, *name)
				default:
					if !errors.Is(err, failure) || !strings.Contains(err.Error(), *name) {
						t.Errorf("%s: %v, want one that names %s", what, err, *name)
					}
					crashIntact(t, fresh)
					begun := 0
					for _, m := range crashNames(t, store, "sessions/") {
						if !strings.HasSuffix(m, ".end") {
							begun++
						}
					}
					if ends := len(crashEnds(t, store)); ends < begun {
						t.Errorf("%s (%s): %d sessions began, %d ended", what, *name, begun, ends)
					}
					next, err := fresh.Backup(t.Context(), "shop", src, nil)
					crashMust(t, err)
					crashSame(t, what, crashSnapshotDigest(t, fresh, next), crashDigest(t, src))
				}
			}
		}
	}
}

// Slow puts hold the source back: what is read ahead of them is bounded.
func TestSlowPuts(t *testing.T) {
	var put atomic.Int64
	f := &backendtest.Faulty{Backend: mem.New(nil)}
	r, _ := crashRepo(t, f, nil)
	f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Put && strings.HasPrefix(name, "packs/") {
			time.Sleep(40 * time.Millisecond)
			put.Add(16 << 20)
		}
		return nil
	}
	size := int64(80 << 20)
	var most int64
	src := source.Stream("dump", func(ctx context.Context) (io.ReadCloser, error) {
		s := newCrashStream(ctx, 3, size)
		return &crashAhead{s, &put, &most}, nil
	})
	_, err := r.Backup(t.Context(), "shop", src, nil)
	crashMust(t, err)
	if most > 64<<20 {
		t.Errorf("%d bytes were read ahead of what was put", most)
	}
}

type crashAhead struct {
	*crashStream
	put  *atomic.Int64
	most *int64
}

func (s *crashAhead) Read(p []byte) (int, error) {
	n, err := s.crashStream.Read(p)
	*s.most = max(*s.most, s.off-s.put.Load())
	return n, err
}

// The order of a session's operations is the protocol.
func TestOrder(t *testing.T) {
	repo.SetTimes(t, repo.Times{Segment: time.Nanosecond})
	log := &crashLog{}
	f := &backendtest.Faulty{Backend: mem.New(nil)}
	r, _ := crashRepo(t, f, nil)
	_, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	f.Before = log.Before
	var mu sync.Mutex // guards stored and named
	stored := map[string]bool{}
	named := 0
	f.After = func(_ context.Context, op backendtest.Op, name string, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if op == backendtest.Put && strings.HasPrefix(name, "packs/") {
			stored[name] = true
		}
		if op == backendtest.Put && strings.HasPrefix(name, "index/") {
			named++
		}
		return err
	}
	s, err := r.Backup(t.Context(), "shop", crashSource(7, 26<<20), nil)
	crashMust(t, err)
	// Which of the phases each call may come in; they never go back.
	phases := []struct{ prefix, phase string }{
		{"list snapshots/", "look"}, {"list forgotten/", "look"}, {"get snapshots/", "look"}, {"get forgotten/", "look"},
		{"put sessions/" + s.ID + ".end", "end"},
		{"put sessions/" + s.ID, "begin"},
		{"list gc/", "gc"}, {"get gc/", "gc"},
		{"list index/", "index"}, {"get index/", "index"},
		{"put packs/", "data"}, {"put index/", "data"},
		{"put snapshots/", "commit"},
	}
	order := []string{"look", "begin", "gc", "index", "data", "commit", "end"}
	at, packs, segments := 0, 0, 0
	for _, call := range log.calls {
		i := slices.IndexFunc(phases, func(p struct{ prefix, phase string }) bool { return strings.HasPrefix(call, p.prefix) })
		if i < 0 {
			t.Errorf("an unexpected call: %s", call)
			continue
		}
		now := slices.Index(order, phases[i].phase)
		if now < at {
			t.Errorf("%s comes after the phase %q", call, order[at])
		}
		at = max(at, now)
		if strings.HasPrefix(call, "put packs/") {
			packs++
		}
		if strings.HasPrefix(call, "put index/") {
			if segments++; segments > packs {
				t.Errorf("segment %d after %d packs", segments, packs)
			}
		}
	}
	for _, phase := range order {
		if !slices.ContainsFunc(log.calls, func(c string) bool {
			return slices.ContainsFunc(phases, func(p struct{ prefix, phase string }) bool { return p.phase == phase && strings.HasPrefix(c, p.prefix) })
		}) {
			t.Errorf("nothing in the phase %q", phase)
		}
	}
	if packs < 3 || segments < 2 {
		t.Errorf("%d packs and %d segments: too few for this test", packs, segments)
	}
}

// A marker is there while a backup runs, is renewed, and has its end after it, with the outcome.
func TestMarkers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	repo.SetTimes(t, repo.Times{Renew: 5 * time.Millisecond})
	store := mem.New(nil)
	refuse := atomic.Int32{}
	f := &backendtest.Faulty{Backend: store, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Put && strings.HasSuffix(name, ".2") && refuse.Add(1) < 3 {
			return errors.New("not now")
		}
		return nil
	}}
	r, _ := crashRepo(t, f, nil)
	for _, fails := range []bool{false, true} {
		var during []string
		src := source.Stream("dump", func(ctx context.Context) (io.ReadCloser, error) {
			return &crashWait{func() error {
				for {
					during = crashNames(t, store, "sessions/")
					if slices.ContainsFunc(during, func(n string) bool { return strings.HasSuffix(n, ".3") }) {
						break
					}
					time.Sleep(time.Millisecond)
				}
				if fails {
					return errors.New("the dump broke")
				}
				return io.EOF
			}}, nil
		})
		s, err := r.Backup(t.Context(), "shop", src, nil)
		if (err != nil) != fails {
			t.Fatal(err)
		}
		if len(during) < 4 || strings.HasSuffix(during[0], ".end") || during[1] != during[0]+".1" || during[2] != during[0]+".2" || during[3] != during[0]+".3" {
			t.Errorf("markers during the run: %q", during)
		}
		if !fails && during[0] != "sessions/"+s.ID {
			t.Errorf("the marker is %s, the session %s", during[0], s.ID)
		}
		want := "committed"
		if fails {
			want = "failed"
		}
		if ends := crashEnds(t, store); len(ends) != 1 || ends[0] != want {
			t.Errorf("ends %q, want %q", ends, want)
		}
		before := crashNames(t, store, "sessions/")
		time.Sleep(20 * time.Millisecond)
		if after := crashNames(t, store, "sessions/"); len(after) != len(before) {
			t.Error("it is renewed after its end")
		}
		for _, name := range before {
			data, err := store.Get(t.Context(), name, 0, -1, nil)
			crashMust(t, err)
			if !strings.HasSuffix(name, ".end") && !bytes.HasPrefix(data, []byte("varve session\n"+name+"\n")) {
				t.Errorf("%s holds %q", name, data)
			}
			crashMust(t, store.Delete(t.Context(), name))
		}
		refuse.Store(0)
	}
}

type crashWait struct{ read func() error }

func (w *crashWait) Read([]byte) (int, error) { return 0, w.read() }
func (w *crashWait) Close() error             { return nil }

// A segment that is replaced between the list and the get makes a session start over, from gc/ on.
func TestSegmentVanishes(t *testing.T) {
	base := mem.New(nil)
	r, key := crashRepo(t, base, nil)
	for i := range 3 {
		_, err := r.Backup(t.Context(), "shop", fstest.MapFS{"f": {Data: crashRandom(uint64(i), 100<<10)}}, nil)
		crashMust(t, err)
	}
	log := &crashLog{}
	var gone atomic.Bool
	f := &backendtest.Faulty{Backend: base}
	r = crashOpen(t, f, key, nil)
	f.Before = func(ctx context.Context, op backendtest.Op, name string) error {
		log.Before(ctx, op, name)
		if op == backendtest.Get && strings.HasPrefix(name, "index/") && !gone.Swap(true) {
			return base.Delete(ctx, name)
		}
		return nil
	}
	s, err := r.Backup(t.Context(), "shop", fstest.MapFS{"f": {Data: crashRandom(0, 100<<10)}, "g": {Data: crashRandom(1, 100<<10)}, "h": {Data: crashRandom(2, 100<<10)}}, nil)
	crashMust(t, err)
	lists := strings.Count(strings.Join(log.calls, "\n"), "list gc/")
	if lists != 2 || s.Stats.New != 100<<10 {
		t.Errorf("gc/ was listed %d times, %d bytes are new; want twice, and what the segment named", lists, s.Stats.New)
	}
	crashSame(t, "the snapshot", crashSnapshotDigest(t, r, s), crashDigest(t, fstest.MapFS{"f": {Data: crashRandom(0, 100<<10)}, "g": {Data: crashRandom(1, 100<<10)}, "h": {Data: crashRandom(2, 100<<10)}}))
}

// What cannot be read in a tree is recorded, and the rest is there.
func TestUnreadable(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	root := t.TempDir()
	plant := func(path string, data []byte) {
		crashMust(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
		crashMust(t, os.WriteFile(filepath.Join(root, path), data, 0o644))
	}
	for _, p := range []string{"a", "gone", "middle", "grows", "odd \\ näme\n", "becomes", "refused", "z", "shrinks"} {
		plant(p, crashRandom(uint64(len(p)), 3<<20))
	}
	plant("empty", nil)
	deep := strings.Repeat("d/", 200)
	plant(deep+"bottom", []byte("deep"))
	crashMust(t, syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	broken := errors.New("a bad sector")
	wrap := func(base fs.FS) *crashFS {
		c := &crashFS{FS: base}
		c.open = func(path string) (fs.File, error) {
			full := filepath.Join(root, path)
			after := func(n int, do func() error) (fs.File, error) {
				f, err := base.Open(path)
				if err != nil {
					return nil, err
				}
				return &crashFile{f, n, do}, nil
			}
			switch path {
			case "gone":
				os.Remove(full)
			case "becomes":
				os.Remove(full)
				crashMust(t, syscall.Mkfifo(full, 0o600))
				// Somebody holds its other end, so that opening it does not wait.
				f, err := os.OpenFile(full, os.O_RDWR, 0)
				crashMust(t, err)
				t.Cleanup(func() { f.Close() })
			case "refused":
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
			case "middle":
				return after(2<<20, func() error { return broken })
			case "grows":
				return after(1<<20, sync.OnceValue(func() error {
					f, err := os.OpenFile(full, os.O_APPEND|os.O_WRONLY, 0)
					crashMust(t, err)
					defer f.Close()
					_, err = f.Write(crashRandom(50, 1<<20))
					return err
				}))
			case "shrinks":
				return after(1<<20, sync.OnceValue(func() error { return os.Truncate(full, 1<<20) }))
			}
			return nil, nil
		}
		return c
	}
	for _, tolerate := range []bool{false, true} {
		plant("gone", []byte("x"))
		os.Remove(filepath.Join(root, "becomes"))
		plant("becomes", []byte("x"))
		plant("shrinks", crashRandom(1, 3<<20))
		r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
		o := &repo.BackupOptions{}
		var asked []string
		if tolerate {
			o.Tolerate = func(path string, err error) bool { asked = append(asked, path); return path != "middle" }
		}
		s, err := r.Backup(t.Context(), "shop", wrap(os.DirFS(root)), o)
		if s == nil || !errors.Is(err, repo.ErrIncomplete) || !s.Incomplete() {
			t.Fatalf("%v, %v", s, err)
		}
		list, err := r.Unread(t.Context(), s)
		crashMust(t, err)
		var paths []string
		for _, u := range list {
			paths = append(paths, u.Path)
			if u.Err == "" || u.Tolerated != (tolerate && u.Path != "middle") {
				t.Errorf("%+v", u)
			}
			if u.Path == "middle" && !strings.Contains(u.Err, broken.Error()) {
				t.Errorf("%+v", u)
			}
		}
		slices.Sort(paths)
		want := []string{"becomes", "gone", "grows", "middle", "refused", "shrinks"}
		if !slices.Equal(paths, want) {
			t.Errorf("unread %q, want %q", paths, want)
		}
		if tolerate && len(asked) != len(want) {
			t.Errorf("asked of %q", asked)
		}
		fsys, err := r.FS(t.Context(), s)
		crashMust(t, err)
		got := crashDigest(t, fsys)
		for _, p := range []string{"a", "z", repo.Escape("odd \\ näme\n"), "empty", deep + "bottom"} {
			raw, _ := repo.Unescape(p)
			data, err := os.ReadFile(filepath.Join(root, raw))
			crashMust(t, err)
			if h, ok := got[p]; !ok || h != crashDigest(t, fstest.MapFS{"x": {Data: data}})["x"] {
				t.Errorf("%q is missing or wrong", p)
			}
		}
		for _, p := range []string{"gone", "middle", "becomes", "refused"} {
			if _, ok := got[p]; ok {
				t.Errorf("%s is there", p)
			}
		}
		for _, p := range []string{"grows", "shrinks"} {
			if _, ok := got[p]; !ok {
				t.Errorf("%s, which changed, is not there", p)
			}
		}
		if info, err := fs.Stat(fsys, "fifo"); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
			t.Errorf("fifo: %v, %v", info, err)
		}
		crashSound(t, r, true)
	}
}

// If all that could not be read was tolerated, the backup is complete.
func TestTolerated(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), nil)
	c := &crashFS{FS: fstest.MapFS{"a": {Data: []byte("a")}, "b": {Data: []byte("b")}}}
	c.open = func(path string) (fs.File, error) {
		if path == "b" {
			return nil, fs.ErrPermission
		}
		return nil, nil
	}
	s, err := r.Backup(t.Context(), "shop", c, &repo.BackupOptions{Tolerate: func(string, error) bool { return true }})
	if err != nil || s.Incomplete() || s.Stats.Unread != 1 || s.Stats.Files != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if list, err := r.Unread(t.Context(), s); err != nil || len(list) != 1 || !list[0].Tolerated {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestLongPath(t *testing.T) {
	m := fstest.MapFS{}
	long := strings.Repeat(strings.Repeat("x", 199)+"/", 20)[:3998] + "y" // 3,999 bytes
	m[long] = &fstest.MapFile{Data: []byte("far")}
	m[strings.Repeat("n", 255)] = &fstest.MapFile{Data: []byte("long")}
	r, _ := crashRepo(t, mem.New(nil), nil)
	s, err := r.Backup(t.Context(), "shop", m, nil)
	crashMust(t, err)
	crashSame(t, "long paths", crashSnapshotDigest(t, r, s), crashDigest(t, m))
	target := t.TempDir()
	_, err = r.Restore(t.Context(), s, target, nil)
	crashMust(t, err)
}

// crashAttrFS gives entries of another FS attributes.
type crashAttrFS struct {
	fs.FS
	attr map[string]*repo.Attr
}

func (a *crashAttrFS) ReadDir(path string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(a.FS, path)
	for i, d := range list {
		info, err := d.Info()
		if err != nil {
			return nil, err
		}
		p := d.Name()
		if path != "." {
			p = path + "/" + p
		}
		list[i] = fs.FileInfoToDirEntry(crashInfo{info, a.attr[p]})
	}
	return list, err
}

type crashInfo struct {
	fs.FileInfo
	attr *repo.Attr
}

func (i crashInfo) Sys() any { return i.attr }

// A stream that breaks off leaves no snapshot, wherever in the source it is, and whatever comes after it.
func TestStreamFails(t *testing.T) {
	broken := errors.New("the dump broke")
	for _, size := range []int{0, 100, 2 << 20} {
		for depth := range 4 {
			path := strings.Repeat("x/", depth) + "dump"
			base := fstest.MapFS{path: {}, path + "2": {Data: crashRandom(8, 100<<10)}, "zz": {Data: []byte("z")}}
			c := &crashFS{FS: base}
			c.open = func(p string) (fs.File, error) {
				if p != path {
					return nil, nil
				}
				f, err := base.Open(p)
				return &crashStreamFile{f, io.MultiReader(newCrashStream(t.Context(), 4, int64(size)), &crashWait{func() error { return broken }})}, err
			}
			src := &crashAttrFS{c, map[string]*repo.Attr{path: {Stream: true}}}
			r, _ := crashRepo(t, mem.New(nil), nil)
			s, err := r.Backup(t.Context(), "shop", src, nil)
			if s != nil || !errors.Is(err, broken) || !strings.Contains(err.Error(), path) {
				t.Errorf("a stream at %s that breaks after %d bytes: %v, %v", path, size, s, err)
			}
			if n := len(crashSnapshots(t, r, "")); n != 0 {
				t.Errorf("%d snapshots", n)
			}
		}
	}
}

type crashStreamFile struct {
	fs.File
	r io.Reader
}

func (f *crashStreamFile) Read(p []byte) (int, error) { return f.r.Read(p) }

func TestUnreadableRoot(t *testing.T) {
	store := mem.New(nil)
	r, _ := crashRepo(t, store, nil)
	file := filepath.Join(t.TempDir(), "file")
	crashMust(t, os.WriteFile(file, nil, 0o644))
	for what, src := range map[string]fs.FS{
		"missing":  os.DirFS(filepath.Join(t.TempDir(), "nowhere")),
		"a file":   os.DirFS(file),
		"no list":  &crashAttrNoList{fstest.MapFS{"a": {}}},
		"no part":  source.Join{"a": os.DirFS(filepath.Join(t.TempDir(), "nowhere")), "b": fstest.MapFS{}},
		"bad name": source.Join{"a/b": fstest.MapFS{}},
		"stream":   source.Join{"a": source.Stream("x", func(context.Context) (io.ReadCloser, error) { return nil, errors.New("no database") })},
	} {
		s, err := r.Backup(t.Context(), "shop", src, nil)
		if s != nil || err == nil {
			t.Errorf("%s: %v, %v", what, s, err)
		}
		t.Logf("%s: %v", what, err)
	}
	if n := len(crashSnapshots(t, r, "")); n != 0 {
		t.Errorf("%d snapshots", n)
	}
	for _, e := range crashEnds(t, store) {
		if e != "failed" {
			t.Errorf("an end says %s", e)
		}
	}
}

type crashAttrNoList struct{ fs.FS }

func (*crashAttrNoList) ReadDir(string) ([]fs.DirEntry, error) { return nil, fs.ErrPermission }

func TestFresh(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), nil)
	s, err := r.Backup(t.Context(), "shop", crashDayOne(), &repo.BackupOptions{MinAge: time.Hour})
	crashMust(t, err)
	again, err := r.Backup(t.Context(), "shop", crashDayOne(), &repo.BackupOptions{MinAge: time.Hour})
	if !errors.Is(err, repo.ErrFresh) || again == nil || again.ID != s.ID {
		t.Errorf("%v, %v", again, err)
	}
	if _, err := r.Backup(t.Context(), "other", crashDayOne(), &repo.BackupOptions{MinAge: time.Hour}); err != nil {
		t.Error(err)
	}
	if _, err := r.Backup(t.Context(), "shop", crashDayOne(), &repo.BackupOptions{MinAge: time.Nanosecond}); err != nil {
		t.Error(err)
	}
	if n := len(crashSnapshots(t, r, "shop")); n != 2 {
		t.Errorf("%d snapshots", n)
	}
}

func TestSeriesNames(t *testing.T) {
	store := mem.New(nil)
	r, _ := crashRepo(t, store, nil)
	for _, bad := range []string{"", strings.Repeat("x", 256), "a@b", "a:b", "a\nb", "a\x00", "a\xff", "\x7f"} {
		if s, err := r.Backup(t.Context(), bad, crashDayOne(), nil); s != nil || err == nil {
			t.Errorf("%q: %v, %v", bad, s, err)
		}
	}
	if n := crashNames(t, store, "sessions/"); len(n) != 0 {
		t.Errorf("sessions %q", n)
	}
	for _, good := range []string{"shop/web-1", strings.Repeat("x", 255), "größe", " a ", "../x"} {
		s, err := r.Backup(t.Context(), good, crashDayOne(), nil)
		if err != nil {
			t.Errorf("%q: %v", good, err)
			continue
		}
		if l, err := r.Lookup(t.Context(), good+"@latest"); err != nil || l.ID != s.ID || l.Series != good {
			t.Errorf("%q: %v, %v", good, l, err)
		}
	}
}

// Text that is no text in a snapshot or in what a source says of an entry must not make a snapshot that nobody can open.
func TestNoText(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), nil)
	for _, tags := range []map[string]string{{"a": "\xff"}, {"\xfe": "b"}} {
		if s, err := r.Backup(t.Context(), "shop", crashDayOne(), &repo.BackupOptions{Tags: tags}); s != nil || err == nil {
			t.Errorf("tags %q: %v, %v", tags, s, err)
		}
	}
	src := &crashAttrFS{crashDayOne(), map[string]*repo.Attr{
		"a":   {Owned: true, User: "\xff", Group: "b\xc3"},
		"old": {Stream: true, Owned: true, User: "\xff", ContentType: "text\xff", Meta: map[string]string{"\xff": "\xfe", "a": "b"}},
	}}
	s, err := r.Backup(t.Context(), "shop", src, &repo.BackupOptions{Host: "h\xff"})
	crashMust(t, err)
	s, err = r.Lookup(t.Context(), s.ID)
	crashMust(t, err)
	crashSame(t, "the snapshot", crashSnapshotDigest(t, r, s), crashDigest(t, crashDayOne()))
	crashSound(t, r, true)
}

func TestProgress(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), nil)
	var calls []time.Time
	var last repo.Progress
	running := atomic.Int32{}
	returned := false
	src := source.Join{"db": source.Stream("x", func(ctx context.Context) (io.ReadCloser, error) {
		return &crashSlow{newCrashStream(ctx, 1, 4<<20)}, nil
	}), "tree": crashDayOne()}
	s, err := r.Backup(t.Context(), "shop", src, &repo.BackupOptions{Progress: func(p repo.Progress) {
		if running.Add(1) != 1 || returned {
			t.Error("called twice at a time, or too late")
		}
		calls = append(calls, time.Now())
		if p.Read < last.Read || p.Elapsed < last.Elapsed {
			t.Errorf("it goes back: %+v, %+v", last, p)
		}
		last = p
		running.Add(-1)
	}})
	returned = true
	crashMust(t, err)
	if len(calls) < 2 || last.Read != s.Stats.Read || last.Files != s.Stats.Files {
		t.Errorf("%d calls, the last %+v; the snapshot %+v", len(calls), last, s.Stats)
	}
	for i := 2; i < len(calls)-1; i++ { // the last one is beyond the five a second
		if d := calls[i].Sub(calls[i-2]); d < 200*time.Millisecond {
			t.Errorf("three calls within %v", d)
		}
	}
}

type crashSlow struct{ *crashStream }

func (s *crashSlow) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return s.crashStream.Read(p[:min(len(p), 64<<10)])
}

// A full disk is an error that says so and where; it harms nothing, and with room the next backup succeeds.
func TestDiskFull(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("mounting a tmpfs needs Linux and root")
	}
	mount := func(options string) string {
		path := t.TempDir()
		if err := syscall.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
			t.Skipf("mounting a tmpfs: %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(path, syscall.MNT_DETACH) })
		return path
	}
	disk := mount("size=8m")
	b, err := dir.Create(filepath.Join(disk, "repo"))
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	_, err = r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	src := crashSource(11, 14<<20)
	s, err := r.Backup(t.Context(), "shop", src, nil)
	if s != nil || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "packs/") || !strings.Contains(err.Error(), disk) {
		t.Fatalf("%v, %v; want ENOSPC with object and path", s, err)
	}
	t.Log(err)
	r = crashOpen(t, b, key, nil)
	crashIntact(t, r)
	// Not a byte left: not even the marker.
	junk, err := os.Create(filepath.Join(disk, "junk"))
	crashMust(t, err)
	io.Copy(junk, newCrashStream(t.Context(), 1, 1<<30))
	junk.Close()
	s, err = r.Backup(t.Context(), "shop", src, nil)
	if s != nil || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "sessions/") {
		t.Errorf("%v, %v", s, err)
	}
	crashIntact(t, crashOpen(t, b, key, nil))
	crashMust(t, os.Remove(junk.Name()))
	crashMust(t, syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=60m"))
	s, err = r.Backup(t.Context(), "shop", src, nil)
	crashMust(t, err)
	crashSame(t, "with room", crashSnapshotDigest(t, r, s), crashDigest(t, src))
	crashSound(t, r, true)

	// The cache's disk is another matter: all that it costs is time.
	cache := mount("size=64k")
	tree := t.TempDir()
	for i := range 2000 {
		crashMust(t, os.WriteFile(filepath.Join(tree, fmt.Sprint("a file with a longer name ", i)), crashRandom(uint64(i), 100), 0o644))
	}
	repo.SetTimes(t, repo.Times{Racy: time.Nanosecond})
	r, _ = crashRepo(t, mem.New(nil), &repo.Options{Cache: cache})
	for range 2 {
		s, err = r.Backup(t.Context(), "shop", os.DirFS(tree), nil)
		crashMust(t, err)
		crashSame(t, "with a full cache", crashSnapshotDigest(t, r, s), crashDigest(t, os.DirFS(tree)))
	}
}

// A cache folder that cannot be used costs time and nothing else.
func TestNoCache(t *testing.T) {
	tmp := t.TempDir()
	file := filepath.Join(tmp, "file")
	crashMust(t, os.WriteFile(file, nil, 0o644))
	store := mem.New(nil)
	_, key := crashRepo(t, store, nil)
	// One that cannot be made is most likely a mistake of whoever named it.
	if r, err := repo.Open(t.Context(), store, key, &repo.Options{Cache: filepath.Join(file, "cache")}); r != nil || err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, %v", r, err)
	}
	// It goes away, or becomes something else, while it is in use.
	cache := filepath.Join(tmp, "cache")
	r := crashOpen(t, store, key, &repo.Options{Cache: cache})
	crashMust(t, os.RemoveAll(cache))
	_, err := r.Backup(t.Context(), "shop", crashSource(1, 1<<20), nil)
	crashMust(t, err)
	crashMust(t, os.RemoveAll(cache))
	crashMust(t, os.WriteFile(cache, nil, 0o644))
	s, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	crashSame(t, "without a cache", crashSnapshotDigest(t, r, s), crashDigest(t, crashDayOne()))
}

// A store that is gone is an error that says so, not an empty repository.
func TestLostFolder(t *testing.T) {
	store := filepath.Join(t.TempDir(), "repo")
	b, err := dir.Create(store)
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	_, err = r.Backup(t.Context(), "shop", crashDayOne(), nil)
	crashMust(t, err)
	crashMust(t, os.Rename(store, store+".away"))
	s, err := r.Backup(t.Context(), "shop", crashDayOne(), nil)
	if s != nil || err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), store) {
		t.Errorf("%v, %v", s, err)
	}
	t.Log(err)
	if _, err := os.Stat(store); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made again: %v", err)
	}
	crashMust(t, os.Rename(store+".away", store))

	// It goes away in the middle.
	c := &crashFS{FS: crashSource(3, 34<<20)}
	c.open = func(path string) (fs.File, error) {
		if path == "text" {
			crashMust(t, os.Rename(store, store+".away"))
		}
		return nil, nil
	}
	s, err = r.Backup(t.Context(), "shop", c, nil)
	if s != nil || err == nil || !strings.Contains(err.Error(), store) {
		t.Errorf("%v, %v", s, err)
	}
	t.Log(err)
	if _, err := os.Stat(store); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made again: %v", err)
	}
	crashMust(t, os.Rename(store+".away", store))
	crashIntact(t, crashOpen(t, b, key, nil))
}

var _ backend.Backend = (*backendtest.Faulty)(nil)

// TestTooMuchOfAnEntry: attributes that no tree can hold are recorded, and the rest of the entry and of the backup is there.
func TestTooMuchOfAnEntry(t *testing.T) {
	meta := map[string]string{}
	for i := range 70_000 {
		meta[fmt.Sprint("key ", i)] = "value"
	}
	src := fstest.MapFS{
		"many":  {Data: []byte("many"), Sys: &repo.Attr{Meta: meta}},
		"large": {Data: []byte("large"), Sys: &repo.Attr{Xattrs: map[string][]byte{"user.large": make([]byte, 2<<20)}}},
		"plain": {Data: []byte("plain")},
	}
	r, _ := crashRepo(t, mem.New(nil), nil)
	s, err := r.Backup(t.Context(), "shop", src, nil)
	if !errors.Is(err, repo.ErrIncomplete) {
		t.Fatalf("Backup: %v, want ErrIncomplete", err)
	}
	unread, err := r.Unread(t.Context(), s)
	crashMust(t, err)
	if len(unread) != 2 || unread[0].Path != "large" || unread[1].Path != "many" {
		t.Errorf("unread: %+v", unread)
	}
	crashSame(t, "the snapshot", crashSnapshotDigest(t, r, s), crashDigest(t, src))
}
