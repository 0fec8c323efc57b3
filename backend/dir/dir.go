// Package dir is a store in a folder: one file for each object, at the object's
// name.
//
// [Open] takes an existing folder, [Create] makes one. A [Dir] keeps the
// contract of [backend.Backend], also among processes and among the hosts that
// share a file system:
//
//   - An object is written to a file in ROOT/.tmp, made durable (fsync), linked
//     to its name (put if absent) or renamed to it, given the file system's
//     current time, and made durable again, with every folder on the way. So a
//     reader sees all of it or nothing. Who is quick may see it a moment before
//     it is durable and has its final time.
//   - Files that dead processes left in ROOT/.tmp are removed once they are a
//     day old and nobody holds their lock.
//   - Where there are no hard links, the exclusive rename of Linux, macOS or
//     Windows takes their place; where there is neither, put-if-absent is
//     [errors.ErrUnsupported].
//
// Only regular files count as objects, and links to folders are neither listed
// nor written through. Other files may lie in the folder, if their names begin
// with a dot or can't be an object's. On Windows, folders can't be made
// durable, times are the host's, and an object that is being read can't be
// replaced or deleted.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/varvebackup/varve/backend"
)

// A Dir is a backend.Backend in a folder. It holds nothing open between calls,
// so there is nothing to close.
//
// Plain paths and not an os.Root: a name that ValidName accepts can't leave the
// folder, the last element is opened without following links or waiting for a
// FIFO, and an os.Root would keep the disk from being unmounted and cost a
// system call for each folder on the way. Whoever can plant a link inside the
// folder can as well put any object there.
type Dir struct {
	root string      // absolute
	id   fs.FileInfo // root as it was opened

	mu      sync.Mutex          // guards what follows
	durable map[string]struct{} // folders (slash-separated, below root) that outlast a power loss
	swept   time.Time           // when this Dir last looked for left-over files
}

const (
	tmpName  = ".tmp" // ValidName refuses it, so no object is there
	tmpGlob  = "put-*"
	tmpLimit = 24 * time.Hour // a left-over file this old is removed
	piece    = 256 << 10      // bytes written between two looks at the context
)

// Open returns the store in an existing folder. The error is [fs.ErrNotExist]
// if there is none (nothing is made), and [syscall.ENOTDIR] if path is something
// else.
func Open(path string) (*Dir, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("backend/dir: open %s: %w", path, err)
	}
	id, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("backend/dir: open %s: there is no such folder: %w", root, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("backend/dir: open: %w", err)
	}
	if !id.IsDir() {
		return nil, fmt.Errorf("backend/dir: open %s: %w", root, syscall.ENOTDIR)
	}
	os.SameFile(id, id) // Windows looks up a file's identity on first use: do so now
	return &Dir{root: root, id: id, durable: make(map[string]struct{})}, nil
}

// Create makes the folder at path, and those above it, unless they exist, for
// the user alone (mode 0700), and returns the store in it. What is in an
// existing folder stays.
func Create(path string) (*Dir, error) {
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("backend/dir: create %s: %w", path, err)
	}
	if err := makeDurable(root); err != nil {
		return nil, fmt.Errorf("backend/dir: create %s: %w", root, err)
	}
	return Open(root)
}

// makeDurable is os.MkdirAll that syncs the folder above each new one.
func makeDurable(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDurable(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		if fi, serr := os.Stat(path); serr == nil && fi.IsDir() {
			return syncFolder(parent) // somebody else just made it
		}
		return err
	}
	return syncFolder(parent)
}

// file returns the path of the object's file. Windows has names that ValidName
// accepts and no file can have.
func (d *Dir) file(op, name string) (string, error) {
	if !backend.ValidName(name) {
		return "", fmt.Errorf("backend/dir: %s %q: not a name for an object: %w", op, name, fs.ErrInvalid)
	}
	local, err := filepath.Localize(name)
	if err != nil {
		return "", fmt.Errorf("backend/dir: %s %s: not a name for a file on this system: %w", op, name, fs.ErrInvalid)
	}
	return filepath.Join(d.root, local), nil
}

// gone returns an error if the folder is not the one that was opened: removed,
// or hidden because its disk is not mounted. Without this, an empty mount point
// would pass for a store without objects.
//
// The inode tells, and if it changed (a network mount that came back), the
// folder of temporary files does, which an empty mount point lacks.
func (d *Dir) gone() error {
	fi, err := os.Stat(d.root)
	if err != nil {
		// Not wrapped: fs.ErrNotExist would be a statement about the object.
		return fmt.Errorf("the store's folder is gone: %v", err)
	}
	if os.SameFile(d.id, fi) {
		return nil
	}
	if fi, err := os.Lstat(filepath.Join(d.root, tmpName)); err == nil && fi.IsDir() {
		return nil
	}
	return fmt.Errorf("the store's folder is gone: %s is another folder than the one that was opened (is the disk mounted?)", d.root)
}

// lookupError turns the error of opening or examining file into that of the
// operation: fs.ErrNotExist only if the store is there and no object is.
func (d *Dir) lookupError(op, name, file string, err error) error {
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
	if !missing {
		fi, lerr := os.Lstat(file)
		missing = lerr == nil && !fi.Mode().IsRegular()
	}
	if !missing {
		return fmt.Errorf("backend/dir: %s %s: %w", op, name, err)
	}
	if err := d.gone(); err != nil {
		return fmt.Errorf("backend/dir: %s %s: %w", op, name, err)
	}
	return fmt.Errorf("backend/dir: %s %s: %w", op, name, fs.ErrNotExist)
}

// Get implements [backend.Backend].
func (d *Dir) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	file, err := d.file("get", name)
	if err != nil {
		return dst, err
	}
	if off < 0 || n > backend.MaxSize {
		return dst, fmt.Errorf("backend/dir: get %s: %d bytes from %d: %w", name, n, off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return dst, fmt.Errorf("backend/dir: get %s: %w", name, err)
	}
	f, err := openObject(file)
	if err != nil {
		return dst, d.lookupError("get", name, file, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return dst, fmt.Errorf("backend/dir: get %s: %w", name, err)
	}
	if !fi.Mode().IsRegular() {
		return dst, d.lookupError("get", name, file, fs.ErrNotExist)
	}
	size := fi.Size()
	if off > size || n > size-off {
		return dst, fmt.Errorf("backend/dir: get %s: %d bytes from %d of %d: %w", name, n, off, size, io.ErrUnexpectedEOF)
	}
	if n < 0 {
		n = size - off
	}
	if n > backend.MaxSize {
		return dst, fmt.Errorf("backend/dir: get %s: %d bytes are more than an object has: %w", name, n, fs.ErrInvalid)
	}
	out := dst
	if need := len(dst) + int(n); cap(dst) < need {
		out = make([]byte, len(dst), need)
		copy(out, dst)
	}
	const step = 4 << 20
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return dst, fmt.Errorf("backend/dir: get %s: %w", name, err)
		}
		k, err := f.ReadAt(out[len(out):len(out)+int(min(n, step))], off)
		out = out[:len(out)+k]
		off += int64(k)
		n -= int64(k)
		if err == io.EOF && n > 0 {
			err = io.ErrUnexpectedEOF // somebody cut the file
		}
		if err != nil && err != io.EOF {
			return dst, fmt.Errorf("backend/dir: get %s: %w", name, err)
		}
	}
	return out, nil
}

// Stat implements [backend.Backend].
func (d *Dir) Stat(ctx context.Context, name string) (backend.Info, error) {
	file, err := d.file("stat", name)
	if err != nil {
		return backend.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return backend.Info{}, fmt.Errorf("backend/dir: stat %s: %w", name, err)
	}
	fi, err := os.Lstat(file)
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return backend.Info{}, d.lookupError("stat", name, file, err)
	}
	return backend.Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

// Delete implements [backend.Backend]. Folders stay, also empty ones.
func (d *Dir) Delete(ctx context.Context, name string) error {
	file, err := d.file("delete", name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("backend/dir: delete %s: %w", name, err)
	}
	fi, err := os.Lstat(file)
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist // os.Remove would take an empty folder, too
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		if err = d.lookupError("delete", name, file, err); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

// List implements [backend.Backend]. It keeps the names of one folder at a time
// in memory, and no folder open: reading them in parts while the loop's body
// puts and deletes would, on some file systems, miss or repeat some.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		fail := func(err error) {
			yield(backend.Info{}, fmt.Errorf("backend/dir: list %s: %w", prefix, err))
		}
		if !backend.ValidPrefix(prefix) {
			yield(backend.Info{}, fmt.Errorf("backend/dir: list %q: no name begins so: %w", prefix, fs.ErrInvalid))
			return
		}
		if err := d.gone(); err != nil {
			fail(err)
			return
		}
		more, err := d.walk(ctx, "", prefix, yield)
		if !more {
			return
		}
		if err == nil {
			err = d.gone() // or what was not found was not a statement about the store
		}
		if err != nil {
			fail(err)
		}
	}
}

// walk yields the objects below the folder rel whose names begin with prefix.
// It returns false if the loop was left.
func (d *Dir) walk(ctx context.Context, rel, prefix string, yield func(backend.Info, error) bool) (more bool, err error) {
	var names []string
	if rest, ok := strings.CutPrefix(prefix, slash(rel)); ok && strings.Contains(rest, "/") {
		names = []string{rest[:strings.Index(rest, "/")]} // the only one that can match
	} else if names, err = readNames(filepath.Join(d.root, filepath.FromSlash(rel))); err != nil {
		return true, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		name = path.Join(rel, name)
		if !backend.ValidName(name) || !strings.HasPrefix(name, prefix) && !strings.HasPrefix(prefix, name+"/") {
			continue
		}
		fi, err := os.Lstat(filepath.Join(d.root, filepath.FromSlash(name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // deleted since
		case err != nil:
			return true, err
		case fi.IsDir():
			if more, err := d.walk(ctx, name, prefix, yield); !more || err != nil {
				return more, err
			}
		case fi.Mode().IsRegular() && strings.HasPrefix(name, prefix):
			if !yield(backend.Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()}, nil) {
				return false, nil
			}
		}
	}
	return true, ctx.Err()
}

func slash(rel string) string {
	if rel == "" {
		return ""
	}
	return rel + "/"
}

// readNames returns the names in a folder, sorted, each once (a file system may
// show a name twice that is replaced meanwhile); none if there is no folder.
func readNames(folder string) ([]string, error) {
	f, err := os.Open(folder)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
