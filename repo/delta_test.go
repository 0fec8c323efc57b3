package repo_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
)

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
	w := d.treesAlone(t)
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

// treesAlone takes the only pack and its segment away, and begins another one with the frames of trees, as they were and with their section.
func (d *dmgRepo) treesAlone(t testing.TB) *pack.Writer {
	t.Helper()
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
	return w
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
		w := d.treesAlone(t)
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
