package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// healKinds are the kinds of objects that Heal brings.
var healKinds = []string{"config/", "keys/", "packs/", "forgotten/", "index/", "snapshots/"}

// Each kind of object is destroyed in each way, one of them and all of them: afterwards each byte is there again.
func TestHeal(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := dmgFixture(t)
	replica := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), replica, d.b, nil); err != nil {
		t.Fatal(err)
	}
	ways := append(slices.Clone(copyWays), struct {
		name string
		hurt func([]byte) []byte
	}{"deleted", nil})
	copyStores(t, func(t *testing.T, store func() backend.Backend) {
		hurt := d.copy(t, store())
		for _, kind := range healKinds {
			for _, way := range ways {
				for _, all := range []bool{false, true} {
					names := dmgNames(t, hurt.b, kind)
					if !all {
						names = names[:1]
					}
					for _, name := range names {
						if way.hurt == nil {
							dmgDelete(t, hurt.b, name)
						} else {
							dmgPut(t, hurt.b, name, way.hurt(dmgGet(t, hurt.b, name)))
						}
					}
					quick := way.name != "flipped" && len(names) == 1 // size alone tells
					rep, err := repo.Heal(t.Context(), hurt.b, replica, &repo.CopyOptions{Quick: quick})
					if err != nil {
						t.Fatalf("%s %s: %v", kind, way.name, err)
					}
					repaired := len(names)
					if way.hurt == nil {
						repaired = 0
					}
					if rep.Repaired != repaired || rep.Copied != len(names)-repaired || len(rep.Source)+len(rep.Destination) > 0 {
						t.Errorf("%s %s, %d objects: %+v", kind, way.name, len(names), rep)
					}
					if quick && rep.BytesChecked > rep.Bytes {
						t.Errorf("%s %s: %d bytes checked", kind, way.name, rep.BytesChecked)
					}
					copySame(t, hurt.b, d.b)
					copyEnded(t, hurt.b)
				}
			}
		}
	})
}

// What destroys everything that Heal brings is healed too, as long as anything tells which repository it was.
func TestHealAll(t *testing.T) {
	d := dmgFixture(t)
	replica := mem.New(nil)
	if _, err := repo.Replicate(t.Context(), replica, d.b, nil); err != nil {
		t.Fatal(err)
	}
	hurt := d.copy(t, dmgMust(dir.Create(t.TempDir()))(t))
	kept := dmgNames(t, hurt.b, "packs/")[0]
	for i, name := range dmgNames(t, hurt.b, "") {
		switch {
		case strings.HasPrefix(name, "gc/"), strings.HasPrefix(name, "sessions/"), name == kept:
		case i%2 == 0:
			dmgDelete(t, hurt.b, name)
		default:
			dmgPut(t, hurt.b, name, []byte("junk"))
		}
	}
	if _, err := repo.Heal(t.Context(), hurt.b, replica, nil); err != nil {
		t.Fatal(err)
	}
	copySame(t, hurt.b, d.b)
	check := hurt.check(t, &repo.CheckOptions{ReadData: true})
	if !check.Sound() {
		t.Errorf("findings:%s", dmgFindings(check))
	}
	hurt.agrees(t, check)
}

// Two that are damaged in different places heal each other; what neither has is named.
func TestHealEachOther(t *testing.T) {
	d := dmgFixture(t)
	a, b := d.copy(t, mem.New(nil)), d.copy(t, mem.New(nil))
	names := dmgNames(t, d.b, "packs/")
	hurt := func(d *dmgRepo, name string) { dmgPut(t, d.b, name, copyWays[0].hurt(dmgGet(t, d.b, name))) }
	hurt(a, names[0])
	hurt(b, names[1])
	for range 2 {
		if _, err := repo.Heal(t.Context(), a.b, b.b, nil); err != nil {
			t.Fatal(err)
		}
		a, b = b, a
	}
	copySame(t, a.b, d.b)
	copySame(t, b.b, d.b)

	hurt(a, names[0])
	hurt(b, names[0])
	hurt(a, names[1])
	dmgDelete(t, b.b, names[1])
	hurt(a, names[2]) // which b has
	rep, err := repo.Heal(t.Context(), a.b, b.b, nil)
	if rep.Repaired != 1 || len(rep.Source) != 1 || len(rep.Destination) != 2 || copyDamage(t, err).Object != names[0] {
		t.Errorf("%v %+v", err, rep)
	}
	if s, d := rep.Damaged(); s != 1 || d != 2 {
		t.Error(s, d)
	}
	dmgDelete(t, a.b, names[0])
	dmgDelete(t, a.b, names[1])
	copySame(t, a.b, d.b, names[0], names[1])
}

// Older versions heal too, where the source keeps them.
func TestHealVersions(t *testing.T) {
	d := dmgFixture(t)
	a, b := d.copy(t, mem.New(nil)), d.copy(t, mem.New(&mem.Options{Versions: true}))
	name := dmgNames(t, d.b, "packs/")[0]
	dmgDelete(t, a.b, name)
	for range 3 {
		dmgPut(t, b.b, name, []byte("a thief's"))
	}
	if rep, err := repo.Heal(t.Context(), a.b, b.b, nil); err != nil || rep.Copied != 1 {
		t.Errorf("%v %+v", err, rep)
	}
	copySame(t, a.b, d.b)
	// Junk in the newest version is put under a whole one.
	if rep, err := repo.Heal(t.Context(), b.b, a.b, nil); err != nil || rep.Repaired != 1 {
		t.Errorf("%v %+v", err, rep)
	}
	copySame(t, b.b, d.b)
}

// Markers and records of collections stay as they are, and so does what only the destination has.
func TestHealLeaves(t *testing.T) {
	d := dmgFixture(t)
	a, b := d.copy(t, mem.New(nil)), d.copy(t, mem.New(nil))
	own := a.backup(t, "own", dmgTree{"x": dmgRand(77, 5000)})
	dmgDelete(t, a.b, "gc/1.free")
	dmgPut(t, a.b, "gc/2", []byte("junk"))
	marker := dmgNames(t, a.b, "sessions/")[0]
	dmgDelete(t, a.b, marker)
	rep, err := repo.Heal(t.Context(), a.b, b.b, nil)
	if err != nil || rep.Copied+rep.Repaired != 0 {
		t.Errorf("%v %+v", err, rep)
	}
	for _, name := range []string{"gc/1.free", marker} {
		if _, err := a.b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if string(dmgGet(t, a.b, "gc/2")) != "junk" {
		t.Error("a record was repaired")
	}
	r := a.open(t)
	copyReads(t, r, dmgMust(r.Lookup(t.Context(), own.ID))(t), a.want[own.ID])
	// It was read all the same.
	name := dmgSnapshotName(own.ID)
	dmgPut(t, a.b, name, []byte("junk"))
	rep, err = repo.Heal(t.Context(), a.b, b.b, nil)
	if copyDamage(t, err).Object != name || len(rep.Source) != 0 || len(rep.Destination) != 1 || !strings.Contains(err.Error(), "at the destination") {
		t.Errorf("%v %+v", err, rep)
	}
}

// Nothing is put before what it relies on, and a part of the disk that cannot be read is damage.
func TestHealOrder(t *testing.T) {
	d := dmgFixture(t)
	a := d.copy(t, mem.New(nil))
	bad := dmgNames(t, a.b, "packs/")[0]
	var kinds []string
	to := &backendtest.Faulty{Backend: a.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Get && name == bad {
			return syscall.EIO
		}
		if op == backendtest.Put {
			kinds = append(kinds, name[:strings.IndexByte(name, '/')])
		}
		return nil
	}}
	for _, kind := range healKinds[1:] {
		for _, name := range dmgNames(t, a.b, kind) {
			if name != bad {
				dmgDelete(t, a.b, name)
			}
		}
	}
	if rep, err := repo.Heal(t.Context(), to, d.b, &repo.CopyOptions{Workers: 1}); err != nil || rep.Repaired != 1 {
		t.Errorf("%v %+v", err, rep)
	}
	copySame(t, a.b, d.b)
	if want := []string{"sessions", "keys", "packs", "forgotten", "index", "snapshots", "sessions"}; !slices.Equal(slices.Compact(kinds), want) {
		t.Errorf("%v", kinds)
	}
}

// Wherever it is cut off, the next one goes on, and nothing is worse than before.
func TestHealCut(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := dmgFixture(t)
	boom := errors.New("the line is cut")
	hurt := d.copy(t, mem.New(nil))
	for i, name := range dmgNames(t, hurt.b, "") {
		if i%3 == 0 && !strings.HasPrefix(name, "gc/") && !strings.HasPrefix(name, "sessions/") {
			dmgPut(t, hurt.b, name, []byte("junk"))
		} else if i%3 == 1 && !strings.HasPrefix(name, "gc/") && !strings.HasPrefix(name, "sessions/") {
			dmgDelete(t, hurt.b, name)
		}
	}
	for n := 1; n < 400; n += 3 {
		a := hurt.copy(t, mem.New(nil))
		to := &backendtest.Faulty{Backend: a.b, Before: backendtest.Nth(backendtest.Put, boom, n)}
		from := &backendtest.Faulty{Backend: d.b, Before: backendtest.Nth(backendtest.Get, boom, 2*n)}
		_, err := repo.Heal(t.Context(), to, from, nil)
		if err != nil && !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if _, err := repo.Heal(t.Context(), a.b, d.b, nil); err != nil {
			t.Fatal(err)
		}
		copySame(t, a.b, d.b)
		if int64(n) > to.Counts().Puts && int64(2*n) > from.Counts().Gets {
			return
		}
	}
	t.Error("it never came to its end")
}

func ExampleHeal() {
	ctx := context.Background()
	primary, second := mem.New(nil), mem.New(nil)
	key, _ := crypt.NewKey()
	r, _, _ := repo.Create(ctx, primary, key, nil)
	defer r.Close()
	repo.Replicate(ctx, second, primary, nil)

	backend.PutBytes(ctx, primary, "config/1", []byte("rot"), nil)
	rep, err := repo.Heal(ctx, primary, second, nil)
	fmt.Println(rep.Repaired, err)
	// Output: 1 <nil>
}
