package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/varvebackup/varve/backend"
)

// Replicate brings to dst all objects of the repository in src that dst lacks: dst, which is empty or an earlier replica, becomes a repository that the same secrets open. It
// needs no keys, deletes nothing and overwrites nothing, so it can run at dst's side, with credentials that only read src. Backups and maintenance may run at src meanwhile: any
// snapshot that dst lists can be restored from it at any time, also if Replicate was killed. Calling it again copies the rest. No collection may run at dst itself.
//
// What is copied was verified by its name. An object that is damaged at src stays where it is, and an older version of it that is whole is copied instead, where src keeps
// versions; otherwise the error wraps a *DamageError in the end, when all else was copied, and the report names it. So it does for an object that is there in another size: Heal
// repairs dst then. The report is never nil, and says after any error what was done.
//
// ErrNoRepository: src holds none. ErrExists: dst holds something else, and is as it was. What src deleted (slots that were removed, say) stays at dst.
func Replicate(ctx context.Context, dst, src backend.Backend, o *CopyOptions) (*CopyReport, error) {
	rep, err := runCopy(ctx, dst, src, o, false)
	if err != nil {
		return rep, fmt.Errorf("replicate: %w", err)
	}
	return rep, nil
}

// round lists the source and copies all that the destination lacks. errVanished: a collection went on at the source meanwhile, and what took the place of what it
// removed is in lists that are taken afresh.
//
// Lists are taken in the order snapshots, index, packs, gc, forgotten; what they name is put in the order packs, forgotten, gc, index, snapshots, each kind when all of the
// kind before it is there. Why that is right, wherever it is cut off:
//
// (1) A snapshot at the destination can be restored there. It was there when the round began and is read at its end, so for collections it was a root all the while. What it
// needs was in packs that segments named before it was put. A pack is deleted behind a verdict, and none was given between the round's begin and the list of gc/, else
// the round starts over: so each pack that it needed at the begin was there while packs/ was listed, and all that were listed are at the destination, for one
// that is gone when its turn comes starts the round over. Likewise a segment. One that a collection was just replacing may be missed in a list, and the new one too, but
// then a list that begins later has the new one: index/ is listed twice. (Should it be replaced twice within the two, readers find the packs without it, and the next
// run brings it.) Objects that were at the destination before stay there, with all that they needed then.
//
// (2) A session at the destination may believe what it reads there: gc/, then index/. A segment names packs that were put before it. One of them that packs/ did not list any
// more was freed by a verdict before that; so the list of gc/, which is taken afterwards, has the verdict, and it is put before the segment is. This is for segments that a
// sleeper puts late: they name what is dead for ever. Candidates are only more reason to store a blob again. A done counts only behind its
// verdict, so the three kinds of records follow each other.
//
// (3) Whoever frees packs at the destination because a verdict names them breaks no snapshot that is listed there: a verdict may rest on forgotten/ records, all of which were put
// before it, so the list of forgotten/ is taken after that of gc/ and put before it. The manifest is at the destination still, and counts for nothing.
//
// (4) What is damaged at the source is not at the destination: nobody is worse off there than at the source.
func (c *copier) round(ctx context.Context) error {
	// The config claims the place, and slots let people in.
	for _, prefix := range []string{configPrefix, keysPrefix} {
		infos, err := c.listed(ctx, prefix)
		if err != nil {
			return err
		}
		slices.SortFunc(infos, func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
		if err := c.copyList(ctx, infos); err != nil {
			return err
		}
	}
	before, err := c.collections(ctx)
	if err != nil {
		return err
	}
	snapshots, err := c.listed(ctx, snapshotsPrefix)
	if err != nil {
		return err
	}
	// Parents first, as a rule.
	slices.SortFunc(snapshots, func(a, b backend.Info) int { return strings.Compare(sessionOf(a.Name), sessionOf(b.Name)) })
	var segments []backend.Info // may name one twice
	for range 2 {
		again, err := c.listed(ctx, indexPrefix)
		if err != nil {
			return err
		}
		segments = append(segments, again...)
	}
	slices.SortFunc(segments, func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
	segments = slices.CompactFunc(segments, func(a, b backend.Info) bool { return a.Name == b.Name })
	if broken.replicaPutsLate {
		if err := c.copyList(ctx, slices.Concat(segments, snapshots)); err != nil {
			return err
		}
	}
	if err := c.copyPrefix(ctx, packsPrefix); err != nil {
		return err
	}
	if broken.replicaListsLate {
		if segments, err = c.listed(ctx, indexPrefix); err != nil {
			return err
		}
		if snapshots, err = c.listed(ctx, snapshotsPrefix); err != nil {
			return err
		}
	}
	gc, err := c.collections(ctx)
	if err != nil {
		return err
	}
	for _, verdict := range gc[1] {
		if !broken.replicaNoRestart && !slices.ContainsFunc(before[1], func(b backend.Info) bool { return b.Name == verdict.Name }) {
			c.vanished = fmt.Errorf("what %s names", verdict.Name)
			return errVanished
		}
	}
	if c.heal && !c.opts.Replace {
		gc = [3][]backend.Info{} // a repository's own
	}
	forgotten, err := c.listed(ctx, forgottenPrefix)
	if err != nil {
		return err
	}
	for _, infos := range [][]backend.Info{forgotten, gc[0], gc[1], gc[2], segments, snapshots} {
		if err := c.copyList(ctx, infos); err != nil {
			return err
		}
	}
	if c.heal && !c.opts.Quick {
		return c.rest(ctx)
	}
	return nil
}

// collections lists candidates, verdicts and dones. A listing that was overtaken by a collection may have a later record and not an earlier one: that one is asked for by its name. Without
// a key nobody tells whose a record is, and junk may have any number: so the search ends where a number has nothing.
func (c *copier) collections(ctx context.Context) (gc [3][]backend.Info, err error) {
	listed, numbers := map[string]backend.Info{}, map[int]bool{}
	for info, err := range c.src.List(ctx, gcPrefix) {
		if err != nil {
			return gc, atSource(err)
		}
		if _, n, ok := gcKind(info.Name); ok {
			listed[info.Name], numbers[n] = info, true
		}
	}
	for _, top := range slices.Sorted(maps.Keys(numbers)) {
		for n := top; n > 0 && (n == top || !numbers[n]); n-- {
			numbers[n] = true
			found := false
			for i, name := range []string{gcName(n), gcName(n) + freeSuffix, gcName(n) + doneSuffix} {
				info, ok := listed[name]
				if !ok {
					if info, err = c.src.Stat(ctx, name); errors.Is(err, fs.ErrNotExist) {
						continue
					} else if err != nil {
						return gc, atSource(err)
					}
				}
				gc[i], found = append(gc[i], info), true
			}
			if !found {
				break
			}
		}
	}
	return gc, nil
}
