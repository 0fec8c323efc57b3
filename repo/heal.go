package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/varvebackup/varve/backend"
)

// Heal repairs the repository in dst with what a replica of it in src has: it reads every object of dst, and fetches those that are not what their name promises, and those that
// are missing; with Quick, only what is missing or of another size. It alone overwrites objects. Markers of sessions and the records of collections are left as they are.
//
// Whoever may write can also put junk that ends in its own hash, which nobody tells from the right object without a key. It stays, unless Replace says that src is to be believed.
//
// It needs no keys, and an object that does not match its name never travels. What dst had deleted on purpose and src still has comes back: garbage, which the
// next collection removes again, forgotten snapshots, which stay forgotten, and slots that were removed: remove those again. Backups may run meanwhile.
//
// ErrNoRepository: src or dst holds none; an empty dst is for Replicate. ErrExists: dst is another repository, and is as it was. The error wraps a *DamageError when an object
// of dst or src stays damaged; all else was done then. The report is never nil, and says after any error what was done; calling Heal again goes on.
func Heal(ctx context.Context, dst, src backend.Backend, o *CopyOptions) (*CopyReport, error) {
	rep, err := runCopy(ctx, dst, src, o, true)
	if err != nil {
		return rep, fmt.Errorf("heal: %w", err)
	}
	return rep, nil
}

// rest verifies what the destination has and the source has not.
func (c *copier) rest(ctx context.Context) error {
	return c.each(ctx, func(context.Context) iter.Seq2[backend.Info, error] {
		var infos []backend.Info
		for id, h := range c.packs {
			if !h.settled {
				infos = append(infos, backend.Info{Name: packName(id), Size: int64(h.size)})
			}
		}
		for name, h := range c.others {
			if !h.settled {
				infos = append(infos, backend.Info{Name: name, Size: int64(h.size)})
			}
		}
		slices.SortFunc(infos, func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
		return func(yield func(backend.Info, error) bool) {
			for _, info := range infos {
				if !yield(info, nil) {
					return
				}
			}
		}
	}, func(ctx context.Context, info backend.Info) error {
		why, err := c.inspect(ctx, info.Name)
		if err != nil {
			return err
		}
		c.settle(info.Name, func(r *CopyReport) {
			switch {
			case why == nil:
				r.Present++
			case !errors.Is(why, fs.ErrNotExist):
				note(&r.Destination, &r.DestinationMore, info.Name, fmt.Errorf("%w, and the source has none", why))
			}
		})
		return nil
	})
}
