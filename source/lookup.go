package source

import (
	"errors"
	"io/fs"
	"strings"
)

// elsewhere reports whether an entry is left out for its file system.
func (t *Tree) elsewhere(fi *info) bool {
	return t.o.OneFileSystem && fi.dev != t.dev && !fi.IsDir()
}

// lstat describes the entry base of the folder h, if it is not hidden. h is in use.
func (t *Tree) lstat(h *handle, name, base string) (*info, error) {
	fi, err := h.dir.lstat(base, &t.owners)
	if err != nil {
		return nil, err
	}
	if t.elsewhere(fi) || t.hidden(name, fi.IsDir()) {
		return nil, fs.ErrNotExist
	}
	return fi, nil
}

// openDir opens the folder at path, if it is not hidden; list says whether its names will be read.
func (t *Tree) openDir(path string, list bool) (sysDir, error) {
	if err := t.visible(path); err != nil {
		return sysDir{}, err
	}
	if t.hidden(path, true) {
		return sysDir{}, fs.ErrNotExist
	}
	dir, err := t.resolve(path, list)
	if err != nil || !t.o.OneFileSystem {
		return dir, err
	}
	if id, err := dir.id(); err == nil && id.dev == t.dev {
		return dir, nil
	}
	// On another file system: only where that is mounted may it be seen.
	h, _, err := t.parent(path)
	if err != nil {
		dir.close()
		return sysDir{}, err
	}
	h.release()
	return dir, nil
}

// resolve opens the folder at path, a well-formed one.
func (t *Tree) resolve(path string, list bool) (sysDir, error) {
	if err := t.root.acquire(); err != nil {
		return sysDir{}, err
	}
	defer t.root.release()
	return t.root.dir.openDir(path, list)
}

// visible checks that path is well-formed and that no folder above its last element is excluded.
func (t *Tree) visible(path string) error {
	if path == "." {
		return nil
	}
	for elem := range strings.SplitSeq(path, "/") {
		if !validName(elem) {
			return fs.ErrInvalid
		}
	}
	if i := strings.LastIndexByte(path, '/'); i >= 0 && t.selects() {
		if _, ok := t.passage(path[:i]); !ok {
			return fs.ErrNotExist
		}
	}
	return nil
}

// validName reports whether name can be an entry's: any bytes, but for a few.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// parent returns the folder of the entry at path, in use (the caller calls release), and the entry's name in it.
func (t *Tree) parent(path string) (h *handle, base string, err error) {
	if err := t.visible(path); err != nil {
		return nil, "", err
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return t.root, path, t.root.acquire()
	}
	dir, err := t.resolve(path[:i], false)
	if err != nil {
		return nil, "", err
	}
	if t.o.OneFileSystem {
		if id, err := dir.id(); err != nil || id.dev != t.dev {
			dir.close()
			return nil, "", fs.ErrNotExist
		}
	}
	return &handle{t: t, path: path[:i], dir: dir, open: true, refs: 1}, path[i+1:], nil
}

// pathError gives err an operation and a path, in place of those that it may have.
func pathError(op, path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
