//go:build (!linux && !darwin) || osroot

package target

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
)

// tree is the part of a Target that depends on the system. os.Root sees to it that nothing leaves the folder; the
// checks for links here are only for those that nobody swaps meanwhile. The tag osroot builds and tests it on systems
// that have better ways.
type tree struct {
	root *os.Root
}

var (
	errFolder  = fmt.Errorf("a folder is in the way: %w", fs.ErrExist)
	errNotFile = errors.New("not a regular file")
)

func (t *Target) open(dir string) (err error) {
	t.root, err = os.OpenRoot(dir)
	return err
}

func (t *Target) close() error { return t.root.Close() }

// parents checks that what path is in are folders.
func (t *Target) parents(path string) error {
	for i := range len(path) {
		if path[i] != '/' {
			continue
		}
		fi, err := t.root.Lstat(path[:i])
		if err != nil {
			return fmt.Errorf("folder %q: %w", path[:i], cause(err))
		}
		if !fi.IsDir() {
			return fmt.Errorf("%q is not a folder", path[:i])
		}
	}
	return nil
}

// place lets mk make something at path. If that is taken, keep says what to return; nil: the new thing is made beside the old one
// and moved over it, so that the old one stays if the new one can't be made.
func (t *Target) place(path string, isDir bool, mk func(at string) error, keep func(fs.FileInfo) error) error {
	_, err := t.placeLater(path, isDir, false, mk, keep)
	return err
}

// placeLater is place, and returns where the new thing is. If later is true and what is at path is no folder, that is beside it.
func (t *Target) placeLater(path string, isDir, later bool, mk func(at string) error, keep func(fs.FileInfo) error) (at string, err error) {
	if err := t.parents(path); err != nil {
		return "", err
	}
	fi, err := t.root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, cause(mk(path))
	}
	if err != nil {
		return "", cause(err)
	}
	if err := keep(fi); err != nil {
		return "", err
	}
	if fi.IsDir() && t.o.Overwrite != Always {
		return "", errFolder
	}
	_, name := split(path)
	tmp := path[:len(path)-len(name)] + fmt.Sprintf(".varve-%016x", rand.Uint64())
	if err := mk(tmp); err != nil {
		return "", cause(err)
	}
	if later && !fi.IsDir() {
		return tmp, nil
	}
	if fi.IsDir() || isDir { // a rename moves neither over the other
		if err = t.root.Remove(path); err != nil && fi.IsDir() {
			err = fmt.Errorf("%w (%v)", errFolder, cause(err))
		}
	}
	if err == nil {
		err = t.rename(tmp, path)
	}
	if err != nil {
		t.root.Remove(tmp)
	}
	return path, cause(err)
}

// rename moves one entry over another. Windows moves none over a file that may not be written.
func (t *Target) rename(from, to string) error {
	fi, err := t.root.Lstat(to)
	locked := err == nil && fi.Mode().IsRegular() && fi.Mode()&0o200 == 0 && runtime.GOOS == "windows"
	if locked {
		t.root.Chmod(to, 0o600)
	}
	err = t.root.Rename(from, to)
	if err != nil && locked {
		t.root.Chmod(to, fi.Mode().Perm())
	}
	return err
}

// skip is the keep of all but folders and links.
func (t *Target) skip(same func(fs.FileInfo) bool) func(fs.FileInfo) error {
	return func(fi fs.FileInfo) error {
		if t.o.Overwrite == Never || t.o.Overwrite == IfDifferent && same(fi) {
			return ErrSkipped
		}
		return nil
	}
}

func (t *Target) mkdir(path string) error {
	there := errors.New("there")
	err := t.place(path, true, func(at string) error { return t.root.Mkdir(at, 0o700) }, func(fi fs.FileInfo) error {
		switch {
		case fi.IsDir() && t.o.Overwrite == Never:
			return ErrSkipped
		case fi.IsDir():
			return there
		case t.o.Overwrite == Never:
			return fs.ErrExist
		}
		return nil
	})
	if err == there {
		return nil
	}
	return err
}

func (t *Target) finishDir(path string, m *Meta) error {
	if err := t.parents(path); err != nil {
		return err
	}
	fi, err := t.root.Lstat(path)
	if err != nil {
		return cause(err)
	}
	if !fi.IsDir() {
		return errors.New("not a folder")
	}
	return t.apply(path, m)
}

// create returns the file and where it lies: at path, or beside what finish will replace by it.
func (t *Target) create(path string, m *Meta, size int64) (f *os.File, at string, err error) {
	at, err = t.placeLater(path, false, true, func(at string) error {
		f, err = t.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	}, t.skip(sameFile(m, size)))
	if err != nil && f != nil {
		f.Close()
	}
	return f, at, err
}

func sameFile(m *Meta, size int64) func(fs.FileInfo) bool {
	return func(fi fs.FileInfo) bool {
		return fi.Mode().IsRegular() && fi.Size() == size && fi.ModTime().Equal(m.ModTime)
	}
}

// keep leaves it to create to say why a file can't be made.
func (t *Target) keep(path string, m *Meta, size int64) error {
	if t.parents(path) != nil {
		return nil
	}
	fi, err := t.root.Lstat(path)
	if err != nil {
		return nil
	}
	return t.skip(sameFile(m, size))(fi)
}

func (t *Target) finish(f *os.File, path, at string, m *Meta) error {
	if err := f.Close(); err != nil {
		t.root.Remove(at)
		return cause(err)
	}
	if err := t.parents(path); err != nil {
		return err
	}
	merr := t.apply(at, m)
	if at != path {
		if err := t.rename(at, path); err != nil {
			t.root.Remove(at)
			return cause(err)
		}
		if e, ok := merr.(*MetaError); ok {
			e.Path = path
		}
	}
	return merr
}

func (t *Target) abort(f *os.File, path string) {
	made, err := f.Stat()
	f.Close()
	if err != nil || t.parents(path) != nil {
		return
	}
	if now, err := t.root.Lstat(path); err == nil && os.SameFile(now, made) {
		t.root.Remove(path)
	}
}

func (t *Target) symlink(path, link string, m *Meta) error {
	return t.place(path, false, func(at string) error { return t.root.Symlink(link, at) }, t.skip(func(fi fs.FileInfo) bool {
		old, err := t.root.Readlink(path)
		return err == nil && old == link
	}))
}

func (t *Target) link(path, existing string) error {
	if err := t.parents(existing); err != nil {
		return err
	}
	old, err := t.root.Lstat(existing)
	if err != nil {
		return cause(err)
	}
	return t.place(path, false, func(at string) error { return t.root.Link(existing, at) },
		t.skip(func(fi fs.FileInfo) bool { return os.SameFile(fi, old) }))
}

func (t *Target) special(path string, m *Meta) error {
	return fmt.Errorf("type %v: %w", m.Mode.Type(), errors.ErrUnsupported)
}

func (t *Target) read(path string) (*os.File, error) {
	if err := t.parents(path); err != nil {
		return nil, err
	}
	fi, err := t.root.Lstat(path)
	if err != nil {
		return nil, cause(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, errNotFile
	}
	f, err := t.root.Open(path)
	return f, cause(err)
}

// apply sets what package os can set: times, then permissions, as a file that may not be written takes no times on Windows.
func (t *Target) apply(path string, m *Meta) error {
	var errs []error
	if !m.ModTime.IsZero() {
		if err := t.root.Chtimes(path, m.ModTime, m.ModTime); err != nil {
			errs = append(errs, fmt.Errorf("times: %w", cause(err)))
		}
	}
	if err := t.root.Chmod(path, m.Mode.Perm()); err != nil {
		errs = append(errs, fmt.Errorf("mode: %w", cause(err)))
	}
	if m.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		errs = append(errs, fmt.Errorf("mode: %w", errPrivilege))
	}
	for name := range m.Xattrs {
		errs = append(errs, fmt.Errorf("xattr %q: %w", name, errors.ErrUnsupported))
	}
	if len(errs) > 0 {
		return &MetaError{Path: path, Errs: errs}
	}
	return nil
}
