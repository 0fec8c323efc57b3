package repo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// A token file holds, for each file of a series' last snapshot that has a change token, the token and the list of its chunks, in the order of the walk: the next walk
// reads along, in constant memory, and does not read a file whose token is the same and whose every chunk is still present. It is a sequence of parts, then a
// keyed hash of all before. A part has at most tokenPieces pieces of a file's content; the last part of a file has its path and token. A last part without a token
// takes back those before:
//
//	pieces << 1 | last, then for each piece: length << 1 | is it no hole, id (32) unless a hole
//	if last: path, token; if there is one: number of xattrs, each as name and value, content type, number of metadata, each as key and value
//
// Numbers are varints, and the strings of the last line stand behind their lengths.

const tokenPieces = 1024

func tokenFile(r *Repo, series string) string {
	sid := r.keys.SeriesID(series)
	return fmt.Sprintf("%x", sid[:])
}

// A tokenWriter writes a token file. All methods of a nil one do nothing. An error waits for commit: without a token file the next backup only reads more.
type tokenWriter struct {
	f    *os.File
	path string // of the finished file
	sum  hash.Hash
	out  []byte // what is to be written
	list []byte // the pieces of the part that was begun
	n    int    // how many
	part bool   // some of the current file was written
	mute bool   // the current file has no token
	err  error  // the first; nothing is written after it
}

// newTokenWriter begins a token file; nil when there is no cache or it cannot be written, for then the next backup only reads more.
func newTokenWriter(r *Repo, series string) *tokenWriter {
	if r.cache == nil {
		return nil
	}
	dir := filepath.Join(r.cache.dir, "tokens")
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		r.opts.Logger.Warn("the cache cannot be written", "error", err)
		return nil
	}
	return &tokenWriter{f: f, path: filepath.Join(dir, tokenFile(r, series)), sum: tokenHash(r, series)}
}

func tokenHash(r *Repo, series string) hash.Hash {
	h, err := blake3.NewKeyed(r.cache.key[:])
	if err != nil {
		panic("repo: " + err.Error()) // the key has 32 bytes
	}
	h.WriteString("tokens, version 2/" + tokenFile(r, series) + "\x00")
	return h
}

// skip says that the file whose pieces come next has no token.
func (w *tokenWriter) skip() {
	if w != nil {
		w.mute = true
	}
}

func (w *tokenWriter) piece(length uint64, id []byte) {
	if w == nil || w.mute || w.err != nil {
		return
	}
	if w.n == tokenPieces {
		w.head(0)
		w.part = true
	}
	w.n++
	if len(id) == 0 {
		w.list = binary.AppendUvarint(w.list, length<<1)
		return
	}
	w.list = binary.AppendUvarint(w.list, length<<1|1)
	w.list = append(w.list, id...)
}

// head ends a part, but for what the last one of a file has more.
func (w *tokenWriter) head(last uint64) {
	w.out = binary.AppendUvarint(w.out, uint64(w.n)<<1|last)
	w.out = append(w.out, w.list...)
	w.list, w.n = w.list[:0], 0
	if len(w.out) >= 64<<10 {
		w.flush()
	}
}

func (w *tokenWriter) text(b []byte) {
	w.out = binary.AppendUvarint(w.out, uint64(len(b)))
	w.out = append(w.out, b...)
}

func (w *tokenWriter) word(s string) {
	w.out = binary.AppendUvarint(w.out, uint64(len(s)))
	w.out = append(w.out, s...)
}

func (w *tokenWriter) flush() {
	if w.err == nil {
		w.sum.Write(w.out)
		_, w.err = w.f.Write(w.out)
	}
	w.out = w.out[:0]
}

// end ends the current file.
func (w *tokenWriter) end(path string, e *tree.Entry) {
	if w == nil {
		return
	}
	if len(e.Token) == 0 || w.mute {
		w.drop()
		return
	}
	w.part = false
	w.head(1)
	w.word(path)
	w.text(e.Token)
	w.out = binary.AppendUvarint(w.out, uint64(len(e.Xattrs)))
	for i := range e.Xattrs {
		w.text(e.Xattrs[i].Name)
		w.text(e.Xattrs[i].Value)
	}
	w.word(e.Type)
	w.out = binary.AppendUvarint(w.out, uint64(len(e.Meta)))
	for i := range e.Meta {
		w.word(e.Meta[i].Key)
		w.word(e.Meta[i].Value)
	}
}

// drop takes back the current file.
func (w *tokenWriter) drop() {
	if w == nil {
		return
	}
	w.list, w.n, w.mute = w.list[:0], 0, false
	if w.part {
		w.part = false
		w.head(1)
		w.out = append(w.out, 0, 0)
	}
}

// commit puts the file in the place of the last one.
func (w *tokenWriter) commit() error {
	if w == nil {
		return nil
	}
	w.flush()
	err := w.err
	if err == nil {
		_, err = w.f.Write(w.sum.Sum(nil))
	}
	if cerr := w.f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		os.Remove(w.f.Name())
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// abort removes the file, unless it was committed.
func (w *tokenWriter) abort() {
	if w == nil {
		return
	}
	w.f.Close()
	os.Remove(w.f.Name())
}

// lastTokens is what is known of the files of the last snapshot.
type lastTokens interface {
	// find returns what is known of a file that has this token, nil if nothing is. Paths are asked for in the order of the walk. What it returns is valid until the next call.
	find(ctx context.Context, path string, token []byte) *known
	close()
}

// last returns what is known of the last snapshot: from the cache, else from its tree, for whoever may read trees, else from its hints.
func (w *walker) last(series string, rank func(string) int) lastTokens {
	s := w.p.s
	if t := openTokens(s.repo, series, rank); t != nil {
		return t
	}
	if t := openLastTree(w.p.ctx, s, w.parent); t != nil {
		return t
	}
	if t := openHints(w.p.ctx, s, w.parent, series); t != nil {
		return t
	}
	return noTokens{}
}

type noTokens struct{}

func (noTokens) find(context.Context, string, []byte) *known { return nil }
func (noTokens) close()                                      {}

// known is what is known of a file: its token, what that answers for, and its pieces, if they are few, or a way to go through them.
type known struct {
	token  []byte
	xattrs []tree.Xattr
	typ    string
	meta   []tree.Pair
	pieces []tree.Piece
	stream iter.Seq2[tree.Piece, error] // instead of pieces
}

// lostPieces is why the pieces of a file cannot be had any more.
type lostPieces struct{ error }

func (l lostPieces) Unwrap() error { return l.error }

// each calls f with the pieces, at most n at a time, which f may keep. It ends with the first error; that of the pieces themselves is a lostPieces.
func (k *known) each(n int, f func([]tree.Piece) error) error {
	if k.stream == nil {
		if len(k.pieces) == 0 {
			return nil
		}
		return f(k.pieces)
	}
	var part []tree.Piece
	for p, err := range k.stream {
		if err != nil {
			return lostPieces{err}
		}
		if part = append(part, p); len(part) == n {
			if err := f(part); err != nil {
				return err
			}
			part = nil
		}
	}
	if len(part) == 0 {
		return nil
	}
	return f(part)
}

// A tokenReader reads along with a walk.
type tokenReader struct {
	f    *os.File
	size int64
	tokenParts
	rank func(top string) int // order of the walk among the entries of the root; negative for one that is no more

	path []byte
	known
	done bool
}

// openTokens opens the token file of a series; nil when there is none that is whole.
func openTokens(r *Repo, series string, rank func(string) int) *tokenReader {
	if r.cache == nil {
		return nil
	}
	f, err := os.Open(filepath.Join(r.cache.dir, "tokens", tokenFile(r, series)))
	if err != nil {
		return nil
	}
	// A list that is wrong would give a wrong snapshot: nothing of it counts before all of it was seen to be whole.
	st, err := f.Stat()
	size := int64(0)
	if err == nil {
		size = st.Size() - 32
	}
	h := tokenHash(r, series)
	var want [32]byte
	if err == nil && size >= 0 {
		_, err = io.CopyN(h, f, size)
	}
	if err == nil {
		_, err = io.ReadFull(f, want[:])
	}
	if err != nil || size < 0 || !bytes.Equal(h.Sum(nil), want[:]) {
		f.Close()
		return nil
	}
	t := &tokenReader{f: f, rank: rank, size: size, tokenParts: partsOf(f, 0, size)}
	t.next()
	return t
}

func (t *tokenReader) close() { t.f.Close() }

// tokenParts reads parts one after the other.
type tokenParts struct {
	r   *bufio.Reader
	off int64 // in the file, of what is read next
	err error // the first
}

func partsOf(f *os.File, off, end int64) tokenParts {
	return tokenParts{r: bufio.NewReaderSize(io.NewSectionReader(f, off, end-off), 64<<10), off: off}
}

func (t *tokenParts) number() uint64 {
	n := uint64(0)
	for shift := 0; t.err == nil && shift < 64; shift += 7 {
		var b byte
		if b, t.err = t.r.ReadByte(); t.err == nil {
			t.off++
		}
		if n |= uint64(b&0x7f) << shift; b < 0x80 {
			break
		}
	}
	return n
}

func (t *tokenParts) fill(b []byte) {
	if t.err == nil {
		_, t.err = io.ReadFull(t.r, b)
		t.off += int64(len(b))
	}
}

// text reads a string into b, which grows as it needs to.
func (t *tokenParts) text(b []byte) []byte {
	n := t.number()
	if n > tree.MaxEntry && t.err == nil {
		t.err = errTokens
	}
	if t.err != nil {
		return b[:0]
	}
	b = slices.Grow(b[:0], int(n))[:n]
	t.fill(b)
	return b
}

// The hash of a token file was right, so one that cannot be read changed since.
var errTokens = errors.New("repo: a token file that changed while it was read")

// head reads the head of a part.
func (t *tokenParts) head() (n int, last bool) {
	h := t.number()
	if h>>1 > tokenPieces && t.err == nil {
		t.err = errTokens
	}
	return int(h >> 1), h&1 != 0
}

// pieces reads the pieces of a part, of which the caller may keep everything.
func (t *tokenParts) pieces(n int) []tree.Piece {
	if n == 0 || t.err != nil {
		return nil
	}
	list, ids := make([]tree.Piece, n), make([]byte, n*len(pack.ID{}))
	for i := range list {
		length := t.number()
		if list[i].Length = length >> 1; length&1 != 0 {
			id := ids[:len(pack.ID{}):len(pack.ID{})]
			ids = ids[len(id):]
			t.fill(id)
			list[i].ID = id
		}
	}
	return list
}

// next reads the next file that has a token.
func (t *tokenReader) next() {
	begun := t.off
	t.known.pieces, t.stream = nil, nil
	for long := false; ; {
		n, last := t.head()
		pieces := t.tokenParts.pieces(n)
		if !last && t.err == nil {
			// More than one part: they are read again when they are wanted.
			long = true
			continue
		}
		end := t.off
		t.path = t.text(t.path)
		t.token = t.text(nil)
		t.xattrs, t.typ, t.meta = nil, "", nil
		if len(t.token) > 0 {
			for i := t.number(); i > 0 && t.err == nil; i-- {
				t.xattrs = append(t.xattrs, tree.Xattr{Name: t.text(nil), Value: t.text(nil)})
			}
			t.typ = string(t.text(nil))
			for i := t.number(); i > 0 && t.err == nil; i-- {
				t.meta = append(t.meta, tree.Pair{Key: string(t.text(nil)), Value: string(t.text(nil))})
			}
		}
		if t.err != nil {
			t.done = true
			return
		}
		if len(t.token) > 0 {
			if t.known.pieces = pieces; long {
				t.known.pieces, t.stream = nil, t.again(begun, end)
			}
			return
		}
		begun, long = t.off, false
	}
}

// again reads the pieces of the parts between two places.
func (t *tokenReader) again(begun, end int64) iter.Seq2[tree.Piece, error] {
	return func(yield func(tree.Piece, error) bool) {
		for p := partsOf(t.f, begun, end); p.off < end; {
			n, _ := p.head()
			list := p.pieces(n)
			if p.err != nil {
				yield(tree.Piece{}, p.err)
				return
			}
			for i := range list {
				if !yield(list[i], nil) {
					return
				}
			}
		}
	}
}

func (t *tokenReader) find(_ context.Context, path string, token []byte) *known {
	for !t.done {
		switch c := t.compare(t.path, path); {
		case c == 0 && bytes.Equal(t.token, token):
			return &t.known
		case c == 0:
			return nil
		case c > 0:
			return nil
		}
		t.next()
	}
	return nil
}

func (t *tokenReader) compare(a []byte, b string) int {
	c, slash := comparePaths(a, b)
	if c == 0 || slash {
		return c
	}
	// Else they part within the names of entries of the root, which may have another order.
	ta, _, _ := bytes.Cut(a, []byte("/"))
	tb, _, _ := strings.Cut(b, "/")
	if ra, rb := t.rank(string(ta)), t.rank(tb); ra != rb {
		return ra - rb
	}
	return c
}

// comparePaths compares in the order of a walk that sorts each folder by raw names: as strings, with the slash before all other bytes. below tells whether both begin with the
// same entry of the root.
func comparePaths(a []byte, b string) (c int, below bool) {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			switch {
			case x == '/':
				return -1, below
			case y == '/':
				return 1, below
			}
			return int(x) - int(y), below
		} else if x == '/' {
			below = true
		}
	}
	return len(a) - len(b), below
}
