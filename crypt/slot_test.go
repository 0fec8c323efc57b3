package crypt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/varvebackup/varve/crypt"
	"pgregory.net/rapid"
)

func TestSlots(t *testing.T) {
	owner := try(crypt.NewKeys())
	key := try(crypt.NewKey())
	for _, r := range roles {
		k := try(owner.Restrict(r))
		before := time.Now().Add(-time.Second)
		made, object, err := k.NewSlot(ctx, key, "Büro, 1. Stock")
		if err != nil {
			t.Fatal(err)
		}
		slot, err := crypt.ParseSlot(made.Name(), object)
		if err != nil {
			t.Fatal(err)
		}
		if slot.ID != made.ID || slot.Role != r || slot.Kind != "key" || slot.Label != "Büro, 1. Stock" || !slot.Created.Equal(made.Created) ||
			slot.Created.Before(before) || slot.Created.After(time.Now()) || slot.Repository != owner.Repository() {
			t.Errorf("slot %+v, made %+v", slot, made)
		}
		if !bytes.Equal(slot.Encode(), object) {
			t.Error("the slot encodes differently")
		}
		got, err := slot.Unlock(ctx, key)
		if err != nil || !bytes.Equal(crypt.RowOf(got), crypt.RowOf(k)) {
			t.Errorf("unlocked %v, %v", got, err)
		}
		for what, u := range map[string]crypt.Unlocker{
			"another key":        try(crypt.NewKey()),
			"a passphrase":       crypt.Passphrase("x"),
			"an unlocker's slot": &custom{key: key},
		} {
			if _, err := slot.Unlock(ctx, u); !errors.Is(err, crypt.ErrWrongKey) || !strings.Contains(err.Error(), slot.Name()) {
				t.Errorf("%s: %v", what, err)
			}
		}
		// What the fields say has no bearing.
		slot.Role, slot.Kind, slot.Label = crypt.Owner, "custom", ""
		if got, err := slot.Unlock(ctx, key); err != nil || got.Role() != r {
			t.Errorf("unlocked %v, %v", got, err)
		}
	}
}

func TestPassphraseSlot(t *testing.T) {
	owner := try(crypt.NewKeys())
	made, object, err := owner.NewSlot(ctx, crypt.Passphrase("Grüße "), "")
	if err != nil {
		t.Fatal(err)
	}
	slot, err := crypt.ParseSlot(made.Name(), object)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := slot.Unlock(ctx, crypt.Passphrase("Grüße ")); err != nil || !bytes.Equal(crypt.RowOf(k), crypt.RowOf(owner)) {
		t.Errorf("unlocked %v, %v", k, err)
	}
	if _, err := slot.Unlock(ctx, crypt.Passphrase("Grüße")); !errors.Is(err, crypt.ErrWrongKey) {
		t.Errorf("the wrong one: %v", err)
	}
	if _, err := slot.Unlock(ctx, crypt.Passphrase("")); err == nil || !strings.Contains(err.Error(), "empty passphrase") {
		t.Errorf("none: %v", err)
	}
	if _, _, err := owner.NewSlot(ctx, crypt.Passphrase(""), ""); err == nil || !strings.Contains(err.Error(), "empty passphrase") {
		t.Errorf("a slot with none: %v", err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := slot.Unlock(canceled, crypt.Passphrase("Grüße ")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, _, err := owner.NewSlot(canceled, crypt.Passphrase("x"), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// What the store says a passphrase should cost is refused before it is paid: the worst of these would take 256 TiB.
func TestHostileArgon2Parameters(t *testing.T) {
	owner := try(crypt.NewKeys())
	// The slot is made by a raw key that says it is a passphrase; what is in it doesn't matter.
	made, object, err := owner.NewSlot(ctx, posing{goldenKey(), "passphrase"}, "")
	if err != nil {
		t.Fatal(err)
	}
	salt, nonce, sealed := make([]byte, 16), make([]byte, 24), make([]byte, 100)
	type array = []any
	for _, c := range []struct {
		what    string
		wrapped any
	}{
		{"passes 0", array{0, 65536, 4, salt, nonce, sealed}},
		{"passes 17", array{17, 65536, 4, salt, nonce, sealed}},
		{"passes 2^32+3", array{uint64(1<<32 + 3), 65536, 4, salt, nonce, sealed}},
		{"passes -1", array{-1, 65536, 4, salt, nonce, sealed}},
		{"memory 0", array{3, 0, 4, salt, nonce, sealed}},
		{"memory 8191", array{3, 8191, 4, salt, nonce, sealed}},
		{"memory 1 GiB + 1 KiB", array{3, 1<<20 + 1, 4, salt, nonce, sealed}},
		{"memory 256 TiB", array{1, uint64(1 << 38), 4, salt, nonce, sealed}},
		{"lanes 0", array{3, 65536, 0, salt, nonce, sealed}},
		{"lanes 17", array{3, 65536, 17, salt, nonce, sealed}},
		{"lanes 260", array{3, 65536, 260, salt, nonce, sealed}},
		{"salt of 15", array{3, 65536, 4, salt[:15], nonce, sealed}},
		{"salt of 17", array{3, 65536, 4, append(salt, 0), nonce, sealed}},
		{"five elements", array{3, 65536, 4, salt, nonce}},
		{"seven elements", array{3, 65536, 4, salt, nonce, sealed, 0}},
		{"float", array{3.0, 65536, 4, salt, nonce, sealed}},
		{"text", "passphrase"},
		{"nothing", nil},
	} {
		b := withWrapped(t, object, marshal(t, c.wrapped))
		slot, err := crypt.ParseSlot(made.Name(), b)
		if err != nil {
			t.Fatal(c.what, err)
		}
		if _, err := slot.Unlock(ctx, crypt.Passphrase("x")); !errors.Is(err, crypt.ErrDamaged) || !strings.Contains(err.Error(), slot.Name()) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	// The bounds themselves are within: cheap ones here, with a nonce and a sealed row that can't be.
	for what, wrapped := range map[string]any{
		"nonce of 23": array{1, 8192, 1, salt, nonce[:23], sealed}, "no row": array{1, 8192, 16, salt, nonce, sealed[:15]},
	} {
		slot := try(crypt.ParseSlot(made.Name(), withWrapped(t, object, marshal(t, wrapped))))
		if _, err := slot.Unlock(ctx, crypt.Passphrase("x")); !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	slot := try(crypt.ParseSlot(made.Name(), withWrapped(t, object, marshal(t, array{16, 8192, 16, salt, nonce, sealed}))))
	if _, err := slot.Unlock(ctx, crypt.Passphrase("x")); !errors.Is(err, crypt.ErrWrongKey) {
		t.Errorf("parameters within bounds: %v", err)
	}
}

// posing is a raw key under another kind.
type posing struct {
	crypt.RawKey
	kind string
}

func (p posing) Kind() string { return p.kind }

// editSlot changes the map of a slot object and makes its hash fit.
func editSlot(t testing.TB, object []byte, edit func(m map[int]any)) []byte {
	t.Helper()
	m := rowMap(t, object[5:len(object)-32])
	edit(m)
	return crypt.AppendHash(append(bytes.Clone(object[:5]), marshal(t, m)...))
}

func withWrapped(t testing.TB, object, wrapped []byte) []byte {
	return editSlot(t, object, func(m map[int]any) { m[7] = wrapped })
}

// Each flipped byte and each cut is found; with a hash that fits again it is found at the latest when the slot is unlocked.
func TestDamagedSlots(t *testing.T) {
	owner, key := try(crypt.NewKeys()), goldenKey()
	for _, r := range roles {
		made, object, err := try(owner.Restrict(r)).NewSlot(ctx, key, "label")
		if err != nil {
			t.Fatal(err)
		}
		name := made.Name()
		try := func(what string, changed []byte) {
			t.Helper()
			if s, err := crypt.ParseSlot(name, changed); !errors.Is(err, crypt.ErrDamaged) || s != nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v: %s: %v", r, what, err)
			}
			if len(changed) < 32 {
				return
			}
			again := crypt.AppendHash(bytes.Clone(changed[:len(changed)-32]))
			if bytes.Equal(again, object) {
				return
			}
			s, err := crypt.ParseSlot(name, again)
			if err == nil {
				_, err = s.Unlock(ctx, key)
			}
			refused(t, fmt.Sprintf("%v: %s with a new hash", r, what), err)
		}
		for i := range object {
			for _, bits := range []byte{1, 0x80} {
				changed := bytes.Clone(object)
				changed[i] ^= bits
				try(fmt.Sprintf("byte %d ^ %#x", i, bits), changed)
			}
			try(fmt.Sprintf("cut at %d", i), object[:i:i])
		}
		try("a byte more", append(bytes.Clone(object), 0))

		// Moved to another name.
		s, err := crypt.ParseSlot("keys/"+strings.Repeat("0", 32), object)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Unlock(ctx, key); !errors.Is(err, crypt.ErrWrongKey) {
			t.Errorf("%v: moved: %v", r, err)
		}
		for _, bad := range []string{"", "keys/", made.ID, "keys/" + made.ID[:31], "keys/" + made.ID + "00", "keys/" + strings.Repeat("A", 32), "keys/" + strings.Repeat("g", 32), "config/1"} {
			if _, err := crypt.ParseSlot(bad, object); !errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("as %q: %v", bad, err)
			}
		}
	}
}

func TestMalformedSlots(t *testing.T) {
	owner := try(crypt.NewKeys())
	made, object, err := owner.NewSlot(ctx, goldenKey(), "label")
	if err != nil {
		t.Fatal(err)
	}
	set := func(key int, v any) func(map[int]any) { return func(m map[int]any) { m[key] = v } }
	for what, edit := range map[string]func(map[int]any){
		"short repository":  set(1, make([]byte, 15)),
		"role 0":            set(2, 0),
		"role 4":            set(2, 4),
		"no kind":           set(3, ""),
		"kind in bytes":     set(3, []byte("key")),
		"label not UTF-8":   set(4, "\xff"),
		"time as number":    set(5, 12),
		"time of year 1e4":  set(5, []int64{253402300800, 0}),
		"time before it":    set(5, []int64{-62135596801, 0}),
		"nanoseconds":       set(5, []int64{0, 1e9}),
		"time of three":     set(5, []int64{0, 0, 0}),
		"no row":            set(7, []byte{}),
		"null row":          set(7, nil),
		"without a row":     func(m map[int]any) { delete(m, 7) },
		"without a label":   func(m map[int]any) { delete(m, 4) },
		"another key":       set(8, 0),
		"too large":         set(4, strings.Repeat("x", 64<<10)),
		"nested":            set(4, []any{[]any{[]any{[]any{[]any{}}}}}),
		"an array of bytes": set(7, []int{1, 2, 3}),
	} {
		if s, err := crypt.ParseSlot(made.Name(), editSlot(t, object, edit)); !errors.Is(err, crypt.ErrDamaged) || s != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, c := range map[string]struct {
		edit func(b []byte) []byte
		want crypt.VersionError
	}{
		"version": {func(b []byte) []byte { b[4] = 2; return b }, crypt.VersionError{Version: 2}},
		"version, and another map": {func(b []byte) []byte { return append(b[:4], 200, 1, 2, 3) },
			crypt.VersionError{Version: 200}},
		"epoch": {func(b []byte) []byte { return editSlot(t, append(b, make([]byte, 32)...), set(6, 1))[:len(b)] },
			crypt.VersionError{Version: 1, Epoch: 1}},
	} {
		b := crypt.AppendHash(c.edit(bytes.Clone(object[:len(object)-32])))
		_, err := crypt.ParseSlot(made.Name(), b)
		c.want.Object = made.Name()
		if got, ok := errors.AsType[*crypt.VersionError](err); !ok || *got != c.want || errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%s from the future: %v", what, err)
		}
	}
}

// Unlockers of callers: what they return is checked, and what they fail with is passed on.
func TestCustomUnlocker(t *testing.T) {
	owner := try(crypt.NewKeys())
	service := &custom{key: goldenKey()}
	made, object, err := owner.NewSlot(ctx, service, "kms")
	if err != nil {
		t.Fatal(err)
	}
	slot := try(crypt.ParseSlot(made.Name(), object))
	if slot.Kind != "custom" {
		t.Errorf("kind %q", slot.Kind)
	}
	if k, err := slot.Unlock(ctx, service); err != nil || k.Role() != crypt.Owner {
		t.Errorf("%v, %v", k, err)
	}
	down := errors.New("service is down")
	if _, err := slot.Unlock(ctx, &custom{fail: down}); !errors.Is(err, down) || errors.Is(err, crypt.ErrWrongKey) {
		t.Errorf("error of an unlocker: %v", err)
	}
	if _, err := slot.Unlock(ctx, &custom{key: try(crypt.NewKey())}); !errors.Is(err, crypt.ErrWrongKey) {
		t.Errorf("the wrong key: %v", err)
	}

	// One that forgets aad can't be talked into more than the slot says.
	lax := &custom{key: goldenKey(), lax: true}
	made, ownerObject, err := owner.NewSlot(ctx, lax, "")
	if err != nil {
		t.Fatal(err)
	}
	_, otherObject, err := try(crypt.NewKeys()).NewSlot(ctx, lax, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{
		"role":       editSlot(t, ownerObject, func(m map[int]any) { m[2] = 1 }),
		"repository": withWrapped(t, ownerObject, rowMap(t, otherObject[5:len(otherObject)-32])[7].([]byte)),
	} {
		if _, err := try(crypt.ParseSlot(made.Name(), b)).Unlock(ctx, lax); !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("another %s: %v", what, err)
		}
	}

	// What can't be read again isn't written.
	for what, u := range map[string]crypt.Unlocker{
		"no kind": posing{goldenKey(), ""}, "kind not UTF-8": posing{goldenKey(), "\xff"}, "zero key": crypt.RawKey{}, "too much": wrapsTo(64 << 10), "nothing": wrapsTo(0),
	} {
		if _, b, err := owner.NewSlot(ctx, u, ""); err == nil || b != nil {
			t.Errorf("slot with %s: %v", what, err)
		}
	}
	for _, label := range []string{"\xff", strings.Repeat("x", 64<<10)} {
		if _, b, err := owner.NewSlot(ctx, goldenKey(), label); err == nil || b != nil {
			t.Errorf("slot with label %.10q: %v", label, err)
		}
	}
}

type wrapsTo int

func (n wrapsTo) Wrap(context.Context, []byte, []byte) ([]byte, error)   { return make([]byte, n), nil }
func (n wrapsTo) Unwrap(context.Context, []byte, []byte) ([]byte, error) { return nil, nil }

func TestKeyText(t *testing.T) {
	const golden = "varve-key-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypzjetlqi"
	if got := goldenKey().Text(); got != golden {
		t.Errorf("text %s, want %s", got, golden)
	}
	for _, text := range []string{golden, strings.ToUpper(golden), " " + golden + "\r\n", "varve-key- " + golden[10:30] + "-\t\n" + golden[30:], strings.Join(strings.Split(golden[:20], ""), " ") + golden[20:]} {
		if k, err := crypt.ParseKey(text); err != nil || k != goldenKey() {
			t.Errorf("%q: %v", text, err)
		}
	}
	for what, text := range map[string]string{
		"nothing":         "",
		"prefix only":     "varve-key-",
		"no prefix":       golden[10:],
		"another prefix":  "varve-kez-" + golden[10:],
		"no hyphen":       "varvekey" + golden[10:],
		"short":           golden[:len(golden)-1],
		"long":            golden + "a",
		"digit 1":         golden[:20] + "1" + golden[21:],
		"padding":         golden[:len(golden)-1] + "=",
		"unused bits":     golden[:len(golden)-1] + "j",
		"not ASCII":       golden[:20] + "ä" + golden[21:],
		"the Kelvin sign": strings.Replace(golden, "k", "\u212a", 1),
		"megabytes":       golden + strings.Repeat("a", 1<<20),
	} {
		k, err := crypt.ParseKey(text)
		if err == nil || k != (crypt.RawKey{}) {
			t.Errorf("%s: accepted", what)
		} else if len(text) > 20 && strings.Contains(err.Error(), golden[22:30]) {
			t.Errorf("%s: the error repeats the key: %v", what, err)
		}
	}
	// Each single wrong digit, and each pair of neighbours that were swapped.
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	for i := 10; i < len(golden); i++ {
		for _, c := range alphabet {
			text := golden[:i] + string(c) + golden[i+1:]
			if _, err := crypt.ParseKey(text); (err == nil) != (text == golden) {
				t.Errorf("%s: %v", text, err)
			}
		}
		if i+1 < len(golden) {
			text := golden[:i] + golden[i+1:i+2] + golden[i:i+1] + golden[i+2:]
			if _, err := crypt.ParseKey(text); (err == nil) != (text == golden) {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		k := crypt.RawKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if got, err := crypt.ParseKey(k.Text()); err != nil || got != k || len(k.Text()) != 68 {
			t.Fatalf("%s: %v", k.Text(), err)
		}
	})
	if a, b := try(crypt.NewKey()), try(crypt.NewKey()); a == b || a == (crypt.RawKey{}) {
		t.Error("keys aren't random")
	}
}

// Argon2id's cost is paid by every unlock: the parameters are the ones that FORMAT names.
func TestPassphraseCost(t *testing.T) {
	e := readGolden(t)["slot-passphrase-owner"]
	var w []any
	if err := cbor.Unmarshal(rowMap(t, e.bytes[5:len(e.bytes)-32])[7].([]byte), &w); err != nil {
		t.Fatal(err)
	}
	if w[0] != uint64(3) || w[1] != uint64(65536) || w[2] != uint64(4) {
		t.Errorf("written with %v", w[:3])
	}
}
