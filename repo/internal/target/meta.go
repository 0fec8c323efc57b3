//go:build (linux || darwin) && !osroot

package target

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A node is a thing whose metadata is to be set: by its handle, or, if fd is -1, by its name in the folder at.
type node struct {
	fd   int
	at   int
	name string
}

// apply sets owner, xattrs, mode and times, in that order: a change of owner takes setuid bits and capabilities away, and the
// times say that all is done.
func (t *Target) apply(path string, n node, typ uint32, m *Meta) error {
	var errs []error
	failed := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}

	if m.Owned && !t.o.NoOwner {
		err := n.chown(m.UID, m.GID)
		if err != nil && n.owned(m) {
			err = nil // it was not allowed, but nor was it needed
		}
		failed("owner", err)
	}
	mode := permissions(m.Mode)
	privilege := uint32(0)
	switch typ {
	case unix.S_IFREG:
		privilege = unix.S_ISUID | unix.S_ISGID
	case unix.S_IFBLK, unix.S_IFCHR:
		privilege = unix.S_ISUID | unix.S_ISGID | 0o077
	}
	_, capable := m.Xattrs[capability]
	denied := false
	if mode&privilege != 0 || capable {
		if denied = !m.Owned || !n.owned(m); denied {
			mode &^= privilege
		}
	}
	// Access lists come last: one may take from the owner the right to set others.
	names := slices.SortedFunc(maps.Keys(m.Xattrs), func(a, b string) int {
		rank := func(name string) int {
			if strings.HasPrefix(name, "system.") {
				return 1
			}
			return 0
		}
		return cmp.Or(rank(a)-rank(b), strings.Compare(a, b))
	})
	for _, name := range names {
		if name == capability && denied {
			continue
		}
		failed(fmt.Sprintf("xattr %q", name), n.setxattr(name, m.Xattrs[name]))
	}
	for _, name := range inherited(typ) {
		if _, ok := m.Xattrs[name]; !ok {
			failed(fmt.Sprintf("xattr %q", name), n.removexattr(name))
		}
	}
	if denied {
		failed("mode", errPrivilege)
	}
	if typ != unix.S_IFLNK {
		err := n.chmod(mode)
		if err == nil && mode&unix.S_ISGID != 0 {
			// Linux leaves this bit out without a word for who is not in the group.
			if st, e := n.stat(); e != nil || uint32(st.Mode)&unix.S_ISGID == 0 {
				err = unix.EPERM
			}
		}
		failed("mode", err)
	}
	if !m.ModTime.IsZero() {
		ts, err := unix.TimeToTimespec(m.ModTime)
		if err == nil {
			err = n.utimes(ts)
		}
		failed("times", err)
	}
	if len(errs) > 0 {
		return &MetaError{Path: path, Errs: errs}
	}
	return nil
}

// owned reports whether the owner is the recorded one.
func (n node) owned(m *Meta) bool {
	st, err := n.stat()
	return err == nil && st.Uid == m.UID && st.Gid == m.GID
}

func (n node) stat() (st unix.Stat_t, err error) {
	if n.fd < 0 {
		return lstat(n.at, n.name)
	}
	err = retry(func() error { return unix.Fstat(n.fd, &st) })
	return st, err
}

// close gives back what pin took.
func (n node) close() {
	if n.fd >= 0 {
		unix.Close(n.fd)
	}
}

// owner converts ids, of which the highest would mean "leave it".
func owner(uid, gid uint32) (int, int, error) {
	if uid == math.MaxUint32 || gid == math.MaxUint32 {
		return 0, 0, unix.EINVAL
	}
	return int(uid), int(gid), nil
}

// permissions returns the lower 12 bits of m, as the system has them.
func permissions(m fs.FileMode) uint32 {
	p := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		p |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		p |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		p |= unix.S_ISVTX
	}
	return p
}

// sameTime compares as exactly as this system can set times.
func sameTime(st *unix.Stat_t, m *Meta) bool {
	sec, nsec := st.Mtim.Unix()
	return sec == m.ModTime.Unix() && nsec/timeUnit == int64(m.ModTime.Nanosecond())/timeUnit
}

func (t *Target) metaDiffers(st *unix.Stat_t, m *Meta) bool {
	return uint32(st.Mode)&0o7777 != permissions(m.Mode) || t.ownerDiffers(st, m)
}

// ownerDiffers is about owners that can be set: else nothing would ever be as it should.
func (t *Target) ownerDiffers(st *unix.Stat_t, m *Meta) bool {
	return m.Owned && !t.o.NoOwner && os.Geteuid() == 0 && (st.Uid != m.UID || st.Gid != m.GID)
}
