package source

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"sync"
	"sync/atomic"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.EntriesFS = (*Tree)(nil)
	_ repo.XattrFS   = (*Tree)(nil)
	_ fs.ReadLinkFS  = (*Tree)(nil)
	_ fs.ReadDirFS   = (*Tree)(nil)
	_ fs.StatFS      = (*Tree)(nil)
)

// DirOptions narrow what Dir shows. What they hide is nowhere to be seen: it is not listed, and opening it is
// fs.ErrNotExist.
type DirOptions struct {
	// Exclude are patterns, one each, with the meaning of the lines of a .gitignore file in the root: "*.tmp", "/cache/",
	// "logs/**/*.gz", "!keep.tmp". The last pattern that matches decides; nothing below an excluded folder can be kept.
	Exclude []string

	// IgnoreFiles are names of files, such as ".gitignore", whose lines are patterns for the folder that they lie in and all
	// below it, as git reads them: of several that decide, those of the deepest folder count, and Exclude before all. They
	// are read when a folder is listed, and are entries like others. One that can't be read, or is no regular file, hides
	// nothing; of one that is longer than 1 MiB, nothing beyond that counts.
	IgnoreFiles []string

	// ExcludeCaches hides what is in folders that say of themselves that it can be made again: those below the root that
	// hold a CACHEDIR.TAG (https://bford.info/cachedir/), of which that file is all that is to be seen.
	ExcludeCaches bool

	// OneFileSystem leaves out what lies on another file system than the root. The folders on which others are mounted
	// appear, empty.
	OneFileSystem bool

	// NoXattrs makes Xattrs return none. The tokens are others then.
	NoXattrs bool

	// Temp is a folder for parts of the listings of very large folders, in files that have no name, or are the user's own
	// and soon removed. Empty: os.TempDir.
	Temp string
}

// A Tree is an fs.FS over a folder on disk. See Dir.
//
// A Tree is for any number of goroutines at a time.
type Tree struct {
	o      DirOptions
	ignore ignore
	rules  rulesCache
	root   *handle
	dev    uint64       // of the root
	owners owners       // names of user and group ids
	bufs   sync.Pool    // *[]byte, for listings
	run    int          // bytes of memory for a listing
	held   atomic.Int64 // bytes of the listings that are in use

	mu     sync.Mutex // guards closed, kept and the state of every handle
	closed bool
	kept   []*handle // open between uses, oldest first
}

// Dir returns a Tree over the folder at path, which is resolved now, once: neither a change of the working directory
// nor of a link in path matters later. Close releases it.
//
// Below the root no symbolic link is followed, ever, so nothing outside is reached whatever happens to the tree
// meanwhile: a link is described (Lstat and Stat alike) and read (ReadLink), but opening it, or a path through it, is an
// error. FIFOs, sockets and devices are described and never opened. Names are raw bytes: a path has elements other
// than "", "." and "..", joined by '/', that need not be UTF-8, and may be of any length and depth. A mount, and a
// folder that is renamed during its listing, count as inside.
//
// Each FileInfo's Sys is a *repo.Attr: owner, device, hard link (of a file with several names), and, for all but
// folders, a token of size, mtime, ctime and inode number that changes whenever content or attributes do, and that is
// another one with NoXattrs than without, and for root than for others, who see fewer attributes. An opened file is an
// io.Seeker and io.ReaderAt, its Stat asks the system each time, and it is a repo.SparseFile where holes can be found.
// Entries and ReadDir cost one system call an entry, made by DirEntry.Info, which is fs.ErrNotExist if the entry has
// gone since.
//
// Errors are *fs.PathError, with the path below the root. After Close all is fs.ErrClosed, but for opened files.
func Dir(path string, o *DirOptions) (*Tree, error) {
	t := &Tree{run: namesRun}
	if o != nil {
		t.o = *o
		t.ignore = parseIgnore(o.Exclude)
	}
	t.owners.sight = sightOf(t.o.NoXattrs, os.Geteuid())
	dir, err := openRoot(path)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	id, err := dir.id()
	if err != nil {
		dir.close()
		return nil, pathError("open", path, err)
	}
	t.dev = id.dev
	t.root = &handle{t: t, path: ".", id: id, dir: dir, open: true, live: true}
	return t, nil
}

// Close ends the use of t; what is under way in other goroutines ends first or fails. Files stay open.
func (t *Tree) Close() error {
	t.mu.Lock()
	t.closed = true
	var idle []sysDir
	for _, h := range append(t.kept, t.root) {
		if h.open && h.refs == 0 {
			h.open = false
			idle = append(idle, h.dir)
		}
	}
	t.kept = nil
	t.mu.Unlock()
	for _, d := range idle {
		d.close()
	}
	return nil
}

// Open opens a file or folder.
func (t *Tree) Open(name string) (fs.File, error) {
	f, err := t.openName(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return f, nil
}

func (t *Tree) openName(name string) (fs.File, error) {
	if name == "." {
		return t.openFolder(name)
	}
	h, base, err := t.parent(name)
	if err != nil {
		return nil, err
	}
	defer h.release()
	// Looked at before it is opened: to open a FIFO or a device has effects of its own.
	fi, err := t.lstat(h, name, base)
	if err != nil {
		return nil, err
	}
	switch {
	case fi.IsDir():
		return t.openFolder(name)
	case fi.mode&fs.ModeSymlink != 0:
		return nil, errLink
	case !fi.mode.IsRegular():
		return nil, errSpecial
	}
	f, err := h.dir.openFile(base, name)
	if err != nil {
		return nil, err
	}
	return &file{f: f, t: t, path: name}, nil
}

var (
	errLink    = errors.New("a symbolic link, which is not followed")
	errSpecial = errors.New("neither a file nor a folder")
)

// Lstat describes an entry.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) {
	fi, err := t.lstatName(name)
	if err != nil {
		return nil, pathError("lstat", name, err)
	}
	return fi, nil
}

func (t *Tree) lstatName(name string) (*info, error) {
	h, base, err := t.parent(name)
	if err != nil {
		return nil, err
	}
	defer h.release()
	return t.lstat(h, name, base)
}

// Stat is Lstat, for no link is followed.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.Lstat(name) }

// ReadLink returns the target of a symbolic link, as it stands.
func (t *Tree) ReadLink(name string) (string, error) {
	target, err := t.readLink(name)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

func (t *Tree) readLink(name string) (string, error) {
	h, base, err := t.parent(name)
	if err != nil {
		return "", err
	}
	defer h.release()
	if t.selects() || t.o.OneFileSystem {
		if _, err := t.lstat(h, name, base); err != nil {
			return "", err
		}
	}
	return h.dir.readLink(base)
}

// Xattrs returns an entry's extended attributes of all namespaces that the process may see; none where the system or
// the file system knows none. They are read on Linux only.
func (t *Tree) Xattrs(name string) (map[string][]byte, error) {
	x, err := t.xattrs(name)
	if err != nil {
		return nil, pathError("xattrs", name, err)
	}
	return x, nil
}

func (t *Tree) xattrs(name string) (map[string][]byte, error) {
	h, base, err := t.parent(name)
	if err != nil {
		return nil, err
	}
	defer h.release()
	if t.o.NoXattrs {
		return nil, nil
	}
	if t.selects() || t.o.OneFileSystem {
		if _, err := t.lstat(h, name, base); err != nil {
			return nil, err
		}
	}
	return h.dir.xattrs(base)
}

// ReadDir lists a folder, sorted by the bytes of the names.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	return collect(t.Entries(context.Background(), name))
}

// Entries lists a folder, sorted by the bytes of the names, in a few MiB of memory however many there are. The folder stays
// open meanwhile, so that an entry's Info costs least before the iteration ends; it may be called later all the same, and
// for several entries at once.
func (t *Tree) Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		h, l, err := t.list(ctx, dir)
		if err != nil {
			yield(nil, pathError("readdir", dir, err))
			return
		}
		defer h.finish()
		defer l.close()
		for e, err := range t.entries(ctx, h, l) {
			if err != nil {
				yield(nil, pathError("readdir", dir, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// list opens the folder at path and reads the names in it. The caller calls finish of the handle, and close of the names.
func (t *Tree) list(ctx context.Context, path string) (*handle, *folderNames, error) {
	dir, err := t.openDir(path, true)
	if err != nil {
		return nil, nil, err
	}
	h, err := t.newHandle(path, dir)
	if err != nil {
		return nil, nil, err
	}
	l := &folderNames{t: t, names: names{temp: t.o.Temp, limit: t.run}}
	if t.held.Load() > namesAll {
		l.limit = min(l.limit, namesLow)
	}
	if !t.o.OneFileSystem || h.id.dev == t.dev {
		buf, _ := t.bufs.Get().(*[]byte)
		if buf == nil {
			b := make([]byte, 32<<10)
			buf = &b
		}
		err = dir.names(ctx, *buf, &l.names)
		t.bufs.Put(buf)
		if err == nil {
			err = l.finish()
		}
		if err != nil {
			l.close()
			h.finish()
			return nil, nil, err
		}
		l.hold()
	}
	if t.selects() {
		l.levels = t.levels(path, &dir)
	}
	h.keep()
	return h, l, nil
}

// folderNames are the names in a folder, and what decides which of them are to be seen.
type folderNames struct {
	names
	t      *Tree
	held   int64
	levels []level
}

func (l *folderNames) hold() {
	l.held = int64(l.bytes)
	l.t.held.Add(l.held)
}

func (l *folderNames) close() {
	l.t.held.Add(-l.held)
	l.held = 0
	l.names.close()
}

// entries yields what is to be seen of l, the names in h.
func (t *Tree) entries(ctx context.Context, h *handle, l *folderNames) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		selects := t.selects()
		var path []byte // of the entry, for the patterns
		if selects && h.path != "." {
			path = append(append(path, h.path...), '/')
		}
		prefix := len(path)
		n, left := 0, false
		err := l.each(func(kind byte, name string) bool {
			if n++; n%1024 == 0 && ctx.Err() != nil {
				return false
			}
			e := &entry{h: h, name: name, mode: kindModes[kind]}
			if kind == kindUnknown || t.o.OneFileSystem {
				fi, err := e.lstat()
				if err != nil {
					e.mode = 0 // listed all the same: its Info says why
				} else {
					if t.elsewhere(fi) {
						return true
					}
					e.mode = fi.mode.Type()
					e.first.Store(fi)
				}
			}
			if selects {
				path = append(path[:prefix], name...)
				if t.hides(l.levels, path, e.IsDir()) {
					return true
				}
			}
			left = !yield(e, nil)
			return !left
		})
		if left {
			return
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(nil, err)
		}
	}
}
