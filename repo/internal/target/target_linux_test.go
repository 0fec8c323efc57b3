//go:build !osroot

package target_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo/internal/target"
)

func lstat(t testing.TB, path string) *unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return &st
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestNanoseconds(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	m := &target.Meta{Mode: 0o700, ModTime: time.Unix(1234567890, 123456789)}
	must(t, write(tg, "f", "x", m))
	must(t, tg.Symlink("l", "x", m))
	must(t, tg.Special("p", &target.Meta{Mode: 0o600 | fs.ModeNamedPipe, ModTime: m.ModTime}))
	must(t, tg.Mkdir("d"))
	must(t, tg.FinishDir("d", m))
	for _, name := range []string{"f", "l", "p", "d"} {
		if st := lstat(t, filepath.Join(dir, name)); st.Mtim.Nano() != m.ModTime.UnixNano() {
			t.Error(name, st.Mtim)
		}
	}
}

func TestRandomNames(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		tg, err := target.Open(filepath.Join(dir, fmt.Sprint(n)), &target.Options{Overwrite: target.Always})
		if err != nil {
			r.Fatal(err)
		}
		defer tg.Close()
		name := string(rapid.SliceOfN(rapid.Byte().Filter(func(b byte) bool { return b != 0 && b != '/' }), 1, 253).
			Filter(func(b []byte) bool { return string(b) != "." && string(b) != ".." }).Draw(r, "name"))
		for _, err := range []error{
			tg.Mkdir(name), tg.Mkdir(name + "/" + name), write(tg, name+"/"+name+"/"+name, name, meta(0o600)),
			tg.Symlink(name+"/"+name+".l", name, meta(0o777)),
		} {
			if err != nil {
				r.Fatal(err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(dir, fmt.Sprint(n)))
		if err != nil || len(entries) != 1 || entries[0].Name() != name {
			r.Fatal(entries, err)
		}
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(n), name, name, name))
		if err != nil || string(b) != name {
			r.Fatal(b, err)
		}
	})
}

func TestHoles(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	const size = 64 << 20
	f, err := tg.Create("f", meta(0o600), size)
	must(t, err)
	for _, off := range []int64{0, size / 2, size - 4096 - 1000} {
		_, err := f.WriteAt(bytes.Repeat([]byte("x"), 4096), off)
		must(t, err)
	}
	must(t, f.Finish())
	st := lstat(t, filepath.Join(dir, "f"))
	if st.Size != size {
		t.Error(st.Size)
	}
	if st.Blocks*512 > 1<<20 {
		t.Errorf("%d blocks: no holes", st.Blocks)
	}
	b, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || bytes.Count(b, []byte("x")) != 3*4096 || bytes.Count(b, []byte{0}) != size-3*4096 {
		t.Error("wrong content", err)
	}
}

func TestOwners(t *testing.T) {
	needRoot(t)
	for _, noOwner := range []bool{false, true} {
		dir := t.TempDir()
		tg := open(t, dir, &target.Options{NoOwner: noOwner})
		m := func(mode fs.FileMode) *target.Meta {
			m := meta(mode)
			m.Owned, m.UID, m.GID, m.Major, m.Minor = true, 1234, 4321, 1, 3
			return m
		}
		errs := map[string]error{
			"f": write(tg, "f", "x", m(0o755|fs.ModeSetuid|fs.ModeSetgid)),
			"l": tg.Symlink("l", "/etc/passwd", m(0o777)),
			"p": tg.Special("p", m(0o640|fs.ModeNamedPipe)),
			"s": tg.Special("s", m(0o640|fs.ModeSocket)),
			"c": tg.Special("c", m(0o666|fs.ModeDevice|fs.ModeCharDevice)),
			"b": tg.Special("b", m(0o600|fs.ModeDevice)),
			"d": errors.Join(tg.Mkdir("d"), tg.FinishDir("d", m(0o755|fs.ModeSetgid|fs.ModeSticky))),
		}
		want := map[string]uint32{
			"f": unix.S_IFREG | 0o6755, "l": unix.S_IFLNK | 0o777, "p": unix.S_IFIFO | 0o640, "s": unix.S_IFSOCK | 0o640,
			"c": unix.S_IFCHR | 0o666, "b": unix.S_IFBLK | 0o600, "d": unix.S_IFDIR | 0o3755,
		}
		uid, gid := uint32(1234), uint32(4321)
		if noOwner {
			uid, gid = 0, 0
			want["f"], want["c"] = unix.S_IFREG|0o755, unix.S_IFCHR|0o600
		}
		for name, err := range errs {
			st := lstat(t, filepath.Join(dir, name))
			if st.Uid != uid || st.Gid != gid || st.Mode != want[name] {
				t.Errorf("%s: %d:%d %o, want %d:%d %o", name, st.Uid, st.Gid, st.Mode, uid, gid, want[name])
			}
			if (name == "c" || name == "b") && st.Rdev != unix.Mkdev(1, 3) {
				t.Errorf("%s: device %x", name, st.Rdev)
			}
			if incomplete := noOwner && (name == "f" || name == "c"); (err != nil) != incomplete {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	dir := t.TempDir()
	m := meta(0o600 | fs.ModeDevice)
	m.Major, m.Minor = 1<<12, 1 // would become another device
	if err := open(t, dir, nil).Special("x", m); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

func TestXattrs(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	x := map[string][]byte{"user.a": []byte("1"), "user.\xff": {0, 255}, "user.empty": {}}
	m := meta(0o400)
	m.Xattrs = x
	if err := write(tg, "f", "x", m); errors.Is(err, unix.ENOTSUP) {
		t.Skip("no xattrs on this file system:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	must(t, tg.Mkdir("d"))
	must(t, tg.FinishDir("d", m))
	for _, name := range []string{"f", "d"} {
		for k, v := range x {
			buf := make([]byte, 10)
			n, err := unix.Lgetxattr(filepath.Join(dir, name), k, buf)
			if err != nil || !bytes.Equal(buf[:n], v) {
				t.Errorf("%s %q: %q %v", name, k, buf[:max(n, 0)], err)
			}
		}
	}
	// Links and FIFOs may not have them: said, and no reason to fail.
	for name, err := range map[string]error{
		"l": tg.Symlink("l", "f", m),
		"p": tg.Special("p", &target.Meta{Mode: 0o600 | fs.ModeNamedPipe, ModTime: stamp, Xattrs: x}),
	} {
		e, ok := errors.AsType[*target.MetaError](err)
		if !ok || e.Path != name || len(e.Errs) != len(x) || !errors.Is(err, unix.EPERM) || strings.Contains(err.Error(), "\n") {
			t.Error(err)
		}
		if st := lstat(t, filepath.Join(dir, name)); st.Mtim.Nano() != stamp.UnixNano() {
			t.Error(name, "has no time")
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	trusted := meta(0o600)
	trusted.Xattrs = map[string][]byte{"trusted.t": []byte("x")}
	must(t, tg.Symlink("l2", "f", trusted))
	if n, err := unix.Lgetxattr(filepath.Join(dir, "l2"), "trusted.t", make([]byte, 10)); n != 1 {
		t.Error(err)
	}
	if _, err := unix.Lgetxattr(filepath.Join(dir, "f"), "trusted.t", make([]byte, 10)); err == nil {
		t.Error("set through the link")
	}

	// A capability is a privilege as well, and survives the change of owner.
	caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, noOwner := range []bool{false, true} {
		tg := open(t, dir, &target.Options{Overwrite: target.Always, NoOwner: noOwner})
		m := meta(0o755)
		m.Owned, m.UID, m.GID = true, 1234, 1234
		m.Xattrs = map[string][]byte{"security.capability": caps}
		err := write(tg, "caps", "x", m)
		n, _ := unix.Lgetxattr(filepath.Join(dir, "caps"), "security.capability", make([]byte, 100))
		if (err != nil) != noOwner || (n > 0) == noOwner {
			t.Error(noOwner, err, n)
		}
	}
}

// acl is an access list as Linux keeps it: of the owner, one more user, the group, the mask and all others.
func acl(perms ...uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for i, tag := range []uint16{1, 2, 4, 16, 32} {
		id := ^uint32(0)
		if tag == 2 {
			id = 1234
		}
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perms[i])
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}

// What is restored has the access list that was recorded, or none: never the one that a folder gives to what is made in it.
func TestAccessLists(t *testing.T) {
	if !child(t) {
		t.Run("root", testAccessLists)
		return
	}
	testAccessLists(t)
}

func testAccessLists(t *testing.T) {
	dir := t.TempDir()
	const access, byDefault = "system.posix_acl_access", "system.posix_acl_default"
	if err := unix.Setxattr(dir, byDefault, acl(7, 7, 5, 7, 5), 0); err == unix.ENOTSUP {
		t.Skip("no access lists on this file system")
	} else if err != nil {
		t.Fatal(err)
	}
	with := map[string][]byte{access: acl(7, 6, 4, 6, 0), byDefault: acl(7, 5, 5, 5, 0)}
	for i, x := range []map[string][]byte{nil, with, {access: with[access]}} {
		for _, o := range []target.Overwrite{target.IfDifferent, target.Always} {
			tg := open(t, dir, &target.Options{Overwrite: o})
			m := meta(0o640)
			if m.Mode = 0o760; len(x) == 0 {
				m.Mode = 0o740
			}
			d, f := *m, *m
			f.Xattrs = maps.Clone(x)
			delete(f.Xattrs, byDefault)
			d.Xattrs = x
			name := func(s string) string { return fmt.Sprintf("%s%d", s, i) }
			must(t, write(tg, name("f"), "x", &f))
			p := f
			p.Mode |= fs.ModeNamedPipe
			must(t, tg.Special(name("p"), &p))
			must(t, tg.Mkdir(name("d")))
			must(t, write(tg, name("d")+"/f", "x", &f))
			must(t, tg.FinishDir(name("d"), &d))
			for path, m := range map[string]*target.Meta{name("f"): &f, name("p"): &p, name("d"): &d, name("d") + "/f": &f} {
				full := filepath.Join(dir, path)
				if st, err := os.Lstat(full); err == nil && st.Mode().Perm() != m.Mode.Perm() {
					t.Errorf("%s: mode %v, want %v", path, st.Mode(), m.Mode)
				}
				for _, attr := range []string{access, byDefault} {
					buf := make([]byte, 100)
					n, err := unix.Lgetxattr(full, attr, buf)
					if want := m.Xattrs[attr]; !bytes.Equal(buf[:max(n, 0)], want) {
						t.Errorf("%s: %s is %x (%v), want %x", path, attr, buf[:max(n, 0)], err, want)
					}
				}
			}
		}
	}
}

// child runs the calling test again as a user without privileges, and reports whether this is that run.
func child(t *testing.T) bool {
	if os.Geteuid() != 0 {
		return true
	}
	dir, err := os.MkdirTemp("", "target")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chown(dir, 65534, 65534))
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
	return false
}

func TestUnprivileged(t *testing.T) {
	if !child(t) {
		return
	}
	dir := t.TempDir()
	tg := open(t, dir, &target.Options{Overwrite: target.IfDifferent})
	foreign := func(mode fs.FileMode) *target.Meta {
		m := meta(mode)
		m.Owned, m.UID, m.GID, m.Major, m.Minor = true, 1234, 4321, 1, 3
		m.Xattrs = map[string][]byte{"trusted.x": []byte("x")}
		return m
	}

	for name, err := range map[string]error{
		"f": write(tg, "f", "x", foreign(0o755|fs.ModeSetuid)),
		"l": tg.Symlink("l", "f", foreign(0o777)),
		"p": tg.Special("p", foreign(0o640|fs.ModeNamedPipe)),
		"d": errors.Join(tg.Mkdir("d"), tg.FinishDir("d", foreign(0o755|fs.ModeDir))),
	} {
		e, ok := errors.AsType[*target.MetaError](err)
		if !ok || e.Path != name || !errors.Is(err, fs.ErrPermission) ||
			!strings.Contains(err.Error(), "owner: ") || !strings.Contains(err.Error(), `xattr "trusted.x": `) {
			t.Error(name, err)
		}
		st := lstat(t, filepath.Join(dir, name))
		if st.Mtim.Nano() != stamp.UnixNano() || st.Mode&0o6000 != 0 {
			t.Errorf("%s: %o %v", name, st.Mode, st.Mtim)
		}
	}
	if err := write(tg, "f", "x", foreign(0o755)); err != target.ErrSkipped {
		t.Error("an owner that can't be set makes a difference:", err)
	}

	must(t, write(tg, "dev", "x", meta(0o600)))
	err := tg.Special("dev", foreign(0o600|fs.ModeDevice))
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "mknod dev: ") {
		t.Error(err)
	}
	if read(t, filepath.Join(dir, "dev")) != "x" {
		t.Error("lost what was there")
	}

	t.Run("own setuid", func(t *testing.T) {
		m := meta(0o755 | fs.ModeSetuid)
		m.Owned, m.UID, m.GID = true, uint32(os.Getuid()), uint32(os.Getgid())
		must(t, write(tg, "suid", "x", m))
		if st := lstat(t, filepath.Join(dir, "suid")); st.Mode&unix.S_ISUID == 0 {
			t.Errorf("%o", st.Mode)
		}
	})
	t.Run("read-only folders", func(t *testing.T) {
		for _, mode := range []fs.FileMode{0o555, 0, 0o100} {
			tg := open(t, dir, &target.Options{Overwrite: target.Always})
			must(t, tg.Mkdir("ro"))
			must(t, write(tg, "ro/x", fmt.Sprint(mode), meta(0o400)))
			must(t, tg.FinishDir("ro", meta(mode|fs.ModeDir)))
			if st := lstat(t, filepath.Join(dir, "ro")); fs.FileMode(st.Mode).Perm() != mode {
				t.Errorf("%o", st.Mode)
			}
		}
		must(t, os.Chmod(filepath.Join(dir, "ro"), 0o700))
	})
	t.Run("no permission", func(t *testing.T) {
		must(t, os.Mkdir(filepath.Join(dir, "no"), 0o500))
		tg := open(t, dir, &target.Options{})
		if err := tg.Mkdir("no"); err != target.ErrSkipped { // Never leaves it as it is
			t.Error(err)
		}
		if err := write(tg, "no/x", "x", meta(0o600)); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "no/x") {
			t.Error(err)
		}
	})
	t.Run("unreadable file", func(t *testing.T) {
		must(t, write(tg, "w", "x", meta(0)))
		must(t, os.Chmod(filepath.Join(dir, "w"), 0o200))
		if err := write(tg, "w", "x", meta(0)); err != target.ErrSkipped {
			t.Error(err)
		}
		if st := lstat(t, filepath.Join(dir, "w")); st.Mode&0o777 != 0 {
			t.Errorf("not repaired: %o", st.Mode)
		}
	})
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=20"); err != nil {
		t.Skip("can't mount a small file system:", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	tg, err := target.Open(dir, &target.Options{Overwrite: target.IfDifferent})
	must(t, err)
	defer tg.Close()

	err = write(tg, "old", "old", meta(0o600))
	must(t, err)
	f, err := tg.Create("big", meta(0o600), 4<<20)
	must(t, err)
	buf := make([]byte, 256<<10)
	for off := int64(0); off < 4<<20 && err == nil; off += int64(len(buf)) {
		_, err = f.WriteAt(buf, off)
	}
	for _, err := range []error{err, f.Finish()} {
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "write big: ") {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "big")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("half a file stays:", err)
	}
	must(t, write(tg, "small", "x", meta(0o600))) // the space is free again

	for i := 0; err == nil || i == 0; i++ {
		err = tg.Mkdir(fmt.Sprint("d", i))
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "mkdir d") {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"create":  write(tg, "new", "x", meta(0o600)),
		"symlink": tg.Symlink("new", "x", meta(0o777)),
		"mknod":   tg.Special("new", meta(0o600|fs.ModeNamedPipe)),
	} {
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), what+" new: ") {
			t.Error(err)
		}
	}
	if err := write(tg, "old", "other", meta(0o600)); !errors.Is(err, unix.ENOSPC) || read(t, filepath.Join(dir, "old")) != "old" {
		t.Error("a file that can't be replaced is lost:", err)
	}
}

// No handle stays behind, whatever fails, and few are open at any time.
func TestHandles(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	dir := ramDir(t)
	out := outside(t, filepath.Join(dir, "out"))
	before := count()
	for o := target.Never; o <= target.Always; o++ {
		tg, err := target.Open(filepath.Join(dir, "in"), &target.Options{Overwrite: o})
		must(t, err)
		for i := range 200 {
			d := fmt.Sprint("d", i)
			tg.Mkdir(d)
			everything(tg, d+"/x")
			everything(tg, d)
			tg.Symlink(d, out, meta(0o777))
			everything(tg, d+"/x")
			everything(tg, "none/x")
		}
		if n := count() - before; n > 150 {
			t.Error(n, "handles")
		}
		must(t, tg.Close())
		if n := count(); n != before {
			t.Error(before, "handles before,", n, "after")
		}
	}
}
