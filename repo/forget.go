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
	since     time.Time // when the store got the last word that says so
	final     bool      // a collection has let it go: nothing of it has to be there
	ended     time.Time // when the store got that word
	listed    []int     // numbers of the words that a list had, junk too, sorted
	doubtful  bool      // some word cannot be read any more, and may have said the contrary: what is forgotten stays
}

// due tells whether the undo window and the slack behind it are over, so that a collection may let the snapshot go.
func (o oblivion) due(now time.Time) bool {
	return o.forgotten && !o.final && !o.doubtful && (now.Sub(o.since) > times.undo+times.slack || broken.forgetNow)
}

// forgotten returns what records under forgotten/ say, by session. Records that nobody signed, or that are damaged, come back as junk.
//
// The words on a snapshot count in the order of their numbers, and none behind the final one. No clock has a say, so all who read them agree, at a replica too, where they came in
// their own time.
func (r *Repo) forgotten(ctx context.Context) (map[string]oblivion, []*DamageError, error) {
	var infos []backend.Info
	for info, err := range r.backend.List(ctx, forgottenPrefix) {
		if err != nil {
			return nil, nil, err
		}
		infos = append(infos, info)
	}
	damage, recs, lost := make([]*DamageError, len(infos)), make([]sessionRecord, len(infos)), make([]bool, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, info := range infos {
		g.Go(func() (err error) {
			recs[i], err = r.readForgotten(gctx, info.Name)
			if d, ok := errors.AsType[*DamageError](err); ok {
				damage[i] = d
				if lost[i], err = r.rotten(gctx, info.Name, err); err == nil && !lost[i] {
					// It may have been read wrong, once.
					if again, aerr := r.readForgotten(gctx, info.Name); aerr == nil {
						recs[i], damage[i] = again, nil
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
		n   int
		at  time.Time
		rec *sessionRecord
	}
	said := map[string][]word{}
	set := map[string]oblivion{}
	var junk []*DamageError
	for i, info := range infos {
		session, n, ok := parseForgotten(info.Name)
		if ok {
			o := set[session]
			o.doubtful = o.doubtful || lost[i]
			o.listed = append(o.listed, n)
			set[session] = o
		}
		if damage[i] != nil {
			junk = append(junk, damage[i])
			continue
		}
		said[session] = append(said[session], word{n, info.Modified, &recs[i]})
	}
	for session, words := range said {
		slices.SortFunc(words, func(a, b word) int { return a.n - b.n })
		o := set[session]
		for _, w := range words {
			switch {
			case o.final:
			case w.rec.Final:
				if !o.forgotten {
					o.forgotten, o.since = true, w.at // the word before it is lost
				}
				o.final, o.ended = true, w.at
			case w.rec.Undo:
				o.forgotten = false
			default:
				o.forgotten, o.since = true, w.at // also behind one that forgot: what took back between them may be gone
			}
			o.next = w.n + 1
		}
		set[session] = o
	}
	// Junk may have any number, also one that has no next.
	for session, o := range set {
		slices.Sort(o.listed)
		for _, n := range o.listed {
			if n == o.next {
				o.next++
			}
		}
		set[session] = o
	}
	return set, junk, nil
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

// readForgotten reads a word.
func (r *Repo) readForgotten(ctx context.Context, name string) (rec sessionRecord, err error) {
	session, _, ok := parseForgotten(name)
	if !ok {
		return rec, &DamageError{Object: name, Err: errNoSuchName}
	}
	_, body, err := r.openSealed(ctx, name, crypt.KindForgotten)
	if err != nil {
		return rec, err
	}
	if err := tree.Unmarshal(body, &rec); err != nil {
		return rec, &DamageError{Object: name, Err: err}
	}
	if rec.Session != session {
		return rec, &DamageError{Object: name, Err: fmt.Errorf("it forgets %s", rec.Session)}
	}
	return rec, nil
}

// UndoWindow is how long after Forget a snapshot can surely be taken back, by the store's clock. A Prune that comes two days later or more lets it go.
const UndoWindow = 7 * 24 * time.Hour

// Forget marks snapshots, named by their ids, as forgotten: they are not listed any more, and can be taken back by Unforget for UndoWindow. What only they need stays until that and two
// days have passed; then the next Prune lets them go. One that is forgotten already is left as it is.
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
var ErrTooLate = errors.New("repo: it was forgotten too long ago, and a prune has let it go")

// Unforget takes back snapshots that were forgotten, named by their ids. One that is not forgotten is left as it is.
//
// ErrTooLate: a Prune has let it go, which it does not do within UndoWindow. ErrRole, fs.ErrNotExist, *DamageError and ErrBusy: as in Forget; in a store without put-if-absent ErrBusy also
// says that a Prune or another Unforget is under way, or died less than two days ago.
func (r *Repo) Unforget(ctx context.Context, ids ...string) error {
	err := r.own.takeBack(ctx, ids)
	if err != nil {
		return fmt.Errorf("unforget: %w", err)
	}
	return nil
}

// takeBack is say for what is not forgotten any more.
func (r *Repo) takeBack(ctx context.Context, ids []string) error {
	if r.keys.Role() == crypt.Writer || !r.backend.looksFirst {
		return r.say(ctx, ids, false)
	}
	m, now, err := r.beginCollector(ctx)
	if err != nil {
		return err
	}
	defer m.end(ctx, false)
	if err := r.onlyOne(ctx, m.id, now); err != nil {
		return err
	}
	return r.say(ctx, ids, false)
}

// onlyOne is for a store without put-if-absent, where the final word may replace the one that takes back, or that one it: so of all who prune or take back only one does at a time. now is
// when the store got the caller's marker. Each puts its marker and then looks for others, so of two at least one sees the other.
func (r *Repo) onlyOne(ctx context.Context, own string, now time.Time) error {
	seen, err := r.listSessions(ctx)
	if err != nil {
		return err
	}
	for _, id := range sortedKeys(seen) {
		if s := seen[id]; id != own && r.collects(id) && !s.ended && now.Sub(s.last) <= times.expire {
			return fmt.Errorf("%w: %s prunes or takes back, or died less than two days ago, and this store has no put-if-absent", ErrBusy, id)
		}
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
		if o := set[id]; o.final && !forget {
			return fmt.Errorf("%w: %s, which was forgotten %s", ErrTooLate, id, o.since.UTC().Format(time.RFC3339))
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
		said, err := r.sayOne(ctx, set[id].next, &sessionRecord{Session: id, Undo: !forget})
		if err != nil {
			return err
		}
		if !said {
			return fmt.Errorf("%w: somebody else said something of %s at the same time", ErrBusy, id)
		}
		r.outdated()
	}
	return nil
}

// sayOne puts the nth word on a snapshot. said is false if there is one already.
func (r *Repo) sayOne(ctx context.Context, n int, rec *sessionRecord) (said bool, err error) {
	name := forgottenName(rec.Session, n)
	rec.Time = tree.TimeOf(time.Now())
	body, err := tree.Marshal(rec)
	if err != nil {
		return false, err
	}
	object, err := r.keys.Seal(crypt.KindForgotten, name, body)
	if err != nil {
		return false, err
	}
	err = putOnce(ctx, r.backend, name, object)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// letGo puts the final word on what was forgotten so long ago that it need not be kept. It counts only where no other word comes first: what takes a snapshot back has the same name.
func (p *pruner) letGo(ctx context.Context) error {
	r := p.repo
	if broken.finalBlind {
		return nil
	}
	set, _, err := r.forgotten(ctx)
	if err != nil {
		return err
	}
	for _, id := range sortedKeys(set) {
		o := set[id]
		if !o.due(p.now) {
			continue
		}
		if all, err := r.allListed(ctx, id, o); err != nil {
			return err
		} else if !all {
			continue // the next prune hears of it
		}
		if _, err := r.sayOne(ctx, o.next, &sessionRecord{Session: id, Final: true}); err != nil {
			return err
		}
	}
	return nil
}

// allListed tells whether the words on a snapshot that stand before its next one are those that were listed. A list may lag, or have been overtaken, and a word that it left out may have
// taken the snapshot back, so those are asked for by their names. A number that has none had junk that a person condemned, or was not copied from a store that is lost.
func (r *Repo) allListed(ctx context.Context, session string, o oblivion) (bool, error) {
	for n := range o.next {
		if _, listed := slices.BinarySearch(o.listed, n); listed {
			continue
		}
		switch _, err := r.backend.Stat(ctx, forgottenName(session, n)); {
		case err == nil:
			return false, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
	}
	return true, nil
}
