package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
)

var _ backend.Backend = (*Bucket)(nil)

const crcHeader = "X-Amz-Checksum-Crc32c"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func base64CRC(sum uint32) string {
	return base64.StdEncoding.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// object returns the key, or why there is nothing to do.
func (b *Bucket) object(ctx context.Context, op, name string) (string, error) {
	if !backend.ValidName(name) {
		return "", fmt.Errorf("backend/s3: %s %q: not a name for an object: %w", op, name, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("backend/s3: %s %s: %w", op, name, err)
	}
	return b.prefix + name, nil
}

// Put implements [backend.Backend]. It reads r twice, or more often if requests
// are repeated: first for the checksums.
func (b *Bucket) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	key, err := b.object(ctx, "put", name)
	if err != nil {
		return err
	}
	if size < 0 || size > backend.MaxSize {
		return fmt.Errorf("backend/s3: put %s: %d bytes: %w", name, size, fs.ErrInvalid)
	}
	sha, crc, err := sums(ctx, r, size)
	if err != nil {
		return fmt.Errorf("backend/s3: put %s: %w", name, err)
	}
	opts := minio.PutObjectOptions{
		DisableContentSha256: true, // not in signed chunks: its hash is known, and is what is signed
		UserMetadata:         map[string]string{crcHeader: crc},
	}
	needs := "s3:PutObject"
	var lock backend.Retention
	ifAbsent := false
	if o != nil {
		ifAbsent = o.IfAbsent
		lock = o.Retain
	}
	if ifAbsent {
		opts.SetMatchETagExcept("*")
	}
	if !lock.IsZero() {
		if err := b.lockable(ctx, "put", name); err != nil {
			return err
		}
		if lock, err = b.checked("put", name, lock); err != nil {
			return err
		}
		needs = "s3:PutObject and s3:PutObjectRetention"
		opts.Mode, opts.RetainUntilDate = modes[lock.Mode], lock.Until
	}
	for a := b.attempts(ctx, "put", name, needs); ; {
		src := &body{r: r, size: size}
		_, err := b.core.PutObject(ctx, b.name, key, src, size, "", sha, opts)
		if rerr := src.end(); rerr != nil {
			return fmt.Errorf("backend/s3: put %s: %w", name, rerr)
		}
		if err == nil {
			return nil
		}
		if a.try > 1 && ifAbsent && minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
			// A failed try may have put it.
			src := &noted{r: r}
			same, serr := backend.Holds(ctx, b, name, src, size)
			if same && !lock.IsZero() { // it may be another's, who did not lock it
				serr = b.Retain(ctx, name, "", lock)
			}
			switch {
			case src.err != nil:
				return fmt.Errorf("backend/s3: put %s: %w", name, src.err)
			case errors.Is(serr, fs.ErrNotExist):
				err = errVanished
			case serr != nil:
				err = serr
			case same:
				return nil
			}
		}
		if err := a.again(err); err != nil {
			return err
		}
	}
}

// sums reads what is to be put, and returns its SHA-256 and CRC32C as the
// protocol wants them.
func sums(ctx context.Context, r io.ReaderAt, size int64) (sha, crc string, err error) {
	const piece = 256 << 10
	h := sha256.New()
	var c uint32
	buf := make([]byte, min(piece, size))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return "", "", err
		}
		p := buf[:min(piece, size-off)]
		n, err := r.ReadAt(p, off)
		if n < len(p) {
			if err == io.EOF || err == nil {
				err = io.ErrUnexpectedEOF
			}
			return "", "", err
		}
		h.Write(p)
		c = crc32.Update(c, castagnoli, p)
		off += int64(n)
	}
	if err := ctx.Err(); err != nil {
		return "", "", err
	}
	return hex.EncodeToString(h.Sum(nil)), base64CRC(c), nil
}

// A body is the body of a PUT. net/http may go on reading it after the request
// has failed; the caller's reader must not be read then.
type body struct {
	r    io.ReaderAt
	size int64

	mu   sync.Mutex // guards what follows, and reading r
	off  int64
	err  error // of r
	over bool
}

var errEnded = errors.New("the request is over")

func (s *body) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return 0, errEnded
	case s.err != nil:
		return 0, s.err
	case s.off == s.size:
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), s.size-s.off)]
	n, err := s.r.ReadAt(p, s.off)
	s.off += int64(n)
	if n < len(p) {
		if err == io.EOF || err == nil {
			err = io.ErrUnexpectedEOF // it was longer when its checksum was computed
		}
		s.err = err
		return n, err
	}
	return n, nil
}

// end makes sure that the reader is not read any more, and returns its error.
func (s *body) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.err
}

// A noted is a reader that is known to have failed. It is for one goroutine.
type noted struct {
	r   io.ReaderAt
	err error
}

func (n *noted) ReadAt(p []byte, off int64) (int, error) {
	k, err := n.r.ReadAt(p, off)
	if k < len(p) {
		if n.err = err; err == nil || err == io.EOF {
			n.err = io.ErrUnexpectedEOF
		}
	}
	return k, err
}

// Get implements [backend.Backend].
func (b *Bucket) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return b.get(ctx, name, "", off, n, dst)
}

// get reads a version, or without one the newest.
func (b *Bucket) get(ctx context.Context, name, version string, off, n int64, dst []byte) ([]byte, error) {
	key, err := b.object(ctx, "get", name)
	if err != nil {
		return dst, err
	}
	if off < 0 || n > backend.MaxSize {
		return dst, fmt.Errorf("backend/s3: get %s: %d bytes from %d: %w", name, n, off, fs.ErrInvalid)
	}
	if n == 0 || off > backend.MaxSize {
		// There is no such range, in HTTP or in an object.
		info, err := b.stat(ctx, "get", name, version)
		if err == nil && (off > info.Size || n > info.Size-off) {
			err = short(name, off, n, info.Size)
		}
		return dst, err
	}
	g := &get{b: b, key: key, name: name, version: version, off: off, n: n, dst: dst, out: dst}
	for a := b.attempts(ctx, "get", name, readNeeds(version)); ; {
		before := len(g.out)
		err := g.try(ctx)
		switch said := new(statement); {
		case err == nil:
			return g.out, nil
		case errors.As(err, &said):
			return dst, said.error
		case errors.Is(err, errRange):
			// Either too short, or nothing behind its very end.
			info, err := b.stat(ctx, "get", name, version)
			switch {
			case err != nil:
				return dst, err
			case off > info.Size || n > info.Size-off:
				return dst, short(name, off, n, info.Size)
			case off == info.Size:
				return dst, nil
			}
			// It grew in between.
		}
		if len(g.out) > before {
			a.progress()
		}
		if err := a.again(err); err != nil {
			return dst, err
		}
	}
}

// A statement about the object is final. (An io.ErrUnexpectedEOF that is none
// is a cut connection.)
type statement struct{ error }

func short(name string, off, n, size int64) error {
	return fmt.Errorf("backend/s3: get %s: %d bytes from %d of %d: %w", name, n, off, size, io.ErrUnexpectedEOF)
}

// A get is one Get, over several requests if need be.
type get struct {
	b         *Bucket
	key, name string
	version   string // "": the newest
	off, n    int64
	dst       []byte
	out       []byte // dst and what has been read so far
	etag      string // of the object that it was read from
	whole     int64  // bytes to read in all, once known
}

var errRange = errors.New("the store has no such range of the object")

// try sends a request for what is missing.
func (g *get) try(ctx context.Context) error {
	done := int64(len(g.out) - len(g.dst))
	from := g.off + done
	opts := minio.GetObjectOptions{VersionID: g.version}
	switch {
	case g.n > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", from, g.off+g.n-1))
	case from > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", from))
	default:
		opts.Checksum = true
	}
	ranged := g.n > 0 || from > 0
	if done > 0 {
		opts.SetMatchETag(g.etag)
	}
	r, info, header, err := g.b.core.GetObject(ctx, g.b.name, g.key, opts)
	if err != nil {
		switch api := minio.ToErrorResponse(err); {
		case api.StatusCode == 416 || api.Code == "InvalidRange":
			err = errRange
		case api.Code == minio.PreconditionFailed || done > 0 && api.Code == minio.NoSuchKey:
			err = g.restart(errChanged)
		case g.version != "" && noVersion(api):
			err = errNoVersion
		}
		return err
	}
	defer r.Close()
	size := info.Size // of the object; so far it is that of the body
	if ranged {
		first, last, total, ok := contentRange(header.Get("Content-Range"))
		if !ok || first != from || last-first+1 != info.Size {
			return protocolError(fmt.Sprintf("it sends the range %q instead of that from %d", header.Get("Content-Range"), from))
		}
		size = total
	}
	if size < 0 {
		return protocolError("it does not say how long an object is")
	}
	need := g.n
	if g.n < 0 {
		need = size - g.off
	}
	switch {
	case need > size-g.off:
		return &statement{short(g.name, g.off, g.n, size)}
	case need > backend.MaxSize:
		return &statement{fmt.Errorf("backend/s3: get %s: %d bytes are more than an object has: %w", g.name, need, fs.ErrInvalid)}
	case need-done != info.Size:
		return protocolError(fmt.Sprintf("it sends %d bytes instead of %d", info.Size, need-done))
	case done > 0 && need != g.whole:
		return g.restart(errChanged)
	}
	g.etag, g.whole = info.ETag, need
	g.out = grow(g.out, int(need-done))
	start := len(g.out)
	k, err := io.ReadFull(r, g.out[start:start+int(need-done)])
	g.out = g.out[:start+k]
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: after %d of %d bytes: %v", errCut, done+int64(k), need, err)
	}
	// Of the whole object, and not one of the checksums of its parts.
	if want := info.ChecksumCRC32C; want != "" && !ranged && len(want) == 8 && !strings.EqualFold(info.ChecksumMode, "COMPOSITE") {
		if base64CRC(crc32.Checksum(g.out[len(g.dst):], castagnoli)) != want {
			return g.restart(errChecksum)
		}
	}
	return nil
}

// grow is slices.Grow that allocates no more than asked for.
func grow(p []byte, n int) []byte {
	if cap(p)-len(p) >= n {
		return p
	}
	out := make([]byte, len(p), len(p)+n)
	copy(out, p)
	return out
}

func (g *get) restart(err error) error {
	g.out = g.dst
	return err
}

// contentRange reads "bytes 0-99/1000".
func contentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return
	}
	span, size, ok1 := strings.Cut(s, "/")
	a, z, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(z, 10, 64)
	total, err3 := strconv.ParseInt(size, 10, 64)
	return first, last, total, ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil
}

// Stat implements [backend.Backend].
func (b *Bucket) Stat(ctx context.Context, name string) (backend.Info, error) {
	return b.stat(ctx, "stat", name, "")
}

func readNeeds(version string) string {
	if version != "" {
		return "s3:GetObjectVersion"
	}
	return "s3:GetObject"
}

// stat describes a version, or without one the newest.
func (b *Bucket) stat(ctx context.Context, op, name, version string) (backend.Info, error) {
	key, err := b.object(ctx, op, name)
	if err != nil {
		return backend.Info{}, err
	}
	for a := b.attempts(ctx, op, name, readNeeds(version)); ; {
		info, err := b.core.StatObject(ctx, b.name, key, minio.StatObjectOptions{VersionID: version})
		if err == nil && info.ETag != "" && info.Size >= 0 {
			return backend.Info{Name: name, Size: info.Size, Modified: info.LastModified}, nil
		}
		api := minio.ToErrorResponse(err)
		if err == nil || api.Code != "" && !passing(api) || api.StatusCode == 0 && api.Code == minio.InternalError {
			// The answer to a HEAD has no body, so this may as well be a missing
			// bucket, or a proxy. That to a GET says which.
			probe := minio.GetObjectOptions{VersionID: version}
			probe.Set("Range", "bytes=0-0")
			r, _, _, perr := b.core.GetObject(ctx, b.name, key, probe)
			if perr == nil {
				r.Close()
				err = errors.New("the object came while it was looked for")
			} else if minio.ToErrorResponse(perr).StatusCode == 416 {
				err = errors.New("the object came while it was looked for")
			} else if version != "" && noVersion(minio.ToErrorResponse(perr)) {
				err = errNoVersion
			} else {
				err = perr
			}
		}
		if err := a.again(err); err != nil {
			return backend.Info{}, err
		}
	}
}

// List implements [backend.Backend]. A listing that fails goes on behind the
// last object that it yielded.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		if !backend.ValidPrefix(prefix) {
			yield(backend.Info{}, fmt.Errorf("backend/s3: list %q: no name begins so: %w", prefix, fs.ErrInvalid))
			return
		}
		owner := false
		after := ""
		for a := b.attempts(ctx, "list", prefix, "s3:ListBucket"); ; {
			var err error
			for o := range b.core.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{
				Prefix: b.prefix + prefix, Recursive: true, StartAfter: after, FetchOwner: &owner,
			}) {
				// Not left to minio-go, which ends a cancelled listing like a whole one.
				if err = ctx.Err(); err != nil {
					break
				}
				if err = o.Err; err != nil {
					break
				}
				if o.Key <= after {
					err = protocolError(fmt.Sprintf("it lists out of order: %s after %s", o.Key, after))
					break
				}
				after = o.Key
				a.progress()
				name, ok := strings.CutPrefix(o.Key, b.prefix)
				if !ok || !strings.HasPrefix(name, prefix) || !backend.ValidName(name) {
					continue
				}
				if !yield(backend.Info{Name: name, Size: o.Size, Modified: o.LastModified}, nil) {
					return
				}
			}
			if err == nil && ctx.Err() == nil {
				return
			}
			if err := a.again(err); err != nil {
				yield(backend.Info{}, err)
				return
			}
		}
	}
}
