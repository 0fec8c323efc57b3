//go:build unix && !aix && !solaris

package source

import (
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	openFile   = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	openFolder = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_DIRECTORY | unix.O_CLOEXEC
)

// A sysDir is an open folder, from which single steps are taken: none follows a link.
type sysDir struct {
	fd   int
	step bool // in the root: go an element at a time
}

type fileID struct{ dev, ino uint64 }

func openRoot(path string) (sysDir, error) {
	// Not O_NOFOLLOW: the root may be a link.
	d, err := open(unix.AT_FDCWD, path, openFolder&^unix.O_NOFOLLOW)
	d.step = err == nil && !d.wholePaths()
	return d, err
}

func open(at int, path string, flags int) (sysDir, error) {
	for {
		fd, err := unix.Openat(at, path, flags, 0)
		if err != unix.EINTR {
			return sysDir{fd: fd}, err
		}
	}
}

func (d sysDir) close() { unix.Close(d.fd) }

// stepDir opens the folder at path, of one or more elements below d, an element at a time.
func (d sysDir) stepDir(path string, flags int) (sysDir, error) {
	at := d
	for {
		elem, rest, more := strings.Cut(path, "/")
		f := flags
		if more {
			f = openStep
		}
		next, err := open(at.fd, elem, f)
		if at != d {
			at.close()
		}
		if err != nil || !more {
			return next, err
		}
		at, path = next, rest
	}
}

func (d sysDir) id() (fileID, error) {
	var st unix.Stat_t
	err := unix.Fstat(d.fd, &st)
	return fileID{uint64(st.Dev), uint64(st.Ino)}, err
}

func (d sysDir) lstat(name string, o *owners) (*info, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			return newInfo(name, &st, o), nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// openFile opens a file that was seen to be one; if anything else is there by now, that has neither blocked nor been
// read from.
func (d sysDir) openFile(name, path string) (*os.File, error) {
	fd, err := open(d.fd, name, openFile)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd.fd, &st); err != nil {
		fd.close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		fd.close()
		return nil, errSpecial
	}
	return os.NewFile(uintptr(fd.fd), path), nil
}

func (d sysDir) readLink(name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(d.fd, name, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

func fstat(f *os.File, name string, o *owners) (*info, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	var stErr error
	if err := c.Control(func(fd uintptr) { stErr = unix.Fstat(int(fd), &st) }); err != nil {
		return nil, err
	}
	if stErr != nil {
		return nil, stErr
	}
	return newInfo(name, &st, o), nil
}

func newInfo(name string, st *unix.Stat_t, o *owners) *info {
	i := &info{
		name:  name,
		size:  st.Size,
		mode:  fs.FileMode(st.Mode & 0o777),
		mtime: time.Unix(st.Mtim.Unix()),
		dev:   uint64(st.Dev),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if st.Nlink > 1 {
			i.attr.Link.Dev, i.attr.Link.Ino = uint64(st.Dev), uint64(st.Ino)
		}
	case unix.S_IFDIR:
		i.mode |= fs.ModeDir
	case unix.S_IFLNK:
		i.mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		i.mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		i.mode |= fs.ModeSocket
	case unix.S_IFCHR:
		i.mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		i.mode |= fs.ModeDevice
	default:
		i.mode |= fs.ModeIrregular
	}
	if i.mode&fs.ModeDevice != 0 {
		i.attr.Major, i.attr.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	for _, b := range [...]struct {
		bit  uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if uint32(st.Mode)&b.bit != 0 {
			i.mode |= b.mode
		}
	}
	own := o.lookup(st.Uid, st.Gid)
	i.attr.Owned, i.attr.UID, i.attr.GID = true, st.Uid, st.Gid
	i.attr.User, i.attr.Group = own.user, own.group
	i.setToken(time.Unix(st.Ctim.Unix()), uint64(st.Ino), o.sight)
	return i
}
