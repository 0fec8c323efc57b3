package repo

import (
	"context"
	"fmt"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// LimitMemory lets r use less memory than Options allow, so that little data comes to the limits.
func LimitMemory(r *Repo, n int64) { r.opts.MaxMemory = n }

// A Forger makes snapshots that no backup makes, as a thief of a writer's key could.
type Forger struct {
	r     *Repo
	s     *session
	blobs [3]frameBuf // by kind
}

// NewForger begins a session.
func NewForger(ctx context.Context, r *Repo, series string) (*Forger, error) {
	s, err := r.begin(ctx, series)
	return &Forger{r: r, s: s}, err
}

// Node keeps a tree node, whatever it is, and returns its id.
func (f *Forger) Node(v any) []byte {
	b, err := tree.Marshal(v)
	if err != nil {
		panic(err)
	}
	return f.blob(crypt.SectionTree, b)
}

// Chunk keeps some content and returns its id.
func (f *Forger) Chunk(data []byte) []byte { return f.blob(crypt.SectionContent, data) }

func (f *Forger) blob(kind uint8, b []byte) []byte {
	id := f.r.id(kind, b)
	buf := &f.blobs[kind-crypt.SectionContent]
	buf.kind, buf.data = kind, append(buf.data, b...)
	buf.blobs = append(buf.blobs, pack.Blob{ID: id, Length: uint32(len(b))})
	return id[:]
}

// Commit makes a snapshot whose root node is root.
func (f *Forger) Commit(ctx context.Context, root []byte) (*Snapshot, error) {
	w := pack.NewWriter(f.r.keys, nil)
	enc := pack.NewEncoder()
	for i := range f.blobs {
		b := &f.blobs[i]
		if len(b.data) == 0 {
			continue
		}
		key, err := pack.NewSectionKey(f.r.keys, b.kind)
		if err != nil {
			return nil, err
		}
		for data, blobs := b.data, b.blobs; len(blobs) > 0; {
			n, size := 0, 0
			for n < len(blobs) && n < 1000 && size < sizes.contentFrame {
				size += int(blobs[n].Length)
				n++
			}
			frame, sealed := enc.Encode(nil, key, data[:size])
			frame.Blobs = blobs[:n]
			if err := w.Add(key.Section, frame, sealed); err != nil {
				return nil, err
			}
			data, blobs = data[size:], blobs[n:]
		}
	}
	if err := f.store(ctx, w); err != nil {
		return nil, err
	}
	snap := &Snapshot{ID: f.s.id, Series: "forged", Time: f.s.begun, End: f.s.begun, Version: Version, root: pack.ID(root)}
	_, err := f.s.commit(ctx, snap)
	f.s.end(ctx, err == nil)
	f.r.outdated()
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	return snap, nil
}

// store puts a pack, and a segment that names it.
func (f *Forger) store(ctx context.Context, w *pack.Writer) error {
	id, data, dir, err := w.Close()
	if err != nil {
		return err
	}
	if err := f.s.putPack(ctx, id, data); err != nil {
		return err
	}
	_, err = f.s.putSegment(ctx, []index.Pack{{ID: id, Size: uint32(len(data)), Dir: dir}})
	return err
}
