package repo

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// assembler turns the walk into trees and what is new into frames. It is the pipeline's one place where blobs are looked up.
type assembler struct {
	p      *pipeline
	own    index.Set // blobs that this session stores
	namer  *crypt.Namer
	gather [3]*frameBuf // by kind
	hints  *hintWriter  // nil: none are stored

	stack []folder
	list  *tree.List
}

type folder struct {
	nodes *tree.Folder
	held  []*tree.Entry // of a folder whose entries do not come in order
	hold  bool
}

func (p *pipeline) assemble() error {
	defer close(p.encode)
	a := &assembler{p: p, namer: p.s.repo.keys.Namer()}
	defer a.own.Close()
	a.list = tree.NewList(a.node)
	if p.hintKey != nil {
		a.hints = newHintWriter(*p.hintKey, a.hint)
	}
	split := p.s.repo.keys.Splitter()
	for {
		b, ok, err := take(p.ctx, p.ordered)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		select {
		case <-b.named:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
		if err := a.run(b, split.Split); err != nil {
			return err
		}
		p.free <- b
	}
	for i := range a.gather {
		if err := a.flush(i); err != nil {
			return err
		}
	}
	return nil
}

func (a *assembler) run(b *batch, split tree.Split) error {
	c := &a.p.counts
	for i := range b.ops {
		o := &b.ops[i]
		var err error
		switch o.kind {
		case opChunk:
			ref := &b.chunks[o.n]
			var fresh bool
			if fresh, err = a.store(crypt.SectionContent, ref.id, b.data[ref.off:ref.off+ref.len]); fresh {
				c.fresh.Add(int64(ref.len))
			}
			if err == nil {
				err = a.piece(uint64(ref.len), ref.id[:])
			}
		case opHole:
			err = a.piece(uint64(o.n), nil)
		case opUntold:
			a.p.tokens.skip()
			a.hints.skip()
		case opKnown:
			for j := range o.pieces {
				if err = a.piece(o.pieces[j].Length, o.pieces[j].ID); err != nil {
					break
				}
			}
		case opDrop:
			a.list.Reset()
			a.p.tokens.drop()
			err = a.hints.drop()
		case opFile:
			if err = a.list.Finish(o.entry); err == nil {
				a.p.tokens.end(o.path, o.entry)
				err = a.hints.file(o.path, o.entry)
			}
			a.list.Reset()
			if err == nil {
				c.files.Add(1)
				c.bytes.Add(int64(o.entry.Size))
				err = a.entry(o.entry)
			}
		case opEntry:
			c.others.Add(1)
			err = a.entry(o.entry)
		case opEnter:
			a.stack = append(a.stack, folder{nodes: tree.NewFolder(a.node, split), hold: o.n == 1})
		case opUnread:
			var id pack.ID
			if id, err = a.node(o.node); err == nil {
				a.p.unread = &id
			}
		case opLeave, opRoot:
			err = a.leave(o.entry, o.kind == opRoot)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *assembler) piece(length uint64, id []byte) error {
	a.p.tokens.piece(length, id)
	if err := a.hints.piece(length, id); err != nil {
		return err
	}
	return a.list.Add(length, id)
}

func (a *assembler) entry(e *tree.Entry) error {
	f := &a.stack[len(a.stack)-1]
	if f.hold {
		f.held = append(f.held, e)
		return nil
	}
	return f.nodes.Add(e)
}

func (a *assembler) leave(e *tree.Entry, root bool) error {
	f := a.stack[len(a.stack)-1]
	a.stack = a.stack[:len(a.stack)-1]
	slices.SortFunc(f.held, func(x, y *tree.Entry) int { return bytes.Compare(x.Name, y.Name) })
	for _, h := range f.held {
		if err := f.nodes.Add(h); err != nil {
			return err
		}
	}
	id, err := f.nodes.Finish()
	if err != nil {
		return err
	}
	e.Folder = id[:]
	a.p.counts.folders.Add(1)
	if !root {
		return a.entry(e)
	}
	node, err := tree.Root(e)
	if err != nil {
		return err
	}
	if a.p.root, err = a.node(node); err != nil {
		return err
	}
	a.p.hints, err = a.hints.finish()
	return err
}

// node is tree.Store.
func (a *assembler) node(data []byte) (pack.ID, error) {
	if len(data) > tree.MaxNode {
		return pack.ID{}, fmt.Errorf("a tree node of %d bytes", len(data))
	}
	id := pack.ID(a.namer.Tree(data))
	_, err := a.store(crypt.SectionTree, id, data)
	return id, err
}

// hint is tree.Store of hints: their chunks, and the nodes that list these.
func (a *assembler) hint(data []byte) (pack.ID, error) {
	if len(data) > hintMost {
		return pack.ID{}, fmt.Errorf("%d bytes of hints", len(data))
	}
	id := pack.ID(a.namer.Hint(data))
	_, err := a.store(crypt.SectionHint, id, data)
	return id, err
}

// store adds a blob to the frame that is being gathered, unless the repository has it or this session stored it before.
func (a *assembler) store(kind uint8, id pack.ID, data []byte) (fresh bool, err error) {
	if a.p.s.view.x.Has(id, kind, uint32(len(data))) || !a.own.Add(id) {
		return false, nil
	}
	i, target := int(kind-crypt.SectionContent), sizes.contentFrame
	if kind != crypt.SectionContent {
		target = sizes.treeFrame
	}
	if f := a.gather[i]; f != nil && (len(f.data)+len(data) > target || len(f.blobs) == frameBlobs) {
		if err := a.flush(i); err != nil {
			return false, err
		}
	}
	if a.gather[i] == nil {
		f, _, err := take(a.p.ctx, a.p.frames)
		if err != nil {
			return false, err
		}
		f.kind = kind
		a.gather[i] = f
	}
	f := a.gather[i]
	if f.data == nil {
		f.data = make([]byte, 0, max(sizes.contentFrame, len(data)))
	}
	f.data = append(f.data, data...)
	f.blobs = append(f.blobs, pack.Blob{ID: id, Length: uint32(len(data))})
	return true, nil
}

func (a *assembler) flush(i int) error {
	f := a.gather[i]
	if f == nil {
		return nil
	}
	a.gather[i] = nil
	return give(a.p.ctx, a.p.encode, f)
}
