package crypt_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/varvebackup/varve/crypt"
)

// What keys can do that came out of a slot of each role, tried rather than asked.
func TestRoles(t *testing.T) {
	owner := try(crypt.NewKeys())
	_, contentEnc, _, err := owner.NewSection(crypt.SectionContent)
	if err != nil {
		t.Fatal(err)
	}
	treeAEAD, treeEnc, _, err := owner.NewSection(crypt.SectionTree)
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		role                      crypt.Role
		openContent, openTree     bool
		sign                      bool
		restrictTo                []crypt.Role
		treeKey, signKey, ownerly bool // private fields that are there
	}{
		{role: crypt.Writer, restrictTo: roles[:1]},
		{role: crypt.Maintainer, openTree: true, sign: true, restrictTo: roles[:2], treeKey: true, signKey: true},
		{role: crypt.Owner, openContent: true, openTree: true, sign: true, restrictTo: roles, treeKey: true, signKey: true, ownerly: true},
	} {
		t.Run(c.role.String(), func(t *testing.T) {
			k := unlocked(t, owner, c.role)
			if k.Role() != c.role || k.Repository() != owner.Repository() || k.Epoch() != 0 {
				t.Errorf("%v, role %v, epoch %d", k, k.Role(), k.Epoch())
			}
			allowed := func(what string, want bool, err error) {
				t.Helper()
				if want && err != nil || !want && !errors.Is(err, crypt.ErrRole) {
					t.Errorf("%s: %v, allowed: %v", what, err, want)
				}
			}

			// Sections: any role seals, few open.
			for _, kind := range []uint8{crypt.SectionContent, crypt.SectionTree} {
				aead, enc, c1, err := k.NewSection(kind)
				if err != nil {
					t.Fatal(err)
				}
				c2, err := owner.OpenSection(kind, aead, enc)
				if err != nil {
					t.Fatal(err)
				}
				nonce := make([]byte, 12)
				if p, err := c2.Open(nil, nonce, c1.Seal(nil, nonce, []byte("frame"), nil), nil); err != nil || string(p) != "frame" {
					t.Errorf("owner opens a %v's section: %q, %v", c.role, p, err)
				}
			}
			_, err := k.OpenSection(crypt.SectionContent, treeAEAD, contentEnc)
			allowed("open content", c.openContent, err)
			_, err = k.OpenSection(crypt.SectionTree, treeAEAD, treeEnc)
			allowed("open tree", c.openTree, err)

			// Objects: any role opens all of them; signed kinds take the maintenance key.
			for _, kind := range kinds {
				_, as := nameOf(kind, nil)
				object, err := k.Seal(kind, as, []byte("body"))
				allowed("seal "+kind.String(), c.sign || !kind.Signed(), err)
				opener := owner
				if err != nil {
					_, object = seal(t, owner, kind, []byte("body"))
					opener = k
				}
				name, _ := nameOf(kind, object)
				if _, p, err := opener.Open(name, object, kind); err != nil || string(p) != "body" {
					t.Errorf("open %v: %q, %v", kind, p, err)
				}
			}

			// Names and cuts are the same for all.
			for i, d := range derived(k) {
				if want := derived(owner)[i]; !bytes.Equal(d.bytes, want.bytes) {
					t.Errorf("%s differs from the owner's", d.label)
				}
			}

			// No way up.
			for _, r := range roles {
				got, err := k.Restrict(r)
				allowed("restrict to "+r.String(), r <= c.role, err)
				if err == nil && (got.Role() != r || !bytes.Equal(crypt.RowOf(got), crypt.RowOf(try(owner.Restrict(r))))) {
					t.Errorf("restrict to %v: %v", r, got)
				}
			}
			for _, r := range []crypt.Role{0, 4, 255} {
				_, err := k.Restrict(r)
				allowed("restrict to "+r.String(), false, err)
			}

			// Keys of other roles aren't there at all. A field that this test doesn't know must be added to it.
			has := map[string]bool{
				"role": true, "repository": true, "contentID": true, "treeID": true, "chunking": true, "series": true, "split": true,
				"shared": true, "contentPublic": true, "treePublic": true, "maintenancePublic": true, "objectAEAD": true, "directoryAEAD": true, "cache": true,
				"hintID": true, "hint": true, "hintSections": true,
				"treePrivate": c.treeKey, "maintenance": c.signKey, "contentPrivate": c.ownerly, "master": c.ownerly,
			}
			v := reflect.ValueOf(k).Elem()
			for i := range v.NumField() {
				field := v.Type().Field(i).Name
				want, known := has[field]
				if there := !v.Field(i).IsZero(); !known && there || known && there != want && field != "repository" {
					t.Errorf("field %s: there %v, want %v", field, there, want)
				}
			}
		})
	}
}

// The row of a lesser role holds nothing from which a greater one's secrets could be read.
func TestRowsHoldNoMore(t *testing.T) {
	owner := try(crypt.NewKeys())
	rowOf := func(r crypt.Role) map[int]any { return rowMap(t, crypt.RowOf(try(owner.Restrict(r)))) }
	master := rowOf(crypt.Owner)[5].([]byte)
	maintainer := rowOf(crypt.Maintainer)
	content := crypt.Derive("varve v1 2026 content hpke", master)
	for _, c := range []struct {
		role    crypt.Role
		keys    int
		secrets map[string][]byte
	}{
		{crypt.Writer, 13, map[string][]byte{"master": master, "content private key": content[:],
			"tree private key": maintainer[15].([]byte), "maintenance seed": maintainer[16].([]byte)}},
		{crypt.Maintainer, 15, map[string][]byte{"master": master, "content private key": content[:]}},
		{crypt.Owner, 5, nil},
	} {
		spy := &custom{key: try(crypt.NewKey())}
		if _, _, err := try(owner.Restrict(c.role)).NewSlot(ctx, spy, ""); err != nil {
			t.Fatal(err)
		}
		if n := len(rowMap(t, spy.row)); n != c.keys {
			t.Errorf("row of a %v has %d keys, want %d", c.role, n, c.keys)
		}
		for what, secret := range c.secrets {
			if bytes.Contains(spy.row, secret) {
				t.Errorf("row of a %v holds the %s", c.role, what)
			}
		}
	}
}

func TestBadRows(t *testing.T) {
	other := rowMap(t, testRow(t, crypt.Maintainer))
	zeros := make([]byte, 32)
	type edit func(m map[int]any)
	set := func(key int, v any) edit { return func(m map[int]any) { m[key] = v } }
	drop := func(key int) edit { return func(m map[int]any) { delete(m, key) } }
	type bad struct {
		what string
		edit edit
	}
	cases := map[crypt.Role][]bad{
		crypt.Owner: {
			{"content id key", set(6, zeros)}, {"maintenance seed", set(16, zeros)}, {"short master", set(5, zeros[:31])}, {"no master", drop(5)},
		},
		crypt.Maintainer: {
			{"master", set(5, zeros)}, {"empty master", set(5, []byte{})}, {"no tree key", drop(15)}, {"no seed", drop(16)},
			{"other tree public key", set(13, other[13])}, {"other tree private key", set(15, other[15])},
			{"other seed", set(16, other[16])}, {"other maintenance public key", set(14, other[14])},
			{"no tree public key", drop(13)}, {"short tree private key", set(15, zeros[:16])},
			{"long tree private key", set(15, append(zeros, 0))},
		},
		crypt.Writer: {
			{"master", set(5, zeros)}, {"tree private key", set(15, zeros)}, {"seed", set(16, zeros)}, {"bad public key", set(12, bytes.Repeat([]byte{255}, 1216))},
			{"short public key", set(12, make([]byte, 1215))}, {"public key of no size", set(14, []byte{})},
		},
	}
	for _, r := range roles {
		cases[r] = append(cases[r],
			bad{"unknown key", set(17, zeros)}, bad{"text key", set(3, "0123456789abcdef")}, bad{"short repository", set(3, zeros[:15])},
			bad{"role 0", set(2, 0)}, bad{"role 4", set(2, 4)}, bad{"role 300", set(2, 300)}, bad{"no role", drop(2)},
			bad{"version 0", set(1, 0)}, bad{"no version", drop(1)}, bad{"no epoch", drop(4)}, bad{"null", set(6, nil)},
			bad{"array for bytes", set(3, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})})
		for s := crypt.Writer; s <= crypt.Owner; s++ {
			if s != r {
				cases[r] = append(cases[r], bad{"role " + s.String(), set(2, uint8(s))})
			}
		}
	}
	for r, list := range cases {
		row := testRow(t, r)
		if k, err := crypt.RowKeys(row); err != nil || k.Role() != r {
			t.Fatalf("row of a %v: %v", r, err)
		}
		for _, c := range list {
			m := rowMap(t, row)
			c.edit(m)
			k, err := crypt.RowKeys(marshal(t, m))
			if err == nil {
				t.Errorf("%s in the row of a %v: %v", c.what, r, k)
			}
		}
		// Other encodings of the same map: trailing bytes, an indefinite length.
		for what, b := range map[string][]byte{
			"trailing byte":     append(bytes.Clone(row), 0),
			"indefinite length": append(append([]byte{0xbf}, row[1:]...), 0xff),
			"tag":               append([]byte{0xd9, 0xd9, 0xf7}, row...),
			"long head":         append([]byte{0xb8, row[0] & 31}, row[1:]...),
			"empty":             nil,
		} {
			if _, err := crypt.RowKeys(b); !errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("%s in the row of a %v: %v", what, r, err)
			}
		}
		for key, want := range map[int]crypt.VersionError{1: {Object: "row", Version: 2}, 4: {Object: "row", Version: 1, Epoch: 2}} {
			m := rowMap(t, row)
			m[key], m[99] = 2, "of the future"
			_, err := crypt.RowKeys(marshal(t, m))
			if got, ok := errors.AsType[*crypt.VersionError](err); !ok || *got != want {
				t.Errorf("row from the future: %v", err)
			}
		}
	}
}

func TestRoleText(t *testing.T) {
	for _, r := range roles {
		if got, err := crypt.ParseRole(r.String()); err != nil || got != r {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "Owner", "role(0)", "owner "} {
		if got, err := crypt.ParseRole(s); err == nil {
			t.Errorf("%q is role %v", s, got)
		}
	}
	if s := crypt.Role(9).String(); s != "role(9)" {
		t.Error(s)
	}
}

// Nothing secret is printed, by pointer or by value. (fmt answers %p, which vet refuses for values, without asking.)
func TestKeysAreNeverPrinted(t *testing.T) {
	keys, raw := try(crypt.NewKeys()), goldenKey()
	master := rowMap(t, crypt.RowOf(keys))[5].([]byte)
	secrets := []string{string(master), fmt.Sprintf("%x", master), fmt.Sprintf("%X", master), fmt.Sprint(master)[1:], "battery staple", raw.Text()[10:30],
		string(raw[:]), fmt.Sprintf("%x", raw[:]), fmt.Sprint(raw[:])[1:20], fmt.Sprintf("%#v", raw[:])[10:40], "BwgJCgsM"}
	chunking := keys.ChunkingKey()
	secrets = append(secrets, fmt.Sprint(chunking[:])[1:40], fmt.Sprintf("%x", chunking[:]), fmt.Sprintf("%#v", chunking[:])[10:40])
	for _, v := range []any{keys, *keys, raw, &raw, crypt.Passphrase(goldenPassphrase), []any{keys, raw}, struct{ K *crypt.Keys }{keys}, map[string]crypt.RawKey{"k": raw}} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		switch v.(type) {
		case []any, map[string]crypt.RawKey: // JSON of raw keys within other values is the caller's own doing
		default:
			slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
		}
		for _, s := range secrets {
			if strings.Contains(out.String(), s) {
				t.Errorf("%T prints %q:\n%s", v, s, out.String())
			}
		}
	}
	if got, want := fmt.Sprint(keys), fmt.Sprintf("owner keys of repository %x", keys.Repository()); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestCopiesAreCopies(t *testing.T) {
	k := try(crypt.NewKeys())
	before := *k.ChunkingKey()
	clear(k.ChunkingKey()[:])
	if *k.ChunkingKey() != before {
		t.Error("ChunkingKey hands out the key itself")
	}
}
