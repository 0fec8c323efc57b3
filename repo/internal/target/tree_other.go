//go:build !linux && !darwin

package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// tree is the part of a Target that depends on the system. os.Root sees to it that nothing leaves the folder; the
// checks for links here are only for those that nobody swaps meanwhile.
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

// place lets mk make path, and takes away what is in its place if keep returns nil.
func (t *Target) place(path string, mk func() error, keep func(fs.FileInfo) error) error {
	if err := t.parents(path); err != nil {
		return err
	}
	fi, err := t.root.Lstat(path)
	switch {
	case err == nil:
		if err := keep(fi); err != nil {
			return err
		}
		if fi.IsDir() && t.o.Overwrite != Always {
			return errFolder
		}
		if err := t.root.Remove(path); err != nil {
			if fi.IsDir() {
				return fmt.Errorf("%w (%v)", errFolder, cause(err))
			}
			return cause(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return cause(err)
	}
	return cause(mk())
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
	err := t.place(path, func() error { return t.root.Mkdir(path, 0o700) }, func(fi fs.FileInfo) error {
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

func (t *Target) create(path string, m *Meta, size int64) (f *os.File, at string, err error) {
	err = t.place(path, func() error {
		f, err = t.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	}, t.skip(sameFile(m, size)))
	return f, path, err
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

func (t *Target) finish(f *os.File, path, _ string, m *Meta) error {
	if err := f.Close(); err != nil {
		t.root.Remove(path)
		return cause(err)
	}
	return t.apply(path, m)
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
	return t.place(path, func() error { return t.root.Symlink(link, path) }, t.skip(func(fi fs.FileInfo) bool {
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
	return t.place(path, func() error { return t.root.Link(existing, path) },
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
