package source

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
)

// openStep is for folders of which only entries are wanted: they need not be readable.
const openStep = unix.O_PATH | unix.O_NOFOLLOW | unix.O_DIRECTORY | unix.O_CLOEXEC

// wholePaths reports whether the kernel has openat2, and no filter before it says otherwise.
func (d sysDir) wholePaths() bool {
	fd, err := unix.Openat2(d.fd, ".", openHow(openStep))
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

func openHow(flags int) *unix.OpenHow {
	return &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
}

// openDir opens the folder at path below the root d, by one openat2 for each piece that is shorter than PATH_MAX.
func (d sysDir) openDir(path string, list bool) (sysDir, error) {
	flags := openStep
	if list {
		flags = openFolder
	}
	if d.step {
		return d.stepDir(path, flags)
	}
	at := d
	for {
		piece, rest, how := path, "", openHow(flags)
		if len(path) >= unix.PathMax {
			i := strings.LastIndexByte(path[:unix.PathMax-1], '/')
			if i < 0 {
				return sysDir{}, unix.ENAMETOOLONG
			}
			piece, rest, how = path[:i], path[i+1:], openHow(openStep)
		}
		fd, err := unix.Openat2(at.fd, piece, how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if at != d {
			at.close()
		}
		if err != nil || rest == "" {
			return sysDir{fd: fd}, err
		}
		at, path = sysDir{fd: fd}, rest
	}
}

// names reads the names in d, which was opened to be listed just now.
func (d sysDir) names(ctx context.Context, buf []byte, l *names) error {
	for ctx.Err() == nil {
		n, err := unix.Getdents(d.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		// struct linux_dirent64: inode 8, offset 8, length 2, type 1, name up to a zero. A record of packName is
		// shorter, so buf takes the records over those that were read.
		packed, count := buf[:0], 0
		for b := buf[:n]; len(b) > 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size <= 19 || size > len(b) {
				return errors.New("malformed listing")
			}
			name := b[19:size]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if s := string(name); s != "." && s != ".." {
				packed = packName(packed, knownKind(b[18]), name)
				count++
			}
			b = b[size:]
		}
		if err := l.add(packed, count); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// maxExtents bounds what is kept of a file's extents. Those of a file that has more are joined over its shortest holes, which are
// then data like other zeros.
const maxExtents = 1 << 18

// appendExtent appends x to list, or joins it to the last one if the hole between is shorter than least.
func appendExtent(list []repo.Extent, x repo.Extent, least int64) []repo.Extent {
	if n := len(list); n > 0 {
		if last := &list[n-1]; x.Offset-last.Offset-last.Length < least {
			last.Length = x.Offset + x.Length - last.Offset
			return list
		}
	}
	return append(list, x)
}

// extents asks for the data of f if it takes less room than its size.
func extents(f *os.File) ([]repo.Extent, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var list []repo.Extent
	var seekErr error
	err = c.Control(func(fd uintptr) { list, seekErr = seekExtents(int(fd), maxExtents) })
	if err == nil {
		err = seekErr
	}
	return list, err
}

func seekExtents(fd, most int) (list []repo.Extent, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Blocks*512 >= st.Size {
		return nil, nil
	}
	pos, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if _, e := unix.Seek(fd, pos, unix.SEEK_SET); err == nil {
			err = e
		}
	}()
	least := int64(0)      // holes that are shorter are not kept
	list = []repo.Extent{} // a file that is one hole has no data, but is not unknown
	for off := int64(0); off < st.Size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole from here on
			break
		}
		if err == unix.EINVAL && off == 0 { // a file system without holes
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if data >= st.Size {
			break
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err == unix.ENXIO { // cut short meanwhile
			break
		}
		if err != nil {
			return nil, err
		}
		list = appendExtent(list, repo.Extent{Offset: data, Length: min(hole, st.Size) - data}, least)
		for len(list) > most {
			least = max(2*least, 8<<10)
			all := list
			list = list[:0]
			for _, x := range all {
				list = appendExtent(list, x, least)
			}
		}
		off = hole
	}
	return list, nil
}

// xattrs reads attributes by a path through /proc, whose last step alone is a name in the tree, and is not followed:
// so nothing need be opened, and links, FIFOs and unreadable files have theirs read too.
func (d sysDir) xattrs(name string) (map[string][]byte, error) {
	path := "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name
	list, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err == unix.ENOENT {
		// Gone, or is there no /proc?
		if _, e := d.lstat(name, new(owners)); e == nil {
			err = errors.New("extended attributes need /proc")
		}
	}
	if err != nil {
		return nil, err
	}
	return attributes(list, func(attr string, b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) })
}

// fileXattrs reads the attributes of an opened file.
func fileXattrs(f *os.File) (map[string][]byte, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var m map[string][]byte
	cerr := conn.Control(func(fd uintptr) {
		var list []byte
		if list, err = grow(func(b []byte) (int, error) { return unix.Flistxattr(int(fd), b) }); err == unix.ENOTSUP {
			list, err = nil, nil
		}
		if err == nil {
			m, err = attributes(list, func(attr string, b []byte) (int, error) { return unix.Fgetxattr(int(fd), attr, b) })
		}
	})
	if err == nil {
		err = cerr
	}
	return m, err
}

// attributes reads what a list names, each name ended by a NUL.
func attributes(list []byte, get func(attr string, b []byte) (int, error)) (map[string][]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[string][]byte{}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		v, err := grow(func(b []byte) (int, error) { return get(attr, b) })
		switch {
		case err == unix.ENODATA || err == unix.ENOTSUP: // removed meanwhile, or listed and not to be had
		case err != nil:
			return nil, err
		default:
			m[attr] = v
		}
	}
	return m, nil
}

// grow calls f with buffers large enough for its result.
func grow(f func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	n, err := f(small[:])
	if err == nil {
		return append([]byte{}, small[:n]...), nil
	}
	for err == unix.ERANGE || err == unix.EINTR {
		if n, err = f(nil); err != nil {
			continue
		}
		b := make([]byte, n+1)
		if n, err = f(b); err == nil {
			return b[:n], nil
		}
	}
	return nil, err
}
