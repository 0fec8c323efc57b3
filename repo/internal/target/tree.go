//go:build (linux || darwin) && !osroot

package target

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// tree is the part of a Target that depends on the system.
type tree struct {
	dirs
}

var (
	errFolder   = fmt.Errorf("a folder is in the way: %w", fs.ErrExist)
	errNotEmpty = fmt.Errorf("a folder that is not empty is in the way: %w", fs.ErrExist)
	errNotFile  = errors.New("not a regular file")
	errSwapped  = errors.New("something else took its place while it was restored")
	errReplace  = errors.New("replace it") // says keep to place
)

func (t *Target) open(dir string) error {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	t.init(fd)
	return nil
}

func (t *Target) close() error { return t.closeAll() }

func (t *Target) mkdir(path string) error {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return err
	}
	defer t.put(d)
	err = t.place(d, path, name, true,
		func(name string) error { return unix.Mkdirat(d.fd, name, 0o700) },
		func(st *unix.Stat_t) error {
			switch {
			case kind(st) == unix.S_IFDIR && t.o.Overwrite == Never:
				return ErrSkipped
			case kind(st) == unix.S_IFDIR:
				return t.unlock(d.fd, name, st)
			case t.o.Overwrite == Never:
				return fs.ErrExist
			}
			return errReplace
		})
	return err
}

// unlock lets us write into a folder of ours that is there already. FinishDir will set its mode.
func (t *Target) unlock(at int, name string, st *unix.Stat_t) error {
	if euid := os.Geteuid(); euid == 0 || uint32(euid) != st.Uid || st.Mode&0o700 == 0o700 {
		return nil
	}
	n, err := pin(at, name, func(now *unix.Stat_t) bool { return same(now, st) })
	if err != nil {
		return err
	}
	defer n.close()
	return n.chmod(uint32(st.Mode)&0o7777 | 0o700)
}

func (t *Target) finishDir(path string, m *Meta) error {
	d, err := t.get(path)
	if err != nil {
		return err
	}
	defer t.put(d)
	return t.apply(path, node{fd: d.fd}, unix.S_IFDIR, m)
}

// create returns the file and where it lies: at path, or beside what finish will replace by it.
func (t *Target) create(path string, m *Meta, size int64) (f *os.File, at string, err error) {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return nil, "", err
	}
	defer t.put(d)
	fd := -1
	tmp, err := t.placeLater(d, path, name, false, true,
		func(name string) (err error) {
			fd, err = openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
			return err
		},
		func(st *unix.Stat_t) error { return t.keepFile(d.fd, path, name, st, m, size) })
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, "", err
	}
	if at = path; tmp != "" {
		at = path[:len(path)-len(name)] + tmp
	}
	return os.NewFile(uintptr(fd), path), at, nil
}

// keep leaves it to create to say why a file can't be made.
func (t *Target) keep(path string, m *Meta, size int64) error {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return nil
	}
	defer t.put(d)
	st, err := lstat(d.fd, name)
	if err != nil {
		return nil
	}
	if err := t.keepFile(d.fd, path, name, &st, m, size); err != errReplace {
		return err
	}
	return nil
}

func (t *Target) keepFile(at int, path, name string, st *unix.Stat_t, m *Meta, size int64) error {
	if t.o.Overwrite == Never {
		return ErrSkipped
	}
	if t.o.Overwrite == Always || kind(st) != unix.S_IFREG || st.Size != size || !sameTime(st, m) {
		return errReplace
	}
	return t.repair(at, path, name, st, m)
}

// repair keeps a file that has the wanted content, and sets its mode and owner right if that concerns no other name.
func (t *Target) repair(at int, path, name string, st *unix.Stat_t, m *Meta) error {
	if !t.metaDiffers(st, m) {
		return ErrSkipped
	}
	n, err := pin(at, name, func(now *unix.Stat_t) bool { return same(now, st) && now.Nlink <= 1 })
	if err != nil {
		return errReplace // it has other names, was swapped, or can't be opened
	}
	defer n.close()
	if err := t.apply(path, n, unix.S_IFREG, m); err != nil {
		return errors.Join(ErrSkipped, err)
	}
	return ErrSkipped
}

func (t *Target) finish(f *os.File, path, at string, m *Meta) error {
	n := node{fd: int(f.Fd())}
	st, err := n.stat()
	if err != nil {
		f.Close()
		return err
	}
	err = t.apply(path, n, unix.S_IFREG, m)
	// Network file systems report a full disk here. The times are set already, so the file must not stay.
	if e := f.Close(); e != nil {
		t.remove(at, &st)
		return cause(e)
	}
	if at != path {
		if e := t.rename(at, path); e != nil {
			t.remove(at, &st)
			return e
		}
	}
	return err
}

// rename moves a file over another entry of its folder.
func (t *Target) rename(from, to string) error {
	parent, old := split(from)
	_, name := split(to)
	d, err := t.get(parent)
	if err != nil {
		return err
	}
	defer t.put(d)
	err = unix.Renameat(d.fd, old, d.fd, name)
	if err == unix.EISDIR {
		return errFolder
	}
	return err
}

func (t *Target) abort(f *os.File, at string) {
	n := node{fd: int(f.Fd())}
	if st, err := n.stat(); err == nil {
		t.remove(at, &st)
	}
	f.Close()
}

// remove takes a file away if it is still the one that was made.
func (t *Target) remove(path string, made *unix.Stat_t) {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return
	}
	defer t.put(d)
	if st, err := lstat(d.fd, name); err == nil && same(&st, made) {
		unix.Unlinkat(d.fd, name, 0)
	}
}

func (t *Target) symlink(path, link string, m *Meta) error {
	return t.small(path, unix.S_IFLNK, m,
		func(at int, name string) error { return unix.Symlinkat(link, at, name) },
		func(at int, name string, st *unix.Stat_t) bool {
			if kind(st) != unix.S_IFLNK || !sameTime(st, m) || t.ownerDiffers(st, m) {
				return false
			}
			buf := make([]byte, len(link)+1)
			n, err := unix.Readlinkat(at, name, buf)
			return err == nil && string(buf[:n]) == link
		})
}

func (t *Target) special(path string, m *Meta) error {
	var typ uint32
	var dev uint64
	switch m.Mode & fs.ModeType {
	case fs.ModeNamedPipe:
		typ = unix.S_IFIFO
	case fs.ModeSocket:
		typ = unix.S_IFSOCK
	case fs.ModeDevice:
		typ, dev = unix.S_IFBLK, unix.Mkdev(m.Major, m.Minor)
	case fs.ModeDevice | fs.ModeCharDevice:
		typ, dev = unix.S_IFCHR, unix.Mkdev(m.Major, m.Minor)
	default:
		return fmt.Errorf("type %v: %w", m.Mode.Type(), errors.ErrUnsupported)
	}
	return t.small(path, typ, m,
		func(at int, name string) error { return mknodat(at, name, typ|0o600, dev) },
		func(_ int, _ string, st *unix.Stat_t) bool {
			return kind(st) == typ && (typ == unix.S_IFIFO || typ == unix.S_IFSOCK || uint64(st.Rdev) == dev) && !t.metaDiffers(st, m)
		})
}

// small makes what has no content, unless wanted says that it is there.
func (t *Target) small(path string, typ uint32, m *Meta,
	mk func(at int, name string) error, wanted func(at int, name string, st *unix.Stat_t) bool) error {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return err
	}
	defer t.put(d)
	err = t.place(d, path, name, false,
		func(name string) error { return mk(d.fd, name) },
		func(st *unix.Stat_t) error {
			if t.o.Overwrite == Never || t.o.Overwrite == IfDifferent && wanted(d.fd, name, st) {
				return ErrSkipped
			}
			return errReplace
		})
	if err != nil {
		return err
	}
	// A name proves little: the metadata goes to a thing of that type that has no other name, as the one just made.
	n, err := pin(d.fd, name, func(now *unix.Stat_t) bool { return kind(now) == typ && now.Nlink <= 1 })
	if err != nil {
		return err
	}
	defer n.close()
	return t.apply(path, n, typ, m)
}

func (t *Target) link(path, existing string) error {
	oldParent, oldName := split(existing)
	from, err := t.get(oldParent)
	if err != nil {
		return err
	}
	defer t.put(from)
	parent, name := split(path)
	to, err := t.get(parent)
	if err != nil {
		return err
	}
	defer t.put(to)
	return t.place(to, path, name, false,
		func(name string) error { return unix.Linkat(from.fd, oldName, to.fd, name, 0) },
		func(st *unix.Stat_t) error {
			old, err := lstat(from.fd, oldName)
			switch {
			case err != nil:
				return err
			case same(&old, st) || t.o.Overwrite == Never:
				return ErrSkipped
			}
			return errReplace
		})
}

func (t *Target) read(path string) (*os.File, error) {
	parent, name := split(path)
	d, err := t.get(parent)
	if err != nil {
		return nil, err
	}
	defer t.put(d)
	// Opening some devices does something, so look first; and look again, for it may have been swapped.
	st, err := lstat(d.fd, name)
	if err != nil {
		return nil, err
	}
	if kind(&st) != unix.S_IFREG {
		return nil, errNotFile
	}
	fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.EACCES && os.Geteuid() == int(st.Uid) && st.Mode&0o400 == 0 {
		fd, err = openLocked(d.fd, name, &st)
	}
	if err != nil {
		return nil, err
	}
	n := node{fd: fd}
	if st, err = n.stat(); err == nil && kind(&st) != unix.S_IFREG {
		err = errNotFile
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openLocked opens a file of ours that we may not read by its mode, which it gives it back.
func openLocked(at int, name string, st *unix.Stat_t) (int, error) {
	n, err := pin(at, name, func(now *unix.Stat_t) bool { return same(now, st) })
	if err != nil {
		return -1, err
	}
	defer n.close()
	mode := uint32(st.Mode) & 0o7777
	if err := n.chmod(mode | 0o400); err != nil {
		return -1, err
	}
	fd, err := openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if cerr := n.chmod(mode); cerr != nil && err == nil {
		unix.Close(fd)
		return -1, cerr
	}
	return fd, err
}

// place lets mk, which must fail with EEXIST if the name is taken, make something at name. If it is taken, keep says what to
// return, or errReplace: then the new thing is made beside the old one and moved over it, so that the old one stays if the
// new one can't be made.
func (t *Target) place(d *dir, path, name string, isDir bool,
	mk func(name string) error, keep func(*unix.Stat_t) error) error {
	_, err := t.placeLater(d, path, name, isDir, false, mk, keep)
	return err
}

// placeLater is place. If later is true and what is there is no folder, it leaves the new thing beside the old one and returns its name.
func (t *Target) placeLater(d *dir, path, name string, isDir, later bool,
	mk func(name string) error, keep func(*unix.Stat_t) error) (string, error) {
	err := retry(func() error { return mk(name) })
	if err == nil && isDir {
		t.forget(path)
	}
	if err != unix.EEXIST {
		return "", err
	}
	st, err := lstat(d.fd, name)
	if err != nil {
		return "", err
	}
	if err := keep(&st); err != errReplace {
		return "", err
	}
	wasDir := kind(&st) == unix.S_IFDIR
	if wasDir && t.o.Overwrite != Always {
		return "", errFolder
	}

	tmp := fmt.Sprintf(".varve-%016x", rand.Uint64())
	if err := retry(func() error { return mk(tmp) }); err != nil {
		return "", err
	}
	if later && !wasDir {
		return tmp, nil
	}
	// rename moves anything but a folder over anything but a folder.
	switch {
	case wasDir:
		err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
		if err == unix.ENOTEMPTY || err == unix.EEXIST {
			err = errNotEmpty
		}
		t.forget(path)
	case isDir:
		err = unix.Unlinkat(d.fd, name, 0)
	}
	if err == nil {
		err = unix.Renameat(d.fd, tmp, d.fd, name)
	}
	if err != nil {
		flags := 0
		if isDir {
			flags = unix.AT_REMOVEDIR
		}
		unix.Unlinkat(d.fd, tmp, flags)
	}
	return "", err
}

func lstat(at int, name string) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

func kind(st *unix.Stat_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

func same(a, b *unix.Stat_t) bool { return a.Dev == b.Dev && a.Ino == b.Ino && kind(a) == kind(b) }
