package pack_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"

	"github.com/klauspost/compress/zstd"
	"github.com/varvebackup/varve/pack"
)

var update = flag.Bool("update", false, "write testdata/pack-v1.txt instead of comparing with it")

const (
	goldenFile   = "testdata/pack-v1.txt"
	goldenHeader = `# A pack of format version 1, in hex. Its keys are those of keys in helpers_test.go, its five frames those of sample(64).
# Written by: go test ./pack -run TestGolden -update
`
)

func golden(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			digits.WriteString(strings.TrimSpace(line))
		}
	}
	return try(hex.DecodeString(digits.String()))
}

// Programs of today write what the golden file holds, byte for byte. Of its frames only the sealed bytes are written again:
// another version of zstd may compress them differently, and that is no other format.
func TestGoldenWrite(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 2026)
	k := newKeys()
	w := pack.NewWriter(k, nil)
	if *update {
		for _, f := range sample(t, k, 64) {
			if err := w.Add(f.section, f.frame, f.sealed); err != nil {
				t.Fatal(err)
			}
		}
		_, object, _, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		text := goldenHeader
		for len(object) > 0 {
			n := min(60, len(object))
			text += fmt.Sprintf("%x\n", object[:n])
			object = object[n:]
		}
		if err := os.WriteFile(goldenFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want := golden(t)
	dir, err := pack.ReadDirectory(k, bytes.NewReader(want), int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range dir.Frames {
		if err := w.Add(dir.Sections[f.Section], f, want[f.Offset:f.Offset+f.Stored]); err != nil {
			t.Fatal(err)
		}
	}
	if id, object, _, err := w.Close(); err != nil || !bytes.Equal(object, want) || id != idOf(want) {
		t.Errorf("%v\n got %x\nwant %x", err, object, want)
	}
}

// Programs of all times read what the golden file holds.
func TestGoldenRead(t *testing.T) {
	k, object := newKeys(), golden(t)
	frames := sample(t, k, 64)
	dir := try(pack.ReadDirectory(k, bytes.NewReader(object), int64(len(object))))
	d := pack.NewDecoder()
	defer d.Close()
	if len(dir.Frames) != len(frames) {
		t.Fatalf("%d frames", len(dir.Frames))
	}
	for i, f := range dir.Frames {
		key := try(pack.OpenSectionKey(k, dir.Sections[f.Section]))
		plain, err := d.Decode(nil, key, &f, object[f.Offset:f.Offset+f.Stored], frames[i].dict)
		if err != nil || !bytes.Equal(plain, frames[i].plain) {
			t.Errorf("frame %d: %q, %v", i, plain, err)
		}
	}
}

// TestFormatByHand reads the golden file with nothing but docs/FORMAT.md and primitives.
func TestFormatByHand(t *testing.T) {
	k, b := newKeys(), golden(t)
	frames := sample(t, k, 64)
	number := func(b []byte) (n uint64) {
		for i := len(b) - 1; i >= 0; i-- {
			n = n<<8 | uint64(b[i])
		}
		return n
	}
	le := func(n uint64, size int) string {
		var b []byte
		for range size {
			b = append(b, byte(n))
			n >>= 8
		}
		return string(b)
	}
	open := func(sealed []byte, aad string) []byte {
		t.Helper()
		plain, err := k.DirectoryAEAD().Open(nil, sealed[:24], sealed[24:], []byte(aad))
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	repo := string(k.repo[:])
	end := len(b) - 72
	tr := open(b[end:], "varve v1 pack trailer"+repo+le(uint64(len(b)), 8))
	dirSize := number(tr[16:20])
	if want := "\x01" + strings.Repeat("\x00", 15) + le(dirSize, 4) + strings.Repeat("\x00", 12); string(tr) != want {
		t.Fatalf("trailer %x", tr)
	}
	dir := open(b[end-int(dirSize):end], "varve v1 pack directory"+repo)

	var counts [4]int
	for i := range counts {
		counts[i] = int(number(dir[4*i : 4*i+4]))
	}
	if counts != [4]int{2, 5, 13, 5} {
		t.Fatalf("counts %v", counts)
	}
	table := dir[16:]
	take := func(n int) (b []byte) {
		b, table = table[:n], table[n:]
		return b
	}
	sections, records := take(2*1124), take(5*32)
	blobs, bases := take(13*36), take(5*32)
	if strings.Trim(string(table), "\x00") != "" || len(b) != padme(len(b)-len(table)) {
		t.Errorf("padding %x in a pack of %d bytes", table, len(b))
	}

	zr := try(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1)))
	defer zr.Close()
	var at uint64
	for i, want := range frames {
		f := records[32*i : 32*i+32]
		section, codec, depth := sections[1124*int(f[0]):][:1124], f[1], f[2]
		offset, stored, plain, counter := number(f[4:8]), number(f[8:12]), number(f[12:16]), number(f[16:24])
		nblobs, nbases := int(number(f[24:28])), int(number(f[28:32]))
		if f[3] != 0 || offset != at || section[0] != want.section.Kind || section[1] != 1 || section[2]|section[3] != 0 || !bytes.Equal(section[4:], want.section.Key) {
			t.Fatalf("frame %d: %x in section %x", i, f, section[:4])
		}
		at += stored
		ids := bases[:32*nbases]
		bases = bases[32*nbases:]
		aad := "varve v1 frame" + repo + string([]byte{section[0], codec, depth}) + le(plain, 4) + le(stored, 4) + le(counter, 8) + le(uint64(nbases), 4) + string(ids)
		c := try(k.OpenSection(section[0], section[1], section[4:]))
		data, err := c.Open(nil, []byte(le(0, 4)+le(counter, 8)), b[offset:offset+stored], []byte(aad))
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		switch codec {
		case 1:
			data = try(zr.DecodeAll(data, nil))
		case 2:
			if data[4]&3 != 1 || !strings.Contains(string(data[5:7]), "\x01") {
				t.Errorf("frame %d: header %x without Dictionary_ID 1", i, data[:8])
			}
			dr := try(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderDictRaw(1, want.dict)))
			data = try(dr.DecodeAll(data, nil))
			dr.Close()
		}
		if !bytes.Equal(data, want.plain) || plain != uint64(len(data)) {
			t.Errorf("frame %d: %q", i, data)
		}
		for range nblobs {
			n := number(blobs[32:36])
			if id := idOf(data[:n]); !bytes.Equal(blobs[:32], id[:]) {
				t.Errorf("frame %d: a blob of %d bytes is not %x", i, n, blobs[:32])
			}
			blobs, data = blobs[36:], data[n:]
		}
	}
	if len(blobs)+len(bases) != 0 || at != uint64(end)-dirSize {
		t.Error("something is left")
	}
}
