package repo_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// harms are what may happen to an object.
var harms = map[string]func(t testing.TB, b backend.Backend, name string){
	"deleted": dmgDelete,
	"flipped": func(t testing.TB, b backend.Backend, name string) {
		data := dmgGet(t, b, name)
		data[len(data)/2] ^= 1
		dmgPut(t, b, name, data)
	},
	"cut": func(t testing.TB, b backend.Backend, name string) {
		data := dmgGet(t, b, name)
		dmgPut(t, b, name, data[:len(data)/3])
	},
}

// everything compares all that should be there with what r gives back.
func (d *dmgRepo) everything(t testing.TB, r *repo.Repo) {
	t.Helper()
	left := maps.Clone(d.want)
	for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		tree := left[s.ID]
		if tree == nil || d.gone[s.ID] {
			t.Errorf("a snapshot %s that should not be there", s.ID)
			continue
		}
		delete(left, s.ID)
		fsys := dmgMust(r.FS(t.Context(), s))(t)
		n := 0
		for path, want := range tree {
			if got, err := fs.ReadFile(fsys, path); err != nil || string(got) != string(want) {
				t.Errorf("%s:%s: %d bytes, %v", s.ID, path, len(got), err)
			}
			n++
		}
		dir := t.TempDir()
		if rep, err := r.Restore(t.Context(), s, dir, nil); err != nil || rep.Files != int64(n) {
			t.Errorf("restore %s: %+v, %v", s.ID, rep, err)
		}
	}
	for id := range left {
		if !d.gone[id] {
			t.Errorf("snapshot %s is not there", id)
		}
	}
}

// What is destroyed in a repository, object by object, is read from a replica.
func TestReplicaReads(t *testing.T) {
	d := dmgFixture(t)
	b := d.copy(t, mem.New(nil)).b
	for harm, do := range harms {
		for _, prefix := range []string{"config/", "keys/", "packs/", "index/", "snapshots/", "forgotten/", "gc/", ""} {
			t.Run(harm+" "+prefix, func(t *testing.T) {
				a := d.copy(t, mem.New(nil)).b
				for _, name := range dmgNames(t, a, prefix) {
					do(t, a, name)
				}
				r := dmgMust(repo.Open(t.Context(), a, d.key, &repo.Options{Replicas: []backend.Backend{b}}))(t)
				d.everything(t, r)
				// What judges goes by the repository alone.
				if rep, err := r.Check(t.Context(), &repo.CheckOptions{ReadData: true}); err == nil && rep.Sound() && prefix != "forgotten/" && prefix != "gc/" && prefix != "keys/" {
					t.Error("check calls it sound")
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A store that is empty is no place to write to, whatever a replica has.
func TestReplicaIsNoRepository(t *testing.T) {
	d := dmgFixture(t)
	a := mem.New(nil)
	r := dmgMust(repo.Open(t.Context(), a, d.key, &repo.Options{Replicas: []backend.Backend{d.b}}))(t)
	var de *repo.DamageError
	if _, err := r.Backup(t.Context(), "shop", dmgTree{"x": []byte("x")}.fs(), nil); !errors.As(err, &de) {
		t.Errorf("backup: %v", err)
	}
	if names := dmgNames(t, a, ""); len(names) > 0 {
		t.Errorf("put: %q", names)
	}
	if err := r.SetLock(t.Context(), repo.Lock{Mode: backend.Governance, Period: 1e9}); !errors.As(err, &de) {
		t.Errorf("set lock: %v", err)
	}
}

// A backup relies on nothing that only a replica has.
func TestBackupBesideReplica(t *testing.T) {
	d := dmgFixture(t)
	tree := dmgTree{"new/data": dmgRand(77, 300<<10)}
	both := d.copy(t, mem.New(nil))
	before := dmgNames(t, both.b, "packs/")
	both.backup(t, "shop", tree) // only the replica has this
	r := dmgMust(repo.Open(t.Context(), d.b, d.key, &repo.Options{Replicas: []backend.Backend{both.b}}))(t)
	s := dmgMust(r.Backup(t.Context(), "shop", tree.fs(), nil))(t)
	if s.Stats.New < 300<<10 {
		t.Errorf("%d new bytes: the replica's were relied upon", s.Stats.New)
	}
	if len(dmgNames(t, d.b, "packs/")) <= len(before) {
		t.Error("no new pack")
	}
	d.want[s.ID] = tree
	d.everything(t, d.open(t))
}

// A replica that does not answer is done without; the repository itself is not.
func TestReplicaFails(t *testing.T) {
	d := dmgFixture(t)
	dead := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error { return errors.New("no route") }}
	d.everything(t, dmgMust(repo.Open(t.Context(), d.b, d.key, &repo.Options{Replicas: []backend.Backend{dead}}))(t))
	if _, err := repo.Open(t.Context(), dead, d.key, &repo.Options{Replicas: []backend.Backend{d.b}}); err == nil || !strings.Contains(err.Error(), "no route") {
		t.Errorf("open what does not answer: %v", err)
	}
}

// In a store that keeps versions, junk above what was put is looked through.
func TestOlderVersions(t *testing.T) {
	d := dmgFixture(t)
	for _, harm := range []string{"flipped", "cut"} {
		v := d.copy(t, mem.New(&mem.Options{Versions: true}))
		for _, name := range v.clean {
			if !strings.HasPrefix(name, "sessions/") {
				harms[harm](t, v.b, name)
			}
		}
		r := v.open(t)
		v.everything(t, r)
		rep := dmgMust(r.Check(t.Context(), &repo.CheckOptions{ReadData: true}))(t)
		if rep.Sound() {
			t.Error("check calls it sound")
		}
		for _, f := range rep.Findings {
			if len(f.Snapshots) > 0 || len(f.Paths) > 0 {
				t.Errorf("%s: hurts %v %v", f.Object, f.Snapshots, f.Paths)
			}
		}
		for _, name := range v.clean {
			if !strings.HasPrefix(name, "sessions/") && dmgFind(rep, name) == nil {
				t.Errorf("check does not find %s", name)
			}
		}
		s := dmgMust(r.Backup(t.Context(), "shop", dmgTree{"after": []byte("after")}.fs(), nil))(t)
		v.want[s.ID] = dmgTree{"after": []byte("after")}
		v.everything(t, v.open(t))
	}

	// Of what was deleted there, the view of the time before has all, and heals it.
	v := d.copy(t, mem.New(&mem.Options{Versions: true}))
	then := time.Now()
	for _, name := range v.clean {
		dmgPut(t, v.b, name, []byte("junk"))
		dmgPut(t, v.b, name, append(dmgGet(t, d.b, name), 0))
	}
	c := *v
	c.b = backend.AsOf(v.b, then)
	c.everything(t, c.open(t))
}

// A marker does its work whatever is in it, and heal leaves it alone: junk above one is no reason to call a repository damaged.
func TestOlderMarkers(t *testing.T) {
	d := dmgFixture(t)
	v := d.copy(t, mem.New(&mem.Options{Versions: true}))
	names := dmgNames(t, v.b, "sessions/")
	for _, name := range names {
		dmgPut(t, v.b, name, []byte("junk"))
	}
	rep := v.check(t, nil)
	if !rep.Sound() || len(rep.Findings) != len(names) {
		t.Errorf("%s", dmgFindings(rep))
	}
}

// A config that is read wrong once does not let an older one count.
func TestConfigMisread(t *testing.T) {
	d := dmgNew(t, mem.New(&mem.Options{Versions: true}))
	week := repo.Lock{Mode: backend.Governance, Period: 7 * 24 * time.Hour}
	if err := d.open(t).SetLock(t.Context(), week); err != nil {
		t.Fatal(err)
	}
	left := 1
	f := &backendtest.Faulty{Backend: d.b, Corrupt: func(name string, off int64, p []byte) {
		if name == "config/2" && left > 0 {
			left--
			p[len(p)/2] ^= 1
		}
	}}
	if r, err := repo.Open(t.Context(), f, d.key, nil); err != nil || r.Lock() != week {
		t.Errorf("%v, %v", r.Lock(), err)
	}
}
