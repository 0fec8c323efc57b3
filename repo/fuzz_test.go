package repo_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// fuzzRecode demands of a decoder that it returns damage or what encodes to the same bytes.
func fuzzRecode(f *testing.F, what string) {
	recode := repo.Recode[what]
	for _, seed := range repo.Seeds()[what] {
		if b, err := recode(seed); err != nil || !bytes.Equal(b, seed) {
			f.Errorf("%s: %x becomes %x, %v", what, seed, b, err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := recode(b)
		if err != nil && !errors.Is(err, tree.ErrDamaged) {
			t.Fatal(err)
		}
		if err == nil && !bytes.Equal(out, b) {
			t.Fatalf("%x becomes %x", b, out)
		}
	})
}

func FuzzManifest(f *testing.F)   { fuzzRecode(f, "manifest") }
func FuzzConfig(f *testing.F)     { fuzzRecode(f, "config") }
func FuzzCandidates(f *testing.F) { fuzzRecode(f, "candidates") }
func FuzzDone(f *testing.F)       { fuzzRecode(f, "done") }
func FuzzForgotten(f *testing.F)  { fuzzRecode(f, "forgotten") }
func FuzzHints(f *testing.F)      { fuzzRecode(f, "hints") }

// A token file is this host's own and has a keyed hash; what is behind the hash still ends, whatever it is.
func FuzzTokens(f *testing.F) {
	keys, err := crypt.NewKeys()
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if paths, err := repo.ReadTokens(keys, dir, repo.TokenSeed()); err != nil || !slices.Equal(paths, []string{"a", "b/c"}) {
		f.Fatalf("%q, %v", paths, err)
	}
	f.Add(repo.TokenSeed())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		paths, err := repo.ReadTokens(keys, t.TempDir(), b)
		if err != nil || len(paths) > len(b) {
			t.Fatalf("%d paths of %d bytes, %v", len(paths), len(b), err)
		}
	})
}
