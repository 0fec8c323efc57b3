package repo

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// SetHintFiles makes windows of hints smaller until the end of a test.
func SetHintFiles(t testing.TB, n int) {
	old := sizes.hintFiles
	t.Cleanup(func() { sizes.hintFiles = old })
	sizes.hintFiles = n
}

// HasHints tells whether a snapshot has hints.
func HasHints(s *Snapshot) bool { return s.hints != nil }

// HintBlobs returns the plaintext of all blobs of hints that r can find and read, chunks and lists, and the packs that hold them.
func HintBlobs(ctx context.Context, r *Repo) (blobs [][]byte, packs map[string]bool, err error) {
	v, err := r.look(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	packs = map[string]bool{}
	for id, c := range v.x.All() {
		if v.x.Kind(c.Frame) != crypt.SectionHint {
			continue
		}
		b, err := v.hint(ctx, id)
		if err != nil {
			return nil, nil, err
		}
		blobs = append(blobs, bytes.Clone(b))
		packs[packName(v.x.Pack(v.x.Frame(c.Frame).Pack).ID)] = true
	}
	return blobs, packs, nil
}

// HintChunks returns the chunks of a snapshot's hints.
func HintChunks(ctx context.Context, r *Repo, s *Snapshot) (chunks [][]byte, err error) {
	v, err := r.look(ctx, nil)
	if err != nil || s.hints == nil {
		return nil, err
	}
	for run, err := range tree.Pieces(ctx, v.hint, &tree.Entry{List: s.hints.ID, Size: s.hints.Length}, 0) {
		if err != nil {
			return nil, err
		}
		b, err := v.hint(ctx, pack.ID(run.ID))
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, bytes.Clone(b))
	}
	return chunks, nil
}

// ForgeHints makes a snapshot like another one of its series, with hints of its own. edit may change their list, nil leaves it.
func ForgeHints(ctx context.Context, r *Repo, like *Snapshot, chunks [][]byte, edit func([]tree.Piece) []tree.Piece) (*Snapshot, error) {
	f, err := NewForger(ctx, r, like.Series)
	if err != nil {
		return nil, err
	}
	defer f.s.end(ctx, true)
	var list []tree.Piece
	for _, c := range chunks {
		list = append(list, tree.Piece{Length: uint64(len(c)), ID: f.blob(crypt.SectionHint, c)})
	}
	if edit != nil {
		list = edit(list)
	}
	l := tree.NewList(func(node []byte) (pack.ID, error) { return pack.ID(f.blob(crypt.SectionHint, node)), nil })
	for i := range list {
		if err := l.Add(list[i].Length, list[i].ID); err != nil {
			return nil, err
		}
	}
	root, err := l.Root()
	if err != nil {
		return nil, err
	}
	key, err := pack.NewSectionKey(r.keys, crypt.SectionHint)
	if err != nil {
		return nil, err
	}
	w := pack.NewWriter(r.keys, nil)
	frame, sealed := pack.NewEncoder().Encode(nil, key, f.blobs[crypt.SectionHint-crypt.SectionContent].data)
	frame.Blobs = f.blobs[crypt.SectionHint-crypt.SectionContent].blobs
	if err := w.Add(key.Section, frame, sealed); err != nil {
		return nil, err
	}
	if err := f.store(ctx, w); err != nil {
		return nil, err
	}
	snap := &Snapshot{ID: f.s.id, Series: like.Series, Time: f.s.begun, End: f.s.begun, Version: Version, root: like.root, hints: &root}
	_, err = f.s.commit(ctx, snap)
	r.outdated()
	return snap, err
}

// recodeHints decodes a chunk of hints and encodes it again.
func recodeHints(b []byte) (out []byte, err error) {
	for len(b) > 0 {
		var p aPart
		if p, b, err = parsePart(b); err != nil {
			return nil, errors.Join(tree.ErrDamaged, err)
		}
		list, err := parsePieces(p.pieces, p.n)
		if err != nil {
			return nil, err // parsePart has seen them
		}
		w := &hintWriter{}
		for i := range list {
			w.part.n = 0 // no part ends
			if err := w.piece(list[i].Length, list[i].ID); err != nil {
				return nil, err
			}
		}
		p.pieces = w.part.pieces
		out = p.append(out)
	}
	return out, nil
}

// hintSeed is chunks of hints: of a file with more pieces than a part has, of one that was taken back, and of one with attributes.
func hintSeed() (chunks [][]byte) {
	id := bytes.Repeat([]byte{7}, 32)
	w := newHintWriter([32]byte{1}, func(b []byte) (pack.ID, error) {
		chunks = append(chunks, bytes.Clone(b))
		return pack.ID(bytes.Repeat([]byte{byte(len(chunks))}, 32)), nil
	})
	w.piece(9, id)
	for i := range hintPieces + 1 {
		w.piece(uint64(i)%9+1, nil)
	}
	w.piece(9, id)
	w.file("a", &tree.Entry{Token: id[:16]})
	for range hintPieces + 1 {
		w.piece(1, nil)
	}
	w.drop()
	w.piece(5, id)
	w.file("b/c", &tree.Entry{Token: id[:16], Xattrs: []tree.Xattr{{Name: []byte("user.x"), Value: []byte("y")}}, Type: "text/plain", Meta: []tree.Pair{{Key: "k", Value: "v"}}})
	w.end()
	return chunks
}
