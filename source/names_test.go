package source_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/source"
)

// A name that the system lists twice is one entry, of the kind that was said last.
func TestNamesTwice(t *testing.T) {
	for _, limit := range []int{0, 1, 1 << 20} {
		first := []string{"image-2", "image-1", "image-1-and-a-long-end", "image-1", "image-1-and-a-long-end2"}
		got, kinds, runs, err := source.SortNames(limit, first, []string{"image-2", "image-0", "image-1-and-a-long-end"})
		must(t, err)
		equal(t, got, []string{"image-0", "image-1", "image-1-and-a-long-end", "image-1-and-a-long-end2", "image-2"})
		if string(kinds) != "\x07\x08\x07\x08\x07" || (runs == 2) != (limit == 1) {
			t.Error(kinds, runs)
		}
		if got, _, _, err := source.SortNames(limit, nil, nil); got != nil || err != nil {
			t.Error(got, err)
		}
		got, _, _, err = source.SortNames(limit, []string{"a", "a"}, []string{"a"})
		must(t, err)
		equal(t, got, []string{"a"})
	}
}

// Names of all lengths, through runs of all lengths, are what one sort makes of them.
func TestNamesRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, limit := range []int{1, 3000, 40_000, 200_000} {
		want := map[string]byte{}
		var pieces [][]string
		for i := range 60 {
			var piece []string
			for range r.IntN(300) {
				name := strings.Repeat(string(rune('a'+r.IntN(3))), 1+r.IntN(4)*r.IntN(60)) + fmt.Sprint(r.IntN(500))
				if r.IntN(50) == 0 {
					name = strings.Repeat("\xff", 1+r.IntN(60_000))
				}
				piece = append(piece, name)
				want[name] = byte(8 - i%8)
			}
			pieces = append(pieces, piece)
		}
		got, kinds, runs, err := source.SortNames(limit, pieces...)
		must(t, err)
		if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(got, sorted) {
			t.Fatalf("limit %d, %d runs: %d names, want %d", limit, runs, len(got), len(sorted))
		}
		for i, name := range got {
			if kinds[i] != want[name] {
				t.Fatalf("limit %d: %.20q has kind %d, want %d", limit, name, kinds[i], want[name])
			}
		}
		if runs < 2 {
			t.Errorf("limit %d: %d runs", limit, runs)
		}
	}
}

// The runs of a large folder leave nothing behind, however the iteration ends, and where they can't be written the listing is an error.
func TestDirRuns(t *testing.T) {
	root, temp := t.TempDir(), t.TempDir()
	var want []string
	for i := range 3000 {
		want = append(want, fmt.Sprintf("name %06d", i))
		must(t, os.WriteFile(filepath.Join(root, want[i]), nil, 0o644))
	}
	d := newDir(t, root, &source.DirOptions{Temp: temp})
	source.SetRun(d, 10_000)
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0
		}
		return len(list)
	}
	before := files()
	for range 3 {
		equal(t, walk(t, d, "."), want)
		n := 0
		for e, err := range d.Entries(t.Context(), ".") {
			must(t, err)
			if _, err := e.Info(); err != nil {
				t.Error(err)
			}
			if n++; n == 10 {
				break
			}
		}
		list, err := d.ReadDir(".")
		must(t, err)
		if len(list) != len(want) {
			t.Errorf("%d of %d", len(list), len(want))
		}
	}
	left, err := os.ReadDir(temp)
	must(t, err)
	if len(left) != 0 || files() != before || source.Held(d) != 0 {
		t.Errorf("left over: %v, %d files of %d, %d bytes", left, files(), before, source.Held(d))
	}
	must(t, os.Remove(temp))
	// It is not the folder that is not there.
	if _, err := d.ReadDir("."); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), temp) {
		t.Errorf("no folder for runs: %v", err)
	}
	if files() != before || source.Held(d) != 0 {
		t.Errorf("left over: %d files of %d, %d bytes", files(), before, source.Held(d))
	}
}
