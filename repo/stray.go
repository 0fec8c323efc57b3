package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// A stray is a stored pack that no segment names: its session is still running or died, or its segment is lost. Writers never look for any: what is in
// them may be freed at any time. For readers they are the last resort.
type stray struct {
	id      pack.ID
	payload []byte // of a segment that would name it
	stored  int64
	err     error // why its directory cannot be read
}

// strays reads the directories of the given packs that v does not know and that no verdict names.
func (v *view) strays(ctx context.Context, packs map[pack.ID]backend.Info) ([]stray, error) {
	known := make(map[pack.ID]bool, v.x.Packs())
	for i := range v.x.Packs() {
		known[v.x.Pack(uint32(i)).ID] = true
	}
	var found []stray
	for id, info := range packs {
		if !known[id] && v.maint.of(id) != index.Freed {
			found = append(found, stray{id: id, stored: info.Modified.Unix()})
		}
	}
	slices.SortFunc(found, func(a, b stray) int { return bytes.Compare(a.id[:], b.id[:]) })
	gone := make([]bool, len(found))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range found {
		g.Go(func() error {
			s := &found[i]
			size := packs[s.id].Size
			d, err := pack.ReadDirectory(v.repo.keys, &objectReader{gctx, v.repo.backend, packName(s.id)}, size)
			_, later := errors.AsType[*pack.VersionError](err)
			switch {
			case err == nil:
				s.payload = index.EncodeSegment(strings.Repeat("0", index.SessionSize), []index.Pack{{ID: s.id, Size: uint32(size), Dir: d}})
			case later || errors.Is(err, pack.ErrDamaged):
				s.err = fmt.Errorf("%s: %w", packName(s.id), err)
			case errors.Is(err, fs.ErrNotExist):
				gone[i] = true
			default:
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	left := found[:0]
	for i := range found {
		if !gone[i] {
			left = append(left, found[i])
		}
	}
	return left, nil
}

// objectReader reads ranges of an object.
type objectReader struct {
	ctx  context.Context
	b    backend.Backend
	name string
}

// ReadAt implements io.ReaderAt, but for an object that is too short it reads nothing.
func (o *objectReader) ReadAt(p []byte, off int64) (int, error) {
	data, err := o.b.Get(o.ctx, o.name, off, int64(len(p)), nil)
	if err != nil {
		return 0, err
	}
	return copy(p, data), nil
}

// listPacks lists the stored packs.
func (r *Repo) listPacks(ctx context.Context) (map[pack.ID]backend.Info, error) {
	packs := map[pack.ID]backend.Info{}
	for info, err := range r.backend.List(ctx, packsPrefix) {
		if err != nil {
			return nil, err
		}
		if id, ok := parsePackName(info.Name); ok {
			packs[id] = info
		}
	}
	return packs, nil
}
