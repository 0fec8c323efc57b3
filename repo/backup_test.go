//go:build linux

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

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
		if len(during) < 4 || strings.HasSuffix(during[0], ".end") {
			t.Errorf("markers during the run: %q", during)
		}
		for n := range len(during) - 1 { // by their numbers: as a name, .10 comes before .2
			if !slices.Contains(during, fmt.Sprintf("%s.%d", during[0], n+1)) {
				t.Errorf("markers during the run, without number %d: %q", n+1, during)
			}
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

// Calls are at most five a second also after one that took long, or came late.
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
		if len(calls) == 1 {
			time.Sleep(250 * time.Millisecond) // longer than from one call to the next
		}
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
	for i := 1; i < len(calls)-1; i++ { // the last one is beyond the five a second
		if d := calls[i].Sub(calls[i-1]); d < 200*time.Millisecond {
			t.Errorf("two calls within %v", d)
		}
	}
}

type crashSlow struct{ *crashStream }

func (s *crashSlow) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return s.crashStream.Read(p[:min(len(p), 64<<10)])
}

var _ backend.Backend = (*backendtest.Faulty)(nil)
