//go:build !osroot

package target

import (
	"math"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	timeUnit   = 1
	capability = "security.capability"
)

// pin returns a handle of what is at name if ok agrees to it. The handle neither follows nor opens it, whatever it is.
func pin(at int, name string, ok func(*unix.Stat_t) bool) (node, error) {
	fd, err := openat(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return node{}, err
	}
	n := node{fd: fd}
	st, err := n.stat()
	if err == nil && !ok(&st) {
		err = errSwapped
	}
	if err != nil {
		n.close()
		return node{}, err
	}
	return n, nil
}

func mknodat(at int, name string, mode uint32, dev uint64) error {
	if dev > math.MaxUint32 { // the system call has no more bits, and would make another device
		return unix.EINVAL
	}
	return unix.Mknodat(at, name, mode, int(dev))
}

func (n node) chown(uid, gid uint32) error {
	u, g, err := owner(uid, gid)
	if err != nil {
		return err
	}
	return unix.Fchownat(n.fd, "", u, g, unix.AT_EMPTY_PATH)
}

// The calls below know handles that are not open for reading or writing only in later versions of Linux, or not at all; then
// the name of the handle in /proc, which leads to the very inode, serves as well.

func (n node) chmod(mode uint32) error {
	err := unix.Fchmod(n.fd, mode)
	if err == unix.EBADF {
		err = unix.Chmod(n.proc(), mode)
	}
	return err
}

func (n node) setxattr(name string, value []byte) error {
	err := unix.Fsetxattr(n.fd, name, value, 0)
	if err == unix.EBADF {
		err = unix.Setxattr(n.proc(), name, value, 0)
	}
	return err
}

// inherited are the attributes that a new entry may get from its folder, and give others access that the recorded mode seems not to.
func inherited(typ uint32) []string {
	switch typ {
	case unix.S_IFLNK:
		return nil
	case unix.S_IFDIR:
		return []string{"system.posix_acl_access", "system.posix_acl_default"}
	}
	return []string{"system.posix_acl_access"}
}

// removexattr removes an attribute that may not be there. Looking first spares the file system a change.
func (n node) removexattr(name string) error {
	path := ""
	_, err := unix.Fgetxattr(n.fd, name, nil)
	if err == unix.EBADF {
		path = n.proc()
		_, err = unix.Getxattr(path, name, nil)
	}
	switch {
	case err == unix.ENODATA || err == unix.ENOTSUP:
		return nil
	case err != nil && err != unix.ERANGE:
		return err
	case path != "":
		err = unix.Removexattr(path, name)
	default:
		err = unix.Fremovexattr(n.fd, name)
	}
	if err == unix.ENODATA {
		return nil
	}
	return err
}

func (n node) utimes(mtime unix.Timespec) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	err := unix.UtimesNanoAt(n.fd, "", ts, unix.AT_EMPTY_PATH)
	if err == unix.EINVAL { // before Linux 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, n.proc(), ts, 0)
	}
	return err
}

func (n node) proc() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }
