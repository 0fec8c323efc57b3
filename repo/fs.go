package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// FS returns the content of a snapshot. It implements fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.ReadLinkFS, follows no links, and may be used concurrently until ctx is done. Its
// files are io.ReaderAt and io.Seeker: http.FileServerFS serves ranges of them, and each read fetches the frames that it needs and no more. FileInfo.Sys is an *Attr; it is
// a source for Backup. Names that are not valid UTF-8 have a readable form, see Escape.
//
// Errors are *fs.PathError around fs.ErrNotExist, a *DamageError, ErrRole (the key may not read names, or content), or the backend's. No wrong byte is ever returned.
func (r *Repo) FS(ctx context.Context, s *Snapshot) (fs.FS, error) {
	f := &snapFS{repo: r, ctx: ctx, finder: tree.NewFinder(r.node), dirs: map[string]*tree.Entry{}}
	root, err := tree.LoadRoot(ctx, r.node, s.root)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	f.dirs["."] = root
	return f, nil
}

type snapFS struct {
	repo   *Repo
	ctx    context.Context
	finder *tree.Finder

	mu   sync.Mutex // guards dirs
	dirs map[string]*tree.Entry
}

const maxKnownDirs = 1024

// entry finds the entry of a path.
func (f *snapFS) entry(path string) (*tree.Entry, error) {
	f.mu.Lock()
	e := f.dirs[path]
	f.mu.Unlock()
	if e != nil {
		return e, nil
	}
	dir, name := ".", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	parent, err := f.entry(dir)
	if err != nil {
		return nil, err
	}
	if !parent.IsDir() {
		return nil, fs.ErrNotExist
	}
	raw, err := Unescape(name)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	e, err = f.finder.Find(f.ctx, pack.ID(parent.Folder), []byte(raw))
	if err == nil && e.IsDir() {
		f.mu.Lock()
		if len(f.dirs) > maxKnownDirs {
			root := f.dirs["."]
			clear(f.dirs)
			f.dirs["."] = root
		}
		f.dirs[path] = e
		f.mu.Unlock()
	}
	return e, err
}

func (f *snapFS) find(op, path string) (*tree.Entry, error) {
	if !fs.ValidPath(path) {
		return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
	}
	e, err := f.entry(path)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	return e, nil
}

func (f *snapFS) info(path string, e *tree.Entry) *fileInfo {
	name := "."
	if path != "." {
		name = Escape(string(e.Name))
	}
	return &fileInfo{name: name, e: e}
}

// Open opens a file or folder. Of a link, only Stat is of use.
func (f *snapFS) Open(path string) (fs.File, error) { return f.OpenContext(f.ctx, path) }

// OpenContext implements ContextFS.
func (f *snapFS) OpenContext(ctx context.Context, path string) (fs.File, error) {
	e, err := f.find("open", path)
	if err != nil {
		return nil, err
	}
	if e.IsDir() {
		return &snapDir{fs: f, path: path, e: e}, nil
	}
	return &snapFile{fs: f, ctx: ctx, path: path, e: e}, nil
}

func (f *snapFS) Stat(path string) (fs.FileInfo, error) {
	e, err := f.find("stat", path)
	if err != nil {
		return nil, err
	}
	return f.info(path, e), nil
}

func (f *snapFS) Lstat(path string) (fs.FileInfo, error) { return f.Stat(path) }

func (f *snapFS) ReadLink(path string) (string, error) {
	e, err := f.find("readlink", path)
	if err != nil {
		return "", err
	}
	if e.Mode&tree.ModeType != tree.ModeLink {
		return "", &fs.PathError{Op: "readlink", Path: path, Err: fs.ErrInvalid}
	}
	return string(e.Target), nil
}

func (f *snapFS) ReadFile(path string) ([]byte, error) {
	file, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	sf, ok := file.(*snapFile)
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errIsDir}
	}
	const first = 64 << 20 // the size is the repository's word: memory follows what really comes
	b := make([]byte, 0, min(sf.e.Size, first)+1)
	for {
		n, err := sf.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

func (f *snapFS) ReadDir(path string) ([]fs.DirEntry, error) {
	e, err := f.find("readdir", path)
	if err != nil {
		return nil, err
	}
	list, err := f.list(path, e)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// list returns what can be had of a folder, and the first error.
func (f *snapFS) list(path string, e *tree.Entry) (list []fs.DirEntry, err error) {
	if !e.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: errNotDir}
	}
	for c, cerr := range tree.Salvage(f.ctx, f.repo.node, pack.ID(e.Folder)) {
		if cerr == nil {
			list = append(list, f.info("", c))
		} else if err == nil {
			err = &fs.PathError{Op: "readdir", Path: path, Err: cerr}
		}
	}
	return list, err
}

// Entries implements EntriesFS.
func (f *snapFS) Entries(ctx context.Context, path string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		e, err := f.find("readdir", path)
		if err == nil && !e.IsDir() {
			err = &fs.PathError{Op: "readdir", Path: path, Err: errNotDir}
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for c, err := range tree.Entries(ctx, f.repo.node, pack.ID(e.Folder)) {
			if err != nil {
				yield(nil, &fs.PathError{Op: "readdir", Path: path, Err: err})
				return
			}
			if !yield(f.info("", c), nil) {
				return
			}
		}
	}
}

var (
	errIsDir  = errors.New("is a directory")
	errNotDir = errors.New("not a directory")
)

// fileInfo is fs.FileInfo and fs.DirEntry of an entry.
type fileInfo struct {
	name string
	e    *tree.Entry
}

func (i *fileInfo) Name() string               { return i.name }
func (i *fileInfo) Mode() fs.FileMode          { return fsMode(i.e.Mode) }
func (i *fileInfo) Type() fs.FileMode          { return fsMode(i.e.Mode).Type() }
func (i *fileInfo) ModTime() time.Time         { return i.e.ModTime.Time() }
func (i *fileInfo) IsDir() bool                { return i.e.IsDir() }
func (i *fileInfo) Sys() any                   { return attrOfEntry(i.e) }
func (i *fileInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i *fileInfo) String() string             { return fs.FormatDirEntry(i) }

func (i *fileInfo) Size() int64 {
	if i.e.Mode&tree.ModeType == tree.ModeLink {
		return int64(len(i.e.Target))
	}
	return int64(i.e.Size)
}

type snapDir struct {
	fs   *snapFS
	path string
	e    *tree.Entry
	list []fs.DirEntry
	read bool
}

func (d *snapDir) Stat() (fs.FileInfo, error) { return d.fs.info(d.path, d.e), nil }
func (d *snapDir) Close() error               { return nil }
func (d *snapDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errIsDir}
}

func (d *snapDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.fs.list(d.path, d.e)
		if err != nil {
			return list, err
		}
		d.list, d.read = list, true
	}
	list := d.list
	if n > 0 {
		if len(list) == 0 {
			return nil, io.EOF
		}
		list = list[:min(n, len(list))]
	}
	d.list = d.list[len(list):]
	return list, nil
}

// A snapFile reads from a snapshot. ReadAt may be called concurrently; Read and Seek share a position.
type snapFile struct {
	fs   *snapFS
	ctx  context.Context
	path string
	e    *tree.Entry

	mu  sync.Mutex // guards off
	off int64

	near sync.Mutex // guards what follows: the last chunk that ReadAt met, and where the ones behind it lie
	runs []tree.Run
	data []byte // of runs[0], nil for a hole
}

// readAhead is how many pieces of a list ReadAt takes along, so that reading on need not decode the list for each.
const readAhead = 128

// piece returns the piece that holds byte off: its place and its bytes, nil for a hole. ok is false behind the end.
func (f *snapFile) piece(off uint64) (run tree.Run, data []byte, ok bool, err error) {
	f.near.Lock()
	defer f.near.Unlock()
	has := func(r *tree.Run) bool { return r.Offset <= off && off < r.Offset+r.Length }
	if len(f.runs) == 0 || !has(&f.runs[0]) {
		i := slices.IndexFunc(f.runs, func(r tree.Run) bool { return has(&r) })
		if i < 0 {
			i, f.runs = 0, f.runs[:0]
			for r, err := range tree.Pieces(f.ctx, f.fs.repo.node, f.e, off) {
				if err != nil {
					f.runs = nil
					return run, nil, false, err
				}
				if f.runs = append(f.runs, r); len(f.runs) == readAhead {
					break
				}
			}
			if len(f.runs) == 0 {
				return run, nil, false, nil
			}
		}
		f.runs = f.runs[i:]
		if f.data, err = f.fs.chunk(f.ctx, &f.runs[0]); err != nil {
			f.runs = nil
			return run, nil, false, err
		}
	}
	return f.runs[0], f.data, true, nil
}

// chunk returns the bytes of a piece; nil for a hole.
func (f *snapFS) chunk(ctx context.Context, run *tree.Run) ([]byte, error) {
	if run.Hole() {
		return nil, nil
	}
	data, err := f.repo.blob(ctx, pack.ID(run.ID), crypt.SectionContent)
	if err == nil && uint64(len(data)) != run.Length {
		err = fmt.Errorf("%w: a chunk of %d bytes, its list says %d", tree.ErrDamaged, len(data), run.Length)
	}
	return data, err
}

func (f *snapFile) Stat() (fs.FileInfo, error) { return f.fs.info(f.path, f.e), nil }
func (f *snapFile) Close() error               { return nil }

func (f *snapFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *snapFile) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += int64(f.e.Size)
	}
	if offset < 0 || whence < 0 || whence > 2 {
		return f.off, &fs.PathError{Op: "seek", Path: f.path, Err: fs.ErrInvalid}
	}
	f.off = offset
	return offset, nil
}

func (f *snapFile) ReadAt(p []byte, off int64) (int, error) {
	fail := func(n int, err error) (int, error) {
		return n, &fs.PathError{Op: "read", Path: f.path, Err: err}
	}
	if !f.e.IsRegular() || off < 0 {
		return fail(0, fs.ErrInvalid)
	}
	if err := f.ctx.Err(); err != nil {
		return fail(0, err)
	}
	n := 0
	if len(p) == 0 {
		return 0, nil
	}
	for n < len(p) {
		at := uint64(off) + uint64(n)
		run, data, ok, err := f.piece(at)
		if err != nil {
			return fail(n, err)
		}
		if !ok {
			return n, io.EOF
		}
		skip := at - run.Offset
		dst := p[n : n+int(min(uint64(len(p)-n), run.Length-skip))]
		if run.Hole() {
			clear(dst)
		} else {
			copy(dst, data[skip:])
		}
		n += len(dst)
	}
	return n, nil
}

// Extents implements SparseFile.
func (f *snapFile) Extents() ([]Extent, error) {
	sparse, list := false, []Extent{}
	for run, err := range tree.Pieces(f.ctx, f.fs.repo.node, f.e, 0) {
		if err != nil {
			return nil, &fs.PathError{Op: "extents", Path: f.path, Err: err}
		}
		off, length := int64(run.Offset), int64(run.Length)
		switch n := len(list); {
		case run.Hole():
			sparse = true
		case n > 0 && list[n-1].Offset+list[n-1].Length == off:
			list[n-1].Length += length
		default:
			list = append(list, Extent{off, length})
		}
	}
	if !sparse {
		return nil, nil
	}
	return list, nil
}

// WriteTo writes the rest of the file to w.
func (f *snapFile) WriteTo(w io.Writer) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return copyFile(f, w)
}

// copyFile streams the pieces from f.off on, without looking up the list for each.
func copyFile(f *snapFile, w io.Writer) (total int64, err error) {
	if !f.e.IsRegular() {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: fs.ErrInvalid}
	}
	zeros := make([]byte, 64<<10)
	write := func(p []byte) error {
		n, err := w.Write(p)
		total += int64(n)
		f.off += int64(n)
		return err
	}
	for run, err := range tree.Pieces(f.ctx, f.fs.repo.node, f.e, uint64(f.off)) {
		if err != nil {
			return total, &fs.PathError{Op: "read", Path: f.path, Err: err}
		}
		skip := uint64(f.off) - run.Offset
		if run.Hole() {
			for left := run.Length - skip; left > 0; {
				n := min(left, uint64(len(zeros)))
				if err := write(zeros[:n]); err != nil {
					return total, err
				}
				left -= n
			}
			continue
		}
		data, err := f.fs.chunk(f.ctx, &run)
		if err != nil {
			return total, &fs.PathError{Op: "read", Path: f.path, Err: err}
		}
		if err := write(data[skip:]); err != nil {
			return total, err
		}
	}
	return total, nil
}
