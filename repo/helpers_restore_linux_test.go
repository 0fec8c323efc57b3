package repo_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
)

func treeFile(name, content string, sec int64) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFREG | 0o644, uid: os.Geteuid(), gid: os.Getegid(), sec: sec, size: int64(len(content)), runs: []treeRun{{0, []byte(content)}}}
}

func treeFolder(name string, kids ...*treeNode) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFDIR | 0o755, uid: os.Geteuid(), gid: os.Getegid(), sec: 1, kids: kids}
}

func treeLink(name, target string) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFLNK | 0o777, uid: os.Geteuid(), gid: os.Getegid(), sec: 1, target: target}
}

// treeSnap backs a tree up.
func treeSnap(t *testing.T, n *treeNode) (*repo.Repo, *repo.Snapshot, string) {
	t.Helper()
	in := filepath.Join(t.TempDir(), "in")
	treeMust(t, n.make(in))
	r, _ := treeRepo(t, nil)
	d := treeDir(t, in)
	defer d.Close()
	return r, treeBackup(t, r, d), in
}

// treeLines describes a folder, one line an entry.
func treeLines(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for path, s := range treeScan(t, dir) {
		switch s.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path += "/"
		case unix.S_IFLNK:
			path += " -> " + s.target
		case unix.S_IFREG:
			path += "=" + s.content
		}
		if path != "./" {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// treeForest is a source of many files, some of them with the content of others, and the frames and bytes that they are in.
func treeForest(k int) fstest.MapFS {
	m := fstest.MapFS{}
	smalls, larges := 150*k, 2*k
	for i := range smalls {
		m[fmt.Sprintf("small/%d/%d", i%20, i)] = &fstest.MapFile{Data: treeBytes(uint64(i), 100+i), Mode: 0o644, ModTime: time.Unix(int64(i), 0)}
	}
	for i := range larges {
		m[fmt.Sprintf("large/%d", i)] = &fstest.MapFile{Data: treeBytes(uint64(i), 2<<20+i), Mode: 0o644, ModTime: time.Unix(int64(i), 0)}
	}
	for i := range smalls / 2 { // out of order
		j := i * 7 % smalls
		m[fmt.Sprintf("twice/%d", i)] = &fstest.MapFile{Data: treeBytes(uint64(j), 100+j), Mode: 0o644}
	}
	for i := range larges / 2 { // parts of others
		j := larges - 1 - i
		m[fmt.Sprintf("zlarge/%d", i)] = &fstest.MapFile{Data: slices.Concat(treeBytes(uint64(j), 2<<20+j), treeBytes(uint64(i), 2<<20+i)), Mode: 0o644}
	}
	return m
}

// treeEqual checks that dir holds all of m but what is missing.
func treeEqual(t *testing.T, m fstest.MapFS, dir string, missing map[string]bool) {
	t.Helper()
	n := 0
	treeMust(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		name, _ := filepath.Rel(dir, path)
		got, err := os.ReadFile(path)
		if m[name] == nil || missing[name] || !bytes.Equal(got, m[name].Data) {
			t.Errorf("%s: %d bytes that are wrong", name, len(got))
		}
		return err
	}))
	if n != len(m)-len(missing) {
		t.Errorf("%d files, want %d", n, len(m)-len(missing))
	}
}

func treeOpenFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	treeMust(t, err)
	return len(list)
}
