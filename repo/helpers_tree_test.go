package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// treeT is what a test and a rapid check have in common.
type treeT interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

func treeMust(t treeT, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func treeLong(t testing.TB) {
	t.Helper()
	if os.Getenv("VARVE_TEST_LONG") == "" {
		t.Skip("a long test: VARVE_TEST_LONG=1 runs it")
	}
}

// treeRepo makes a repository in memory; the Faulty counts what reaches it.
func treeRepo(t treeT, o *repo.Options) (*repo.Repo, *backendtest.Faulty) {
	t.Helper()
	r, f, _ := treeRepoKey(t, o)
	return r, f
}

func treeRepoKey(t treeT, o *repo.Options) (*repo.Repo, *backendtest.Faulty, crypt.RawKey) {
	t.Helper()
	f := &backendtest.Faulty{Backend: mem.New(nil)}
	key, err := crypt.NewKey()
	treeMust(t, err)
	r, _, err := repo.Create(context.Background(), f, key, o)
	treeMust(t, err)
	return r, f, key
}

func treeBackup(t treeT, r *repo.Repo, fsys fs.FS) *repo.Snapshot {
	t.Helper()
	s, err := r.Backup(context.Background(), "tree", fsys, nil)
	if err != nil {
		if s != nil {
			list, _ := r.Unread(context.Background(), s)
			t.Fatalf("%v: %+v", err, list)
		}
		t.Fatal(err)
	}
	return s
}

func treeFS(t treeT, r *repo.Repo, s *repo.Snapshot) fs.FS {
	t.Helper()
	f, err := r.FS(context.Background(), s)
	treeMust(t, err)
	return f
}

// treeDiffs are the changes between two snapshots, one a line: what, path, and whether the content differs.
func treeDiffs(t treeT, r *repo.Repo, a, b *repo.Snapshot) []string {
	t.Helper()
	var out []string
	for c, err := range r.Diff(context.Background(), a, b) {
		treeMust(t, err)
		out = append(out, treeChange(c))
	}
	return out
}

func treeChange(c repo.Change) string {
	switch {
	case c.Before == nil:
		return "+ " + c.Path
	case c.After == nil:
		return "- " + c.Path
	case c.Content:
		return "M " + c.Path
	}
	return "m " + c.Path
}

// treeBytes are n bytes that no compressor makes smaller, the same for the same seed.
func treeBytes(seed uint64, n int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	p := make([]byte, n)
	rand.NewChaCha8(key).Read(p)
	return p
}

// treeFailures are the paths of a *repo.RestoreError, sorted.
func treeFailures(t treeT, err error) []string {
	t.Helper()
	re, ok := errors.AsType[*repo.RestoreError](err)
	if !ok {
		t.Fatalf("%v is no *RestoreError", err)
	}
	var out []string
	for _, f := range re.Failed {
		out = append(out, f.Path)
	}
	if !slices.IsSorted(out) || re.More != 0 || !strings.Contains(err.Error(), out[0]) {
		t.Fatalf("%v, %d more, %v", out, re.More, err)
	}
	return out
}

// treeNames lists all paths of a file system.
func treeNames(t treeT, fsys fs.FS) []string {
	t.Helper()
	var out []string
	treeMust(t, fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		out = append(out, path)
		return err
	}))
	return out
}

func treePrint(list []string) string {
	return fmt.Sprintf("%d:\n%s", len(list), strings.Join(list, "\n"))
}

// treeGoroot is the folder of the Go distribution that runs the tests.
func treeGoroot(t testing.TB) string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	treeMust(t, err)
	return strings.TrimSpace(string(out))
}
