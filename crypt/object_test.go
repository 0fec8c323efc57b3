package crypt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"pgregory.net/rapid"
)

func TestSealOpen(t *testing.T) {
	k := try(crypt.NewKeys())
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		payload := rapid.SliceOf(rapid.Byte()).Draw(t, "payload")
		_, as := nameOf(kind, nil)
		if !strings.HasPrefix(as, "index/") && as != "" {
			as = rapid.StringN(1, 300, math.MaxUint16).Filter(func(s string) bool {
				return !strings.HasPrefix(s, "index/") && !strings.HasPrefix(s, "packs/")
			}).Draw(t, "name")
		}
		before := bytes.Clone(payload)
		object, err := k.Seal(kind, as, payload)
		if err != nil {
			t.Fatal(err)
		}
		name := as
		if as == "" {
			name, _ = nameOf(kind, object)
		}
		if err := crypt.Verify(name, object); err != nil {
			t.Fatal(err)
		}
		sealed := bytes.Clone(object)
		got, p, err := k.Open(name, object, kinds...)
		if err != nil || got != kind || !bytes.Equal(p, before) {
			t.Fatalf("open: %v, %x, %v; want %v, %x", got, p, err, kind, before)
		}
		_ = append(p, "grown by its owner"...)
		clear(p)
		if !bytes.Equal(payload, before) || !bytes.Equal(object, sealed) {
			t.Fatal("Seal or Open changed, or kept, what it was given")
		}
	})
}

// Two seals of the same payload differ: the nonce is random.
func TestSealIsRandom(t *testing.T) {
	k := try(crypt.NewKeys())
	_, a := seal(t, k, crypt.KindConfig, []byte("body"))
	_, b := seal(t, k, crypt.KindConfig, []byte("body"))
	if bytes.Equal(a[20:44], b[20:44]) || bytes.Equal(a[44:], b[44:]) {
		t.Error("the same object twice")
	}
}

// Each flipped byte and each cut, as a bad disk makes them, is found, also without a key. Made to fit the hash again, as a thief can,
// it is still found by who has the keys.
func TestDamagedObjects(t *testing.T) {
	k := try(crypt.NewKeys())
	for _, kind := range kinds {
		name, object := seal(t, k, kind, []byte("a payload"))
		try := func(what string, changed []byte) {
			t.Helper()
			if err := crypt.Verify(name, changed); !errors.Is(err, crypt.ErrDamaged) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v: %s: verify: %v", kind, what, err)
			}
			if _, p, err := k.Open(name, changed, kinds...); !errors.Is(err, crypt.ErrDamaged) || p != nil {
				t.Errorf("%v: %s: %x, %v", kind, what, p, err)
			}
			again, rehashed := rehash(kind, changed)
			if bytes.Equal(rehashed, object) {
				return // the flip was in the hash
			}
			if err := crypt.Verify(again, rehashed); err != nil {
				t.Errorf("%v: %s: verify: %v", kind, what, err)
			}
			_, p, err := k.Open(again, rehashed, kinds...)
			refused(t, fmt.Sprintf("%v: %s with a new hash", kind, what), err)
			if p != nil {
				t.Errorf("%v: %s with a new hash: payload %x", kind, what, p)
			}
		}
		for i := range object {
			for _, bits := range []byte{1, 0x80, 0xff} {
				changed := bytes.Clone(object)
				changed[i] ^= bits
				try(fmt.Sprintf("byte %d ^ %#x", i, bits), changed)
			}
			try(fmt.Sprintf("cut at %d", i), object[:i:i])
			try(fmt.Sprintf("without the first %d", i+1), object[i+1:])
		}
		try("a byte more", append(bytes.Clone(object), 0))
		try("twice", append(bytes.Clone(object), object...))
	}
}

func TestObjectsInOtherPlaces(t *testing.T) {
	k := try(crypt.NewKeys())
	other := try(crypt.NewKeys())
	for _, kind := range kinds {
		name, object := seal(t, k, kind, []byte("body"))
		if _, _, err := other.Open(name, object, kind); !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%v in another repository: %v", kind, err)
		}
		if _, _, err := k.Open(name, object, slices.DeleteFunc(slices.Clone(kinds), func(w crypt.Kind) bool { return w == kind })...); !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%v where another kind belongs: %v", kind, err)
		}
		for _, place := range []string{name + "0", "config/2", "gc/2", "index/" + hash(object), "packs/00/" + hash(object), "packs/" + hash(object)[:2] + "/" + hash(object), "", "x", strings.Repeat("n", 1<<16)} {
			if place == name {
				continue
			}
			if _, p, err := k.Open(place, object, kinds...); !errors.Is(err, crypt.ErrDamaged) || p != nil {
				t.Errorf("%v as %.20s: %v", kind, place, err)
			}
		}
		// Under a restored hash, a segment must not pass for another object, and the other way round.
		if _, p, err := k.Open("gc/1", crypt.AppendHash(bytes.Clone(object)), kinds...); !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%v, with a hash more, as gc/1: %x, %v", kind, p, err)
		}
	}
	// A manifest moved to another repository id with the same keys.
	r := rowMap(t, crypt.RowOf(k))
	r[3] = make([]byte, 16)
	twin := try(crypt.RowKeys(marshal(t, r)))
	name, object := seal(t, k, crypt.KindSnapshot, []byte("body"))
	if _, _, err := twin.Open(name, object, crypt.KindSnapshot); !errors.Is(err, crypt.ErrDamaged) {
		t.Errorf("another repository id: %v", err)
	}
}

// forger has the shared keys of k, and a maintenance key of its own: what a thief of a writer's key can make.
func forger(t *testing.T, k *crypt.Keys) *crypt.Keys {
	t.Helper()
	m := rowMap(t, crypt.RowOf(try(k.Restrict(crypt.Maintainer))))
	own := rowMap(t, testRow(t, crypt.Maintainer))
	m[13], m[14], m[15], m[16] = own[13], own[14], own[15], own[16]
	return try(crypt.RowKeys(marshal(t, m)))
}

func TestForgedSignatures(t *testing.T) {
	owner := try(crypt.NewKeys())
	thief := forger(t, owner)
	for _, r := range roles {
		k := unlocked(t, owner, r)
		for _, kind := range kinds {
			name, object := seal(t, thief, kind, []byte("body"))
			_, p, err := k.Open(name, object, kind)
			if !kind.Signed() {
				if err != nil {
					t.Errorf("%v: %v", kind, err)
				}
				continue
			}
			if !errors.Is(err, crypt.ErrSignature) || !errors.Is(err, crypt.ErrDamaged) || !strings.Contains(err.Error(), name) || p != nil {
				t.Errorf("%v opens a forged %v: %x, %v", r, kind, p, err)
			}
		}
	}
}

// The format of the future, as anyone could fake it: the reader says so and touches nothing.
func TestObjectsFromTheFuture(t *testing.T) {
	k := try(crypt.NewKeys())
	for _, kind := range kinds {
		_, object := seal(t, k, kind, []byte("body"))
		for _, c := range []struct {
			what string
			edit func(b []byte)
			want crypt.VersionError
			text string
		}{
			{"version", func(b []byte) { b[4] = 7 }, crypt.VersionError{Version: 7}, "format version 7, this program knows version 1"},
			{"features", func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 5) }, crypt.VersionError{Version: 1, Features: 5}, "requires features 0x5"},
			{"epoch", func(b []byte) { b[16] = 3 }, crypt.VersionError{Version: 1, Epoch: 3}, "key epoch 3"},
		} {
			changed := bytes.Clone(object)
			c.edit(changed)
			name, changed := rehash(kind, changed)
			_, p, err := k.Open(name, changed, kind)
			got, ok := errors.AsType[*crypt.VersionError](err)
			c.want.Object = name
			if !ok || *got != c.want || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), name) || p != nil || errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("%v, %s: %v", kind, c.what, err)
			}
		}
	}
}

func TestVerify(t *testing.T) {
	b := []byte("some bytes of a pack")
	id := hash(b)
	for _, c := range []struct {
		name   string
		object []byte
		good   bool
	}{
		{"packs/" + id[:2] + "/" + id, b, true},
		{"index/" + id, b, true},
		{"sessions/x", crypt.AppendHash([]byte("marker")), true},
		{"sessions/x", crypt.AppendHash(nil), true},
		{"packs/" + id, b, false},
		{"packs/zz/" + id, b, false},
		{"packs/" + id[:2] + "/" + strings.ToUpper(id), b, false},
		{"packs/" + id[:2] + "/" + id[:63], b, false},
		{"packs/" + id[:2] + "/" + id, crypt.AppendHash(b), false},
		{"index/" + id[:2] + "/" + id, b, false},
		{"index/" + id, append(b, 0), false},
		{"index/", nil, false},
		{"packs/", nil, false},
		{"sessions/x", nil, false},
		{"sessions/x", make([]byte, 31), false},
		{"sessions/x", make([]byte, 32), false},
		{"", make([]byte, 64), false},
	} {
		err := crypt.Verify(c.name, c.object)
		if c.good && err != nil || !c.good && !errors.Is(err, crypt.ErrDamaged) {
			t.Errorf("%s: %v, good: %v", c.name, err, c.good)
		}
	}
}

func TestMisusePanics(t *testing.T) {
	k := try(crypt.NewKeys())
	_, object := seal(t, k, crypt.KindDone, nil)
	for what, f := range map[string]func(){
		"seal kind 0":          func() { k.Seal(0, "gc/1", nil) },
		"seal kind 10":         func() { k.Seal(10, "gc/1", nil) },
		"seal without a name":  func() { k.Seal(crypt.KindSnapshot, "", nil) },
		"seal a named segment": func() { k.Seal(crypt.KindSegment, "index/x", nil) },
		"seal under index":     func() { k.Seal(crypt.KindSnapshot, "index/x", nil) },
		"seal a long name":     func() { k.Seal(crypt.KindSnapshot, strings.Repeat("n", 1<<16), nil) },
		"open nothing":         func() { k.Open("gc/1.done", object) },
		"section of kind 0":    func() { k.NewSection(0) },
		"unlock no slot":       func() { new(crypt.Slot).Unlock(ctx, goldenKey()) },
	} {
		func() {
			defer func() {
				if s, ok := recover().(string); !ok || !strings.HasPrefix(s, "crypt: ") {
					t.Errorf("%s: %v", what, s)
				}
			}()
			f()
		}()
	}
}

func TestKindText(t *testing.T) {
	seen := map[string]bool{}
	for _, kind := range kinds {
		seen[kind.String()] = true
	}
	if len(seen) != len(kinds) || crypt.Kind(0).String() != "kind(0)" || crypt.Kind(10).String() != "kind(10)" || crypt.Kind(10).Signed() || crypt.Kind(0).Signed() {
		t.Errorf("kinds %v", seen)
	}
}

func TestSections(t *testing.T) {
	k, other := try(crypt.NewKeys()), try(crypt.NewKeys())
	nonce := make([]byte, 12)
	for _, kind := range []uint8{crypt.SectionContent, crypt.SectionTree} {
		aead, enc, c, err := k.NewSection(kind)
		if err != nil || len(enc) != 1120 || c.NonceSize() != 12 || c.Overhead() != 16 {
			t.Fatal(aead, len(enc), err)
		}
		frame := c.Seal(nil, nonce, []byte("frame"), nil)
		open := func(k *crypt.Keys, kind, aead uint8, enc []byte) error {
			c, err := k.OpenSection(kind, aead, enc)
			if err != nil {
				return err
			}
			if p, err := c.Open(nil, nonce, frame, nil); err == nil {
				return fmt.Errorf("opened: %q", p)
			}
			return crypt.ErrDamaged // as its reader will say
		}
		if err := open(k, kind, aead, enc); err == nil || !strings.HasPrefix(err.Error(), `opened: "frame"`) {
			t.Error(err)
		}
		again := bytes.Clone(enc)
		for what, err := range map[string]error{
			"another repository": open(other, kind, aead, enc),
			"the other kind":     open(k, 3-kind, aead, enc),
			"the other cipher":   open(k, kind, 3-aead, enc),
			"cipher 0":           open(k, kind, 0, enc),
			"cipher 3":           open(k, kind, 3, enc),
			"kind 0":             open(k, 0, aead, enc),
			"kind 3":             open(k, 3, aead, enc),
			"short":              open(k, kind, aead, enc[:1119]),
			"long":               open(k, kind, aead, append(enc[:1120:1120], 0)),
			"none":               open(k, kind, aead, nil),
			"zero":               open(k, kind, aead, make([]byte, 1120)),
		} {
			if !errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for i := 0; i < len(enc); i += 13 {
			enc[i] ^= 1
			if err := open(k, kind, aead, enc); !errors.Is(err, crypt.ErrDamaged) {
				t.Errorf("byte %d: %v", i, err)
			}
			enc[i] ^= 1
		}
		if !bytes.Equal(enc, again) {
			t.Error("OpenSection changed enc")
		}
		_, enc2, c2, _ := k.NewSection(kind)
		if bytes.Equal(enc, enc2) || bytes.Equal(c2.Seal(nil, nonce, []byte("frame"), nil), frame) {
			t.Error("two sections with one key")
		}
	}
}

func TestNamesDiffer(t *testing.T) {
	k, other := try(crypt.NewKeys()), try(crypt.NewKeys())
	seen := map[[32]byte]string{}
	for _, p := range [][]byte{nil, {0}, {0, 0}, []byte("blob"), make([]byte, 1<<17)} {
		for what, id := range map[string][32]byte{
			"content": k.Namer().Content(p), "tree": k.Namer().Tree(p),
			"content elsewhere": other.Namer().Content(p), "tree elsewhere": other.Namer().Tree(p),
		} {
			what = fmt.Sprintf("%s of %d bytes", what, len(p))
			if first, ok := seen[id]; ok {
				t.Errorf("%s has the id of %s", what, first)
			}
			seen[id] = what
		}
	}
	if k.SeriesID("shop") == k.SeriesID("shop/") || k.SeriesID("shop") == other.SeriesID("shop") {
		t.Error("series ids don't differ")
	}
	s := k.Splitter()
	if a := s.Split(0, []byte("name")); a == s.Split(1, []byte("name")) || a != s.Split(0, []byte("name")) || a == other.Splitter().Split(0, []byte("name")) {
		t.Error("splits")
	}
}

func TestNamersDoNotAllocate(t *testing.T) {
	k := try(crypt.NewKeys())
	n, s, p := k.Namer(), k.Splitter(), make([]byte, 1<<18)
	if a := testing.AllocsPerRun(20, func() {
		for _, size := range []int{0, 1000, 5000, 1 << 14, 1 << 18} {
			n.Content(p[:size])
			n.Tree(p[:size])
			s.Split(1, p[:min(size, 255)])
		}
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

// Keys may be used by many goroutines; the race detector looks on.
func TestConcurrentUse(t *testing.T) {
	k := try(crypt.NewKeys())
	aead, enc, _, _ := k.NewSection(crypt.SectionTree)
	name, object := seal(t, k, crypt.KindConfig, []byte("body"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			n := k.Namer()
			for range 10 {
				n.Content(object)
				k.SeriesID(name)
				if _, _, err := k.Open(name, object, crypt.KindConfig); err != nil {
					t.Error(err)
				}
				if _, err := k.Seal(crypt.KindVoid, name, object); err != nil {
					t.Error(err)
				}
				if _, err := k.OpenSection(crypt.SectionTree, aead, enc); err != nil {
					t.Error(err)
				}
				if _, _, _, err := k.NewSection(crypt.SectionContent); err != nil {
					t.Error(err)
				}
				if _, err := k.Restrict(crypt.Maintainer); err != nil {
					t.Error(err)
				}
				k.DirectoryAEAD().Seal(nil, make([]byte, 24), object, nil)
			}
		})
	}
	wg.Wait()
}
