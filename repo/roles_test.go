package repo_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
)

var dmgRoles = []crypt.Role{crypt.Writer, crypt.Maintainer, crypt.Owner}

// dmgRoleKeys returns a raw key and what a slot of that role, which the owner hands out, holds.
func dmgRoleKeys(t *testing.T, d *dmgRepo, role crypt.Role) (crypt.RawKey, *crypt.Keys) {
	t.Helper()
	key := dmgMust(crypt.NewKey())(t)
	s := dmgMust(d.open(t).AddSlot(t.Context(), role, key, "a "+role.String()))(t)
	name := "keys/" + s.ID
	slot := dmgMust(crypt.ParseSlot(name, dmgGet(t, d.b, name)))(t)
	return key, dmgMust(slot.Unlock(t.Context(), key))(t)
}

// What comes out of a slot, with crypt and pack and nothing else, opens, forges and signs of a real repository what the table of roles allows.
func TestRolesByHand(t *testing.T) {
	d := dmgFixture(t)
	for _, role := range dmgRoles {
		t.Run(role.String(), func(t *testing.T) {
			_, k := dmgRoleKeys(t, d, role)
			if k.Role() != role {
				t.Fatalf("keys of a %v", k.Role())
			}
			content, tree, sign := role == crypt.Owner, role >= crypt.Maintainer, role >= crypt.Maintainer

			// Every sealed object opens for every role.
			kinds := map[crypt.Kind]int{}
			every := []crypt.Kind{1, 2, 3, 4, 5, 6, 7, 8, 9}
			for _, name := range d.clean {
				switch prefix, _, _ := strings.Cut(name, "/"); prefix {
				case "packs", "keys", "sessions":
					continue
				}
				kind, body, err := k.Open(name, dmgGet(t, d.b, name), every...)
				if err != nil {
					t.Errorf("open %s: %v", name, err)
				}
				kinds[kind]++
				if kind == crypt.KindSnapshot && !bytes.Contains(body, []byte("shop")) && !bytes.Contains(body, []byte("mail")) {
					t.Errorf("%s does not tell its series", name)
				}

				// Forge it under its own name, and elsewhere.
				as := name
				if kind == crypt.KindSegment {
					as = ""
				}
				object, err := k.Seal(kind, as, body)
				if may := sign || !kind.Signed(); may != (err == nil) || !may && !errors.Is(err, crypt.ErrRole) {
					t.Errorf("seal a %v: %v", kind, err)
				}
				if err == nil {
					if as == "" {
						name = "index/" + dmgHash(object)
					}
					if _, got, err := d.keys.Open(name, object, kind); err != nil || !bytes.Equal(got, body) {
						t.Errorf("a %v by a %v: %v", kind, role, err)
					}
				}
				for _, other := range every {
					if other == kind || other == crypt.KindSegment || other == crypt.KindRewritten || kind == crypt.KindSegment {
						continue
					}
					object, err := k.Seal(other, name, body)
					if may := sign || !other.Signed(); may != (err == nil) {
						t.Errorf("seal %s as a %v: %v", name, other, err)
					}
					if err == nil {
						if _, _, err := d.keys.Open(name, object, kind); !errors.Is(err, crypt.ErrDamaged) {
							t.Errorf("a %v passes for a %v: %v", other, kind, err)
						}
					}
				}
			}
			for _, kind := range every {
				if kinds[kind] == 0 && kind != crypt.KindRewritten {
					t.Errorf("no %v in the repository", kind)
				}
			}
			if _, err := k.Seal(crypt.KindRewritten, "", []byte("x")); (err == nil) != sign {
				t.Errorf("seal a rewritten segment: %v", err)
			}
			// What a role cannot sign it cannot forge either: the signature is looked at by all.
			forged := dmgForge(t, d.keys, crypt.KindVerdict, "gc/5.free", dmgCBOR(t, dmgList(5)))
			if _, _, err := k.Open("gc/5.free", forged, crypt.KindVerdict); !errors.Is(err, crypt.ErrSignature) {
				t.Errorf("a forged verdict: %v", err)
			}

			// Packs: all read what is in them, and no more than the role may of the frames.
			opened := map[uint8]int{}
			for _, name := range dmgNames(t, d.b, "packs/") {
				data := dmgGet(t, d.b, name)
				dir, err := pack.ReadDirectory(k, bytes.NewReader(data), int64(len(data)))
				if err != nil {
					t.Fatalf("directory of %s: %v", name, err)
				}
				for _, f := range dir.Frames {
					s := dir.Sections[f.Section]
					key, err := pack.OpenSectionKey(k, s)
					if may := s.Kind == crypt.SectionContent && content || s.Kind == crypt.SectionTree && tree; may != (err == nil) || !may && !errors.Is(err, crypt.ErrRole) {
						t.Errorf("open a section of kind %d: %v", s.Kind, err)
					}
					// Calling it the other kind does not help.
					other := s
					other.Kind = 3 - s.Kind
					sealed := data[f.Offset : f.Offset+f.Stored]
					if wrong, err := pack.OpenSectionKey(k, other); err == nil {
						if _, err := pack.NewDecoder().Decode(nil, wrong, &f, sealed, nil); !errors.Is(err, pack.ErrDamaged) {
							t.Errorf("opened as kind %d: %v", other.Kind, err)
						}
					}
					if key == nil {
						continue
					}
					opened[s.Kind]++
					plain, err := pack.NewDecoder().Decode(nil, key, &f, sealed, nil)
					if err != nil {
						t.Fatal(err)
					}
					off := uint32(0)
					for _, b := range f.Blobs {
						id := k.Namer().Content(plain[off : off+b.Length])
						if s.Kind == crypt.SectionTree {
							id = k.Namer().Tree(plain[off : off+b.Length])
						}
						if id != b.ID {
							t.Errorf("a blob of kind %d has another id", s.Kind)
						}
						off += b.Length
					}
				}
				// The bytes themselves give nothing away.
				for path, file := range d.want[slices.Sorted(maps.Keys(d.want))[0]] {
					if len(file) > 100 && bytes.Contains(data, file[:100]) || len(path) > 6 && bytes.Contains(data, []byte(path)) {
						t.Errorf("%s can be read in %s", path, name)
					}
				}
			}
			if (opened[crypt.SectionContent] > 0) != content || (opened[crypt.SectionTree] > 0) != tree {
				t.Errorf("sections opened: %v", opened)
			}

			// All write packs that the owner reads.
			for _, kind := range []uint8{crypt.SectionContent, crypt.SectionTree} {
				key := dmgMust(pack.NewSectionKey(k, kind))(t)
				f, sealed := pack.NewEncoder().Encode(nil, key, []byte("written"))
				f.Blobs = []pack.Blob{{ID: k.Namer().Content([]byte("written")), Length: 7}}
				w := pack.NewWriter(k, nil)
				if err := w.Add(key.Section, f, sealed); err != nil {
					t.Fatal(err)
				}
				_, data, _, err := w.Close()
				if err != nil {
					t.Fatal(err)
				}
				dir := dmgMust(pack.ReadDirectory(d.keys, bytes.NewReader(data), int64(len(data))))(t)
				opener := dmgMust(pack.OpenSectionKey(d.keys, dir.Sections[0]))(t)
				if plain, err := pack.NewDecoder().Decode(nil, opener, &dir.Frames[0], data[:dir.Frames[0].Stored], nil); err != nil || string(plain) != "written" {
					t.Errorf("the owner reads %q, %v", plain, err)
				}
				// And not even the writer reads its own section again.
				if _, err := pack.OpenSectionKey(k, key.Section); (err == nil) != (kind == crypt.SectionContent && content || kind == crypt.SectionTree && tree) {
					t.Errorf("its own section of kind %d: %v", kind, err)
				}
			}

			// No way up.
			for _, r := range dmgRoles {
				if _, err := k.Restrict(r); (err == nil) != (r <= role) {
					t.Errorf("restrict to %v: %v", r, err)
				}
			}
		})
	}
}

// What the engine does for each role.
func TestRoles(t *testing.T) {
	d := dmgFixture(t)
	latest := ""
	for id := range d.want {
		if !d.gone[id] && strings.HasSuffix(id, d.series("shop")) {
			latest = max(latest, id)
		}
	}
	tree := d.want[latest]
	for _, role := range dmgRoles {
		t.Run(role.String(), func(t *testing.T) {
			key, _ := dmgRoleKeys(t, d, role)
			r := dmgMust(repo.Open(t.Context(), d.b, key, nil))(t)
			if r.Role() != role {
				t.Errorf("role %v", r.Role())
			}
			may := func(what string, want bool, err error) {
				t.Helper()
				if want != (err == nil) || !want && !errors.Is(err, repo.ErrRole) {
					t.Errorf("%s: %v", what, err)
				}
			}
			n := 0
			for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
				if err != nil || s.Series != "shop" && s.Series != "mail" {
					t.Fatal(s, err)
				}
				n++
			}
			if n < len(d.want)-len(d.gone) {
				t.Errorf("%d snapshots", n)
			}
			shop := dmgMust(r.Lookup(t.Context(), latest))(t)

			fsys, err := r.FS(t.Context(), shop)
			may("FS", role >= crypt.Maintainer, err)
			if err == nil {
				list, err := fs.ReadDir(fsys, "dir")
				if err != nil || len(list) != 3 {
					t.Errorf("names: %v, %v", list, err)
				}
				data, err := fs.ReadFile(fsys, "dir/big.sql")
				may("read content", role == crypt.Owner, err)
				if err == nil && !bytes.Equal(data, tree["dir/big.sql"]) || err != nil && len(data) > 0 {
					t.Errorf("%d bytes", len(data))
				}
			}
			dir := filepath.Join(t.TempDir(), "r")
			_, err = r.Restore(t.Context(), shop, dir, nil)
			may("Restore", role == crypt.Owner, err)
			rep, err := r.Check(t.Context(), &repo.CheckOptions{ReadData: true})
			may("Check", role >= crypt.Maintainer, err)
			if err == nil && len(rep.Findings) > 0 {
				t.Errorf("findings:%s", dmgFindings(rep))
			}
			_, err = r.Unread(t.Context(), shop)
			may("Unread", true, err) // all was read, so there is nothing to open
			_, err = r.Slots(t.Context())
			may("Slots", true, err)
			for _, give := range dmgRoles {
				_, err = r.AddSlot(t.Context(), give, dmgMust(crypt.NewKey())(t), "")
				may("AddSlot", role == crypt.Owner, err)
			}
			slots := dmgMust(r.Slots(t.Context()))(t)
			i := slices.IndexFunc(slots, func(s repo.Slot) bool { return s.Role == crypt.Writer && !s.Current })
			if i >= 0 {
				may("RemoveSlot", role == crypt.Owner, r.RemoveSlot(t.Context(), slots[i].ID))
			}

			// All deduplicate against what the owner wrote, with a cache and without one.
			for _, cache := range []string{"", t.TempDir()} {
				r := dmgMust(repo.Open(t.Context(), d.b, key, &repo.Options{Cache: cache}))(t)
				for range 2 {
					packs := dmgNames(t, d.b, "packs/")
					s, err := r.Backup(t.Context(), "shop", tree.fs(), nil)
					if err != nil {
						t.Fatal(err)
					}
					d.want[s.ID] = tree
					if s.Stats.New != 0 || len(dmgNames(t, d.b, "packs/")) > len(packs)+0 {
						t.Errorf("%d bytes stored again", s.Stats.New)
					}
				}
				more := maps.Clone(tree)
				more["more"] = dmgRand(byte(50+len(d.want)), 3000)
				s, err := r.Backup(t.Context(), "shop", more.fs(), nil)
				if err != nil || s.Stats.New != 3000 {
					t.Errorf("%+v, %v", s, err)
				}
				d.want[s.ID] = more
			}
		})
	}
	d.agrees(t, d.check(t, &repo.CheckOptions{ReadData: true}))
}

// series returns how session ids of a series end.
func (d *dmgRepo) series(name string) string {
	s := dmgSession(d.keys, name, 0)
	return s[len(s)-17:]
}

// The owner's last slot and the one in use stay; a slot that is removed opens no more.
func TestRemoveSlot(t *testing.T) {
	d := dmgNew(t, mem.New(nil))
	r := d.open(t)
	slots := dmgMust(r.Slots(t.Context()))(t)
	if len(slots) != 2 {
		t.Fatalf("slots: %+v", slots)
	}
	for _, s := range slots {
		if s.Current {
			if err := r.RemoveSlot(t.Context(), s.ID); !errors.Is(err, repo.ErrBusy) {
				t.Errorf("the slot in use: %v", err)
			}
		}
	}
	key, _ := dmgRoleKeys(t, d, crypt.Writer)
	writer := dmgMust(r.Slots(t.Context()))(t)
	i := slices.IndexFunc(writer, func(s repo.Slot) bool { return s.Role == crypt.Writer })
	for _, bad := range []string{"", "zz", writer[i].ID + "0"} {
		if err := r.RemoveSlot(t.Context(), bad); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove %q: %v", bad, err)
		}
	}
	if err := r.RemoveSlot(t.Context(), writer[i].ID[:20]); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Open(t.Context(), d.b, key, nil); !errors.Is(err, crypt.ErrWrongKey) {
		t.Errorf("a removed slot: %v", err)
	}
	for _, s := range slots {
		if !s.Current {
			if err := r.RemoveSlot(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		}
	}
	if rep := d.check(t, nil); len(rep.Findings) > 0 {
		t.Errorf("findings:%s", dmgFindings(rep))
	}
}
