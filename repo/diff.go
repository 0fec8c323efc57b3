package repo

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Change is a difference between two snapshots. A nil Before says that the entry was added, a nil After that it was removed.
type Change struct {
	Path          string // as FS spells it; "." is the root
	Before, After fs.FileInfo
	Content       bool // the content, link target or type differs, not only metadata
}

// Diff yields what changed from a to b, folder by folder, in order of raw names. Folders with equal content are not read. An added or removed
// folder is one change, and what is below it is not listed; so is a folder that became something else, or the other way round. It ends with the first error.
//
// Content is compared by the names of its chunks, and not read: the same bytes, once of a stream and once of a file, or once with a hole and once with zeros, are different. Which
// files are hard links of each other counts only as far as whether a file is one.
func (r *Repo) Diff(ctx context.Context, a, b *Snapshot) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		x, err := tree.LoadRoot(ctx, r.node, a.root)
		if err != nil {
			yield(Change{}, fmt.Errorf("snapshot %s: %w", a.ID, err))
			return
		}
		y, err := tree.LoadRoot(ctx, r.node, b.root)
		if err != nil {
			yield(Change{}, fmt.Errorf("snapshot %s: %w", b.ID, err))
			return
		}
		r.diffEntry(ctx, "", x, y, yield)
	}
}

func (r *Repo) diffFolders(ctx context.Context, dir string, x, y *tree.Entry, yield func(Change, error) bool) bool {
	next, stop := iter.Pull2(tree.Entries(ctx, r.node, pack.ID(x.Folder)))
	defer stop()
	older, err, more := next()
	advance := func() {
		older, err, more = next()
	}
	for newer, nerr := range tree.Entries(ctx, r.node, pack.ID(y.Folder)) {
		if nerr != nil {
			yield(Change{}, nerr)
			return false
		}
		for ; more && err == nil && bytes.Compare(older.Name, newer.Name) < 0; advance() {
			if !yield(Change{Path: child(dir, older), Before: infoOf(older), Content: true}, nil) {
				return false
			}
		}
		if err != nil {
			break
		}
		if !more || !bytes.Equal(older.Name, newer.Name) {
			if !yield(Change{Path: child(dir, newer), After: infoOf(newer), Content: true}, nil) {
				return false
			}
			continue
		}
		if !r.diffEntry(ctx, dir, older, newer, yield) {
			return false
		}
		advance()
	}
	for ; more && err == nil; advance() {
		if !yield(Change{Path: child(dir, older), Before: infoOf(older), Content: true}, nil) {
			return false
		}
	}
	if err != nil {
		yield(Change{}, err)
		return false
	}
	return true
}

func (r *Repo) diffEntry(ctx context.Context, dir string, x, y *tree.Entry, yield func(Change, error) bool) bool {
	content := x.Mode&tree.ModeType != y.Mode&tree.ModeType || !bytes.Equal(x.Target, y.Target) || x.Size != y.Size || !bytes.Equal(x.List, y.List) ||
		!samePieces(x.Inline, y.Inline)
	meta := content
	if !meta {
		// The metadata differ when anything does but the folder below and the token.
		p, q := *x, *y
		p.Folder, q.Folder, p.Token, q.Token = nil, nil, nil, nil
		// The numbers of a link group mean something within one snapshot only.
		if p.Link != nil && q.Link != nil {
			p.Link, q.Link = nil, nil
		}
		a, aerr := tree.Marshal(&p)
		b, berr := tree.Marshal(&q)
		meta = aerr != nil || berr != nil || !bytes.Equal(a, b)
	}
	path := child(dir, y)
	if meta && !yield(Change{Path: path, Before: infoOf(x), After: infoOf(y), Content: content}, nil) {
		return false
	}
	if x.IsDir() && y.IsDir() && !bytes.Equal(x.Folder, y.Folder) {
		return r.diffFolders(ctx, path, x, y, yield)
	}
	return true
}

func samePieces(a, b []tree.Piece) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Length != b[i].Length || !bytes.Equal(a[i].ID, b[i].ID) {
			return false
		}
	}
	return true
}

func child(dir string, e *tree.Entry) string {
	if len(e.Name) == 0 {
		return "."
	}
	return join(dir, Escape(string(e.Name)))
}

func infoOf(e *tree.Entry) fs.FileInfo { return &fileInfo{name: child("", e), e: e} }
