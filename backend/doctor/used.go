package doctor

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
)

// used looks how the repository's own objects are locked.
func (r *run) used(ctx context.Context) error {
	u := &Locks{}
	bare, packs, lockedPacks := false, 0, 0
	for _, folder := range vital {
		n := 0
		for info, err := range r.b.List(ctx, folder) {
			if err != nil {
				return err
			}
			if strings.HasPrefix(info.Name, folder+"probe-") {
				continue
			}
			if n++; n > samples {
				break
			}
			is, err := backend.RetentionOf(ctx, r.b, info.Name, "")
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			switch o, err := result(err); {
			case err != nil:
				return err
			case o == Refused:
				return nil // nobody knows
			}
			u.Objects++
			if folder == "packs/" {
				packs++
			}
			if is.IsZero() {
				// A pack may be one that nobody needs any more.
				if bare = bare || folder != "packs/"; u.First == "" || !u.Until.IsZero() {
					u.First, u.Until = info.Name, time.Time{}
				}
				continue
			}
			if u.Locked++; folder == "packs/" {
				lockedPacks++
			}
			if u.Mode == "" || is.Mode == backend.Governance {
				u.Mode = is.Mode
			}
			if u.First == "" || !u.Until.IsZero() && is.Until.Before(u.Until) {
				u.First, u.Until = info.Name, is.Until
			}
		}
	}
	u.InUse = u.Locked > 0 && !bare && (packs == 0 || lockedPacks > 0)
	r.note(func(p *Report) { p.Used = u })
	return nil
}
