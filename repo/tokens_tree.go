package repo

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// lastTree finds change tokens in the tree of the last snapshot, where there is no token file. It reads along with the walk: of each folder on the way to the file that was
// asked for last it holds the place that it has come to. What it cannot read it does not know, and then files are read again.
type lastTree struct {
	s     *session
	load  tree.Load
	ctx   context.Context // of the walk
	root  pack.ID
	begun bool
	path  []*lastFolder // the root first
	known known
}

// lastFolder is how far the entries of a folder were read.
type lastFolder struct {
	name  string
	id    pack.ID
	next  func() (*tree.Entry, error, bool)
	stop  func()
	entry *tree.Entry // the one that was read last; nil behind the end, or before the begin
	asked string      // the name that was looked for last
}

// lastTreeMemory bounds the frames that are remembered meanwhile: nodes are read once, in about the order in which they were written.
const lastTreeMemory = 4 << 20

// openLastTree returns nil where there is no last snapshot, or its tree may not be read.
func openLastTree(ctx context.Context, s *session, parent *Snapshot) lastTokens {
	if parent == nil || s.repo.keys.Role() == crypt.Writer {
		return nil
	}
	s.view.limit = min(s.view.limit, lastTreeMemory)
	return &lastTree{s: s, load: s.view.node, ctx: ctx, root: parent.root}
}

// open reads the root when the first file with a token asks for it: what has none costs no request.
func (t *lastTree) open() bool {
	if t.begun {
		return len(t.path) > 0
	}
	t.begun = true
	root, err := tree.LoadRoot(t.ctx, t.load, t.root)
	if err != nil {
		t.warn(err)
		return false
	}
	t.path = []*lastFolder{{id: pack.ID(root.Folder)}}
	return true
}

func (t *lastTree) close() {
	for _, f := range t.path {
		f.close()
	}
}

func (f *lastFolder) close() {
	if f.stop != nil {
		f.stop()
	}
	f.next, f.stop, f.entry, f.asked = nil, nil, nil, ""
}

func (t *lastTree) warn(err error) {
	if t.ctx.Err() == nil && !errors.Is(err, ErrRole) {
		t.s.repo.opts.Logger.Warn("a part of the last snapshot cannot be read, so its files are read again", "error", err)
	}
}

// seek returns the entry of a name, nil if there is none. Where names do not come in order, as among the parts of a joined source, it begins anew.
func (t *lastTree) seek(f *lastFolder, name string) *tree.Entry {
	if f.stop != nil && name < f.asked {
		f.close()
	}
	if f.stop == nil {
		f.next, f.stop = iter.Pull2(tree.Entries(t.ctx, t.load, f.id))
		f.read(t)
	}
	f.asked = name
	for f.entry != nil && string(f.entry.Name) < name {
		f.read(t)
	}
	if f.entry == nil || string(f.entry.Name) != name {
		return nil
	}
	return f.entry
}

// read goes to the next entry.
func (f *lastFolder) read(t *lastTree) {
	e, err, ok := f.next()
	if err != nil {
		t.warn(err)
	}
	if !ok || err != nil {
		e = nil
	}
	f.entry = e
}

func (t *lastTree) find(_ context.Context, path string, token []byte) *known {
	if !t.open() {
		return nil
	}
	for depth := 0; ; depth++ {
		name, rest, below := strings.Cut(path, "/")
		if depth+1 < len(t.path) && (!below || t.path[depth+1].name != name) {
			for _, f := range t.path[depth+1:] {
				f.close()
			}
			t.path = t.path[:depth+1]
		}
		if depth+1 == len(t.path) {
			e := t.seek(t.path[depth], name)
			switch {
			case e == nil || below != e.IsDir():
				return nil
			case !below:
				return t.knownOf(e, token)
			}
			t.path = append(t.path, &lastFolder{name: name, id: pack.ID(e.Folder)})
		}
		path = rest
	}
}

func (t *lastTree) knownOf(e *tree.Entry, token []byte) *known {
	if !e.IsRegular() || !bytes.Equal(e.Token, token) {
		return nil
	}
	t.known = known{token: e.Token, xattrs: e.Xattrs, typ: e.Type, meta: e.Meta, pieces: e.Inline}
	if len(e.List) > 0 {
		t.known.stream = func(yield func(tree.Piece, error) bool) {
			for run, err := range tree.Pieces(t.ctx, t.load, e, 0) {
				if !yield(run.Piece, err) {
					return
				}
			}
		}
	}
	return &t.known
}
