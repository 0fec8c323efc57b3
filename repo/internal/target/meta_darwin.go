//go:build !osroot

package target

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	timeUnit   = 1000 // futimes, the only call for a handle that x/sys has, takes microseconds
	capability = ""   // there are none
)

// pin returns what is at name if ok agrees to it: a handle of a file or folder, but only the name of anything else.
func pin(at int, name string, ok func(*unix.Stat_t) bool) (node, error) {
	n := node{fd: -1, at: at, name: name}
	st, err := n.stat()
	if err != nil {
		return node{}, err
	}
	if k := kind(&st); k == unix.S_IFREG || k == unix.S_IFDIR {
		if n.fd, err = openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err != nil {
			return node{}, err
		}
		st, err = n.stat()
	}
	if err == nil && !ok(&st) {
		err = errSwapped
	}
	if err != nil {
		n.close()
		return node{}, err
	}
	return n, nil
}

// mknodat has this thread, and no other, go to the folder for a moment, because x/sys lacks the call.
func mknodat(at int, name string, mode uint32, dev uint64) error {
	runtime.LockOSThread()
	if err := unix.PthreadFchdir(at); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	var err error
	if mode&unix.S_IFMT == unix.S_IFIFO {
		err = unix.Mkfifo(name, mode&0o7777)
	} else {
		err = unix.Mknod(name, mode, int(dev))
	}
	if unix.PthreadFchdir(-1) == nil {
		runtime.UnlockOSThread() // else the thread ends with its goroutine, as it can't be used for anything else
	}
	return err
}

func (n node) chown(uid, gid uint32) error {
	u, g, err := owner(uid, gid)
	if err != nil {
		return err
	}
	if n.fd < 0 {
		return unix.Fchownat(n.at, n.name, u, g, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.Fchown(n.fd, u, g)
}

func (n node) chmod(mode uint32) error {
	if n.fd < 0 {
		return unix.Fchmodat(n.at, n.name, mode, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.Fchmod(n.fd, mode)
}

func (n node) setxattr(name string, value []byte) error {
	if n.fd < 0 {
		return errors.ErrUnsupported
	}
	return unix.Fsetxattr(n.fd, name, value, 0)
}

func inherited(uint32) []string { return nil }

func (n node) removexattr(string) error { return errors.ErrUnsupported }

func (n node) utimes(mtime unix.Timespec) error {
	now, err := unix.TimeToTimespec(time.Now())
	if err != nil {
		return err
	}
	if n.fd < 0 {
		return unix.UtimesNanoAt(n.at, n.name, []unix.Timespec{now, mtime}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.Futimes(n.fd, []unix.Timeval{unix.NsecToTimeval(now.Nano()), {Sec: mtime.Sec, Usec: int32(mtime.Nsec / 1000)}})
}
