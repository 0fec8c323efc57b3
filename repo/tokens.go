package repo

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/repo/internal/tree"
)

// A token file holds, for each file of a series' last snapshot that has a change token, the token and the list of its chunks, in the order of the walk: the next walk
// reads along, in constant memory, and does not read a file whose token is the same and whose every chunk is still present. It is a sequence of tokenRecords, then a
// keyed hash of all before.

// tokenRecord is a part of a file's chunk list; the last part has the path and the token. A last part without a token takes back those before.
type tokenRecord struct {
	_      struct{} `cbor:",toarray"`
	Pieces []tree.Piece
	End    bool
	Path   []byte
	Token  []byte
	Xattrs []tree.Xattr // the token answers for them too, and for what follows
	Type   string
	Meta   []tree.Pair
}

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
	buf  *bufio.Writer
	enc  *cbor.Encoder
	rec  tokenRecord
	part bool  // some of the current file was written
	mute bool  // the current file has no token
	err  error // the first; nothing is written after it
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
	w := &tokenWriter{f: f, path: filepath.Join(dir, tokenFile(r, series)), sum: tokenHash(r, series)}
	w.buf = bufio.NewWriterSize(io.MultiWriter(f, w.sum), 64<<10)
	w.enc = tree.NewEncoder(w.buf)
	return w
}

func tokenHash(r *Repo, series string) hash.Hash {
	h, err := blake3.NewKeyed(r.cache.key[:])
	if err != nil {
		panic("repo: " + err.Error()) // the key has 32 bytes
	}
	h.WriteString("tokens/" + tokenFile(r, series) + "\x00")
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
	if len(w.rec.Pieces) == tokenPieces {
		w.write()
		w.part = true
	}
	n := len(w.rec.Pieces)
	if n < cap(w.rec.Pieces) {
		w.rec.Pieces = w.rec.Pieces[:n+1]
	} else {
		w.rec.Pieces = append(w.rec.Pieces, tree.Piece{})
	}
	p := &w.rec.Pieces[n]
	p.Length, p.ID = length, append(p.ID[:0], id...)
}

func (w *tokenWriter) write() {
	if w.err == nil {
		w.err = w.enc.Encode(&w.rec)
	}
	w.rec = tokenRecord{Pieces: w.rec.Pieces[:0]}
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
	w.rec.End, w.rec.Path, w.rec.Token, w.rec.Xattrs, w.rec.Type, w.rec.Meta = true, []byte(path), e.Token, e.Xattrs, e.Type, e.Meta
	w.write()
}

// drop takes back the current file.
func (w *tokenWriter) drop() {
	if w == nil {
		return
	}
	w.rec.Pieces, w.mute = w.rec.Pieces[:0], false
	if w.part {
		w.part = false
		w.rec.End = true
		w.write()
	}
}

// commit puts the file in the place of the last one.
func (w *tokenWriter) commit() error {
	if w == nil {
		return nil
	}
	err := w.err
	if err == nil {
		err = w.buf.Flush()
	}
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

// A tokenReader reads along with a walk. All methods of a nil one find nothing.
type tokenReader struct {
	f    *os.File
	dec  *cbor.Decoder
	rank func(top string) int // order of the walk among the entries of the root; negative for one that is no more

	path string
	known
	done bool
}

// known is what a token file knows of a file.
type known struct {
	token  []byte
	pieces []tree.Piece
	xattrs []tree.Xattr
	typ    string
	meta   []tree.Pair
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
	t := &tokenReader{f: f, rank: rank, dec: tree.NewDecoder(bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 64<<10))}
	t.next()
	return t
}

func (t *tokenReader) close() {
	if t != nil {
		t.f.Close()
	}
}

// next reads the next file that has a token.
func (t *tokenReader) next() {
	t.pieces = nil
	for {
		var rec tokenRecord
		if err := t.dec.Decode(&rec); err != nil {
			if !errors.Is(err, io.EOF) {
				// The hash was right, so the file changed under us: no more of it.
				t.pieces = nil
			}
			t.done = true
			return
		}
		t.pieces = append(t.pieces, rec.Pieces...)
		if !rec.End {
			continue
		}
		if len(rec.Token) == 0 {
			t.pieces = nil
			continue
		}
		t.path, t.token, t.xattrs, t.typ, t.meta = string(rec.Path), rec.Token, rec.Xattrs, rec.Type, rec.Meta
		return
	}
}

// find returns what is known of a file, nil if nothing is. Paths are asked for in the order of the walk. It is valid until the next call.
func (t *tokenReader) find(path string) *known {
	if t == nil {
		return nil
	}
	for !t.done {
		switch c := t.compare(t.path, path); {
		case c == 0:
			return &t.known
		case c > 0:
			return nil
		}
		t.next()
	}
	return nil
}

func (t *tokenReader) compare(a, b string) int {
	ta, _, _ := strings.Cut(a, "/")
	tb, _, _ := strings.Cut(b, "/")
	if ta != tb {
		if ra, rb := t.rank(ta), t.rank(tb); ra != rb {
			return ra - rb
		}
	}
	return comparePaths(a, b)
}

// comparePaths compares in the order of a walk that sorts each folder by raw names: as strings, with the slash before all other bytes.
func comparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			switch {
			case x == '/':
				return -1
			case y == '/':
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
