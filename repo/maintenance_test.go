package repo_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/index"
)

// news backs up a tree and returns how many bytes of it were stored.
func (d *dmgRepo) news(t testing.TB, tree dmgTree) int64 {
	t.Helper()
	return d.backup(t, "shop", tree).Stats.New
}

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

// The replies to a commit that get lost: what the store holds decides.
func TestCommitReplies(t *testing.T) {
	lost := errors.New("the connection was reset")
	for _, c := range []struct {
		what          string
		before, after bool // which is lost: the request, or the reply
		readback      error
		retry         bool
		ok            bool
	}{
		{what: "request lost", before: true},
		{what: "reply lost", after: true, ok: true},
		{what: "reply lost, and read back fails", after: true, readback: errors.New("still down")},
		{what: "reply lost, retried", after: true, retry: true, ok: true},
		{what: "request lost, retried", before: true, retry: true, ok: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := dmgNew(t, mem.New(nil))
			puts := 0
			manifest := func(name string) bool { return strings.HasPrefix(name, "snapshots/") }
			f := &backendtest.Faulty{Backend: d.b}
			f.Before = func(_ context.Context, op backendtest.Op, name string) error {
				if op == backendtest.Put && manifest(name) {
					if puts++; c.before && puts == 1 {
						return lost
					}
				}
				if op == backendtest.Get && manifest(name) && puts > 0 && c.readback != nil {
					return c.readback
				}
				return nil
			}
			f.After = func(_ context.Context, op backendtest.Op, name string, err error) error {
				if op == backendtest.Put && manifest(name) && c.after && puts == 1 {
					return lost
				}
				return err
			}
			var b backend.Backend = f
			if c.retry {
				b = backend.Retry(f, &backend.RetryOptions{Wait: time.Microsecond, MaxWait: time.Microsecond})
			}
			tree := dmgTree{"a": dmgRand(1, 2000)}
			s, err := dmgMust(repo.Open(t.Context(), b, d.key, nil))(t).Backup(t.Context(), "shop", tree.fs(), nil)
			if (err == nil) != c.ok || c.ok != (s != nil) || err != nil && !errors.Is(err, lost) {
				t.Fatalf("Backup: %v, %v", s, err)
			}
			there := dmgNames(t, d.b, "snapshots/")
			if c.ok {
				d.want[s.ID] = tree
				d.agrees(t, d.check(t, nil))
			} else if c.before && len(there) > 0 {
				t.Errorf("a failed backup left %v", there)
			} else if !c.before && !strings.Contains(err.Error(), "not known whether") {
				t.Errorf("Backup: %v", err)
			}
		})
	}
}

// Any put whose reply is lost, or that finds its own earlier try, is either a backup that succeeds or one that fails and leaves no snapshot.
func TestLostReplies(t *testing.T) {
	lost := errors.New("the connection was reset")
	tree := dmgTree{"a": dmgRand(1, 2000)}
	for n := 1; ; n++ {
		d := dmgNew(t, mem.New(nil))
		hit := false
		hook := backendtest.Nth(backendtest.Put, lost, n)
		f := &backendtest.Faulty{Backend: d.b, After: backendtest.Lost(func(ctx context.Context, op backendtest.Op, name string) error {
			err := hook(ctx, op, name)
			hit = hit || err != nil
			return err
		})}
		for _, b := range []backend.Backend{f, backend.Retry(f, &backend.RetryOptions{Wait: time.Microsecond})} {
			s, err := dmgMust(repo.Open(t.Context(), b, d.key, nil))(t).Backup(t.Context(), "shop", tree.fs(), nil)
			if err == nil {
				d.want[s.ID] = tree
			} else if s != nil || !errors.Is(err, lost) {
				t.Errorf("put %d: %v, %v", n, s, err)
			}
			rep := d.check(t, nil)
			if len(rep.Findings) > 0 || rep.Snapshots != len(d.want) {
				t.Errorf("put %d (%v): %d snapshots%s", n, err, rep.Snapshots, dmgFindings(rep))
			}
		}
		d.agrees(t, d.check(t, nil))
		if !hit {
			break
		}
	}
}

// dmgDelta is a repository in which the three files of a snapshot are three frames in packs of their own, the second and third over bases. The trees are in a fourth.
type dmgDelta struct {
	*dmgRepo
	snap  *repo.Snapshot
	ids   [3]pack.ID
	packs [3]string
	trees string
}

func dmgText(seed byte) []byte {
	var b bytes.Buffer
	noise := dmgRand(1, 32*300)
	for i := range 300 {
		fmt.Fprintf(&b, "INSERT INTO orders VALUES (%d, %x);\n", i, noise[32*i:32*i+32])
	}
	return append(b.Bytes(), dmgRand(seed, 300)...)
}

// dmgDeltas makes one: frame i+1 has the given depth and takes the file over[i] as its base.
func dmgDeltas(t *testing.T, depths [2]uint8, over [2]int) *dmgDelta {
	t.Helper()
	d := &dmgDelta{dmgRepo: dmgNew(t, mem.New(nil))}
	plain := [3][]byte{dmgText(1), dmgText(2), dmgText(3)}
	d.snap = d.backup(t, "shop", dmgTree{"0": plain[0], "1": plain[1], "2": plain[2]})
	for i := range plain {
		d.ids[i] = d.keys.Namer().Content(plain[i])
	}
	old := dmgNames(t, d.b, "packs/")[0]
	data := dmgGet(t, d.b, old)
	dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)
	dmgDelete(t, d.b, old)
	dmgDelete(t, d.b, dmgNames(t, d.b, "index/")[0])

	// The frames of trees are copied as they are, with their section.
	w := pack.NewWriter(d.keys, nil)
	for _, f := range dir.Frames {
		if s := dir.Sections[f.Section]; s.Kind == crypt.SectionTree {
			if err := w.Add(s, f, data[f.Offset:f.Offset+f.Stored]); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.trees = d.store(t, w)

	key := dmgMust(pack.NewSectionKey(d.keys, crypt.SectionContent))(t)
	enc := pack.NewEncoder()
	for i := range plain {
		f, sealed := enc.Encode(nil, key, plain[i])
		if i > 0 {
			base := over[i-1]
			var ok bool
			var err error
			if f, sealed, ok, err = enc.EncodeDelta(nil, key, plain[i], depths[i-1], []pack.ID{d.ids[base]}, plain[base]); err != nil || !ok {
				t.Fatalf("no delta: %v", err)
			}
		}
		f.Blobs = []pack.Blob{{ID: d.ids[i], Length: uint32(len(plain[i]))}}
		w := pack.NewWriter(d.keys, nil)
		if err := w.Add(key.Section, f, sealed); err != nil {
			t.Fatal(err)
		}
		d.packs[i] = d.store(t, w)
	}
	return d
}

// store puts a pack and a segment that names it, and returns the pack's name.
func (d *dmgRepo) store(t testing.TB, w *pack.Writer) string {
	t.Helper()
	id, data, dir, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	name := "packs/" + id.String()[:2] + "/" + id.String()
	dmgPut(t, d.b, name, bytes.Clone(data))
	object := dmgMust(d.keys.Seal(crypt.KindSegment, "", dmgSegmentOf(t, d.keys, name, &index.Pack{ID: id, Size: uint32(len(data)), Dir: dir})))(t)
	dmgPut(t, d.b, "index/"+dmgHash(object), object)
	return name
}

// dmgSegmentOf is the payload of a segment that names one pack, or none.
func dmgSegmentOf(t testing.TB, k *crypt.Keys, name string, p *index.Pack) []byte {
	t.Helper()
	var packs []index.Pack
	if p != nil {
		packs = append(packs, *p)
	}
	return index.EncodeSegment(dmgSession(k, "shop", int(name[9])), packs)
}

// Frames over bases are read, also where no segment names them, and are there for writers only as long as their bases are.
func TestDeltaFrames(t *testing.T) {
	d := dmgDeltas(t, [2]uint8{1, 2}, [2]int{0, 1})
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	if len(rep.Findings) > 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
	d.agrees(t, rep)
	tree := d.want[d.snap.ID]
	lengths := func(files ...string) (n int64) {
		for _, f := range files {
			n += int64(len(tree[f]))
		}
		return n
	}
	for i, missing := range [][]string{{"0", "1", "2"}, {"1", "2"}, {"2"}} {
		for what, records := range map[string]func(e *dmgRepo){
			"condemned": func(e *dmgRepo) { e.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, d.packs[i])) },
			"freed": func(e *dmgRepo) {
				e.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, d.packs[i]))
				e.seal(t, crypt.KindVerdict, "gc/1.free", dmgList(1, d.packs[i]))
			},
		} {
			e := d.copy(t, mem.New(nil))
			records(e)
			e.agrees(t, e.check(t, nil))
			if n := e.news(t, tree); n != lengths(missing...) {
				t.Errorf("pack %d %s: %d bytes stored again, want %d", i, what, n, lengths(missing...))
			}
			// Now the collection ends.
			if what == "freed" {
				dmgDelete(t, e.b, d.packs[i])
				rep := e.check(t, &repo.CheckOptions{ReadData: true})
				if len(rep.Findings) > 0 {
					t.Errorf("pack %d freed:%s", i, dmgFindings(rep))
				}
				e.agrees(t, rep)
			}
		}

		// A lost base hurts what is over it.
		e := d.copy(t, mem.New(nil))
		dmgDelete(t, e.b, d.packs[i])
		for _, readData := range []bool{false, true} {
			rep := e.check(t, &repo.CheckOptions{ReadData: readData})
			f := dmgFind(rep, d.packs[i])
			var paths []string
			for _, m := range missing {
				paths = append(paths, d.snap.ID+":"+m)
			}
			if f == nil || f.Harmless || !slices.Equal(f.Paths, paths) || len(rep.Findings) != 1 {
				t.Errorf("pack %d deleted:%s", i, dmgFindings(rep))
			}
			e.agrees(t, rep)
		}

		// So does a rotten one.
		e = d.copy(t, mem.New(nil))
		data := dmgGet(t, e.b, d.packs[i])
		data[10] ^= 1
		dmgPut(t, e.b, d.packs[i], data)
		e.agrees(t, e.check(t, &repo.CheckOptions{ReadData: true}))
	}
	for _, name := range dmgNames(t, d.b, "index/") {
		dmgDelete(t, d.b, name)
	}
	d.agrees(t, d.check(t, &repo.CheckOptions{ReadData: true}))
}

// Bases that lie no less deep than what is over them are none, so nothing goes round in circles.
func TestDeltaLoops(t *testing.T) {
	for what, c := range map[string]struct {
		depths [2]uint8
		over   [2]int
		lost   []string
	}{
		"each other's":       {[2]uint8{1, 1}, [2]int{2, 1}, []string{"1", "2"}},
		"as deep":            {[2]uint8{2, 2}, [2]int{0, 1}, []string{"2"}},
		"deeper":             {[2]uint8{3, 2}, [2]int{0, 1}, []string{"2"}},
		"in a row of depths": {[2]uint8{7, 8}, [2]int{0, 1}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			d := dmgDeltas(t, c.depths, c.over)
			for _, readData := range []bool{false, true} {
				rep := d.check(t, &repo.CheckOptions{ReadData: readData})
				for _, path := range []string{"0", "1", "2"} {
					if hurt := dmgHurt(rep, d.snap.ID, path); hurt != slices.Contains(c.lost, path) {
						t.Errorf("%s hurt: %v%s", path, hurt, dmgFindings(rep))
					}
				}
				d.agrees(t, rep)
			}
			var want int64
			for _, f := range c.lost {
				want += int64(len(d.want[d.snap.ID][f]))
			}
			if n := d.news(t, maps.Clone(d.want[d.snap.ID])); n != want {
				t.Errorf("%d bytes stored again, want %d", n, want)
			}
			d.agrees(t, d.check(t, nil))
		})
	}
}

// A frame that needs more frames than it may is damage, however often it is asked for and whatever was read before.
func TestDeltaTooMuch(t *testing.T) {
	for _, n := range []int{pack.MaxChainFrames - 1, pack.MaxChainFrames} {
		d := dmgNew(t, mem.New(nil))
		top := dmgText(9)
		s := d.backup(t, "shop", dmgTree{"top": top})
		old := dmgNames(t, d.b, "packs/")[0]
		data := dmgGet(t, d.b, old)
		dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)
		dmgDelete(t, d.b, old)
		dmgDelete(t, d.b, dmgNames(t, d.b, "index/")[0])
		w := pack.NewWriter(d.keys, nil)
		for _, f := range dir.Frames {
			if s := dir.Sections[f.Section]; s.Kind == crypt.SectionTree {
				if err := w.Add(s, f, data[f.Offset:f.Offset+f.Stored]); err != nil {
					t.Fatal(err)
				}
			}
		}
		key := dmgMust(pack.NewSectionKey(d.keys, crypt.SectionContent))(t)
		enc, namer := pack.NewEncoder(), d.keys.Namer()
		var bases []pack.ID
		var dict []byte
		for i := range n {
			piece := binary.LittleEndian.AppendUint32(bytes.Clone(dmgText(9)[:500]), uint32(i))
			f, sealed := enc.Encode(nil, key, piece)
			id := pack.ID(namer.Content(piece))
			f.Blobs = []pack.Blob{{ID: id, Length: uint32(len(piece))}}
			if err := w.Add(key.Section, f, sealed); err != nil {
				t.Fatal(err)
			}
			bases, dict = append(bases, id), append(dict, piece...)
		}
		f, sealed, ok, err := enc.EncodeDelta(nil, key, top, 1, bases, dict)
		if err != nil || !ok {
			t.Fatalf("no delta: %v", err)
		}
		f.Blobs = []pack.Blob{{ID: namer.Content(top), Length: uint32(len(top))}}
		if err := w.Add(key.Section, f, sealed); err != nil {
			t.Fatal(err)
		}
		name := d.store(t, w)
		r := d.open(t)
		fsys := dmgMust(r.FS(t.Context(), s))(t)
		for range 3 {
			_, err := fs.ReadFile(fsys, "top")
			var de *repo.DamageError
			if tooMany := n == pack.MaxChainFrames; tooMany != (err != nil) || tooMany && (!errors.As(err, &de) || de.Object != name) {
				t.Errorf("%d bases: %v", n, err)
			}
		}
		for _, readData := range []bool{false, true} {
			rep := d.check(t, &repo.CheckOptions{ReadData: readData})
			d.agrees(t, rep)
		}
	}
}

// dmgForge seals as a writer can who takes the keys out of the slot and does it by hand: all is right but the signature, which is by a key of the writer's own.
// For what is not signed it is Seal.
func dmgForge(t testing.TB, owner *crypt.Keys, kind crypt.Kind, name string, body []byte) []byte {
	t.Helper()
	writer := dmgMust(owner.Restrict(crypt.Writer))(t)
	spy := &dmgSpy{}
	if _, _, err := writer.NewSlot(context.Background(), spy, ""); err != nil {
		t.Fatal(err)
	}
	var row map[int]any
	if err := cbor.Unmarshal(spy.row, &row); err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	blake3.DeriveKey("varve v1 2026 objects", row[11].([]byte), key[:])
	aead := dmgMust(chacha20poly1305.NewX(key[:]))(t)

	header := append([]byte("VRVE"), 1, byte(kind), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	repository := writer.Repository()
	message := append([]byte("varve v1 signed object\x00"), repository[:]...)
	message = append(message, byte(kind))
	message = binary.LittleEndian.AppendUint16(message, uint16(len(name)))
	message = append(append(message, name...), body...)
	_, own, _ := ed25519.GenerateKey(nil)
	nonce := dmgRand(byte(kind), 24)
	aad := append(append(bytes.Clone(header), repository[:]...), name...)
	object := append(bytes.Clone(header), nonce...)
	object = aead.Seal(object, nonce, append(bytes.Clone(body), ed25519.Sign(own, message)...), aad)
	if name == "" {
		return object
	}
	return crypt.AppendHash(object)
}

// dmgSpy is an Unlocker that keeps the row it is to wrap.
type dmgSpy struct{ row []byte }

func (s *dmgSpy) Wrap(_ context.Context, row, _ []byte) ([]byte, error) {
	s.row = bytes.Clone(row)
	return []byte{1}, nil
}

func (s *dmgSpy) Unwrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, crypt.ErrWrongKey
}
