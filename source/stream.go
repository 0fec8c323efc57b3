package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/varvebackup/varve/repo"
)

var (
	_ repo.ContextFS = (*stream)(nil)
	_ fs.ReadLinkFS  = (*stream)(nil)
	_ fs.StatFS      = (*stream)(nil)
)

// Stream returns an fs.FS with a single file, name, whose content is what the reader that open returns yields: a dump,
// say. Its Attr says Stream: Backup reads it to the end, once, and fails if a Read does, with that error.
//
// Each Open of the file, and nothing else, calls open, with a context (the caller's, if OpenContext is used) that
// governs the reader as well: once it is done, Read returns its error, whatever the reader does. Closing the file, early
// or not, closes the reader. If a Read of it is under way even then, and does not end with the context at once, its
// Close is called meanwhile, to end it. A reader that heeds neither, as a terminal may, is given up after a second or
// two: the goroutine that waits for it stays until it returns.
//
// The size is unknown, given as 0; the time is zero, that is unknown; the mode is 0600, since a dump holds what the
// database guards. A name that is no single element of a path makes every use fs.ErrInvalid.
func Stream(name string, open func(ctx context.Context) (io.ReadCloser, error)) fs.FS {
	return &stream{name: name, open: open}
}

type stream struct {
	name  string
	open  func(ctx context.Context) (io.ReadCloser, error)
	warn  func(path, text string) // see Warn; may be nil
	block int                     // as in repo.Attr
}

func (s *stream) Open(name string) (fs.File, error) { return s.OpenContext(context.Background(), name) }

func (s *stream) OpenContext(ctx context.Context, name string) (fs.File, error) {
	fi, err := s.stat("open", name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return &listing{info: fi, rest: []fs.DirEntry{fs.FileInfoToDirEntry(s.info())}}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, pathError("open", name, err)
	}
	r, err := s.open(ctx)
	if err == nil && r == nil {
		err = errors.New("source: Stream: open returned no reader")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := newStreamFile(ctx, r, fi)
	f.warn = s.warn
	return f, nil
}

func (s *stream) Stat(name string) (fs.FileInfo, error)  { return s.stat("stat", name) }
func (s *stream) Lstat(name string) (fs.FileInfo, error) { return s.stat("lstat", name) }

func (s *stream) ReadLink(name string) (string, error) {
	_, err := s.stat("readlink", name)
	if err == nil {
		err = pathError("readlink", name, fs.ErrInvalid)
	}
	return "", err
}

func (s *stream) stat(op, name string) (fs.FileInfo, error) {
	switch {
	case !validName(s.name):
		return nil, pathError(op, s.name, fs.ErrInvalid)
	case name == ".":
		return rootInfo(), nil
	case name == s.name:
		return s.info(), nil
	}
	return nil, pathError(op, name, fs.ErrNotExist)
}

func (s *stream) info() *info {
	i := streamInfo(s.name)
	i.attr.Block = s.block
	return i
}

func streamInfo(name string) *info {
	i := &info{name: name, mode: 0o600}
	i.attr.Stream = true
	return i
}

const (
	streamBuffer = 256 << 10
	followTime   = 100 * time.Millisecond // for a reader to end a Read with its context, before its Close is to do that
	closeTime    = time.Second            // for its Close to do that
)

// A streamFile is a stream being read. A Read of r that waits cannot be cancelled, so a goroutine does it, for as long
// as it takes; that goroutine has a buffer of its own, since the caller of Read may be gone by then.
type streamFile struct {
	ctx    context.Context
	r      io.ReadCloser
	info   fs.FileInfo
	direct bool // r is read without a goroutine: its Read ends with ctx, or ctx has no end

	warn func(path, text string) // nil once the first bytes were seen
	head []byte

	buf  []byte // the goroutine's during a read
	rest []byte // of buf, not returned yet
	err  error  // what r's last Read returned

	end    chan struct{} // closed with closed
	mu     sync.Mutex    // guards the rest
	closed bool
	last   *streamRead // the read that was begun last
}

// A streamRead is a Read of the reader; its results are there once done is closed.
type streamRead struct {
	done chan struct{}
	n    int
	err  error
}

func newStreamFile(ctx context.Context, r io.ReadCloser, info fs.FileInfo) *streamFile {
	_, ends := r.(interface{ endsWithContext() })
	return &streamFile{ctx: ctx, r: r, info: info, direct: ends || ctx.Done() == nil, end: make(chan struct{})}
}

func (f *streamFile) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *streamFile) Read(p []byte) (int, error) {
	n, err := f.read(p)
	if f.warn != nil {
		f.head = append(f.head, p[:min(n, headLength)]...)
		if err != nil || len(f.head) >= headLength {
			if text := compression(f.head); text != "" {
				f.warn(f.info.Name(), text)
			}
			f.warn, f.head = nil, nil
		}
	}
	return n, err
}

func (f *streamFile) read(p []byte) (int, error) {
	if err := f.usable(); err != nil {
		return 0, err
	}
	if f.direct {
		return f.r.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(f.rest) == 0 && f.err == nil {
		if err := f.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	if n > 0 {
		return n, nil
	}
	return 0, f.err
}

// usable returns why there is nothing to be read any more.
func (f *streamFile) usable() error {
	select {
	case <-f.end:
		return pathError("read", f.info.Name(), fs.ErrClosed)
	default:
	}
	if err := f.ctx.Err(); err != nil {
		return pathError("read", f.info.Name(), err)
	}
	return nil
}

// fill reads into f.buf. If it fails, usable does from then on, so that buf is left to the goroutine.
func (f *streamFile) fill() error {
	if f.buf == nil {
		f.buf = make([]byte, streamBuffer)
	}
	rd, buf := &streamRead{done: make(chan struct{})}, f.buf
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return f.usable()
	}
	f.last = rd
	go func() {
		defer close(rd.done)
		rd.n, rd.err = f.r.Read(buf)
	}()
	f.mu.Unlock()
	select {
	case <-rd.done:
	case <-f.ctx.Done():
	case <-f.end:
	}
	if err := f.usable(); err != nil {
		return err
	}
	f.rest, f.err = buf[:rd.n], rd.err
	return nil
}

func (f *streamFile) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return pathError("close", f.info.Name(), fs.ErrClosed)
	}
	f.closed = true
	close(f.end)
	last := f.last
	f.mu.Unlock()

	if last == nil || last.within(followTime) {
		return f.r.Close()
	}
	c := &streamRead{done: make(chan struct{})}
	go func() { // it may wait for the Read
		defer close(c.done)
		c.err = f.r.Close()
	}()
	if !c.within(closeTime) {
		return pathError("close", f.info.Name(), errStuck)
	}
	last.within(closeTime)
	return c.err
}

var errStuck = errors.New("the reader does not return")

// within waits for rd, and reports whether it is done in time.
func (rd *streamRead) within(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-rd.done:
		return true
	case <-timer.C:
		return false
	}
}

// rootInfo describes a root that is on no disk.
func rootInfo() fs.FileInfo { return &info{name: ".", mode: fs.ModeDir | 0o755} }

// A listing is an opened root that is on no disk.
type listing struct {
	info fs.FileInfo
	rest []fs.DirEntry
}

func (d *listing) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *listing) Close() error               { return nil }

func (d *listing) Read([]byte) (int, error) {
	return 0, pathError("read", d.info.Name(), errFolder)
}

func (d *listing) ReadDir(n int) (list []fs.DirEntry, err error) {
	list, d.rest, err = take(d.rest, n)
	return list, err
}

var errFolder = errors.New("is a folder")

// take splits entries as fs.ReadDirFile.ReadDir does.
func take(entries []fs.DirEntry, n int) (list, rest []fs.DirEntry, err error) {
	if n <= 0 {
		return entries, nil, nil
	}
	if len(entries) == 0 {
		return nil, nil, io.EOF
	}
	n = min(n, len(entries))
	return entries[:n:n], entries[n:], nil
}
