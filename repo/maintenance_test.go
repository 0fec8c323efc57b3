package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/index"
)

// What may be freed is not there for a new backup, and is read as long as it is.
func TestCandidates(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 3000), "b": dmgRand(2, 4000)}
	d.news(t, tree)
	first := dmgNames(t, d.b, "packs/")
	if n := d.news(t, tree); n != 0 {
		t.Fatalf("%d bytes stored again", n)
	}
	d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, first...))
	if n := d.news(t, tree); n != 7000 {
		t.Errorf("%d bytes stored that were in candidates alone", n)
	}
	if n := d.news(t, tree); n != 0 {
		t.Errorf("%d bytes stored that are in a live pack", n)
	}
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	if len(rep.Findings) > 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)

	// Done without a verdict: they live.
	d.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
	for _, name := range dmgNames(t, d.b, "packs/") {
		if !slices.Contains(first, name) {
			dmgDelete(t, d.b, name)
		}
	}
	d.agrees(t, d.check(t, nil))

	// A pack that only candidates know is a finding when it is gone, for snapshots still need it; not when they do not.
	e := dmgNew(t, mem.New(nil))
	s := e.backup(t, "shop", tree)
	packs := dmgNames(t, e.b, "packs/")
	e.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, packs...))
	dmgDelete(t, e.b, packs[0])
	rep = e.check(t, nil)
	if f := dmgFind(rep, packs[0]); f == nil || f.Harmless {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	e.agrees(t, rep)
	e.seal(t, crypt.KindForgotten, "forgotten/"+s.ID, map[int]any{1: s.ID, 2: []int64{1, 0}})
	if rep = e.check(t, nil); !rep.Sound() {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
}

// A verdict is for ever, whatever names the pack later, and whether or not it is there.
func TestVerdict(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 3000)}
	gone := d.backup(t, "old", tree)
	first, segment := dmgNames(t, d.b, "packs/")[0], dmgNames(t, d.b, "index/")[0]
	object := dmgGet(t, d.b, segment)
	data := dmgGet(t, d.b, first)
	dmgDelete(t, d.b, dmgSnapshotName(gone.ID))
	dmgDelete(t, d.b, "sessions/"+gone.ID+".end")
	delete(d.want, gone.ID)
	d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, first))
	d.seal(t, crypt.KindVerdict, "gc/1.free", dmgList(1, first))
	dmgDelete(t, d.b, segment)
	dmgDelete(t, d.b, first)
	for range 2 {
		// A sleeper puts it late; the second time when all is done.
		dmgPut(t, d.b, segment, object)
		if n := d.news(t, tree); n != 3000 && len(d.want) == 1 || n != 0 && len(d.want) > 1 {
			t.Errorf("%d bytes stored", n)
		}
		rep := d.check(t, &repo.CheckOptions{ReadData: true})
		if len(rep.Findings) > 0 {
			t.Errorf("findings:%s", dmgFindings(rep))
		}
		d.agrees(t, rep)
		d.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
	}

	// Even a whole pack that was freed is nothing to build upon.
	e := dmgNew(t, mem.New(nil))
	e.news(t, tree)
	p := dmgNames(t, e.b, "packs/")
	e.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, p...))
	e.seal(t, crypt.KindVerdict, "gc/1.free", dmgList(1, p...))
	e.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
	if n := e.news(t, tree); n != 3000 {
		t.Errorf("%d bytes stored", n)
	}
	// Unnamed and freed: no reader looks there.
	dmgPut(t, d.b, first, data)
	dmgDelete(t, d.b, segment)
	if rep := d.check(t, &repo.CheckOptions{ReadData: true}); len(rep.Findings) > 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
}

// A forgotten snapshot is hidden, from those that compare too.
func TestForgotten(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	a := d.backup(t, "shop", dmgTree{"a": []byte("1")})
	b := d.backup(t, "shop", dmgTree{"a": []byte("2")})
	r := d.open(t)
	d.seal(t, crypt.KindForgotten, "forgotten/"+b.ID, map[int]any{1: b.ID, 2: []int64{1, 0}})
	delete(d.want, b.ID)
	if s, err := r.Lookup(t.Context(), "shop@latest"); err != nil || s.ID != a.ID {
		t.Errorf("latest: %v, %v", s, err)
	}
	if s, err := r.Lookup(t.Context(), b.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("forgotten: %v, %v", s, err)
	}
	if c := d.backup(t, "shop", dmgTree{"a": []byte("3")}); c.Parent != a.ID {
		t.Errorf("compared with %s", c.Parent)
	}
	rep := d.check(t, nil)
	if len(rep.Findings) > 0 || rep.Snapshots != 2 {
		t.Errorf("%d snapshots%s", rep.Snapshots, dmgFindings(rep))
	}
	d.agrees(t, rep)

	// The record stays when the manifest is collected: that it is gone is no finding, and it stays hidden if it comes late.
	object := dmgGet(t, d.b, dmgSnapshotName(b.ID))
	dmgDelete(t, d.b, dmgSnapshotName(b.ID))
	if rep := d.check(t, nil); len(rep.Findings) > 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	dmgPut(t, d.b, dmgSnapshotName(b.ID), object)
	d.agrees(t, d.check(t, nil))

	// It cannot be undone by a record of another session in its place.
	d.seal(t, crypt.KindForgotten, "forgotten/"+a.ID, map[int]any{1: b.ID, 2: []int64{1, 0}})
	rep = d.check(t, nil)
	if f := dmgFind(rep, "forgotten/"+a.ID); f == nil || f.Harmless {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)
}

// A void in the place of the commit ends the backup without a snapshot. What was stored serves the next one.
func TestVoid(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 3000)}
	var session string
	signed := true
	f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Put && strings.HasPrefix(name, "snapshots/") {
			session = name[len(name)-53:]
			object := dmgMust(d.keys.Seal(crypt.KindVoid, name, dmgCBOR(t, map[int]any{1: session})))(t)
			if !signed {
				object = dmgForge(t, d.keys, crypt.KindVoid, name, dmgCBOR(t, map[int]any{1: session}))
			}
			dmgPut(t, d.b, name, object)
		}
		return nil
	}}
	backup := func() error {
		s, err := dmgMust(repo.Open(t.Context(), f, d.key, nil))(t).Backup(t.Context(), "shop", tree.fs(), nil)
		if s != nil {
			t.Error("a snapshot")
		}
		if end := string(dmgGet(t, d.b, "sessions/"+session+".end")); !strings.Contains(end, "\nfailed\n") {
			t.Errorf("end: %q", end)
		}
		return err
	}
	if err := backup(); !errors.Is(err, repo.ErrVoid) {
		t.Errorf("Backup: %v", err)
	}
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	if len(rep.Findings) > 0 || rep.Snapshots != 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)

	// One that maintenance did not sign: no snapshot either, for the place is taken, and a check says so. It hides no other.
	signed = false
	err := backup()
	var de *repo.DamageError
	if errors.Is(err, repo.ErrVoid) || !errors.As(err, &de) || de.Object != dmgSnapshotName(session) {
		t.Errorf("Backup: %v", err)
	}
	if fd := dmgFind(d.check(t, nil), dmgSnapshotName(session)); fd == nil || !errors.Is(fd.Err, crypt.ErrSignature) || fd.Harmless {
		t.Errorf("finding %+v", fd)
	}
	if _, err := d.open(t).Lookup(t.Context(), "shop@latest"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lookup: %v", err)
	}
	if n := d.news(t, tree); n != 0 {
		t.Errorf("%d bytes stored again", n)
	}
	if s, err := d.open(t).Lookup(t.Context(), "shop@latest"); err != nil || d.want[s.ID] == nil {
		t.Errorf("Lookup: %v, %v", s, err)
	}
}

// Whoever holds a writer's keys can seal what looks like maintenance's word. It counts for nothing, and a check names it.
func TestForgedMaintenance(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 3000)}
	s := d.backup(t, "shop", tree)
	p := dmgNames(t, d.b, "packs/")
	other := dmgNew(t, mem.New(nil))
	void := dmgSession(d.keys, "shop", 7)
	rewritten := dmgSegmentOf(t, d.keys, "packs/00/"+strings.Repeat("0", 64), nil)
	bodies := map[string]struct {
		kind crypt.Kind
		body []byte
	}{
		"gc/1":                {crypt.KindCandidates, dmgCBOR(t, dmgList(1, p...))},
		"gc/1.free":           {crypt.KindVerdict, dmgCBOR(t, dmgList(1, p...))},
		"gc/1.done":           {crypt.KindDone, dmgCBOR(t, map[int]any{1: 1})},
		"gc/9":                {crypt.KindCandidates, dmgCBOR(t, dmgList(9, p...))},
		"forgotten/" + s.ID:   {crypt.KindForgotten, dmgCBOR(t, map[int]any{1: s.ID, 2: []int64{1, 0}})},
		"config/2":            {crypt.KindConfig, []byte{0xa0}},
		dmgSnapshotName(void): {crypt.KindVoid, dmgCBOR(t, map[int]any{1: void})},
		"index/":              {crypt.KindRewritten, rewritten},
	}
	for how, forge := range map[string]func(name string, kind crypt.Kind, body []byte) []byte{
		"a writer's": func(name string, kind crypt.Kind, body []byte) []byte { return dmgForge(t, d.keys, kind, name, body) },
		"another repository's": func(name string, kind crypt.Kind, body []byte) []byte {
			return dmgMust(other.keys.Seal(kind, name, body))(t)
		},
		"kind of a manifest": func(name string, kind crypt.Kind, body []byte) []byte {
			if name == "" {
				return dmgMust(other.keys.Seal(crypt.KindSegment, "", body))(t)
			}
			return dmgMust(d.keys.Seal(crypt.KindSnapshot, name, body))(t)
		},
	} {
		t.Run(how, func(t *testing.T) {
			e := d.copy(t, mem.New(nil))
			var names []string
			for name, b := range bodies {
				seal := name
				if name == "index/" {
					seal = ""
				}
				object := forge(seal, b.kind, b.body)
				if name == "index/" {
					name += dmgHash(object)
				}
				dmgPut(t, e.b, name, object)
				names = append(names, name)
			}
			rep := e.check(t, &repo.CheckOptions{ReadData: true})
			for _, name := range names {
				if f := dmgFind(rep, name); f == nil || f.Harmless {
					t.Errorf("%s: %+v", name, f)
				}
			}
			if len(rep.Findings) != len(names) {
				t.Errorf("findings:%s", dmgFindings(rep))
			}
			if n := e.news(t, tree); n != 0 {
				t.Errorf("%d bytes stored again", n)
			}
			e.agrees(t, e.check(t, nil))
		})
	}
}

// A session relies on packs only when it knows which may vanish. A reader does not care.
func TestLostMaintenance(t *testing.T) {
	d := dmgFixture(t)
	for name, refused := range map[string]bool{"gc/1": false, "gc/1.free": true, "gc/1.done": false, "gc/2": true} {
		e := d.copy(t, mem.New(nil))
		object := dmgGet(t, e.b, name)
		dmgPut(t, e.b, name, object[:len(object)-5])
		_, err := e.open(t).Backup(t.Context(), "shop", dmgTree{"a": []byte("x")}.fs(), nil)
		var de *repo.DamageError
		if refused != (err != nil) || refused && (!errors.As(err, &de) || de.Object != name) {
			t.Errorf("%s cut: %v", name, err)
		}
		if refused {
			e.agrees(t, e.check(t, nil))
		}
	}
	// What is wrong with signed ones is no reason to guess either.
	d.seal(t, crypt.KindCandidates, "gc/2", map[int]any{1: 2, 2: [][]byte{{1, 2, 3}}})
	if _, err := d.open(t).Backup(t.Context(), "shop", dmgTree{"a": []byte("x")}.fs(), nil); err == nil {
		t.Error("candidates of three bytes")
	}
	// Collections follow each other: one that is missing is a finding.
	e := dmgFixture(t)
	dmgDelete(t, e.b, "gc/1.done")
	if f := dmgFind(e.check(t, nil), "gc/1.done"); f == nil {
		t.Error("gc/2 without gc/1.done")
	}
	dmgDelete(t, e.b, "gc/1")
	if f := dmgFind(e.check(t, nil), "gc/1"); f == nil {
		t.Error("gc/2 without gc/1")
	}
}

// A rewritten segment counts when it is signed, and carries the birth of its frames.
func TestRewrittenSegment(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	tree := dmgTree{"a": dmgRand(1, 3000), "b.sql": dmgRand(2, 50000)}
	d.news(t, tree)
	d.news(t, dmgTree{"c": dmgRand(3, 3000)})
	var packs []index.Pack
	for _, name := range dmgNames(t, d.b, "packs/") {
		data := dmgGet(t, d.b, name)
		p := index.Pack{ID: dmgID(name), Size: uint32(len(data)), Dir: dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)}
		for range p.Dir.Frames {
			p.Births = append(p.Births, 1_600_000_000)
		}
		packs = append(packs, p)
	}
	for _, name := range dmgNames(t, d.b, "index/") {
		dmgDelete(t, d.b, name)
	}
	object := dmgMust(d.keys.Seal(crypt.KindRewritten, "", index.EncodeSegment(dmgSession(d.keys, "shop", 1), packs)))(t)
	dmgPut(t, d.b, "index/"+dmgHash(object), object)
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	if len(rep.Findings) > 0 || rep.Segments != 1 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)
	if n := d.news(t, tree); n != 0 {
		t.Errorf("%d bytes stored again", n)
	}
}
