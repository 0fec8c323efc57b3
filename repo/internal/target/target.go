// Package target writes the entries of a snapshot into a folder, and nowhere else.
//
// [Open] gives a [Target]; [Target.Create] makes a file whose pieces may then be written in any order, by many
// workers. Folders are made by [Target.Mkdir] before what is in them, and get their own mode and times from
// [Target.FinishDir] after it.
//
// The promise: whatever names, links and types a snapshot holds, whatever the folder holds already, and whoever swaps
// its parts while a restore is running, nothing is created, changed or removed outside the folder. Paths are walked one
// element at a time from a handle of the folder, by openat without following links; a link, FIFO or device that is
// already there is replaced or kept, and never opened; nothing is written into a file that this package did not create
// itself, because it may have another name outside; owner, mode, xattrs and times are set through a handle of what
// was made. Two limits: a folder that somebody moves out of the target while it is in use is still the folder that it was, as
// with os.Root; and only Linux can pin links, FIFOs and devices, so elsewhere their metadata is set by name,
// without following links. Systems other than Linux and macOS go through os.Root, which follows links inside the
// target but not out of it.
//
// A crash leaves files that the next restore recognises: times are set last, so with [IfDifferent] a file that
// was not finished differs, or lies beside what it was to replace under a name that begins with ".varve-". That is so for a crash of the process; after a power failure, use [Always] or compare contents.
package target

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Overwrite says what happens to what is already there. A folder where a folder is wanted is always used as it is.
type Overwrite uint8

const (
	// Never keeps whatever is there.
	Never Overwrite = iota

	// IfDifferent keeps a file of the same size and modification time, a link of the same text, time and owner, a device
	// or FIFO of the same number, mode and owner. If only the mode or owner of a file differ, they are set
	// right, or the file is made anew where it has other names. It replaces everything else but folders.
	IfDifferent

	// Always replaces everything but folders that are not empty.
	Always
)

var (
	// ErrSkipped is returned for an entry in whose place something is, which [Overwrite] says to keep.
	ErrSkipped = errors.New("target: kept what is there")

	// ErrName is in the error for a path with an element that is empty, "." or "..", holds a NUL, or can't be a file's name on
	// this system.
	ErrName = errors.New("name not allowed")

	// errPrivilege is in a MetaError when the owner could not be made the recorded one, so that what the mode gives would
	// be another user's powers.
	errPrivilege = errors.New("setuid, setgid, capabilities or access to a device left out: the owner is not the recorded one")
)

// Options of [Open]. Nil and the zero value mean: keep what is there, restore owners.
type Options struct {
	Overwrite Overwrite
	NoOwner   bool // leave owners as they come
}

// Meta is what an entry has besides name and content. The caller must not change it before the call that it was given
// to, or for [Target.Create] [File.Finish], has returned.
type Meta struct {
	Mode    fs.FileMode // permissions, ModeSetuid, ModeSetgid, ModeSticky; the type counts in Special only
	ModTime time.Time   // left alone if zero

	// Owned says that UID and GID count. They are set as they are; whoever wants to map names does it before. Powers
	// that belong to the owner are not restored without it: setuid and setgid bits and capabilities of files, and access
	// to devices by others than the owner.
	Owned    bool
	UID, GID uint32

	Major, Minor uint32            // of a device
	Xattrs       map[string][]byte // set; others that are there already stay, but for access lists, as new entries get them from their folder
}

// MetaError says which metadata of an entry could not be set. The entry itself is complete.
type MetaError struct {
	Path string
	Errs []error // each begins with "owner", "xattr NAME", "mode" or "times"
}

func (e *MetaError) Error() string {
	return fmt.Sprintf("target: %s: %v", e.Path, strings.ReplaceAll(errors.Join(e.Errs...).Error(), "\n", "; "))
}

// Unwrap returns e.Errs.
func (e *MetaError) Unwrap() []error { return e.Errs }

// A Target is an open folder. Its methods may be called concurrently, except Close. Paths are relative to it, "a/b/c",
// elements being any bytes but '/' and NUL; "." is the folder itself. Parents must have been made.
//
// [ErrSkipped] and a [*MetaError] (the entry is there, some of its metadata is not) leave the restore sound. All other
// errors mean that it lacks this entry; they name the path, and wrap [ErrName], fs.ErrExist where something is in the way
// that may not be replaced, errors.ErrUnsupported, or what the system says.
type Target struct {
	o    Options
	made bool // by Open
	tree
}

// Open opens the folder dir, which it makes, with its parents, if it is missing. dir may be reached through links.
func Open(dir string, o *Options) (*Target, error) {
	t := &Target{}
	if o != nil {
		t.o = *o
	}
	if t.o.Overwrite > Always {
		panic("target: unknown Overwrite")
	}
	_, err := os.Stat(dir)
	t.made = errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	if err := t.open(dir); err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	return t, nil
}

// Close gives back the target's handles. Files that were created and not finished stay open.
func (t *Target) Close() error { return t.close() }

// Mkdir makes a folder, for its owner only until FinishDir. If one was there before, the error is [ErrSkipped] with
// [Never], and then FinishDir should not be called, and nil otherwise; in both cases the restore may go on below it.
func (t *Target) Mkdir(path string) error {
	if path == "." {
		if t.o.Overwrite == Never && !t.made {
			return ErrSkipped
		}
		return nil
	}
	if err := valid(path); err != nil {
		return wrap("mkdir", path, err)
	}
	return wrap("mkdir", path, t.mkdir(path))
}

// FinishDir gives a folder its metadata, after all below it was written.
func (t *Target) FinishDir(path string, m *Meta) error {
	if path != "." {
		if err := valid(path); err != nil {
			return wrap("finish", path, err)
		}
	}
	return wrap("finish", path, t.finishDir(path, m))
}

// Create makes a regular file of the given size, all a hole. The caller ends it with Finish or Abort; until then
// it holds one file descriptor, and what it replaces, unless that is a folder, stays in its place. When a file is kept and its metadata set right with only partial success, the error is
// ErrSkipped joined with a *MetaError.
func (t *Target) Create(path string, m *Meta, size int64) (*File, error) {
	if err := valid(path); err != nil {
		return nil, wrap("create", path, err)
	}
	if size < 0 {
		return nil, wrap("create", path, errors.New("negative size"))
	}
	f, at, err := t.create(path, m, size)
	if err != nil {
		return nil, wrap("create", path, err)
	}
	file := &File{t: t, f: f, path: path, at: at, m: m, size: size}
	if size > 0 {
		if err := f.Truncate(size); err != nil {
			file.Abort()
			return nil, wrap("create", path, cause(err))
		}
	}
	return file, nil
}

// Keep does what Create would do with a file that is to be kept, and returns what it would; nil means that Create would make the file. It makes nothing.
func (t *Target) Keep(path string, m *Meta, size int64) error {
	if t.made {
		return nil
	}
	if err := valid(path); err != nil {
		return wrap("create", path, err)
	}
	return wrap("create", path, t.keep(path, m, size))
}

// Symlink makes a symbolic link with the text link, whatever that is.
func (t *Target) Symlink(path, link string, m *Meta) error {
	if err := valid(path); err != nil {
		return wrap("symlink", path, err)
	}
	return wrap("symlink", path, t.symlink(path, link, m))
}

// Link makes path a further name of existing, a path that was restored before. Where it is that already, the error is [ErrSkipped].
// A link is not followed but gets a second name itself.
func (t *Target) Link(path, existing string) error {
	for _, p := range []string{path, existing} {
		if err := valid(p); err != nil {
			return wrap("link", p, err)
		}
	}
	err := t.link(path, existing)
	if err != nil && err != ErrSkipped {
		err = fmt.Errorf("to %s: %w", existing, err)
	}
	return wrap("link", path, err)
}

// Special makes what the type in m.Mode says: a FIFO, a socket or, if the system allows, a device.
func (t *Target) Special(path string, m *Meta) error {
	if err := valid(path); err != nil {
		return wrap("mknod", path, err)
	}
	return wrap("mknod", path, t.special(path, m))
}

// Open opens a regular file for reading, for comparison. Anything else is an error, and is neither followed nor
// waited for.
func (t *Target) Open(path string) (*os.File, error) {
	if err := valid(path); err != nil {
		return nil, wrap("open", path, err)
	}
	f, err := t.read(path)
	if err != nil {
		return nil, wrap("open", path, err)
	}
	return f, nil
}

// A File is a regular file that is being written.
type File struct {
	t      *Target
	f      *os.File
	path   string
	at     string // where it lies until Finish
	m      *Meta
	size   int64
	failed atomic.Pointer[error] // the first error of WriteAt
	done   bool
}

// WriteAt writes into the file, never beyond the size that Create was told. It may be called concurrently. The first error
// sticks: Finish will return it.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.size || int64(len(p)) > f.size-off {
		err := wrap("write", f.path, fmt.Errorf("%d bytes at %d: beyond the size %d", len(p), off, f.size))
		f.failed.CompareAndSwap(nil, &err)
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		err = wrap("write", f.path, cause(err))
		f.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Finish gives the file its metadata and closes it. If the content is not complete, because WriteAt or closing failed, it
// removes the file and returns that error.
func (f *File) Finish() error {
	if f.done {
		panic("target: Finish of a file that was finished or aborted")
	}
	if err := f.failed.Load(); err != nil {
		f.Abort()
		return *err
	}
	f.done = true
	return wrap("finish", f.path, f.t.finish(f.f, f.path, f.at, f.m))
}

// Abort closes and removes the file. After Finish it does nothing.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.t.abort(f.f, f.at)
}

// wrap names the path. What is not a failure of the entry stays as it is.
func wrap(op, path string, err error) error {
	if err == nil || errors.Is(err, ErrSkipped) {
		return err
	}
	if _, ok := err.(*MetaError); ok {
		return err
	}
	return fmt.Errorf("target: %w", &fs.PathError{Op: op, Path: path, Err: err})
}

// cause takes off what package os says about the path, for wrap says it better.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}
