package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
)

// dmgWays are the ways to damage an object that a test tries.
func dmgWays(data []byte) map[string][]byte {
	flip := func(at int) []byte {
		b := bytes.Clone(data)
		b[at] ^= 1 << (at % 8)
		return b
	}
	n := len(data)
	ways := map[string][]byte{
		"first bit": flip(0), "bit of the version": flip(4), "bit in the middle": flip(n / 2), "last bit": flip(n - 1),
		"cut to nothing": {}, "cut to a byte": data[:1], "cut to half": data[:n/2], "cut by one": data[:n-1], "one byte more": append(bytes.Clone(data), 0),
	}
	return ways
}

// Whatever is done to one object, a check names it, what it calls hurt is what cannot be read, and all else is read as it was written.
func TestDamagedObject(t *testing.T) {
	d := dmgFixture(t)
	if rep := d.check(t, &repo.CheckOptions{ReadData: true}); len(rep.Findings) > 0 || rep.Snapshots != len(d.want)-len(d.gone) {
		t.Fatalf("%d snapshots, findings in a repository that is well:%s", rep.Snapshots, dmgFindings(rep))
	}
	d.agrees(t, d.check(t, nil))
	seen := map[string]int{}
	for _, name := range d.clean {
		kind, _, _ := strings.Cut(name, "/")
		data := dmgGet(t, d.b, name)
		ways := dmgWays(data)
		if seen[kind]++; seen[kind] > 2 || kind == "keys" && seen[kind] > 1 {
			ways = map[string][]byte{"bit in the middle": ways["bit in the middle"], "cut by one": ways["cut by one"]}
		}
		if kind == "packs" {
			delete(ways, "bit of the version")
			dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)
			end := 0
			for i, f := range dir.Frames {
				b := bytes.Clone(data)
				b[f.Offset+f.Stored/2] ^= 4
				ways[fmt.Sprintf("bit in frame %d", i)] = b
				end = int(f.Offset + f.Stored)
			}
			b := bytes.Clone(data)
			b[end+100] ^= 1
			ways["bit in the directory"] = b
		}
		for what, bad := range ways {
			t.Run(name+"/"+what, func(t *testing.T) {
				dmgPut(t, d.b, name, bad)
				defer dmgPut(t, d.b, name, data)
				rep := d.check(t, &repo.CheckOptions{ReadData: true})
				f := dmgFind(rep, name)
				if f == nil {
					t.Fatalf("not found:%s", dmgFindings(rep))
				}
				if f.Err == nil {
					t.Error("a finding without a reason")
				}
				if want := kind == "sessions"; f.Harmless != want && kind != "snapshots" {
					t.Errorf("harmless %v, want %v", f.Harmless, want)
				}
				if kind == "packs" || kind == "index" || kind == "snapshots" || what == "cut by one" {
					d.compare(t, rep, kind == "packs" && seen[kind] <= 2)
				}
			})
		}
	}
}

// The same over a store in a folder, one way each.
func TestDamagedObjectInFolder(t *testing.T) {
	src := dmgFixture(t)
	b := dmgMust(dir.Create(t.TempDir()))(t)
	d := src.copy(t, b)
	seen := map[string]int{}
	for _, name := range d.clean {
		kind, _, _ := strings.Cut(name, "/")
		if seen[kind]++; seen[kind] > 1 {
			continue
		}
		data := dmgGet(t, d.b, name)
		dmgPut(t, d.b, name, data[:len(data)/2])
		rep := d.check(t, &repo.CheckOptions{ReadData: true})
		if dmgFind(rep, name) == nil {
			t.Errorf("%s: not found:%s", name, dmgFindings(rep))
		}
		d.agrees(t, rep)
		dmgPut(t, d.b, name, data)
	}
	if len(seen) != 8 {
		t.Errorf("kinds of objects: %v", seen)
	}
}

// What is deleted is found, and named where anything still knows its name.
func TestDeletedObject(t *testing.T) {
	d := dmgFixture(t)
	for _, name := range d.clean {
		t.Run(name, func(t *testing.T) {
			data := dmgGet(t, d.b, name)
			dmgDelete(t, d.b, name)
			defer dmgPut(t, d.b, name, data)
			rep := d.check(t, nil)
			kind, _, _ := strings.Cut(name, "/")
			f := dmgFind(rep, name)
			switch {
			case kind == "config" || kind == "packs" && f == nil:
				if f == nil || !errors.Is(f.Err, fs.ErrNotExist) || f.Harmless {
					t.Errorf("not found:%s", dmgFindings(rep))
				}
			case kind == "keys" || kind == "sessions":
				// A slot may be removed, and a marker will be.
				if len(rep.Findings) > 0 {
					t.Errorf("findings:%s", dmgFindings(rep))
				}
			case kind == "snapshots" && d.want[name[strings.LastIndexByte(name, '/')+1:]] != nil && !d.gone[name[strings.LastIndexByte(name, '/')+1:]]:
				if f == nil || f.Harmless {
					t.Errorf("not found:%s", dmgFindings(rep))
				}
			case kind == "index":
				// Its packs are there: they are named, nothing is hurt.
				for _, f := range rep.Findings {
					if !strings.HasPrefix(f.Object, "packs/") || f.Harmless || len(f.Paths)+len(f.Snapshots) > 0 {
						t.Errorf("%s: %v", f.Object, f)
					}
				}
			}
			d.compare(t, rep, kind == "packs")
		})
	}
}

// A manifest that is gone is known from its session's end, and from the snapshot that was compared with it.
func TestDeletedManifest(t *testing.T) {
	for _, also := range []string{"", ".end", "child"} {
		d := dmgNew(t, mem.New(nil))
		first := d.backup(t, "shop", dmgTree{"a": []byte("1")})
		second := d.backup(t, "shop", dmgTree{"a": []byte("2")})
		dmgDelete(t, d.b, dmgSnapshotName(first.ID))
		switch also {
		case ".end":
			dmgDelete(t, d.b, "sessions/"+first.ID+".end")
		case "child":
			dmgDelete(t, d.b, dmgSnapshotName(second.ID))
			d.seal(t, crypt.KindForgotten, "forgotten/"+second.ID, map[int]any{1: second.ID, 2: []int64{1, 0}})
			delete(d.want, second.ID)
		}
		rep := d.check(t, nil)
		f := dmgFind(rep, dmgSnapshotName(first.ID))
		if f == nil || !errors.Is(f.Err, fs.ErrNotExist) || !slices.Equal(f.Snapshots, []string{first.ID}) || len(rep.Findings) != 1 || rep.Sound() {
			t.Errorf("without %q:%s", also, dmgFindings(rep))
		}
		d.agrees(t, rep)
	}
}

// A repository whose config is lost opens for reading, and for nothing else.
func TestWithoutConfig(t *testing.T) {
	d := dmgFixture(t)
	config := dmgGet(t, d.b, "config/1")
	for what, object := range map[string][]byte{"missing": nil, "cut": config[:40], "flipped": append([]byte{1}, config[1:]...)} {
		if object == nil {
			dmgDelete(t, d.b, "config/1")
		} else {
			dmgPut(t, d.b, "config/1", object)
		}
		d.agrees(t, d.check(t, nil))
		before := dmgNames(t, d.b, "")
		_, err := d.open(t).Backup(t.Context(), "shop", dmgTree{"a": nil}.fs(), nil)
		var de *repo.DamageError
		if !errors.As(err, &de) || de.Object != "config/1" {
			t.Errorf("%s: Backup: %v", what, err)
		}
		if after := dmgNames(t, d.b, ""); !slices.Equal(before, after) {
			t.Errorf("%s: a refused backup wrote something", what)
		}
	}

	// A later config is no reason to fall back on the one before when it is lost, but a forged one is.
	dmgPut(t, d.b, "config/1", config)
	other := dmgNew(t, mem.New(nil))
	dmgPut(t, d.b, "config/2", config)
	if rep := d.check(t, nil); dmgFind(rep, "config/2") == nil {
		t.Errorf("config/1 as config/2:%s", dmgFindings(rep))
	}
	d.seal(t, crypt.KindConfig, "config/2", map[int]any{1: 2})
	dmgPut(t, d.b, "config/3", dmgMust(other.keys.Seal(crypt.KindConfig, "config/3", []byte{0xa0}))(t))
	if _, err := d.copy(t, mem.New(nil)).open(t).Backup(t.Context(), "shop", dmgTree{"a": nil}.fs(), nil); err != nil {
		t.Errorf("with configs that count for nothing: %v", err)
	}
	dmgPut(t, d.b, "config/2", config[:100])
	var de *repo.DamageError
	if _, err := d.open(t).Backup(t.Context(), "shop", dmgTree{"a": nil}.fs(), nil); !errors.As(err, &de) || de.Object != "config/2" {
		t.Errorf("with the newest config lost: %v", err)
	}
}

// One slot that is damaged does not keep another from opening; when none is left a check says so.
func TestDamagedSlots(t *testing.T) {
	d := dmgFixture(t)
	names := dmgNames(t, d.b, "keys/")
	r := d.open(t)
	for _, name := range names {
		data := dmgGet(t, d.b, name)
		dmgPut(t, d.b, name, data[:len(data)-3])
		_, err := repo.Open(t.Context(), d.b, d.key, nil)
		if err != nil {
			t.Errorf("with %s damaged: %v", name, err)
		}
		recovery := dmgMust(crypt.NewKey())(t)
		if _, err = repo.Open(t.Context(), d.b, recovery, nil); !errors.Is(err, crypt.ErrWrongKey) || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s damaged and a key that opens none: %v", name, err)
		}
		slots, err := r.Slots(t.Context())
		if err != nil || len(slots) != 3 || !slices.ContainsFunc(slots, func(s repo.Slot) bool { return s.Damage != nil && "keys/"+s.ID == name }) {
			t.Errorf("Slots: %v, %v", slots, err)
		}
		dmgPut(t, d.b, name, data)
	}
	for _, name := range names {
		dmgDelete(t, d.b, name)
	}
	rep := dmgMust(r.Check(t.Context(), nil))(t)
	if f := dmgFind(rep, "keys/"); f == nil || rep.Sound() {
		t.Errorf("without a slot:%s", dmgFindings(rep))
	}
	var de *repo.DamageError
	if _, err := repo.Open(t.Context(), d.b, d.key, nil); !errors.As(err, &de) || de.Object != "keys/" {
		t.Errorf("without a slot: %v", err)
	}
}

// Without a single segment all is read from the packs alone, by whoever may read. Writers do not look there: they store again.
func TestWithoutIndex(t *testing.T) {
	d := dmgFixture(t)
	for _, name := range dmgNames(t, d.b, "index/") {
		dmgDelete(t, d.b, name)
	}
	for _, readData := range []bool{false, true} {
		rep := d.check(t, &repo.CheckOptions{ReadData: readData})
		if len(rep.Findings) == 0 || rep.Sound() {
			t.Error("no findings")
		}
		for _, f := range rep.Findings {
			if !strings.HasPrefix(f.Object, "packs/") || len(f.Snapshots)+len(f.Paths) > 0 || !strings.Contains(f.Err.Error(), "no index segment names it") {
				t.Errorf("finding %+v", f)
			}
		}
		d.agrees(t, rep)
	}

	// A directory that is damaged as well: what was in the pack is lost, the rest is not.
	packs := dmgNames(t, d.b, "packs/")
	for _, name := range packs {
		data := dmgGet(t, d.b, name)
		dmgPut(t, d.b, name, append(bytes.Clone(data[:len(data)-1]), data[len(data)-1]^1))
		rep := d.check(t, nil)
		if f := dmgFind(rep, name); f == nil || !strings.Contains(f.Err.Error(), "directory") {
			t.Errorf("%s:%s", name, dmgFindings(rep))
		}
		d.agrees(t, rep)
		dmgPut(t, d.b, name, data)
	}

	// Both the segment and the pack are gone.
	dmgDelete(t, d.b, packs[0])
	d.agrees(t, d.check(t, nil))

	before := len(dmgNames(t, d.b, "packs/"))
	for id, tree := range d.want {
		if d.gone[id] {
			continue
		}
		s := dmgMust(d.open(t).Lookup(t.Context(), id))(t)
		again := dmgMust(d.open(t).Backup(t.Context(), s.Series, tree.fs(), nil))(t)
		if again.Stats.New == 0 {
			t.Error("a writer relied on packs that no segment names")
		}
		d.want[again.ID] = tree
		break
	}
	if after := len(dmgNames(t, d.b, "packs/")); after <= before {
		t.Errorf("%d packs before, %d after", before, after)
	}
	d.agrees(t, d.check(t, nil))
}

// A Repo that is open sees what others commit, whatever it failed to find before.
func TestReadingAfterOthersWrite(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	lost := d.backup(t, "shop", dmgTree{"a": dmgRand(1, 1000)})
	dmgDelete(t, d.b, dmgNames(t, d.b, "packs/")[0])
	reader := d.open(t)
	for range 3 {
		if _, err := reader.FS(t.Context(), lost); err == nil {
			t.Fatal("read from a pack that is gone")
		}
		tree := dmgTree{"b": dmgRand(2, 1000+len(d.want))}
		s := d.backup(t, fmt.Sprint("s", len(d.want)), tree)
		fsys, err := reader.FS(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(fsys, "b"); err != nil || !bytes.Equal(got, tree["b"]) {
			t.Fatal(err)
		}
	}
}

// Nothing that a cache holds hides what is wrong in the store.
func TestCheckReadsTheStore(t *testing.T) {
	d := dmgFixture(t)
	cache := &repo.Options{Cache: t.TempDir()}
	r := dmgMust(repo.Open(t.Context(), d.b, d.key, cache))(t)
	for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.FS(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range d.clean {
		if strings.HasPrefix(name, "packs/") || strings.HasPrefix(name, "keys/") {
			continue
		}
		data := dmgGet(t, d.b, name)
		dmgPut(t, d.b, name, data[:len(data)-1])
	}
	rep := dmgMust(r.Check(t.Context(), nil))(t)
	for _, name := range d.clean {
		if !strings.HasPrefix(name, "packs/") && !strings.HasPrefix(name, "keys/") && dmgFind(rep, name) == nil {
			t.Errorf("%s: not found", name)
		}
	}
}
