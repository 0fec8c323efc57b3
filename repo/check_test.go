package repo_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
)

// dmgReads counts the Gets of each object.
type dmgReads struct {
	backend.Backend
	whole, ranges dmgCounter
}

type dmgCounter struct{ names chan string }

func (d *dmgReads) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	if n < 0 {
		d.whole.names <- name
	} else {
		d.ranges.names <- name
	}
	return d.Backend.Get(ctx, name, off, n, dst)
}

func (c dmgCounter) take(prefix string) map[string]int {
	counts := map[string]int{}
	for {
		select {
		case name := <-c.names:
			if strings.HasPrefix(name, prefix) {
				counts[name]++
			}
		default:
			return counts
		}
	}
}

// All parts together read each pack once.
func TestCheckParts(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	for i := range 9 {
		d.backup(t, "shop", dmgTree{"a": dmgRand(byte(i), 2000)})
	}
	packs := dmgNames(t, d.b, "packs/")
	reads := &dmgReads{d.b, dmgCounter{make(chan string, 10000)}, dmgCounter{make(chan string, 10000)}}
	r := dmgMust(repo.Open(t.Context(), reads, d.key, nil))(t)
	for _, parts := range []int{0, 1, 2, 3, 20} {
		reads.whole.take("")
		n, size := 0, int64(0)
		for part := min(1, parts); part <= parts; part++ {
			rep := dmgMust(r.Check(t.Context(), &repo.CheckOptions{ReadData: true, Part: part, Parts: parts}))(t)
			n += rep.PacksRead
			size += rep.BytesRead
			if len(rep.Findings) > 0 || rep.Packs != len(packs) {
				t.Errorf("%d of %d: %d packs%s", part, parts, rep.Packs, dmgFindings(rep))
			}
		}
		counts := reads.whole.take("packs/")
		if n != len(packs) || len(counts) != len(packs) || slices.Max(slices.Collect(maps.Values(counts))) != 1 {
			t.Errorf("%d parts: %d of %d packs read: %v", parts, n, len(packs), counts)
		}
		var want int64
		for _, name := range packs {
			want += int64(len(dmgGet(t, d.b, name)))
		}
		if size != want {
			t.Errorf("%d parts: %d bytes of %d", parts, size, want)
		}
	}
	for _, o := range []repo.CheckOptions{{Part: 1}, {Part: 3, Parts: 2}, {Parts: 2}, {Part: -1, Parts: 2}, {Parts: -2}} {
		if _, err := r.Check(t.Context(), &o); err == nil {
			t.Errorf("part %d of %d", o.Part, o.Parts)
		}
	}

	// Without ReadData no pack is read as a whole, and damage in content stays where it is.
	reads.whole.take("")
	dmgMust(r.Check(t.Context(), nil))(t)
	if counts := reads.whole.take("packs/"); len(counts) > 0 {
		t.Errorf("packs read: %v", counts)
	}
}

func TestCheckProgress(t *testing.T) {
	d := dmgFixture(t)
	var over atomic.Bool
	var last repo.CheckProgress
	calls := 0
	rep := d.check(t, &repo.CheckOptions{ReadData: true, Progress: func(p repo.CheckProgress) {
		if over.Load() {
			t.Error("called after the return")
		}
		calls++
		last = p
	}})
	over.Store(true)
	if calls == 0 || last.Packs != rep.PacksRead || last.TotalPacks != rep.Packs || last.Bytes != rep.BytesRead || last.Elapsed <= 0 {
		t.Errorf("%d calls, the last %+v, report %+v", calls, last, rep)
	}
}

// A check ends with its context, and says so.
func TestCheckCancelled(t *testing.T) {
	d := dmgFixture(t)
	cause := errors.New("enough")
	for n := range 60 {
		ctx, cancel := context.WithCancelCause(t.Context())
		var gets atomic.Int64
		f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, _ string) error {
			if gets.Add(1) == int64(3*n+8) {
				cancel(cause)
			}
			return nil
		}}
		r := dmgMust(repo.Open(t.Context(), f, d.key, nil))(t)
		rep, err := r.Check(ctx, &repo.CheckOptions{ReadData: true})
		if err == nil && len(rep.Findings) > 0 || err != nil && !errors.Is(err, cause) {
			t.Errorf("cancelled at call %d: %v", 3*n+8, err)
		}
		cancel(nil)
	}
}

// A store that fails is no damage.
func TestCheckOverFailingStore(t *testing.T) {
	d := dmgFixture(t)
	broken := errors.New("the network is down")
	for _, prefix := range []string{"config/", "keys/", "packs/", "index/", "snapshots/", "sessions/", "gc/", "forgotten/"} {
		on := false
		f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if on && op == backendtest.Get && strings.HasPrefix(name, prefix) {
				return broken
			}
			return nil
		}}
		r := dmgMust(repo.Open(t.Context(), f, d.key, nil))(t)
		on = true
		if rep, err := r.Check(t.Context(), &repo.CheckOptions{ReadData: true}); !errors.Is(err, broken) {
			t.Errorf("%s: %v, %v", prefix, rep, err)
		}
	}
}

// Backups that run meanwhile are no finding.
func TestCheckDuringBackup(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	d.backup(t, "shop", dmgTree{"a": dmgRand(1, 1000)})
	for _, at := range []string{"gc/", "index/", "forgotten/", "packs/"} {
		done := false
		n := byte(len(d.want))
		f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
			if (op == backendtest.List || op == backendtest.Get) && strings.HasPrefix(name, at) && !done {
				done = true
				d.backup(t, "shop", dmgTree{"a": dmgRand(n, 1000)})
			}
			return nil
		}}
		r := dmgMust(repo.Open(t.Context(), f, d.key, &repo.Options{Workers: 1}))(t)
		rep := dmgMust(r.Check(t.Context(), nil))(t)
		if !done || len(rep.Findings) > 0 {
			t.Errorf("with a backup before %s (%v):%s", at, done, dmgFindings(rep))
		}
	}
}

// What does not belong there is named and harms nothing.
func TestCheckJunk(t *testing.T) {
	d := dmgFixture(t)
	real := dmgNames(t, d.b, "snapshots/")[0]
	junk := []string{"readme.txt", "packs/00/x", "packs/" + strings.Repeat("0", 64), "index/x", "snapshots/x/y", real[:len(real)-1], "snapshots/0000000000000000/" + real[len(real)-53:],
		"sessions/x", "sessions/" + real[len(real)-53:] + ".0", "gc/0", "gc/x.done", "forgotten/x", "config/01"}
	for _, name := range junk {
		dmgPut(t, d.b, name, []byte("junk"))
	}
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	for _, name := range junk {
		if f := dmgFind(rep, name); f == nil || !f.Harmless {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if len(rep.Findings) != len(junk) || !rep.Sound() {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)
	if _, err := d.open(t).Lookup(t.Context(), "shop@latest"); err != nil {
		t.Error(err)
	}
	d.backup(t, "shop", dmgTree{"a": nil})
}

// What a maintainer's key can check: trees by their content, packs by their names.
func TestCheckAsMaintainer(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	d.backup(t, "shop", dmgTree{"a.sql": dmgRand(1, 60<<10), "dir/b": dmgRand(2, 100)})
	d.backup(t, "shop", dmgTree{"a.sql": dmgRand(3, 60<<10), "dir/b": dmgRand(2, 100)})
	key := dmgMust(crypt.NewKey())(t)
	dmgMust(d.open(t).AddSlot(t.Context(), crypt.Maintainer, key, ""))(t)
	check := func(o *repo.CheckOptions) *repo.CheckReport {
		t.Helper()
		return dmgMust(dmgMust(repo.Open(t.Context(), d.b, key, nil))(t).Check(t.Context(), o))(t)
	}
	if rep := check(&repo.CheckOptions{ReadData: true}); len(rep.Findings) > 0 || rep.PacksRead == 0 {
		t.Fatalf("findings:%s", dmgFindings(rep))
	}
	for _, name := range dmgNames(t, d.b, "packs/") {
		data := dmgGet(t, d.b, name)
		dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)
		for _, f := range dir.Frames {
			bad := bytes.Clone(data)
			bad[f.Offset+f.Stored-1] ^= 1
			dmgPut(t, d.b, name, bad)
			kind := dir.Sections[f.Section].Kind
			if f := dmgFind(check(nil), name); (f != nil) != (kind == crypt.SectionTree) {
				t.Errorf("structure, a frame of kind %d: %+v", kind, f)
			}
			rep := check(&repo.CheckOptions{ReadData: true})
			if f := dmgFind(rep, name); f == nil || len(f.Snapshots) == 0 || len(f.Paths) == 0 || f.Harmless {
				t.Errorf("data, a frame of kind %d: %+v", kind, f)
			}
		}
		dmgDelete(t, d.b, name)
		if f := dmgFind(check(nil), name); f == nil || len(f.Paths) == 0 {
			t.Errorf("deleted: %+v", f)
		}
		dmgPut(t, d.b, name, data)
	}
}

// Snapshots that nobody forgot share a pack with one that was; only damage to what they need hurts them.
func TestCheckTellsWhatIsHurt(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	shared := dmgRand(1, 5000)
	a := d.backup(t, "shop", dmgTree{"x/shared": shared, "own": dmgRand(2, 5000)})
	first := dmgNames(t, d.b, "packs/")
	b := d.backup(t, "shop", dmgTree{"y/other": shared, "own": dmgRand(3, 5000)})
	dmgDelete(t, d.b, first[0])
	rep := d.check(t, nil)
	f := dmgFind(rep, first[0])
	if f == nil || len(rep.Findings) != 1 || !slices.Equal(f.Snapshots, []string{a.ID, b.ID}) || !errors.Is(f.Err, fs.ErrNotExist) ||
		!slices.Equal(f.Paths, []string{a.ID + ":.", b.ID + ":y/other"}) {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)
}

// dmgLater makes of a sealed object one of a later version of the format.
func dmgLater(object []byte, at int, value byte) []byte {
	b := bytes.Clone(object[:len(object)-32])
	b[at] = value
	return crypt.AppendHash(b)
}

// What a later version wrote is refused, with its version, and not taken for damage.
func TestLaterVersions(t *testing.T) {
	d := dmgFixture(t)
	config, manifest := dmgGet(t, d.b, "config/1"), ""
	for id := range d.want {
		if !d.gone[id] {
			manifest = max(manifest, dmgSnapshotName(id))
		}
	}
	segment := dmgGet(t, d.b, dmgNames(t, d.b, "index/")[0])
	for _, c := range []struct {
		what    string
		at      int
		value   byte
		version int
		feature uint32
		epoch   uint32
	}{{"version", 4, 2, 2, 0, 0}, {"feature", 9, 1, 1, 256, 0}, {"epoch", 16, 3, 1, 0, 3}} {
		refused := func(what string, err error) {
			t.Helper()
			var v *crypt.VersionError
			if !errors.As(err, &v) || v.Version != c.version || v.Features != c.feature || v.Epoch != c.epoch || !strings.Contains(err.Error(), what) {
				t.Errorf("%s of %s: %v", c.what, what, err)
			}
		}
		e := d.copy(t, mem.New(nil))
		dmgPut(t, e.b, "config/2", dmgLater(config, c.at, c.value))
		_, err := repo.Open(t.Context(), e.b, e.key, nil)
		refused("config/2", err)
		_, err = d.open(t).Check(t.Context(), nil)
		if err != nil {
			t.Error(err)
		}

		e = d.copy(t, mem.New(nil))
		r := e.open(t)
		dmgPut(t, e.b, manifest, dmgLater(dmgGet(t, e.b, manifest), c.at, c.value))
		for _, err = range r.Snapshots(t.Context(), repo.Filter{}) {
		}
		refused(manifest, err)
		_, err = r.Lookup(t.Context(), manifest[len(manifest)-53:])
		refused(manifest, err)
		_, err = r.Check(t.Context(), nil)
		refused(manifest, err)

		for _, gc := range []string{"gc/2", "gc/1.free", "forgotten/" + slices.Sorted(maps.Keys(d.gone))[0]} {
			e = d.copy(t, mem.New(nil))
			r = e.open(t)
			dmgPut(t, e.b, gc, dmgLater(dmgGet(t, e.b, gc), c.at, c.value))
			before := dmgNames(t, e.b, "packs/")
			_, err = r.Backup(t.Context(), "shop", dmgTree{"a": dmgRand(9, 100)}.fs(), nil)
			refused(gc, err)
			if !slices.Equal(before, dmgNames(t, e.b, "packs/")) {
				t.Error("something was stored")
			}
			_, err = r.Check(t.Context(), nil)
			refused(gc, err)
		}

		e = d.copy(t, mem.New(nil))
		r = e.open(t)
		s := dmgMust(r.Lookup(t.Context(), "mail@latest"))(t)
		later := bytes.Clone(segment)
		later[c.at] = c.value
		name := "index/" + dmgHash(later)
		dmgPut(t, e.b, name, later)
		_, err = r.FS(t.Context(), s)
		refused(name, err)
		_, err = r.Backup(t.Context(), "shop", dmgTree{"a": nil}.fs(), nil)
		refused(name, err)
		_, err = r.Check(t.Context(), nil)
		refused(name, err)
	}

	// A pack: only who has to read its directory can tell.
	e := d.copy(t, mem.New(nil))
	for _, name := range dmgNames(t, e.b, "index/") {
		dmgDelete(t, e.b, name)
	}
	for _, name := range dmgNames(t, e.b, "packs/") {
		later := dmgLaterPack(t, e.keys, dmgGet(t, e.b, name))
		dmgDelete(t, e.b, name)
		h := dmgHash(later)
		dmgPut(t, e.b, "packs/"+h[:2]+"/"+h, later)
	}
	r := e.open(t)
	_, err := r.FS(t.Context(), dmgMust(r.Lookup(t.Context(), "shop@latest"))(t))
	var v *pack.VersionError
	if !errors.As(err, &v) || v.Version != 2 || !strings.Contains(err.Error(), "packs/") {
		t.Errorf("FS: %v", err)
	}
	v = nil
	if _, err := r.Check(t.Context(), nil); !errors.As(err, &v) || v.Version != 2 || !strings.Contains(err.Error(), "packs/") {
		t.Errorf("Check: %v", err)
	}

	// A slot: another may open; when none does the version is the reason.
	e = d.copy(t, mem.New(nil))
	for i, name := range dmgNames(t, e.b, "keys/") {
		dmgPut(t, e.b, name, dmgLater(dmgGet(t, e.b, name), 4, 7))
		var v *crypt.VersionError
		_, err := repo.Open(t.Context(), e.b, e.key, nil)
		if i == 2 && (!errors.As(err, &v) || v.Version != 7) {
			t.Errorf("no slot is of this version: %v", err)
		}
	}
}

// dmgLaterPack seals the trailer of a pack again with the version 2.
func dmgLaterPack(t *testing.T, k *crypt.Keys, data []byte) []byte {
	t.Helper()
	b := bytes.Clone(data)
	trailer := b[len(b)-72:]
	repository := k.Repository()
	aad := append([]byte("varve v1 pack trailer"), repository[:]...)
	aad = binary.LittleEndian.AppendUint64(aad, uint64(len(b)))
	plain := dmgMust(k.DirectoryAEAD().Open(nil, trailer[:24], trailer[24:], aad))(t)
	plain[0] = 2
	k.DirectoryAEAD().Seal(trailer[:24:72], trailer[:24], plain, aad)
	return b
}
