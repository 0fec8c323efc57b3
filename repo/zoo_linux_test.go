package repo_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// zoo is a tree with one of everything that a file system has and a backup could get wrong. Names that begin with "secret" are for root alone.
func zoo() *treeNode {
	data := func(off int64, n int) treeRun { return treeRun{off, treeBytes(uint64(off), n)} }
	file := func(name string, perm uint32, n int) *treeNode {
		return &treeNode{name: name, mode: unix.S_IFREG | perm, size: int64(n), runs: []treeRun{data(0, n)}, sec: 1e9, nsec: 123456789}
	}
	folder := func(name string, perm uint32, kids ...*treeNode) *treeNode {
		return &treeNode{name: name, mode: unix.S_IFDIR | perm, kids: kids, sec: 1e9, nsec: 1}
	}
	sparse := func(name string, size int64, runs ...treeRun) *treeNode {
		return &treeNode{name: name, mode: unix.S_IFREG | 0o644, size: size, runs: runs}
	}
	link := func(name, target string) *treeNode {
		return &treeNode{name: name, mode: unix.S_IFLNK | 0o777, target: target, sec: -1, nsec: 999_999_999}
	}
	special := func(name string, typ, perm uint32, dev uint64) *treeNode {
		return &treeNode{name: name, mode: typ | perm, dev: dev, sec: 5}
	}
	at := func(n *treeNode, sec, nsec int64) *treeNode { n.sec, n.nsec = sec, nsec; return n }
	with := func(n *treeNode, kv ...string) *treeNode {
		n.xattrs = map[string][]byte{}
		for i := 0; i < len(kv); i += 2 {
			n.xattrs[kv[i]] = []byte(kv[i+1])
		}
		return n
	}
	owned := func(n *treeNode, uid, gid int) *treeNode { n.uid, n.gid = uid, gid; return n }
	again := func(name string) *treeNode { return &treeNode{name: name, again: true} }
	acl := string(treeACL(7, 5, 7, 4, treeGrant{2, 1234, 6}, treeGrant{2, 4321, 0}, treeGrant{8, 99, 7}))
	const mb = 1 << 20

	deep := file("bottom", 0o644, 10)
	for i := range 120 {
		deep = folder(fmt.Sprintf("%s%d", "deep", i), 0o755, deep)
	}
	caps := file("capable", 0o755, 3)
	caps.caps = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	var names []*treeNode
	for c := 1; c < 256; c++ {
		if c != '/' && c != '.' {
			names = append(names, file(string([]byte{byte(c)}), 0o644, c%7))
		}
	}
	names = append(names, file(strings.Repeat("\xff", 255), 0o644, 1), file(strings.Repeat("n", 255), 0o644, 1), folder(strings.Repeat("\n", 255), 0o755, file("...", 0o644, 1)),
		file(". ", 0o644, 1), file("..\n", 0o644, 1), file("\xed\xa0\x80", 0o644, 1), file("e\u0301", 0o644, 1), file("\u00e9", 0o644, 1), file(`\x41`, 0o644, 1), file(".varve-0123456789abcdef", 0o644, 1))
	return folder("", 0o755,
		folder("names", 0o755, names...),
		folder("empty", 0o755, folder("sub", 0o755|unix.S_ISVTX)),
		folder("modes", 0o755, file("setuid", 0o4755, 3), file("setgid", 0o2755, 3), file("both", 0o6711|0o044, 3), file("sticky", 0o1644, 3), file("secret none", 0, 3),
			folder("tmp", 0o1777), folder("setgid folder", 0o2755, file("x", 0o644, 1)), folder("secret folder", 0, file("x", 0o644, 1)), caps),
		folder("times", 0o755, at(file("1901", 0o644, 1), -1<<31, 0), at(file("1969", 0o644, 1), -1, 999_999_999), at(file("1970", 0o644, 1), 0, 0), at(file("1970 ns", 0o644, 1), 0, 1),
			at(file("2038", 0o644, 1), 1<<31, 5), at(file("2446", 0o644, 1), 1<<33+1<<32, 999_999_999), at(folder("1950", 0o755), -631152000, 3)),
		folder("holes", 0o755, sparse("all", 5*mb), sparse("start", 3*mb, data(2*mb, mb)), sparse("end", 3*mb+1, data(0, mb)), sparse("middle", 3*mb, data(0, mb), data(2*mb, mb)),
			sparse("edges", 3*mb+17, data(mb, 100_000)), sparse("many", 12*mb, data(0, 4096), data(mb, 4096), data(2*mb, 8192), data(3*mb+4096, 4096), data(11*mb, mb)),
			sparse("zeros", 2*mb, treeRun{0, make([]byte, mb)}), sparse("last byte", 4*mb, data(4*mb-1, 1))),
		folder("links", 0o755, file("first", 0o644, 100_000), again("second"), folder("sub", 0o755, again("third"), folder("sub", 0o755, again("fourth"))),
			with(file("other", 0o640|0o004, 9), "user.shared", "yes"), again("another")),
		folder("symlinks", 0o755, link("dangling", "nowhere"), link("self", "self"), link("loop a", "loop b"), link("loop b", "loop a"), link("up", "../../../../etc/passwd"), link("bytes", "\xff\n\\"),
			link("long", strings.Repeat("a/", 2000)), link("empty folder", "../empty"), owned(link("owned", "."), 77, 88)),
		folder("special", 0o755, special("fifo", unix.S_IFIFO, 0o640, 0), special("socket", unix.S_IFSOCK, 0o755, 0), special("char", unix.S_IFCHR, 0o666, unix.Mkdev(1, 3)),
			special("block", unix.S_IFBLK, 0o600, unix.Mkdev(259, 70000)), owned(special("owned fifo", unix.S_IFIFO, 0o600, 0), 5, 6)),
		folder("xattrs", 0o755, with(file("binary", 0o644, 1), "user.b", "\x00\xff\x00", "user.\xff\xfe", "x", "user.empty", ""), with(file("large", 0o644, 1), "user.l", strings.Repeat("large", 600)),
			with(file("locked", 0o444, 1), "user.r", "o"), with(folder("folder", 0o755), "user.d", "d"), with(file("trusted", 0o644, 1), "trusted.t", "t", "user.u", "u"),
			with(link("trusted link", "x"), "trusted.l", "\x00")),
		folder("lists", 0o755, with(file("file", 0o774, 1), treeAccess, acl), with(folder("folder", 0o775, file("x", 0o644, 1)), treeAccess, acl, treeDefault, acl),
			with(special("fifo", unix.S_IFIFO, 0o664, 0), treeAccess, acl), with(folder("default", 0o755, file("x", 0o600|0o004, 1), folder("sub", 0o755)), treeDefault, acl),
			with(file("none for the group", 0o604, 1), treeAccess, acl)),
		folder("owners", 0o755, owned(file("nobody", 0o644, 1), 65534, 65534), owned(file("large", 0o644, 1), 1<<32-2, 1<<32-2), owned(folder("folder", 0o755, file("x", 0o644, 1)), 3, 4)),
		deep,
	)
}

// Everything comes back for root, who may set it all.
func TestZoo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	base := t.TempDir()
	t.Cleanup(func() { treeRemove(base) })
	in := base + "/in"
	treeMust(t, zoo().make(in))
	want := treeScan(t, in)
	d := treeDir(t, in)
	defer d.Close()
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, d)
	treeRestore(t, r, s, base+"/out", &repo.RestoreOptions{Verify: true})
	if d := treeCompare(want, treeScan(t, base+"/out"), treeExcept{}); len(d) > 0 {
		t.Errorf("restored: %s", treePrint(d))
	}
	// Into folders that give access lists to all that is made in them, over what is there already, and interrupted ones.
	treeMust(t, os.Mkdir(base+"/listed", 0o755))
	treeMust(t, unix.Setxattr(base+"/listed", treeDefault, treeACL(7, 7, 7, 7, treeGrant{2, 1234, 7}), 0))
	for _, o := range []repo.Overwrite{repo.OverwriteAlways, repo.OverwriteIfDifferent} {
		treeRestore(t, r, s, base+"/listed", &repo.RestoreOptions{Overwrite: o})
		if d := treeCompare(want, treeScan(t, base+"/listed"), treeExcept{}); len(d) > 0 {
			t.Errorf("restored over what is there: %s", treePrint(d))
		}
	}
	// The next backup finds nothing changed, whatever it has to go by.
	again := treeBackup(t, r, d)
	if diffs := treeDiffs(t, r, s, again); len(diffs) > 0 || again.Stats.New != 0 {
		t.Errorf("backed up again: %s", treePrint(diffs))
	}
}

type zooJob struct{ Repo, Key, Out, Report, In, Base string }

const zooEnv = "VARVE_TEST_ZOO"

// asOther runs this test again as a user without powers, with a job.
func (j zooJob) asOther(t *testing.T, test string) []string {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	treeMust(t, err)
	treeMust(t, os.WriteFile(j.Base+"/test", exe, 0o755))
	spec, err := json.Marshal(j)
	treeMust(t, err)
	cmd := exec.Command(j.Base+"/test", "-test.run=^"+test+"$")
	cmd.Dir, cmd.Env = j.Base, append(os.Environ(), zooEnv+"="+string(spec), "TMPDIR="+j.Base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(j.Report)
	treeMust(t, err)
	var report []string
	treeMust(t, json.Unmarshal(b, &report))
	return report
}

func zooBase(t *testing.T) string {
	t.Helper()
	base, err := os.MkdirTemp("", "varve-zoo-")
	treeMust(t, err)
	t.Cleanup(func() { treeRemove(base) })
	treeMust(t, os.Chmod(base, 0o777))
	return base
}

func zooReport(t *testing.T, path string, lines []string) {
	b, err := json.Marshal(lines)
	treeMust(t, err)
	treeMust(t, os.WriteFile(path, b, 0o644))
}

// As another user all comes back but what only root may make, which is listed, and only that.
func TestZooRestoreNobody(t *testing.T) {
	if spec := os.Getenv(zooEnv); spec != "" {
		var j zooJob
		treeMust(t, json.Unmarshal([]byte(spec), &j))
		key, err := crypt.ParseKey(j.Key)
		treeMust(t, err)
		store, err := dir.Open(j.Repo)
		treeMust(t, err)
		r, err := repo.Open(t.Context(), store, key, nil)
		treeMust(t, err)
		s, err := r.Lookup(t.Context(), "tree@latest")
		treeMust(t, err)
		_, err = r.Restore(t.Context(), s, j.Out, &repo.RestoreOptions{Verify: true})
		zooReport(t, j.Report, treeFailures(t, err))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	base := zooBase(t)
	in := base + "/in"
	treeMust(t, zoo().make(in))
	want := treeScan(t, in)
	store, err := dir.Create(base + "/repo")
	treeMust(t, err)
	key, err := crypt.NewKey()
	treeMust(t, err)
	r, _, err := repo.Create(t.Context(), store, key, nil)
	treeMust(t, err)
	d := treeDir(t, in)
	defer d.Close()
	treeBackup(t, r, d)
	treeMust(t, exec.Command("chmod", "-R", "a+rX", base+"/repo").Run())
	j := zooJob{Repo: base + "/repo", Key: key.Text(), Out: base + "/out", Report: base + "/report", Base: base}
	failed := j.asOther(t, "TestZooRestoreNobody")

	var expect []string
	for path, s := range want {
		fails := false
		switch s.mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			delete(want, path)
			fails = true
		case unix.S_IFREG:
			if s.mode&0o6000 != 0 {
				s.mode &^= 0o6000
				fails = true
			}
		}
		maps.DeleteFunc(s.xattrs, func(name string, _ []byte) bool {
			lost := strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.")
			fails = fails || lost
			return lost
		})
		if fails {
			expect = append(expect, repo.Escape(path))
		}
	}
	slices.Sort(expect)
	if !slices.Equal(failed, expect) {
		t.Errorf("failed: %q\nwant    %q", failed, expect)
	}
	if d := treeCompare(want, treeScan(t, base+"/out"), treeExcept{owners: true}); len(d) > 0 {
		t.Errorf("restored: %s", treePrint(d))
	}
}

// What another user may not read is listed, and all else is in the snapshot.
func TestZooBackupNobody(t *testing.T) {
	if spec := os.Getenv(zooEnv); spec != "" {
		var j zooJob
		treeMust(t, json.Unmarshal([]byte(spec), &j))
		r, _ := treeRepo(t, nil)
		d := treeDir(t, j.In)
		defer d.Close()
		s, err := r.Backup(t.Context(), "tree", d, nil)
		if !errors.Is(err, repo.ErrIncomplete) {
			t.Fatal(err)
		}
		list, err := r.Unread(t.Context(), s)
		treeMust(t, err)
		var unread []string
		for _, u := range list {
			unread = append(unread, u.Path)
		}
		zooReport(t, j.Report, unread)
		if _, err := r.Restore(t.Context(), s, j.Out, nil); err != nil {
			treeFailures(t, err) // what a user cannot make
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	base := zooBase(t)
	treeMust(t, zoo().make(base+"/in"))
	want := treeScan(t, base+"/in")
	unread := zooJob{In: base + "/in", Out: base + "/out", Report: base + "/report", Base: base}.asOther(t, "TestZooBackupNobody")
	slices.Sort(unread)
	var expect []string
	for path := range want {
		if i := strings.Index(path, "/secret"); i >= 0 {
			if j := strings.IndexByte(path[i+1:], '/'); j >= 0 {
				delete(want, path)
				continue
			}
			expect = append(expect, path)
		}
	}
	delete(want, "modes/secret none")
	slices.Sort(expect)
	if got := slices.Compact(unread); !slices.Equal(got, expect) {
		t.Errorf("not read: %q\nwant      %q", got, expect)
	}
	for path, s := range want {
		if typ := s.mode & unix.S_IFMT; typ == unix.S_IFCHR || typ == unix.S_IFBLK {
			delete(want, path)
		} else if typ == unix.S_IFREG {
			s.mode &^= 0o6000
		}
		maps.DeleteFunc(s.xattrs, func(name string, _ []byte) bool {
			return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.")
		})
	}
	if d := treeCompare(want, treeScan(t, base+"/out"), treeExcept{owners: true}); len(d) > 0 {
		t.Errorf("restored: %s", treePrint(d))
	}
}
