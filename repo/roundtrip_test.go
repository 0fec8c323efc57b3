//go:build linux

package repo_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo"
)

// roundTrip checks what comes back of generated trees: from a restore, and from a backup of the snapshot itself.
func roundTrip(t *testing.T, k treeKind, open func(treeT, string) fs.FS, except treeExcept) {
	base := t.TempDir() // on disk: a tmpfs may know no xattrs of users
	t.Cleanup(func() { treeRemove(base) })
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		if n++; n > 40 && os.Getenv("VARVE_TEST_LONG") == "" {
			return
		}
		dir := filepath.Join(base, fmt.Sprint(n))
		treeMust(t, os.Mkdir(dir, 0o700))
		defer treeRemove(dir)
		in, out, again := dir+"/in", dir+"/out", dir+"/again"
		treeMust(t, k.gen().Draw(t, "tree").make(in))
		want := treeScan(t, in)

		r, _ := treeRepo(t, nil)
		repo.LimitMemory(r, 1<<rapid.IntRange(10, 26).Draw(t, "memory")) // restores end in windows of all sizes
		fsys := open(t, in)
		s := treeBackup(t, r, fsys)
		treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
		if d := treeCompare(want, treeScan(t, out), except); len(d) > 0 {
			t.Fatalf("restored: %s", treePrint(d))
		}
		if d := treeCompare(want, treeScan(t, in), treeExcept{}); len(d) > 0 {
			t.Fatalf("the source was changed: %s", treePrint(d))
		}

		// A snapshot is a source: nothing is lost on that way either.
		s2 := treeBackup(t, r, treeFS(t, r, s))
		if d := treeDiffs(t, r, s, s2); len(d) > 0 {
			t.Fatalf("a backup of the snapshot differs: %s", treePrint(d))
		}
		if s2.Stats.New != 0 {
			t.Fatalf("%d new bytes in a backup of a snapshot", s2.Stats.New)
		}
		treeRestore(t, r, s2, again, nil)
		if d := treeCompare(want, treeScan(t, again), except); len(d) > 0 {
			t.Fatalf("restored from a backup of the snapshot: %s", treePrint(d))
		}

		// A second restore over the first finds nothing to do.
		rep := treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
		if rep.Files != 0 || rep.Others != 0 || rep.Bytes != 0 {
			t.Fatalf("restored again: %+v", rep)
		}
		if d := treeCompare(want, treeScan(t, out), except); len(d) > 0 {
			t.Fatalf("restored twice: %s", treePrint(d))
		}
	})
}

func treeOpenDir(t treeT, dir string) fs.FS { return treeDir(t, dir) }
func treeOpenOS(_ treeT, dir string) fs.FS  { return os.DirFS(dir) }

func TestRoundTripDir(t *testing.T) {
	roundTrip(t, treeKind{raw: true, root: os.Geteuid() == 0}, treeOpenDir, treeExcept{})
}

func TestRoundTripDirFS(t *testing.T) {
	roundTrip(t, treeKind{root: os.Geteuid() == 0}, treeOpenOS, treeExcept{})
}

// As nobody, owners cannot be set, and none are asked for.
func TestRoundTripNobody(t *testing.T) {
	const env = "VARVE_TEST_NOBODY"
	if dir := os.Getenv(env); dir != "" {
		t.Setenv("TMPDIR", dir)
		roundTrip(t, treeKind{raw: true}, treeOpenDir, treeExcept{})
		// Files of others come back as one's own.
		r, _ := treeRepo(t, nil)
		s := treeBackup(t, r, treeDir(t, dir+"/others"))
		treeRestore(t, r, s, dir+"/mine", &repo.RestoreOptions{Verify: true})
		treeSame(t, dir+"/others", dir+"/mine", treeExcept{owners: true})
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	exe, err := os.ReadFile("/proc/self/exe")
	treeMust(t, err)
	dir, err := os.MkdirTemp("", "varve-nobody-")
	treeMust(t, err)
	defer treeRemove(dir)
	treeMust(t, os.Chmod(dir, 0o777))
	treeMust(t, os.WriteFile(dir+"/test", exe, 0o755))
	treeMust(t, (&treeNode{mode: unix.S_IFDIR | 0o755, kids: []*treeNode{
		{name: "file", mode: unix.S_IFREG | 0o644, size: 3, runs: []treeRun{{0, []byte("abc")}}}, {name: "same", again: true},
		{name: "link", mode: unix.S_IFLNK | 0o777, target: "/", uid: 5},
		{name: "pipe", mode: unix.S_IFIFO | 0o644, gid: 7},
		{name: "dir", mode: unix.S_IFDIR | 0o555, gid: 7, kids: []*treeNode{{name: "empty", mode: unix.S_IFREG | 0o444}}},
	}}).make(dir+"/others"))
	cmd := exec.Command(dir+"/test", "-test.run=^TestRoundTripNobody$", "-rapid.checks=20", "-rapid.nofailfile")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
