package bucket

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/tags"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/varvebackup/varve/repo"
)

// PutOptions are for Put. Nil and zero: the whole tree, and what is there stays as it is.
type PutOptions struct {
	// Base is a folder of the tree to put instead of all of it, or a file, as the tree spells it.
	Base string
	// Overwrite says what happens to an object that is there: by default it is kept as it is. repo.OverwriteIfDifferent puts what differs.
	Overwrite repo.Overwrite
	// Delete deletes the objects that the tree lacks, at the end, if everything else could be put. What a backup could not read its snapshot lacks, too.
	Delete bool
	// Workers is how many objects are put at a time. Zero: 8.
	Workers int
	// Progress is called at most five times a second and once at the end, from one goroutine, never after Put has returned.
	Progress func(repo.Progress)
}

// PutReport counts what Put did.
type PutReport struct {
	Put     int64 // objects that were put
	Kept    int64 // objects that were there, and stayed
	Deleted int64
	Bytes   int64 // of the content that was put
}

const (
	partSize    = 16 << 20 // an object that is larger is put in parts
	maxParts    = 10_000
	putMemory   = 96 << 20 // of contents in all
	maxFailures = 10_000
)

// Put makes the objects of a tree, as FS made it or another one, below the prefix: each file becomes the object whose key has its path, with content type, metadata and
// tags. Folders are in the keys of what they hold, so an empty one leaves nothing.
//
// Of two objects with one key that are to be compared (repo.OverwriteIfDifferent), the content is the same if the size is, and the ETag is the one that was kept with the file or, where there was none or another, that of the file's bytes: their MD5
// or, of an object in parts, that of the parts that Put makes. Then its metadata and tags are compared too. The object is put whole if they are not the same.
//
// What cannot be put does not stop the rest: the error is then a *repo.RestoreError, with paths of the tree. This is said of links, devices, names that are not UTF-8 and paths that no
// key has. Other errors ended Put: those of listing the bucket, of reading the tree's folders, ctx. Put again goes on where one ended.
//
// All is done in the memory of some objects of 16 MiB, however many there are.
func (f *FS) Put(ctx context.Context, tree fs.FS, o *PutOptions) (*PutReport, error) {
	if o == nil {
		o = new(PutOptions)
	}
	base := o.Base
	if base == "" {
		base = "."
	}
	workers := o.Workers
	if workers <= 0 {
		workers = 8
	}
	g, gctx := errgroup.WithContext(ctx)
	p := &putter{fs: f, ctx: gctx, tree: tree, pages: &pages{fs: f}, overwrite: o.Overwrite, memory: semaphore.NewWeighted(putMemory), group: g}
	g.SetLimit(workers)
	begun := time.Now()
	stop := report(o.Progress, func() repo.Progress {
		return repo.Progress{Stats: repo.Stats{Files: p.put.Load() + p.kept.Load(), Bytes: p.bytes.Load()}, Elapsed: time.Since(begun)}
	})
	defer stop()
	err := p.all(base)
	if werr := g.Wait(); err == nil || errors.Is(err, context.Canceled) && werr != nil {
		err = werr
	}
	if err == nil && o.Delete && len(p.failed) == 0 {
		p.ctx = ctx
		err = p.delete(base)
	}
	rep := &PutReport{Put: p.put.Load(), Kept: p.kept.Load(), Deleted: p.deleted, Bytes: p.bytes.Load()}
	switch {
	case err != nil && ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && len(p.failed) > 0:
		slices.SortStableFunc(p.failed, func(a, b repo.RestoreFailure) int { return strings.Compare(a.Path, b.Path) })
		return rep, &repo.RestoreError{Failed: p.failed, More: p.more}
	}
	if err != nil {
		err = fmt.Errorf("source/bucket: put into %s: %w", f, err)
	}
	return rep, err
}

type putter struct {
	fs     *FS
	ctx    context.Context
	tree   fs.FS
	pages  *pages // of the bucket as it was
	memory *semaphore.Weighted

	overwrite repo.Overwrite
	group     *errgroup.Group

	put, kept, bytes atomic.Int64
	deleted          int64

	mu     sync.Mutex // guards what follows
	failed []repo.RestoreFailure
	more   int
}

func (p *putter) fail(path string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failed) == maxFailures {
		p.more++
		return
	}
	p.failed = append(p.failed, repo.RestoreFailure{Path: path, Err: err})
}

// all begins to put what is at base.
func (p *putter) all(base string) error {
	fi, err := fs.Lstat(p.tree, base)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		// The first page, so that a bucket that is not there is one error and not many.
		if _, err := p.pages.get(p.ctx, before(p.fs.prefix)); err != nil {
			return err
		}
		return p.folder(base, "")
	}
	return p.entry(path.Dir(base), "", fi)
}

// entries lists a folder of the tree, in any order.
func (p *putter) entries(dir string, visit func(fs.DirEntry) error) error {
	if e, ok := p.tree.(repo.EntriesFS); ok {
		for d, err := range e.Entries(p.ctx, dir) {
			if err != nil {
				return err
			}
			if err := visit(d); err != nil {
				return err
			}
		}
		return p.ctx.Err()
	}
	list, err := fs.ReadDir(p.tree, dir)
	for _, d := range list {
		if err := visit(d); err != nil {
			return err
		}
	}
	return err
}

// folder puts what is in a folder: dir as the tree spells it, raw in raw names below base.
func (p *putter) folder(dir, raw string) error {
	return p.entries(dir, func(d fs.DirEntry) error {
		fi, err := d.Info()
		if err != nil {
			p.fail(join(dir, d.Name()), err)
			return p.ctx.Err()
		}
		return p.entry(dir, raw, fi)
	})
}

// rawName returns an entry's name byte for byte, and what is known of it.
func rawName(fi fs.FileInfo) (string, *repo.Attr) {
	a, _ := fi.Sys().(*repo.Attr)
	if a == nil {
		a = new(repo.Attr)
	}
	if a.Name != nil {
		return string(a.Name), a
	}
	return fi.Name(), a
}

func (p *putter) entry(dir, raw string, fi fs.FileInfo) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	at := join(dir, fi.Name())
	name, attr := rawName(fi)
	if raw != "" {
		name = raw + "/" + name
	}
	if fi.IsDir() {
		return p.folder(at, name)
	}
	rel, isBeside, err := Key(name)
	key := p.fs.prefix + rel
	switch {
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("a bucket holds no entries of this kind (%v)", fi.Mode().Type())
	case err != nil:
	case !utf8.ValidString(key):
		err = errors.New("a key is UTF-8, and this name is not")
	case strings.TrimSpace(key) == "" || len(key) > maxKey:
		err = fmt.Errorf("a key has 1 to %d bytes, of which one at least is no white space; this one would have %d", maxKey, len(key))
	case isBeside:
		// Where no folder is beside it, its own name must be free, or there are two files for one key.
		plain := nameOf(rel[strings.LastIndexByte(rel, '/')+1:])
		if other, serr := p.lstat(path.Dir(at), plain); serr != nil {
			return serr
		} else if other != nil && !other.IsDir() {
			err = fmt.Errorf("the key is that of %q, too", plain)
		}
	}
	if err != nil {
		p.fail(at, err)
		return nil
	}
	there, err := p.pages.exists(p.ctx, key)
	if err != nil {
		return err
	}
	if there != nil && p.overwrite == repo.OverwriteNever {
		p.kept.Add(1)
		return nil
	}
	weight := min(max(fi.Size(), 64<<10), partSize) + 256<<10
	if err := p.memory.Acquire(p.ctx, weight); err != nil {
		return err
	}
	p.group.Go(func() error {
		defer p.memory.Release(weight)
		err := p.object(at, key, attr, fi.Size(), there)
		if err != nil && p.ctx.Err() == nil {
			p.fail(at, err)
			err = nil
		}
		return err
	})
	return nil
}

// object puts a file, unless it is there.
func (p *putter) object(at, key string, attr *repo.Attr, size int64, there *object) error {
	meta := p.fs.putMeta(attr.Meta)
	opts, err := putOptions(attr.ContentType, meta)
	if err != nil {
		return err
	}
	part := int64(partSize)
	if size > part*maxParts {
		part = (size + maxParts - 1) / maxParts
		part = (part + 1<<20 - 1) &^ (1<<20 - 1)
	}
	var data []byte // of an object that is small enough to be kept
	if there != nil && there.size == size && p.overwrite != repo.OverwriteAlways {
		same := attr.Meta[metaETag] == there.etag && there.etag != ""
		if !same {
			sum, kept, err := p.etag(at, size, part, there.etag)
			if err != nil {
				return err
			}
			same, data = sum != "" && sum == there.etag, kept
		}
		if same {
			if same, err = p.sameMeta(key, attr.ContentType, meta, there); err != nil {
				return err
			}
		}
		if same {
			p.kept.Add(1)
			return nil
		}
	}
	if size <= part {
		if data == nil {
			if data, err = p.read(at, size); err != nil {
				return err
			}
		}
		err = p.whole(key, data, opts)
	} else {
		err = p.inParts(at, key, size, part, opts)
	}
	if err == nil {
		p.put.Add(1)
	}
	return err
}

// open opens a file of the tree.
func (p *putter) open(at string) (fs.File, error) {
	if c, ok := p.tree.(repo.ContextFS); ok {
		return c.OpenContext(p.ctx, at)
	}
	return p.tree.Open(at)
}

var errSize = errors.New("the file has not the size that its folder says")

// read reads a small file.
func (p *putter) read(at string, size int64) ([]byte, error) {
	f, err := p.open(at)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errSize
		}
		return nil, err
	}
	return b, atEnd(f)
}

// atEnd returns an error unless a file is read to its end.
func atEnd(f fs.File) error {
	var one [1]byte
	switch _, err := io.ReadFull(f, one[:]); err {
	case io.EOF:
		return nil
	case nil:
		return errSize
	default:
		return err
	}
}

// etag computes the ETag that the file's bytes would have in an object that was put as the one with this ETag may have been; "" if that is not known. It returns
// the bytes if they fit in one part.
func (p *putter) etag(at string, size, part int64, like string) (string, []byte, error) {
	hash, _, inParts := strings.Cut(like, "-")
	if len(hash) != 2*md5.Size {
		return "", nil, nil
	}
	parts := (size + part - 1) / part
	switch {
	case !inParts && size <= part:
		data, err := p.read(at, size)
		if err != nil {
			return "", nil, err
		}
		sum := md5.Sum(data)
		return hex.EncodeToString(sum[:]), data, nil
	case inParts && like != fmt.Sprintf("%s-%d", hash, parts):
		return "", nil, nil
	}
	f, err := p.open(at)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if !inParts {
		h := md5.New()
		if n, err := io.Copy(h, f); err != nil {
			return "", nil, err
		} else if n != size {
			return "", nil, errSize
		}
		return hex.EncodeToString(h.Sum(nil)), nil, nil
	}
	all := md5.New()
	for left := size; left > 0; left -= min(left, part) {
		h := md5.New()
		if _, err := io.CopyN(h, f, min(left, part)); err != nil {
			return "", nil, err
		}
		all.Write(h.Sum(nil))
	}
	return fmt.Sprintf("%x-%d", all.Sum(nil), parts), nil, nil
}

// sameMeta tells whether an object has this content type, metadata and tags.
func (p *putter) sameMeta(key, kind string, want map[string]string, there *object) (bool, error) {
	var got minio.ObjectInfo
	err := p.fs.client.Do(p.ctx, "look at", key, "s3:GetObject", func() (err error) {
		got, err = p.fs.core.Client.StatObject(p.ctx, p.fs.name, key, minio.StatObjectOptions{})
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if got.ETag != there.etag {
		return false, nil
	}
	meta := metaOf(&got)
	delete(meta, metaETag)
	if !p.fs.noTags && got.UserTagCount > 0 {
		found, err := p.fs.tags(p.ctx, key)
		if err != nil {
			return false, err
		}
		for k, v := range found {
			meta[metaTag+k] = v
		}
	}
	if kind == "" {
		kind = defaultType
	}
	return got.ContentType == kind && maps.Equal(meta, want), nil
}

const defaultType = "application/octet-stream" // of files whose type is not known

// putMeta returns the metadata and tags among what is known of a file: of a dump, say, there may be more.
func (f *FS) putMeta(m map[string]string) map[string]string {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(k, _ string) bool {
		if strings.HasPrefix(k, metaTag) {
			return f.noTags
		}
		return !strings.HasPrefix(k, metaUser) && !slices.Contains(metaHeaders, k)
	})
	return m
}

// putOptions returns what an object is to be put with.
func putOptions(kind string, meta map[string]string) (o minio.PutObjectOptions, err error) {
	o.ContentType = kind
	o.DisableContentSha256 = true // it is computed here, and signed
	o.UserMetadata, o.UserTags = map[string]string{}, map[string]string{}
	for k, v := range meta {
		if tag, isTag := strings.CutPrefix(k, metaTag); isTag {
			o.UserTags[tag] = v
		} else {
			o.UserMetadata[k] = v
		}
	}
	if len(o.UserTags) > 0 {
		if _, err := tags.NewTags(o.UserTags, true); err != nil {
			return o, fmt.Errorf("its tags cannot be put: %w", err)
		}
	}
	return o, nil
}

func (p *putter) needs(o *minio.PutObjectOptions) string {
	if len(o.UserTags) > 0 {
		return "s3:PutObject and s3:PutObjectTagging"
	}
	return "s3:PutObject"
}

// whole puts an object in one request.
func (p *putter) whole(key string, data []byte, opts minio.PutObjectOptions) error {
	sha := sha256.Sum256(data)
	err := p.fs.client.Do(p.ctx, "put", key, p.needs(&opts), func() error {
		_, err := p.fs.core.PutObject(p.ctx, p.fs.name, key, bytes.NewReader(data), int64(len(data)), "", hex.EncodeToString(sha[:]), opts)
		return err
	})
	if err == nil {
		p.bytes.Add(int64(len(data)))
	}
	return err
}

// inParts puts a large object, one part after the other, each of which is repeated by itself.
func (p *putter) inParts(at, key string, size, part int64, opts minio.PutObjectOptions) (err error) {
	f, err := p.open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	c, core := p.fs.client, p.fs.core
	var id string
	if err := c.Do(p.ctx, "put", key, p.needs(&opts), func() (err error) {
		id, err = core.NewMultipartUpload(p.ctx, p.fs.name, key, opts)
		return err
	}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// What is left behind is paid for, and seen by nobody.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 10*time.Second)
			defer cancel()
			core.AbortMultipartUpload(ctx, p.fs.name, key, id)
		}
	}()
	buf := make([]byte, part)
	var parts []minio.CompletePart
	for left := size; left > 0; {
		b := buf[:min(left, part)]
		if _, err := io.ReadFull(f, b); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = errSize
			}
			return err
		}
		n, sha := len(parts)+1, sha256.Sum256(b)
		var done minio.ObjectPart
		if err := c.Do(p.ctx, "put", key, "s3:PutObject", func() (err error) {
			done, err = core.PutObjectPart(p.ctx, p.fs.name, key, id, n, bytes.NewReader(b), int64(len(b)),
				minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sha[:]), DisableContentSha256: true})
			return err
		}); err != nil {
			return err
		}
		parts = append(parts, minio.CompletePart{PartNumber: n, ETag: done.ETag})
		p.bytes.Add(int64(len(b)))
		left -= int64(len(b))
	}
	if err := atEnd(f); err != nil {
		return err
	}
	return c.Do(p.ctx, "put", key, "s3:PutObject", func() error {
		_, err := core.CompleteMultipartUpload(p.ctx, p.fs.name, key, id, parts, minio.PutObjectOptions{})
		return err
	})
}

// delete deletes what the tree lacks.
func (p *putter) delete(base string) error {
	if fi, err := fs.Lstat(p.tree, base); err != nil || !fi.IsDir() {
		return err
	}
	p.pages = &pages{fs: p.fs}
	for after := before(p.fs.prefix); ; {
		page, err := p.pages.get(p.ctx, after)
		if err != nil {
			return err
		}
		for _, o := range page.behind(after) {
			after = o.key
			rel, ok := strings.CutPrefix(o.key, p.fs.prefix)
			if !ok {
				continue
			}
			has, err := p.has(base, rel)
			if err != nil {
				return err
			}
			if has {
				continue
			}
			if err := p.fs.client.Do(p.ctx, "delete", o.key, "s3:DeleteObject", func() error {
				return p.fs.core.Client.RemoveObject(p.ctx, p.fs.name, o.key, minio.RemoveObjectOptions{})
			}); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			p.deleted++
		}
		if page.end {
			return nil
		}
	}
}

// has tells whether the tree has a file for a key.
func (p *putter) has(base, rel string) (bool, error) {
	for _, isBeside := range []bool{false, true} {
		fi, err := p.lstat(base, Path(rel, isBeside))
		if err != nil || fi != nil && fi.Mode().IsRegular() {
			return err == nil, err
		}
	}
	return false, nil
}

// lstat describes what the tree has at a raw path below dir; nil if there is nothing.
func (p *putter) lstat(dir, raw string) (fs.FileInfo, error) {
	for i, name := range []string{repo.Escape(raw), raw} { // as the FS of a snapshot spells it, and as others do
		if i == 1 && !strings.Contains(raw, `\`) {
			break
		}
		fi, err := fs.Lstat(p.tree, path.Join(dir, name))
		if err == nil {
			return fi, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return nil, err
		}
	}
	return nil, nil
}

// report calls progress at most five times a second, whatever it takes and however late it is called, until the returned function is called, which calls it a last time and waits for it.
func report(progress func(repo.Progress), now func() repo.Progress) (stop func()) {
	if progress == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for over := false; !over; {
			select {
			case <-time.After(200 * time.Millisecond): // a time.Ticker makes up for what was late
			case <-done:
				over = true
			}
			progress(now())
		}
	})
	return func() { close(done); wait.Wait() }
}
