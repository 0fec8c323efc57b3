package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// forgottenName is the name of the nth word on whether a snapshot is forgotten, from 0.
func forgottenName(session string, n int) string {
	if n == 0 {
		return forgottenPrefix + session
	}
	return forgottenPrefix + session + "." + strconv.Itoa(n)
}

// oblivion is what signed records say of one snapshot.
type oblivion struct {
	next      int       // number of the next word: the first that is free behind the last that counts
	forgotten bool      // the last of them that counts says so
	since     time.Time // when the store got that word
	doubtful  bool      // some word cannot be read any more, and may have said the contrary: what is forgotten stays
}

// over tells whether the undo window and the slack behind it are over, so that nothing of the snapshot has to be there.
func (o oblivion) over(now time.Time) bool {
	if !o.forgotten || o.doubtful {
		return false
	}
	age := now.Sub(o.since)
	return age > times.undo+times.slack || broken.noSlack && age > times.undo || broken.forgetNow
}

// forgotten returns what records under forgotten/ say, by session. Records that nobody signed, or that are damaged, come back as junk.
//
// The words on a snapshot count in the order of their numbers. One that takes back counts only if the store got it within the undo window; later the collector may have acted
// on the one before. All times are the store's, so all who read them agree.
func (r *Repo) forgotten(ctx context.Context) (map[string]oblivion, []*DamageError, error) {
	var infos []backend.Info
	for info, err := range r.backend.List(ctx, forgottenPrefix) {
		if err != nil {
			return nil, nil, err
		}
		infos = append(infos, info)
	}
	damage, undo, lost := make([]*DamageError, len(infos)), make([]bool, len(infos)), make([]bool, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, info := range infos {
		g.Go(func() (err error) {
			undo[i], err = r.readForgotten(gctx, info.Name)
			if d, ok := errors.AsType[*DamageError](err); ok {
				damage[i] = d
				if lost[i], err = r.rotten(gctx, info.Name, err); err == nil && !lost[i] {
					// It may have been read wrong, once.
					if again, aerr := r.readForgotten(gctx, info.Name); aerr == nil {
						undo[i], damage[i] = again, nil
					}
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	type word struct {
		n    int
		at   time.Time
		undo bool
	}
	said, taken := map[string][]word{}, map[string][]int{}
	set := map[string]oblivion{}
	var junk []*DamageError
	for i, info := range infos {
		session, n, ok := parseForgotten(info.Name)
		if ok {
			o := set[session]
			o.doubtful = o.doubtful || lost[i]
			taken[session] = append(taken[session], n)
			set[session] = o
		}
		if damage[i] != nil {
			junk = append(junk, damage[i])
			continue
		}
		said[session] = append(said[session], word{n, info.Modified, undo[i]})
	}
	for session, words := range said {
		slices.SortFunc(words, func(a, b word) int { return a.n - b.n })
		o := set[session]
		for _, w := range words {
			if w.undo && o.forgotten && w.at.Sub(o.since) > times.undo {
				// It may have been put again since, as it is: by whoever may replace, or by Heal. That is not what makes it late.
				var err error
				if w.at, err = r.oldest(ctx, forgottenName(session, w.n), w.at); err != nil {
					return nil, nil, err
				}
			}
			switch {
			case !w.undo && !o.forgotten:
				o.forgotten, o.since = true, w.at
			case w.undo && (w.at.Sub(o.since) <= times.undo || broken.lateUnforget):
				o.forgotten = false
			}
			o.next = w.n + 1
		}
		set[session] = o
	}
	// Junk may have any number, also one that has no next.
	for session, ns := range taken {
		slices.Sort(ns)
		o := set[session]
		for _, n := range ns {
			if n == o.next {
				o.next++
			}
		}
		set[session] = o
	}
	return set, junk, nil
}

// oldest returns when the store got the first version of an object, newest where it keeps none.
func (r *Repo) oldest(ctx context.Context, name string, newest time.Time) (time.Time, error) {
	for v, err := range backend.Versions(ctx, r.backend.Backend, name) {
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			break // the newest is all that there is to go by
		} else if err != nil {
			return newest, err
		}
		if v.Name == name && !v.Deleted && v.Modified.Before(newest) {
			newest = v.Modified
		}
	}
	return newest, nil
}

// parseForgotten takes apart the name of an object under forgotten/.
func parseForgotten(name string) (session string, n int, ok bool) {
	session, rest, has := strings.Cut(strings.TrimPrefix(name, forgottenPrefix), ".")
	if has {
		if n, ok = number(rest); !ok {
			return "", 0, false
		}
	}
	return session, n, validSession(session)
}

// readForgotten reads a word, and tells whether it takes back.
func (r *Repo) readForgotten(ctx context.Context, name string) (undo bool, err error) {
	session, _, ok := parseForgotten(name)
	if !ok {
		return false, &DamageError{Object: name, Err: errNoSuchName}
	}
	_, body, err := r.openSealed(ctx, name, crypt.KindForgotten)
	if err != nil {
		return false, err
	}
	var rec sessionRecord
	if err := tree.Unmarshal(body, &rec); err != nil {
		return false, &DamageError{Object: name, Err: err}
	}
	if rec.Session != session {
		return false, &DamageError{Object: name, Err: fmt.Errorf("it forgets %s", rec.Session)}
	}
	return rec.Undo, nil
}

// UndoWindow is how long after Forget a snapshot can be taken back, by the store's clock.
const UndoWindow = 7 * 24 * time.Hour

// Forget marks snapshots, named by their ids, as forgotten: they are not listed any more, and can be taken back by Unforget for UndoWindow. What only they need stays until that and two
// days have passed; then Prune frees it. One that is forgotten already is left as it is.
//
// ErrRole: a writer forgets nothing. fs.ErrNotExist: there is no such snapshot; *DamageError: it cannot be opened. Nothing was forgotten then. ErrBusy: somebody else forgot it or took it
// back at the same time. After this and other errors some may be forgotten; the same call goes on.
func (r *Repo) Forget(ctx context.Context, ids ...string) error {
	err := r.own.say(ctx, ids, true)
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	return nil
}

// ErrTooLate says that what was forgotten can't be taken back any more.
var ErrTooLate = errors.New("repo: it was forgotten too long ago")

// Unforget takes back snapshots that were forgotten, named by their ids. One that is not forgotten is left as it is.
//
// ErrTooLate: the store got the word to forget more than a week ago. ErrRole, fs.ErrNotExist, *DamageError and ErrBusy: as in Forget.
func (r *Repo) Unforget(ctx context.Context, ids ...string) error {
	err := r.own.say(ctx, ids, false)
	if err != nil {
		return fmt.Errorf("unforget: %w", err)
	}
	return nil
}

// say puts the next word on snapshots where the last one says the contrary.
func (r *Repo) say(ctx context.Context, ids []string, forget bool) error {
	if r.keys.Role() == crypt.Writer {
		return fmt.Errorf("%w: a %v forgets nothing", ErrRole, r.keys.Role())
	}
	set, _, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !validSession(id) {
			return fmt.Errorf("%q is no snapshot's id: %w", id, fs.ErrNotExist)
		}
		s, err := r.openSnapshot(ctx, snapshotName(id))
		if err != nil {
			return err
		}
		if s == nil {
			return fmt.Errorf("%s is no snapshot: %w", id, fs.ErrNotExist)
		}
	}
	for _, id := range ids {
		if set[id].forgotten == forget {
			continue
		}
		if err := r.sayOne(ctx, id, set[id], forget); err != nil {
			return err
		}
		r.outdated()
	}
	return nil
}

func (r *Repo) sayOne(ctx context.Context, id string, o oblivion, forget bool) error {
	name := forgottenName(id, o.next)
	body, err := tree.Marshal(&sessionRecord{Session: id, Time: tree.TimeOf(time.Now()), Undo: !forget})
	if err != nil {
		return err
	}
	object, err := r.keys.Seal(crypt.KindForgotten, name, body)
	if err != nil {
		return err
	}
	if err := backend.PutBytes(ctx, r.backend, name, object, &backend.PutOptions{IfAbsent: true}); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: somebody else said something of %s at the same time", ErrBusy, id)
	} else if err != nil {
		return err
	}
	if forget {
		return nil
	}
	info, err := r.backend.Stat(ctx, name)
	if err != nil {
		return err
	}
	if age := info.Modified.Sub(o.since); age > times.undo && !broken.lateUnforget {
		// A replica dates words to when they came to it, so this one may count there. The next one says once more what holds.
		if err := r.sayOne(ctx, id, oblivion{next: o.next + 1}, true); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
		return fmt.Errorf("%w: %s was forgotten %v ago, and can be taken back for %v", ErrTooLate, id, age.Round(time.Second), times.undo)
	}
	return nil
}
