package repo

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Hints are for writers that may not read trees and keep nothing on a disk: what a token file holds, stored with the snapshot, readable with every key, and without
// names. The bytes are specified in docs/FORMAT.md, section 7: a sequence of parts in the order of the walk. Some parts make a chunk, a blob of the kind of hints;
// chunks end where a keyed hash says, so an unchanged day stores none. The chunks make a content like a file's, whose root stands in the manifest.
//
// A file is found by the hash of its path. What its token answers for lies under a key that derives from path and token: who does not know both learns nothing of it.

// What a part is: the low bits of its first number.
const (
	hintMore = 0 // some pieces of a file
	hintLast = 1 // the last of a file
	hintDrop = 2 // takes back the parts before, of a file without a token
)

const (
	hintHash  = 16           // bytes of the hashes of path and token
	hintPart  = 64           // pieces, at least, of a part that is not the last
	hintChunk = 64 << 10     // bytes: the chunk ends
	hintSplit = 1 << 58      // one in 64 paths ends a chunk
	hintCut   = 1 << 55      // one in 512 pieces ends a part
	hintMost  = tree.MaxNode // bytes of a chunk
)

// hintPieces bounds the pieces of a part.
const hintPieces = tokenPieces

var errHints = errors.New("repo: no hints as a writer makes them")

// hintKey names paths and seals what tokens answer for. It is for one goroutine.
type hintKey struct {
	h   *blake3.Hasher
	buf []byte
}

func newHintKey(key [32]byte) *hintKey {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("repo: " + err.Error()) // the key has 32 bytes
	}
	return &hintKey{h: h}
}

// path returns the hash of a path.
func (k *hintKey) path(path string) (hash [hintHash]byte) {
	k.h.Reset()
	k.buf = append(append(k.buf[:0], 1), path...)
	k.h.Write(k.buf)
	k.buf = k.h.Sum(k.buf[:0])
	return [hintHash]byte(k.buf)
}

// bound begins a hash of what belongs to a path and its token.
func (k *hintKey) bound(what byte, path string, token []byte) {
	k.h.Reset()
	k.buf = append(k.buf[:0], what, byte(len(token)))
	k.buf = append(k.buf, token...)
	k.buf = binary.LittleEndian.AppendUint32(k.buf, uint32(len(path)))
	k.buf = append(k.buf, path...)
	k.h.Write(k.buf)
}

// check returns the hash of a token and of what it answers for.
func (k *hintKey) check(path string, token, extras []byte) (hash [hintHash]byte) {
	k.bound(2, path, token)
	k.h.Write(extras)
	k.buf = k.h.Sum(k.buf[:0])
	return [hintHash]byte(k.buf)
}

// seal seals extras, or opens them, in place. The check depends on them, so no two of them share a key stream.
func (k *hintKey) seal(path string, token []byte, check [hintHash]byte, extras []byte) {
	if len(extras) == 0 {
		return
	}
	k.bound(3, path, token)
	k.h.Write(check[:])
	stream := make([]byte, len(extras))
	k.h.Digest().Read(stream) // never fails
	for i := range extras {
		extras[i] ^= stream[i]
	}
}

// hintExtras is what a token answers for besides the content.
type hintExtras struct {
	_      struct{} `cbor:",toarray"`
	Xattrs []tree.Xattr
	Type   string
	Meta   []tree.Pair
}

// aPart is one part of a hint list. Its slices are views.
type aPart struct {
	kind        int
	n           int
	pieces      []byte // encoded
	path, check [hintHash]byte
	extras      []byte // sealed
}

// append appends the part to b.
func (p *aPart) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.n)<<2|uint64(p.kind))
	b = append(b, p.pieces...)
	if p.kind == hintLast {
		b = append(append(b, p.path[:]...), p.check[:]...)
		b = append(binary.AppendUvarint(b, uint64(len(p.extras))), p.extras...)
	}
	return b
}

// hintNumber reads a number, in its shortest form.
func hintNumber(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || size > 1 && b[size-1] == 0 {
		return 0, nil, errHints
	}
	return n, b[size:], nil
}

// parsePart reads the part that b begins with.
func parsePart(b []byte) (p aPart, rest []byte, err error) {
	head, rest, err := hintNumber(b)
	if err != nil || head>>2 > hintPieces || head&3 > hintDrop || head == hintMore || head&3 == hintDrop && head != hintDrop {
		return p, nil, errHints
	}
	p.kind, p.n = int(head&3), int(head>>2)
	start := rest
	for range p.n {
		if _, rest, err = parsePiece(rest); err != nil {
			return p, nil, err
		}
	}
	p.pieces = start[:len(start)-len(rest)]
	if p.kind != hintLast {
		return p, rest, nil
	}
	if len(rest) < 2*hintHash {
		return p, nil, errHints
	}
	p.path, p.check = [hintHash]byte(rest), [hintHash]byte(rest[hintHash:])
	n, rest, err := hintNumber(rest[2*hintHash:])
	if err != nil || n > uint64(len(rest)) {
		return p, nil, errHints
	}
	p.extras, rest = rest[:n], rest[n:]
	return p, rest, nil
}

// parsePiece reads the piece that b begins with. Its id is a view.
func parsePiece(b []byte) (p tree.Piece, rest []byte, err error) {
	n, rest, err := hintNumber(b)
	if p.Length = n >> 1; err != nil || p.Length == 0 {
		return p, nil, errHints
	}
	if n&1 != 0 {
		if len(rest) < len(pack.ID{}) || p.Length > pack.MaxPlain {
			return p, nil, errHints
		}
		p.ID, rest = rest[:len(pack.ID{}):len(pack.ID{})], rest[len(pack.ID{}):]
	}
	return p, rest, nil
}

// parsePieces reads the pieces of a part, whose ids are views.
func parsePieces(b []byte, n int) ([]tree.Piece, error) {
	if n == 0 {
		return nil, nil
	}
	list := make([]tree.Piece, n)
	var err error
	for i := range list {
		if list[i], b, err = parsePiece(b); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// A hintWriter stores the hints of a session, along with its tree. All methods of a nil one do nothing. It is for one goroutine.
type hintWriter struct {
	key   *hintKey
	store tree.Store // of blobs of the kind of hints
	list  *tree.List
	chunk []byte // that is being filled
	part  aPart  // that was begun
	begun bool   // parts of the current file were written
	mute  bool   // the current file has no token
}

func newHintWriter(key [32]byte, store tree.Store) *hintWriter {
	return &hintWriter{key: newHintKey(key), store: store, list: tree.NewList(store)}
}

// skip says that the file whose pieces come next has no token.
func (w *hintWriter) skip() {
	if w != nil {
		w.mute = true
	}
}

func (w *hintWriter) piece(length uint64, id []byte) error {
	if w == nil || w.mute {
		return nil
	}
	// A long list is cut by what is in it, so that what was inserted into a file does not move all that follows.
	if p := &w.part; p.n == hintPieces || p.n >= hintPart && hintEnds(p.pieces) {
		if err := w.flush(hintMore); err != nil {
			return err
		}
		if err := w.end(); err != nil {
			return err
		}
		w.begun = true
	}
	w.part.n++
	if len(id) == 0 {
		w.part.pieces = binary.AppendUvarint(w.part.pieces, length<<1)
		return nil
	}
	w.part.pieces = append(binary.AppendUvarint(w.part.pieces, length<<1|1), id...)
	return nil
}

// hintEnds tells whether the last of some pieces ends a part.
func hintEnds(pieces []byte) bool {
	return binary.LittleEndian.Uint64(pieces[len(pieces)-8:]) < hintCut
}

// flush ends the part.
func (w *hintWriter) flush(kind int) error {
	w.part.kind = kind
	w.chunk = w.part.append(w.chunk)
	w.part = aPart{pieces: w.part.pieces[:0]}
	if len(w.chunk) >= hintChunk {
		return w.end()
	}
	return nil
}

// end ends the chunk.
func (w *hintWriter) end() error {
	if len(w.chunk) == 0 {
		return nil
	}
	id, err := w.store(w.chunk)
	if err == nil {
		err = w.list.Add(uint64(len(w.chunk)), id[:])
	}
	w.chunk = w.chunk[:0]
	return err
}

// file ends the current file.
func (w *hintWriter) file(path string, e *tree.Entry) error {
	if w == nil {
		return nil
	}
	if len(e.Token) == 0 || w.mute {
		return w.drop()
	}
	var extras []byte
	if len(e.Xattrs) > 0 || e.Type != "" || len(e.Meta) > 0 {
		var err error
		if extras, err = tree.Marshal(&hintExtras{Xattrs: e.Xattrs, Type: e.Type, Meta: e.Meta}); err != nil {
			return fmt.Errorf("hints: %w", err)
		}
		if len(extras) > tree.MaxEntry { // of at most half as much: see describe
			return w.drop()
		}
	}
	p := &w.part
	p.path, p.check = w.key.path(path), w.key.check(path, e.Token, extras)
	w.key.seal(path, e.Token, p.check, extras)
	p.extras = extras
	ends := binary.LittleEndian.Uint64(p.path[:]) < hintSplit
	w.begun = false
	if err := w.flush(hintLast); err != nil {
		return err
	}
	if ends {
		return w.end()
	}
	return nil
}

// drop takes back the current file.
func (w *hintWriter) drop() error {
	if w == nil {
		return nil
	}
	w.part, w.mute = aPart{pieces: w.part.pieces[:0]}, false
	if !w.begun {
		return nil
	}
	w.begun = false
	return w.flush(hintDrop)
}

// finish returns the root; nil when there are no hints.
func (w *hintWriter) finish() (*tree.Piece, error) {
	if w == nil {
		return nil, nil
	}
	if err := w.end(); err != nil {
		return nil, err
	}
	root, err := w.list.Root()
	if err != nil || root.Length == 0 {
		return nil, err
	}
	return &root, nil
}

// hintRoots returns the roots of the hints of the newest of some snapshots, of each series.
func hintRoots(snaps []*Snapshot) []pack.ID {
	newest := map[string]*Snapshot{}
	for _, s := range snaps {
		if n := newest[s.Series]; n == nil || n.ID < s.ID {
			newest[s.Series] = s
		}
	}
	var roots []pack.ID
	for _, series := range sortedKeys(newest) {
		if h := newest[series].hints; h != nil {
			roots = append(roots, pack.ID(h.ID))
		}
	}
	return roots
}

// hinted tells whether a session stores hints: whoever may read trees does without, and so does a host with a cache.
func hinted(r *Repo, tokens *tokenWriter) bool {
	return r.keys.Role() == crypt.Writer && tokens == nil
}
