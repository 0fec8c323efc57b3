//go:build unix

package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openObject opens a file for reading: not through a link, and without waiting
// for the other end of a FIFO.
func openObject(file string) (*os.File, error) {
	return os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// touch sets the file's times to the file system's now, durably.
func touch(file string) error {
	if err := unix.Utimes(file, nil); err != nil {
		return &os.PathError{Op: "utimes", Path: file, Err: err}
	}
	f, err := openObject(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncFolder makes the names in a folder durable. Some file systems (SMB, FUSE)
// have no such call for folders; what they promise without is all there is.
func syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	for _, none := range []error{unix.EINVAL, unix.ENOTSUP, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}

// noLinks reports whether err of os.Link says that the file system has none.
func noLinks(err error) bool {
	for _, none := range []error{unix.EPERM, unix.ENOTSUP, unix.EOPNOTSUPP, unix.ENOSYS, unix.EMLINK} {
		if errors.Is(err, none) {
			return true
		}
	}
	return false
}

// lock takes the lock of a new temporary file, which lasts until it is closed.
func lock(f *os.File) {
	unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// removeUnlocked removes a file unless a process on this host holds its lock.
func removeUnlocked(file string) {
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		os.Remove(file)
	}
}
