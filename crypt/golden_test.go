package crypt_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"github.com/fxamacker/cbor/v2"
	"github.com/varvebackup/varve/crypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

var update = flag.Bool("update", false, "write testdata/golden-v1.txt instead of comparing with it")

const (
	goldenFile   = "testdata/golden-v1.txt"
	goldenHeader = `# Slots, objects, sections and derived values of format version 1: label, name of the object or -, bytes in hex.
# The raw key is 00 01 02 ... 1f, the passphrase "correct horse battery staple"; payloads are the kind's name.
# Written by: go test ./crypt -run TestGolden -update
`
	goldenPassphrase = "correct horse battery staple"
)

type goldenEntry struct {
	label, name string
	bytes       []byte
}

func goldenKey() (k crypt.RawKey) {
	for i := range k {
		k[i] = byte(i)
	}
	return k
}

func readGolden(t testing.TB) map[string]goldenEntry {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]goldenEntry)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); !strings.HasPrefix(line, "#") && len(f) == 3 {
			m[f[0]] = goldenEntry{f[0], f[1], unhex(t, f[2])}
		}
	}
	return m
}

// goldenOwner returns the keys that all of the golden file is about.
func goldenOwner(t testing.TB) *crypt.Keys {
	t.Helper()
	e := readGolden(t)["slot-key-owner"]
	slot, err := crypt.ParseSlot(e.name, e.bytes)
	if err != nil {
		t.Fatal(err)
	}
	k, err := slot.Unlock(ctx, goldenKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// makeGolden makes all of the golden file but the sections, under whatever randomness and time are in force.
func makeGolden(t *testing.T) (entries []goldenEntry) {
	owner := try(crypt.NewKeys())
	slot := func(label string, k *crypt.Keys, u crypt.Unlocker) {
		s, object, err := k.NewSlot(ctx, u, label)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, goldenEntry{label, s.Name(), object})
	}
	for _, r := range roles {
		slot("slot-key-"+r.String(), try(owner.Restrict(r)), goldenKey())
	}
	slot("slot-passphrase-owner", owner, crypt.Passphrase(goldenPassphrase))
	slot("slot-custom-writer", try(owner.Restrict(crypt.Writer)), &custom{key: goldenKey()})
	for _, kind := range kinds {
		name, object := seal(t, owner, kind, []byte(kind.String()))
		entries = append(entries, goldenEntry{fmt.Sprintf("object-%d", kind), name, object})
	}
	return append(entries, derived(owner)...)
}

// derived returns what a program in another language must compute alike.
func derived(k *crypt.Keys) []goldenEntry {
	namer, splitter, series := k.Namer(), k.Splitter(), k.SeriesID("shop/web-1")
	content, tree, cache := namer.Content([]byte("blob")), namer.Tree([]byte("blob")), k.CacheKey()
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	return []goldenEntry{
		{"content-id-of-blob", "-", content[:]},
		{"tree-id-of-blob", "-", tree[:]},
		{"series-id-of-shop/web-1", "-", series[:]},
		{"split-level-3-of-name", "-", binary.LittleEndian.AppendUint64(nil, splitter.Split(3, []byte("name")))},
		{"chunking-key", "-", k.ChunkingKey()[:]},
		{"cache-key", "-", cache[:]},
		{"directory-sealed-nonce-0", "-", k.DirectoryAEAD().Seal(nil, nonce, []byte("directory"), []byte("aad"))},
	}
}

// sections makes the golden sections: how HPKE uses randomness is not specified, so they are read, not made again.
func sections(t *testing.T, k *crypt.Keys) (entries []goldenEntry) {
	for kind := crypt.SectionContent; kind <= crypt.SectionTree; kind++ {
		_, enc, _, err := k.NewSection(kind)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, goldenEntry{fmt.Sprintf("section-%d", kind), "-", enc})
		for aead := uint8(1); aead <= 2; aead++ {
			c := try(k.OpenSection(kind, aead, enc))
			entries = append(entries, goldenEntry{fmt.Sprintf("section-%d-aead-%d-frame", kind, aead), "-", c.Seal(nil, make([]byte, 12), []byte("frame"), []byte("aad"))})
		}
	}
	return entries
}

// Programs of today write what the golden file says, byte for byte.
func TestGoldenWrite(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 2026)
	synctest.Test(t, func(t *testing.T) { // for its clock
		entries := makeGolden(t)
		if *update {
			var b bytes.Buffer
			b.WriteString(goldenHeader)
			for _, e := range append(entries, sections(t, try(crypt.RowKeys(goldenRow(t, entries))))...) {
				fmt.Fprintf(&b, "%s %s %x\n", e.label, e.name, e.bytes)
			}
			if err := os.WriteFile(goldenFile, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden := readGolden(t)
		if len(golden) != len(entries)+6 {
			t.Errorf("%d entries in the file, %d made", len(golden), len(entries))
		}
		for _, e := range entries {
			if want := golden[e.label]; e.name != want.name || !bytes.Equal(e.bytes, want.bytes) {
				t.Errorf("%s:\n got %s %x\nwant %s %x", e.label, e.name, e.bytes, want.name, want.bytes)
			}
		}
	})
}

func goldenRow(t *testing.T, entries []goldenEntry) []byte {
	for _, e := range entries {
		if e.label == "slot-key-owner" {
			s := try(crypt.ParseSlot(e.name, e.bytes))
			return crypt.RowOf(try(s.Unlock(ctx, goldenKey())))
		}
	}
	t.Fatal("no owner")
	return nil
}

// Programs of all times read what the golden file holds.
func TestGoldenRead(t *testing.T) {
	golden, owner := readGolden(t), goldenOwner(t)
	for _, s := range []struct {
		label string
		u     crypt.Unlocker
		role  crypt.Role
		kind  string
	}{
		{"slot-key-writer", goldenKey(), crypt.Writer, "key"},
		{"slot-key-maintainer", goldenKey(), crypt.Maintainer, "key"},
		{"slot-key-owner", goldenKey(), crypt.Owner, "key"},
		{"slot-passphrase-owner", crypt.Passphrase(goldenPassphrase), crypt.Owner, "passphrase"},
		{"slot-custom-writer", &custom{key: goldenKey()}, crypt.Writer, "custom"},
	} {
		e := golden[s.label]
		slot, err := crypt.ParseSlot(e.name, e.bytes)
		if err != nil {
			t.Fatal(s.label, err)
		}
		if slot.Role != s.role || slot.Kind != s.kind || slot.Label != s.label || slot.Name() != e.name ||
			slot.Repository != owner.Repository() || slot.Created.Format("2006-01-02 15:04:05.999 MST") != "2000-01-01 00:00:00 UTC" {
			t.Errorf("%s: %+v", s.label, slot)
		}
		k, err := slot.Unlock(ctx, s.u)
		if err != nil {
			t.Fatal(s.label, err)
		}
		if !bytes.Equal(crypt.RowOf(k), crypt.RowOf(try(owner.Restrict(s.role)))) {
			t.Errorf("%s: other keys", s.label)
		}
		for _, d := range derived(k) {
			if !bytes.Equal(d.bytes, golden[d.label].bytes) {
				t.Errorf("%s: %s = %x", s.label, d.label, d.bytes)
			}
		}
		for _, kind := range kinds {
			e := golden[fmt.Sprintf("object-%d", kind)]
			got, payload, err := k.Open(e.name, e.bytes, kinds...)
			if err != nil || got != kind || string(payload) != kind.String() {
				t.Errorf("%s: %s: %v, %q, %v", s.label, e.label, got, payload, err)
			}
		}
	}
	for kind := crypt.SectionContent; kind <= crypt.SectionTree; kind++ {
		enc := golden[fmt.Sprintf("section-%d", kind)].bytes
		for aead := uint8(1); aead <= 2; aead++ {
			c, err := owner.OpenSection(kind, aead, enc)
			if err != nil {
				t.Fatal(err)
			}
			frame := golden[fmt.Sprintf("section-%d-aead-%d-frame", kind, aead)].bytes
			if got, err := c.Open(nil, make([]byte, 12), frame, []byte("aad")); err != nil || string(got) != "frame" {
				t.Errorf("section %d, aead %d: %q, %v", kind, aead, got, err)
			}
		}
	}
}

// TestFormatByHand reads the golden file with nothing but docs/FORMAT.md and primitives.
func TestFormatByHand(t *testing.T) {
	golden := readGolden(t)
	openX := func(key [32]byte, nonce, sealed []byte, aad string) []byte {
		t.Helper()
		b, err := try(chacha20poly1305.NewX(key[:])).Open(nil, nonce, sealed, []byte(aad))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	// Section 3: slots.
	var repository string
	openSlot := func(label string) map[int]any {
		e := golden[label]
		n := len(e.bytes) - 32
		if string(e.bytes[:5]) != "VRVS\x01" || hash(e.bytes[:n]) != hex.EncodeToString(e.bytes[n:]) {
			t.Fatalf("%s: %x", label, e.bytes)
		}
		m := rowMap(t, e.bytes[5:n])
		wrapped := m[7].([]byte)
		delete(m, 7)
		repository = string(m[1].([]byte))
		aad := "varve v1 slot\x00" + strings.TrimPrefix(e.name, "keys/") + string(marshal(t, m))
		var array []any
		if err := cbor.Unmarshal(wrapped, &array); err != nil {
			t.Fatal(err)
		}
		var key [32]byte
		switch m[3] {
		case "passphrase":
			if array[0] != uint64(3) || array[1] != uint64(65536) || array[2] != uint64(4) {
				t.Fatalf("%s: %v", label, array)
			}
			key = [32]byte(argon2.IDKey([]byte(goldenPassphrase), array[3].([]byte), 3, 65536, 4, 32))
			array = array[4:]
		default:
			raw := goldenKey()
			key = crypt.Derive("varve v1 2026 raw key slot", raw[:])
		}
		return rowMap(t, openX(key, array[0].([]byte), array[1].([]byte), aad))
	}
	owner := openSlot("slot-key-owner")
	if !bytes.Equal(owner[5].([]byte), openSlot("slot-passphrase-owner")[5].([]byte)) || len(owner) != 5 {
		t.Fatalf("owner's row %v", owner)
	}
	master := owner[5].([]byte)
	writer, maintainer := openSlot("slot-key-writer"), openSlot("slot-key-maintainer")
	for key, context := range map[int]string{6: "content id", 7: "tree id", 8: "chunking", 9: "series", 10: "tree split", 11: "shared"} {
		want := crypt.Derive("varve v1 2026 "+context, master)
		if !bytes.Equal(writer[key].([]byte), want[:]) || !bytes.Equal(maintainer[key].([]byte), want[:]) {
			t.Errorf("row key %d: %x, want %x", key, writer[key], want)
		}
	}
	tree, seed := crypt.Derive("varve v1 2026 tree hpke", master), crypt.Derive("varve v1 2026 maintenance", master)
	if len(writer) != 13 || len(maintainer) != 15 || !bytes.Equal(maintainer[15].([]byte), tree[:]) || !bytes.Equal(maintainer[16].([]byte), seed[:]) {
		t.Errorf("rows %v\n%v", writer, maintainer)
	}
	for key, context := range map[int]string{12: "content hpke", 13: "tree hpke"} {
		private := crypt.Derive("varve v1 2026 "+context, master)
		if public := try(crypt.KEM.NewPrivateKey(private[:])).PublicKey().Bytes(); !bytes.Equal(writer[key].([]byte), public) {
			t.Errorf("row key %d: %x, want %x", key, writer[key], public)
		}
	}

	// Section 2: objects.
	shared := crypt.Derive("varve v1 2026 shared", master)
	object := crypt.Derive("varve v1 2026 objects", shared[:])
	for kind := 1; kind <= 9; kind++ {
		e := golden[fmt.Sprintf("object-%d", kind)]
		b, name := e.bytes, e.name
		if kind == 2 || kind == 3 {
			if name != "index/"+hash(b) {
				t.Errorf("segment named %s", name)
			}
			name = ""
		} else {
			n := len(b) - 32
			if hash(b[:n]) != hex.EncodeToString(b[n:]) {
				t.Errorf("%s does not end in its hash", name)
			}
			b = b[:n]
		}
		if want := "VRVE\x01" + string(rune(kind)) + strings.Repeat("\x00", 14); string(b[:20]) != want {
			t.Errorf("header %x", b[:20])
		}
		payload := openX(object, b[20:44], b[44:], string(b[:20])+repository+name)
		if crypt.Kind(kind).Signed() {
			n := len(payload) - 64
			message := "varve v1 signed object\x00" + string(b[:20]) + repository + string([]byte{byte(len(name)), byte(len(name) >> 8)}) + name + string(payload[:n])
			if !ed25519.Verify(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey), []byte(message), payload[n:]) {
				t.Errorf("kind %d: signature", kind)
			}
			payload = payload[:n]
		}
		if string(payload) != crypt.Kind(kind).String() {
			t.Errorf("kind %d: payload %q", kind, payload)
		}
	}
}

func TestErrorsAreDistinct(t *testing.T) {
	all := []error{crypt.ErrRole, crypt.ErrWrongKey, crypt.ErrDamaged}
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%v, %v)", a, b)
			}
		}
	}
	if !errors.Is(crypt.ErrSignature, crypt.ErrDamaged) || errors.Is(crypt.ErrDamaged, crypt.ErrSignature) {
		t.Error("ErrSignature must be a kind of ErrDamaged")
	}
}
