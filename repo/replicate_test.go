package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
)

// A replica holds the same objects, opens with the same key and restores the same bytes; the next run copies what is new and nothing else.
func TestReplicate(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	copyStores(t, func(t *testing.T, store func() backend.Backend) {
		f := dmgFixture(t)
		src := f.copy(t, store())
		dst := &dmgRepo{b: store(), key: f.key, keys: f.keys, want: src.want, gone: src.gone}
		var last repo.CopyProgress
		rep, err := repo.Replicate(t.Context(), dst.b, src.b, &repo.CopyOptions{Progress: func(p repo.CopyProgress) { last = p }})
		if err != nil {
			t.Fatal(err)
		}
		copySame(t, dst.b, src.b)
		var size int64
		for _, object := range copyObjects(t, src.b) {
			size += int64(len(object))
		}
		if n := len(copyObjects(t, src.b)); rep.Copied != n || rep.Bytes != size || rep.Present != 0 || rep.Repaired != 0 || last.Copied != n {
			t.Errorf("%+v of %d objects with %d bytes, progress %+v", rep, n, size, last)
		}
		if n := copyEnded(t, dst.b); n != 1 {
			t.Errorf("%d sessions at the replica", n)
		}
		check := dst.check(t, &repo.CheckOptions{ReadData: true})
		if !check.Sound() {
			t.Errorf("findings:%s", dmgFindings(check))
		}
		dst.agrees(t, check)

		// Nothing new, then a snapshot.
		for _, more := range []bool{false, true} {
			if more {
				src.backup(t, "shop", dmgTree{"news": dmgRand(40, 9000)})
			}
			news := len(copyObjects(t, src.b)) - len(copyObjects(t, dst.b))
			from, to := &backendtest.Faulty{Backend: src.b}, &backendtest.Faulty{Backend: dst.b}
			rep, err = repo.Replicate(t.Context(), to, from, nil)
			if err != nil {
				t.Fatal(err)
			}
			puts, gets := to.Counts().Puts, from.Counts().Gets
			if rep.Copied != news || puts != int64(news)+2 || gets > int64(news)+2 || rep.Present != len(copyObjects(t, src.b))-news {
				t.Errorf("%d new objects: %d puts, %d gets, %+v", news, puts, gets, rep)
			}
			if d := to.Counts().Deletes; d != 0 {
				t.Errorf("%d deletes", d)
			}
			copySame(t, dst.b, src.b)
		}
		dst.agrees(t, dst.check(t, nil))
	})
}

// Wherever it is cut off, what the replica lists can be restored, and the next run copies the rest.
func TestReplicateCut(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := dmgFixture(t)
	boom := errors.New("the line is cut")
	for _, way := range []string{"source", "destination", "lost reply", "cancelled"} {
		t.Run(way, func(t *testing.T) {
			for n := int64(1); ; n++ {
				dst := mem.New(nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				var calls atomic.Int64
				hook := func(_ context.Context, op backendtest.Op, _ string) error {
					if op == backendtest.Entry || calls.Add(1) < n {
						return nil
					}
					if way == "cancelled" {
						cancel(boom)
						return nil
					}
					return boom
				}
				from, to := &backendtest.Faulty{Backend: d.b}, &backendtest.Faulty{Backend: dst}
				switch way {
				case "source":
					from.Before = hook
				case "lost reply":
					to.After = backendtest.Lost(hook)
				default:
					to.Before = hook
				}
				rep, err := repo.Replicate(ctx, to, from, &repo.CopyOptions{Workers: 1 + int(n%2)})
				cancel(nil)
				if err == nil && calls.Load() < n {
					break
				}
				side := "destination: "
				if way == "source" {
					side = "source: "
				}
				switch {
				case rep == nil:
					t.Fatal("no report")
				case err == nil && len(copyObjects(t, dst)) == len(d.clean)-len(dmgNames(t, d.b, "sessions/")):
					// only the session's last words were cut off
				case !errors.Is(err, boom), way != "cancelled" && !strings.Contains(err.Error(), side):
					t.Fatalf("call %d: %v", n, err)
				}
				if way == "cancelled" {
					copyEnded(t, dst)
				}
				r, err := repo.Open(t.Context(), dst, d.key, nil)
				switch {
				case errors.Is(err, repo.ErrNoRepository), errors.Is(err, crypt.ErrWrongKey), err != nil && len(dmgNames(t, dst, "keys/")) == 0:
				case err != nil:
					t.Fatal(err)
				case n%6 == 0:
					crashSound(t, r, true)
					fallthrough
				default:
					for _, s := range crashSnapshots(t, r, "") {
						copyReads(t, r, s, d.want[s.ID])
					}
				}
				before := len(copyObjects(t, dst))
				rep, err = repo.Replicate(t.Context(), dst, d.b, nil)
				if err != nil || rep.Present != before {
					t.Fatalf("call %d: again: %v; %d objects were there, %d were present", n, err, before, rep.Present)
				}
				copySame(t, dst, d.b)
			}
		})
	}
}

// What does not match its name never travels, all else does; where the source keeps versions, an older one is copied.
func TestReplicateDamaged(t *testing.T) {
	d := dmgFixture(t)
	for _, kind := range copyKinds {
		for _, how := range copyWays {
			t.Run(kind+how.name, func(t *testing.T) {
				names := dmgNames(t, d.b, kind)
				name := names[len(names)/2]
				for _, versions := range []bool{false, true} {
					src := d.copy(t, mem.New(&mem.Options{Versions: versions}))
					dmgPut(t, src.b, name, how.hurt(dmgGet(t, d.b, name)))
					dst := mem.New(nil)
					rep, err := repo.Replicate(t.Context(), dst, src.b, nil)
					if versions {
						if err != nil {
							t.Fatal(err)
						}
						copySame(t, dst, d.b)
						continue
					}
					if got := copyDamage(t, err); got.Object != name || len(rep.Source) != 1 || rep.Source[0].Object != name || len(rep.Destination) > 0 {
						t.Fatalf("%v, %+v", err, rep)
					}
					if !strings.Contains(err.Error(), "at the source") {
						t.Error(err)
					}
					copySame(t, dst, d.b, name)
					// Once the source is healed, the rest comes.
					if _, err := repo.Replicate(t.Context(), dst, d.b, nil); err != nil {
						t.Fatal(err)
					}
					copySame(t, dst, d.b)
				}
			})
		}
	}
}

// A replica is not overwritten, whichever side is damaged.
func TestReplicateSizes(t *testing.T) {
	d := dmgFixture(t)
	name := dmgNames(t, d.b, "packs/")[0]
	dst := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), dst, d.b, nil); err != nil {
		t.Fatal(err)
	}
	good := dmgGet(t, d.b, name)
	src := d.copy(t, mem.New(nil))
	dmgPut(t, src.b, name, good[1:])
	rep, err := repo.Replicate(t.Context(), dst, src.b, nil)
	if copyDamage(t, err).Object != name || len(rep.Source) != 1 || len(rep.Destination) != 0 {
		t.Errorf("%v %+v", err, rep)
	}
	copySame(t, dst, d.b)
	dmgPut(t, dst, name, good[2:])
	rep, err = repo.Replicate(t.Context(), dst, src.b, nil)
	if copyDamage(t, err).Object != name || len(rep.Source) != 1 || len(rep.Destination) != 1 {
		t.Errorf("%v %+v", err, rep)
	}
	rep, err = repo.Replicate(t.Context(), dst, d.b, nil)
	if copyDamage(t, err).Object != name || len(rep.Source) != 0 || len(rep.Destination) != 1 || !strings.Contains(err.Error(), "heal") {
		t.Errorf("%v %+v", err, rep)
	}
	if !bytes.Equal(dmgGet(t, dst, name), good[2:]) {
		t.Error("it was overwritten")
	}
}

// The order in which objects are put: nothing is there before what it relies on.
func TestReplicateOrder(t *testing.T) {
	d := dmgFixture(t)
	var mu sync.Mutex // guards puts
	var puts []string
	dst := &backendtest.Faulty{Backend: mem.New(nil), After: func(_ context.Context, op backendtest.Op, name string, err error) error {
		if op == backendtest.Put {
			mu.Lock()
			defer mu.Unlock()
			puts = append(puts, name)
		}
		return err
	}}
	if _, err := repo.Replicate(t.Context(), dst, d.b, nil); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, name := range puts {
		kind, rest, _ := strings.Cut(name, "/")
		if kind == "gc" {
			kind = "gc" + strings.TrimLeft(rest, "0123456789")
		}
		kinds = append(kinds, kind)
	}
	kinds = slices.Compact(kinds)
	if want := []string{"sessions", "config", "keys", "packs", "forgotten", "gc", "gc.free", "gc.done", "index", "snapshots", "sessions"}; !slices.Equal(kinds, want) {
		t.Errorf("%v", kinds)
	}
	if !strings.HasSuffix(puts[len(puts)-1], ".end") {
		t.Error(puts[len(puts)-1])
	}
}

// The marker is renewed as long as it takes.
func TestReplicateRenews(t *testing.T) {
	repo.SetTimes(t, repo.Times{Renew: 5 * time.Millisecond})
	d := dmgFixture(t)
	dst := mem.New(nil)
	renewed := func() bool {
		return slices.ContainsFunc(dmgNames(t, dst, "sessions/"), func(name string) bool { return strings.HasSuffix(name, ".2") })
	}
	to := &backendtest.Faulty{Backend: dst, Before: func(_ context.Context, op backendtest.Op, name string) error {
		for op == backendtest.Put && strings.HasPrefix(name, "snapshots/") && !renewed() {
			time.Sleep(time.Millisecond)
		}
		return nil
	}}
	if _, err := repo.Replicate(t.Context(), to, d.b, nil); err != nil {
		t.Fatal(err)
	}
	copyEnded(t, dst)
}

// Objects on their way are bounded in number and in bytes.
func TestReplicateMemory(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	const size = 1 << 20
	want := map[string]bool{}
	for i := range 24 { // as large as packs, and nobody opens them
		data := dmgRand(byte(i), size)
		name := "packs/" + dmgHash(data)[:2] + "/" + dmgHash(data)
		dmgPut(t, d.b, name, data)
		want[name] = true
	}
	var bytesNow, bytesMost, now, most atomic.Int64
	raise := func(most *atomic.Int64, n int64) {
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
	}
	src := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Get && want[name] {
			raise(&bytesMost, bytesNow.Add(size))
			raise(&most, now.Add(1))
		}
		return nil
	}}
	dst := &backendtest.Faulty{Backend: mem.New(nil), Latency: time.Millisecond, After: func(_ context.Context, op backendtest.Op, name string, err error) error {
		if op == backendtest.Put && want[name] {
			bytesNow.Add(-size)
			now.Add(-1)
		}
		return err
	}}
	if _, err := repo.Replicate(t.Context(), dst, src, &repo.CopyOptions{Workers: 8, MaxMemory: 3 * size}); err != nil {
		t.Fatal(err)
	}
	if bytesMost.Load() > 3*size || most.Load() < 2 {
		t.Errorf("%d bytes in %d objects on their way", bytesMost.Load(), most.Load())
	}
	copySame(t, dst, d.b)
	// What is larger than that goes alone.
	if _, err := repo.Replicate(t.Context(), mem.New(nil), d.b, &repo.CopyOptions{MaxMemory: 1000}); err != nil {
		t.Error(err)
	}
}

// What is no object of a repository stays where it is.
func TestReplicateJunk(t *testing.T) {
	d := dmgFixture(t)
	src := d.copy(t, mem.New(nil))
	junk := crypt.AppendHash([]byte("junk"))
	for _, name := range []string{"readme.txt", "packs/x", "index/x", "snapshots/a/b", "config/01", "gc/0", "keys/x", "forgotten/x", "sessions/probe-1"} {
		dmgPut(t, src.b, name, junk)
	}
	dst := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), dst, src.b, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, dst, d.b)
	copyEnded(t, dst)
}

// A store without put-if-absent does as a replica.
func TestReplicateUnconditional(t *testing.T) {
	d := dmgFixture(t)
	dst := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), unconditional{dst}, d.b, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, dst, d.b)
}

// From a disk to a bucket and back.
func TestReplicateS3(t *testing.T) {
	srv := miniotest.Start(t)
	d := dmgFixture(t)
	src := d.copy(t, dmgMust(dir.Create(t.TempDir()))(t))
	_, bucket, _, _ := s3Repo(t, srv)
	for _, name := range dmgNames(t, bucket, "") { // of the repository that s3Repo makes
		dmgDelete(t, bucket, name)
	}
	back := &dmgRepo{b: dmgMust(dir.Create(t.TempDir()))(t), key: d.key, keys: d.keys, want: d.want, gone: d.gone}
	if _, err := repo.Replicate(t.Context(), bucket, src.b, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, bucket, src.b)
	if _, err := repo.Replicate(t.Context(), back.b, bucket, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, back.b, src.b)
	back.agrees(t, back.check(t, &repo.CheckOptions{ReadData: true}))
	for _, kind := range []string{"config/", "packs/", "snapshots/"} {
		name := dmgNames(t, bucket, kind)[0]
		dmgPut(t, bucket, name, copyWays[0].hurt(dmgGet(t, src.b, name)))
	}
	if rep, err := repo.Heal(t.Context(), bucket, back.b, nil); err != nil || rep.Repaired != 3 {
		t.Errorf("%v %+v", err, rep)
	}
	copySame(t, bucket, src.b)
}

func ExampleReplicate() {
	ctx := context.Background()
	primary, second := mem.New(nil), mem.New(nil)
	key, _ := crypt.NewKey()
	r, _, _ := repo.Create(ctx, primary, key, nil)
	defer r.Close()
	r.Backup(ctx, "shop", fstest.MapFS{"a.txt": {Data: []byte("hello")}}, nil)

	// No key is needed.
	if _, err := repo.Replicate(ctx, second, primary, nil); err != nil {
		fmt.Println(err)
		return
	}
	replica, _ := repo.Open(ctx, second, key, nil)
	defer replica.Close()
	snap, _ := replica.Lookup(ctx, "shop@latest")
	fsys, _ := replica.FS(ctx, snap)
	data, _ := fs.ReadFile(fsys, "a.txt")
	fmt.Println(string(data))
	// Output: hello
}
