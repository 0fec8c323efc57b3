package chunk_test

// After a change of format, and only then:
//
//	go test ./chunk -run Golden -update

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/chunk"
)

var update = flag.Bool("update", false, "rewrite testdata/cuts.txt")

// testKey is the bytes 0 to 31.
var testKey = func() (key [32]byte) {
	for i := range key {
		key[i] = byte(i)
	}
	return key
}()

// random is BLAKE3's derive-key stream of no material, in the context
// "varve chunk test stream " and a number.
func random(seed, n int) []byte {
	b := make([]byte, n)
	blake3.DeriveKey(fmt.Sprint("varve chunk test stream ", seed), nil, b)
	return b
}

// counting is the decimal numbers from 0, one a line, cut off after n bytes.
func counting(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, '\n')
	}
	return b[:n]
}

// profiles are what most tests run over.
var profiles = []struct {
	name string
	p    chunk.Params
}{
	{"gear-fine", chunk.Fine},
	{"gear-coarse", chunk.Coarse},
	{"gear-least", chunk.Params{chunk.Gear, 64, 2112, 4224}},
	{"rabin-fine", chunk.Params{chunk.Rabin, 4 << 10, 20 << 10, 128 << 10}},
	{"rabin-coarse", chunk.Params{chunk.Rabin, 64 << 10, 320 << 10, 1 << 20}},
	{"rabin-least", chunk.Params{chunk.Rabin, 64, 2112, 4224}},
}

func TestGolden(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	fmt.Fprintln(&got, "# Lengths of chunks, for the key 00 01 ... 1f. The streams are functions in")
	fmt.Fprintln(&got, "# golden_test.go. Made by: go test ./chunk -run Golden -update")
	for _, pr := range profiles {
		n := 1 << 20
		switch {
		case pr.p.Min < 4<<10:
			n = 128 << 10
		case pr.p.Min > 4<<10:
			n = 4 << 20
		}
		for _, stream := range []struct {
			name string
			data []byte
		}{
			{"random(1)", random(1, n)},
			{"counting", counting(n)},
			{"zeros", make([]byte, n/4)},
		} {
			fmt.Fprintf(&got, "%s %d %d %d %s %d:", pr.p.Algorithm, pr.p.Min, pr.p.Avg, pr.p.Max, stream.name, len(stream.data))
			for _, l := range lengths(cut(t, pr.p, &testKey, bytes.NewReader(stream.data))) {
				fmt.Fprintf(&got, " %d", l)
			}
			fmt.Fprintln(&got)
		}
	}
	const name = "testdata/cuts.txt"
	if *update {
		if err := os.WriteFile(name, got.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("cuts differ from %s, got:\n%.2000s", name, got.Bytes())
	}
}
