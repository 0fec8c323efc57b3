package repo_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// A treeNode is an entry of a generated tree.
type treeNode struct {
	name      string
	mode      uint32 // with the type
	sec, nsec int64
	uid, gid  int
	xattrs    map[string][]byte
	size      int64
	runs      []treeRun
	target    string
	dev       uint64
	again     bool // a further name of the file that was made last
	caps      []byte
	kids      []*treeNode
}

type treeRun struct {
	off  int64
	data []byte
}

// treeKind says what a generated tree may hold.
type treeKind struct {
	raw  bool // names that are no UTF-8, and holes and xattrs
	root bool // owners, devices, and xattrs that need root
}

func (k treeKind) gen() *rapid.Generator[*treeNode] {
	return rapid.Custom(func(t *rapid.T) *treeNode { return k.folder(t, 0) })
}

var treeOdd = []string{"\\", "a\\x41", ".varve-0", "...", "-rf", "\n", " ", "*", "\xff", "a\xffb", "\xed\xa0\x80", "é", "日本", "ab\x01c", "a", "b", "A", "a:b", "NUL"}

func (k treeKind) name(t *rapid.T, taken map[string]bool) string {
	for {
		var name string
		switch n := rapid.IntRange(0, 9).Draw(t, "name kind"); {
		case n < 4:
			name = rapid.SampledFrom(treeOdd).Draw(t, "name")
		case n < 8 || !k.raw:
			name = rapid.StringMatching(`[a-z\x{80}-\x{10ff}]{1,12}`).Draw(t, "name")
		case n == 8:
			name = strings.Repeat("x", 255-10) + fmt.Sprintf("%010d", rapid.Uint16().Draw(t, "long"))
		default:
			name = string(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 9).Draw(t, "name"))
		}
		if !k.raw {
			name = strings.ToValidUTF8(name, "?")
		}
		name = strings.ReplaceAll(name, "/", "|")
		if name != "." && name != ".." && !taken[name] {
			taken[name] = true
			return name
		}
	}
}

func (k treeKind) node(t *rapid.T, typ uint32) *treeNode {
	perm := rapid.SampledFrom([]uint32{0o644, 0o755, 0o600, 0o777, 0o444, 0o400}).Draw(t, "perm")
	if rapid.IntRange(0, 4).Draw(t, "any mode") == 0 {
		perm = rapid.Uint32Range(0, 0o7777).Draw(t, "mode")
	}
	n := &treeNode{mode: typ | perm, nsec: rapid.Int64Range(0, 999_999_999).Draw(t, "ns"), uid: os.Geteuid(), gid: os.Getegid()}
	n.sec = rapid.OneOf(rapid.Int64Range(-1<<31, 1<<33), rapid.Int64Range(-3, 3)).Draw(t, "time")
	if !k.root { // what its owner could not read or enter is no part of this
		n.mode |= 0o400
		if typ == unix.S_IFDIR {
			n.mode |= 0o700
		}
		n.mode &^= 0o2000
	} else if rapid.Bool().Draw(t, "owned") {
		n.uid, n.gid = int(rapid.Uint32Range(0, 1<<32-2).Draw(t, "uid")), rapid.IntRange(0, 70000).Draw(t, "gid")
	}
	if k.raw {
		var names []string
		if typ == unix.S_IFREG || typ == unix.S_IFDIR {
			names = append(names, "user.a", "user.b\xff", "user."+strings.Repeat("n", 200))
		}
		if k.root {
			names = append(names, "trusted.t", "trusted.ü")
		}
		for _, name := range names {
			if rapid.IntRange(0, 5).Draw(t, "xattr") == 0 {
				if n.xattrs == nil {
					n.xattrs = map[string][]byte{}
				}
				n.xattrs[name] = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
			}
		}
		lists := []string{treeAccess}
		if typ == unix.S_IFDIR {
			lists = append(lists, treeDefault)
		}
		for _, name := range lists {
			if typ != unix.S_IFLNK && rapid.IntRange(0, 5).Draw(t, "access list") == 0 {
				if n.xattrs == nil {
					n.xattrs = map[string][]byte{}
				}
				perm := rapid.Uint16Range(0, 7)
				user := rapid.Uint16Range(0, 7).Draw(t, "of the owner")
				if !k.root {
					user |= 7 // as for the mode
				}
				n.xattrs[name] = treeACL(user, perm.Draw(t, "of the group"), perm.Draw(t, "mask"), perm.Draw(t, "of others"),
					treeGrant{2, rapid.Uint32Range(1, 70000).Draw(t, "user"), perm.Draw(t, "of a user")},
					treeGrant{8, rapid.Uint32Range(1, 70000).Draw(t, "group"), perm.Draw(t, "of a group")})
			}
		}
	}
	return n
}

const (
	treeAccess  = "system.posix_acl_access"
	treeDefault = "system.posix_acl_default"
)

// A treeGrant is what an access list gives to a user (tag 2) or group (tag 8).
type treeGrant struct {
	tag  uint16
	id   uint32
	perm uint16
}

// treeACL is an access list as Linux keeps it.
func treeACL(owner, group, mask, other uint16, more ...treeGrant) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(g treeGrant) {
		b = binary.LittleEndian.AppendUint16(b, g.tag)
		b = binary.LittleEndian.AppendUint16(b, g.perm)
		b = binary.LittleEndian.AppendUint32(b, g.id)
	}
	const nobody = ^uint32(0)
	add(treeGrant{1, nobody, owner})
	for _, g := range more {
		if g.tag == 2 {
			add(g)
		}
	}
	add(treeGrant{4, nobody, group})
	for _, g := range more {
		if g.tag == 8 {
			add(g)
		}
	}
	add(treeGrant{16, nobody, mask})
	add(treeGrant{32, nobody, other})
	return b
}

func (k treeKind) folder(t *rapid.T, depth int) *treeNode {
	d := k.node(t, unix.S_IFDIR)
	taken := map[string]bool{}
	for range rapid.IntRange(0, max(1, 7-2*depth)).Draw(t, "entries") {
		n := k.entry(t, depth)
		n.name = k.name(t, taken)
		d.kids = append(d.kids, n)
	}
	return d
}

func (k treeKind) entry(t *rapid.T, depth int) *treeNode {
	kinds := []string{"file", "file", "file", "dir", "link", "again", "pipe", "socket"}
	if k.root {
		kinds = append(kinds, "char", "block")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); {
	case kind == "dir" && depth < 4:
		if rapid.IntRange(0, 20).Draw(t, "deep") == 0 {
			n := k.folder(t, depth+1)
			for range rapid.IntRange(10, 100).Draw(t, "how deep") {
				n.name = rapid.SampledFrom(treeOdd).Draw(t, "name")
				if !k.raw {
					n.name = strings.ToValidUTF8(n.name, "?")
				}
				up := k.node(t, unix.S_IFDIR)
				up.kids = []*treeNode{n}
				n = up
			}
			return n
		}
		return k.folder(t, depth+1)
	case kind == "link":
		n := k.node(t, unix.S_IFLNK)
		n.mode = unix.S_IFLNK | 0o777
		n.target = rapid.SampledFrom([]string{"..", ".", "/", "/etc/passwd", "dangling", "\\", "a/\xff", "../../../../x", "a", "a//b/", "\xff\xfe\n"}).Draw(t, "target")
		if rapid.IntRange(0, 3).Draw(t, "any target") == 0 {
			n.target = string(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 4000).Draw(t, "target"))
		}
		return n
	case kind == "again":
		return &treeNode{again: true}
	case kind == "pipe":
		return k.node(t, unix.S_IFIFO)
	case kind == "socket":
		return k.node(t, unix.S_IFSOCK)
	case kind == "char", kind == "block":
		n := k.node(t, map[string]uint32{"char": unix.S_IFCHR, "block": unix.S_IFBLK}[kind])
		n.dev = unix.Mkdev(rapid.Uint32Range(0, 1<<12-1).Draw(t, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(t, "minor"))
		return n
	}
	n := k.node(t, unix.S_IFREG)
	// Sizes about the edges of holes and chunks.
	n.size = rapid.SampledFrom([]int64{0, 0, 1, 10, 4095, 4096, 4097, 70_000, 400_000, 1<<20 + 1}).Draw(t, "size")
	seed := rapid.Uint64Range(0, 5).Draw(t, "seed") // few: files share content
	if !k.raw || n.size < 8192 || rapid.Bool().Draw(t, "dense") {
		n.runs = []treeRun{{0, treeBytes(seed, int(n.size))}}
		return n
	}
	// Blocks of data, zeros and holes.
	n.size += rapid.Int64Range(0, 3).Draw(t, "holes") << 20
	for off := int64(0); off < n.size; {
		length := min(rapid.SampledFrom([]int64{4096, 65536, 1 << 20}).Draw(t, "length"), n.size-off)
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			n.runs = append(n.runs, treeRun{off, make([]byte, length)})
		case 1:
			n.runs = append(n.runs, treeRun{off, treeBytes(seed+uint64(off), int(length))})
		}
		off += length
	}
	return n
}

// make makes the tree as dir, which must not exist.
func (n *treeNode) make(dir string) error {
	var last string
	return n.build(dir, &last)
}

func (n *treeNode) build(path string, last *string) (err error) {
	perm := n.mode & 0o7777
	switch n.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = os.Mkdir(path, 0o700)
	case unix.S_IFLNK:
		err = unix.Symlink(n.target, path)
	case unix.S_IFREG:
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		err = f.Truncate(n.size)
		for _, r := range n.runs {
			_, werr := f.WriteAt(r.data, r.off)
			err = errors.Join(err, werr)
		}
		err = errors.Join(err, f.Close())
		*last = path
	case 0:
		if *last == "" {
			return nil
		}
		return os.Link(*last, path)
	default:
		err = unix.Mknod(path, n.mode&unix.S_IFMT|0o600, int(n.dev))
	}
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	for _, c := range n.kids {
		if err := c.build(path+"/"+c.name, last); err != nil {
			return err
		}
	}
	for k, v := range n.xattrs {
		if err := unix.Lsetxattr(path, k, v, 0); err != nil {
			return fmt.Errorf("%q: xattr %q: %w", path, k, err)
		}
	}
	if err := unix.Lchown(path, n.uid, n.gid); err != nil {
		return err
	}
	if n.caps != nil { // which a change of owner takes away
		if err := unix.Lsetxattr(path, "security.capability", n.caps, 0); err != nil {
			return err
		}
	}
	if n.mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(path, perm); err != nil {
			return err
		}
	}
	ts, err := unix.TimeToTimespec(time.Unix(n.sec, n.nsec))
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// A treeState is all that a comparer looks at.
type treeState struct {
	mode     uint32
	size     int64
	sec, ns  int64
	uid, gid uint32
	dev      uint64
	target   string
	content  string
	xattrs   map[string][]byte
	group    string // of the names of a file with several, the first
	blocks   int64
}

// treeScan reads all that is below dir; dir itself is ".".
func treeScan(t treeT, dir string) map[string]*treeState {
	t.Helper()
	out := map[string]*treeState{}
	groups := map[[2]uint64]string{} // of device and inode
	var walk func(path, rel string)
	walk = func(path, rel string) {
		var st unix.Stat_t
		treeMust(t, unix.Lstat(path, &st))
		s := &treeState{mode: st.Mode, sec: int64(st.Mtim.Sec), ns: int64(st.Mtim.Nsec), uid: st.Uid, gid: st.Gid, blocks: st.Blocks, xattrs: treeXattrs(t, path)}
		out[rel] = s
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			list, err := os.ReadDir(path)
			treeMust(t, err)
			for _, d := range list {
				walk(path+"/"+d.Name(), strings.TrimPrefix(rel+"/"+d.Name(), "./"))
			}
		case unix.S_IFLNK:
			buf := make([]byte, 1<<16)
			n, err := unix.Readlink(path, buf)
			treeMust(t, err)
			s.target = string(buf[:n])
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			treeMust(t, err)
			s.content, s.size = string(b), st.Size
			if st.Nlink > 1 {
				id := [2]uint64{st.Dev, st.Ino}
				if groups[id] == "" {
					groups[id] = rel
				}
				s.group = groups[id]
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			s.dev = st.Rdev
		}
	}
	walk(dir, ".")
	return out
}

func treeXattrs(t treeT, path string) map[string][]byte {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	treeMust(t, err)
	out := map[string][]byte{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		v := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, v)
		treeMust(t, err)
		out[name] = v[:n]
	}
	return out
}

// treeExcept are differences that a comparison passes over.
type treeExcept struct {
	owners, holes, groups, rootTime, xattrs bool
}

// treeCompare returns how b differs from a.
func treeCompare(a, b map[string]*treeState, x treeExcept) []string {
	var out []string
	say := func(path, format string, args ...any) {
		out = append(out, fmt.Sprintf("%q: ", path)+fmt.Sprintf(format, args...))
	}
	for path := range b {
		if a[path] == nil {
			say(path, "is new")
		}
	}
	for path, p := range a {
		q := b[path]
		if q == nil {
			say(path, "is missing")
			continue
		}
		if p.mode != q.mode {
			say(path, "mode %o, want %o", q.mode, p.mode)
		}
		if p.content != q.content || p.size != q.size {
			say(path, "content of %d bytes, want %d", q.size, p.size)
		}
		if (p.sec != q.sec || p.ns != q.ns) && !(x.rootTime && path == ".") {
			say(path, "time %d.%09d, want %d.%09d", q.sec, q.ns, p.sec, p.ns)
		}
		if !x.owners && (p.uid != q.uid || p.gid != q.gid) {
			say(path, "owner %d:%d, want %d:%d", q.uid, q.gid, p.uid, p.gid)
		}
		if p.dev != q.dev || p.target != q.target {
			say(path, "device %x or target %q, want %x %q", q.dev, q.target, p.dev, p.target)
		}
		if !x.xattrs && !maps.EqualFunc(p.xattrs, q.xattrs, bytes.Equal) {
			say(path, "xattrs %q, want %q", q.xattrs, p.xattrs)
		}
		if !x.groups && p.group != q.group {
			say(path, "one file with %q, want %q", q.group, p.group)
		}
		// 16 KiB for what a file system needs to find the extents.
		if !x.holes && p.mode&unix.S_IFMT == unix.S_IFREG && q.blocks > p.blocks+32 {
			say(path, "takes %d blocks, want %d", q.blocks, p.blocks)
		}
	}
	slices.Sort(out)
	return out
}

func treeSame(t treeT, a, b string, x treeExcept) {
	t.Helper()
	if d := treeCompare(treeScan(t, a), treeScan(t, b), x); len(d) > 0 {
		t.Fatalf("differences %s", treePrint(d))
	}
}

func treeDir(t treeT, dir string) *source.Tree {
	t.Helper()
	d, err := source.Dir(dir, nil)
	treeMust(t, err)
	return d
}

func treeRestore(t treeT, r *repo.Repo, s *repo.Snapshot, dir string, o *repo.RestoreOptions) *repo.RestoreReport {
	t.Helper()
	rep, err := r.Restore(context.Background(), s, dir, o)
	if re, ok := errors.AsType[*repo.RestoreError](err); ok {
		t.Fatalf("%+v", re.Failed)
	}
	treeMust(t, err)
	return rep
}

// treeTemp is a folder for what makes many entries: in memory where it can be.
func treeTemp(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "varve-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { treeRemove(dir) })
	return dir
}

// treeRemove removes dir whatever its modes are.
func treeRemove(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	os.RemoveAll(dir)
}
