package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/varvebackup/varve/backend"
)

// errNoLink is what renameExclusive returns where the system can't do it.
var errNoLink = fmt.Errorf("neither hard links nor an exclusive rename: put-if-absent is not possible on this file system: %w", errors.ErrUnsupported)

// Put implements [backend.Backend]. A cancelled context ends it between two
// pieces that are written; a sync that is under way is waited for.
func (d *Dir) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	file, err := d.file("put", name)
	if err != nil {
		return err
	}
	if size < 0 || size > backend.MaxSize {
		return fmt.Errorf("backend/dir: put %s: size %d: %w", name, size, fs.ErrInvalid)
	}
	if o != nil && !o.Retain.IsZero() {
		return fmt.Errorf("backend/dir: put %s: no locks here: %w", name, errors.ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("backend/dir: put %s: %w", name, err)
	}
	p := putting{d: d, name: name, file: file, absent: o != nil && o.IfAbsent}
	err = p.run(ctx, r, size)
	switch {
	case err == nil:
		return nil
	case p.readErr != nil:
		return fmt.Errorf("backend/dir: put %s: reading the object to be put: %w", name, p.readErr)
	case p.exists:
		return fmt.Errorf("backend/dir: put %s: %w", name, fs.ErrExist)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist):
		// Something on the way, not the object: not wrapped.
		if gone := d.gone(); gone != nil {
			err = gone
		}
		return fmt.Errorf("backend/dir: put %s: %v", name, err)
	}
	return fmt.Errorf("backend/dir: put %s: %w", name, err)
}

// A putting is one call of Put.
type putting struct {
	d      *Dir
	name   string // of the object
	file   string // its path
	absent bool   // put only if absent
	tmp    string // path of the temporary file; empty when it has become the object

	readErr error // why the object to be put could not be read
	exists  bool  // the object was there
}

func (p *putting) run(ctx context.Context, r io.ReaderAt, size int64) error {
	folder := path.Dir(p.name)
	if err := p.d.makeFolder(folder); err != nil {
		return err
	}
	if p.absent {
		// Not needed, but spares the writing.
		if fi, err := os.Lstat(p.file); err == nil {
			return p.found(fi)
		}
	}
	f, err := p.d.createTemp()
	if err != nil {
		return err
	}
	p.tmp = f.Name()
	defer func() {
		if p.tmp != "" {
			os.Remove(p.tmp) // if it fails, it will be swept
		}
	}()
	err = p.write(ctx, f, r, size)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	err = p.publish()
	if errors.Is(err, fs.ErrNotExist) {
		// The folder was removed behind our back, or the temporary file was.
		p.d.forgetFolders()
		if err := p.d.makeFolder(folder); err != nil {
			return err
		}
		err = p.publish()
	}
	if err != nil {
		return err
	}

	// The file's time is that of its last write, long ago perhaps.
	if err := p.touch(); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(p.file))
}

// touch gives the object the file system's current time. As long as the temporary
// name is there it is the safer one, since no other put replaces it.
func (p *putting) touch() error {
	for _, file := range []string{p.tmp, p.file} {
		if file == "" {
			continue
		}
		if err := touch(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil // somebody deleted the object already
}

// write copies the object to the temporary file.
func (p *putting) write(ctx context.Context, f *os.File, r io.ReaderAt, size int64) error {
	buf := make([]byte, min(size, piece))
	for off := int64(0); off < size; {
		n, err := r.ReadAt(buf[:min(size-off, piece)], off)
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		if _, err := f.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
		if err == io.EOF && off < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			p.readErr = err
			return err
		}
	}
	return nil
}

// publish gives the temporary file the object's name.
func (p *putting) publish() error {
	if !p.absent {
		if err := os.Rename(p.tmp, p.file); err != nil {
			return err
		}
		p.tmp = ""
		return nil
	}
	err := os.Link(p.tmp, p.file)
	if noLinks(err) {
		if err = renameExclusive(p.tmp, p.file); err == nil {
			p.tmp = ""
			return nil
		}
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, serr := os.Lstat(p.file)
	if serr != nil {
		return fmt.Errorf("the object was there, and is gone again: %v", serr)
	}
	if p.tmp != "" {
		// A file server that lost its own reply answers the repeated link with
		// "exists": then the object is our file.
		if mine, err := os.Lstat(p.tmp); err == nil && os.SameFile(mine, there) {
			return nil
		}
	}
	return p.found(there)
}

// found returns the error of a put-if-absent that found something. To say
// "exists" is to say that it will exist after a power loss, but whoever made it
// may not have come to sync the folder yet.
func (p *putting) found(fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is in the way: %v, not a regular file", p.file, fi.Mode().Type())
	}
	if err := syncFolder(filepath.Dir(p.file)); err != nil {
		return err
	}
	p.exists = true
	return fs.ErrExist
}

// makeFolder makes the folder rel (slash-separated) and those above it, and
// syncs the folder above each. One that exists is synced as well, once for each
// Dir: the process that made it may not have come so far.
func (d *Dir) makeFolder(rel string) error {
	d.mu.Lock()
	_, ok := d.durable[rel]
	d.mu.Unlock()
	if ok || rel == "." {
		return nil
	}
	if err := d.gone(); err != nil {
		return err
	}
	above := d.root
	for _, segment := range strings.Split(rel, "/") {
		folder := filepath.Join(above, segment)
		if err := os.Mkdir(folder, 0o700); errors.Is(err, fs.ErrExist) {
			fi, err := os.Lstat(folder)
			if err != nil {
				return err
			}
			if !fi.IsDir() {
				return fmt.Errorf("%s is in the way of a folder: %w", folder, syscall.ENOTDIR)
			}
		} else if err != nil {
			return err
		}
		if err := syncFolder(above); err != nil {
			return err
		}
		above = folder
	}
	d.mu.Lock()
	d.durable[rel] = struct{}{}
	d.mu.Unlock()
	return nil
}

func (d *Dir) forgetFolders() {
	d.mu.Lock()
	clear(d.durable)
	d.mu.Unlock()
}

// createTemp makes a temporary file and holds its lock.
func (d *Dir) createTemp() (*os.File, error) {
	folder := filepath.Join(d.root, tmpName)
	f, err := os.CreateTemp(folder, tmpGlob)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.gone(); err != nil {
			return nil, err
		}
		if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = os.CreateTemp(folder, tmpGlob)
	}
	if err != nil {
		return nil, err
	}
	lock(f) // without locks, age alone protects it
	d.sweep(f)
	return f, nil
}

// sweep removes what dead processes left behind, once a day. Now is the time of
// the new file f, by the file system's clock as all the others' times. Failures
// don't matter: the files harm nobody, and the next one tries again.
func (d *Dir) sweep(f *os.File) {
	d.mu.Lock()
	due := d.swept.IsZero() || time.Since(d.swept) > tmpLimit
	if due {
		d.swept = time.Now()
	}
	d.mu.Unlock()
	if !due {
		return
	}
	now, err := f.Stat()
	if err != nil {
		return
	}
	folder := filepath.Dir(f.Name())
	names, _ := readNames(folder)
	for _, name := range names {
		if ok, _ := filepath.Match(tmpGlob, name); !ok {
			continue
		}
		file := filepath.Join(folder, name)
		fi, err := os.Lstat(file)
		if err == nil && fi.Mode().IsRegular() && now.ModTime().Sub(fi.ModTime()) > tmpLimit {
			removeUnlocked(file)
		}
	}
}
