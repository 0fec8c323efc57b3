package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// packList is the body of candidates and of a verdict.
type packList struct {
	N     int      `cbor:"1,keyasint"`
	Packs [][]byte `cbor:"2,keyasint"`
}

type doneRecord struct {
	N int `cbor:"1,keyasint"`
}

type sessionRecord struct {
	Session string     `cbor:"1,keyasint"`
	Time    *tree.Time `cbor:"2,keyasint,omitempty"`
	Undo    bool       `cbor:"3,keyasint,omitempty"` // of what is forgotten: it is not
	Final   bool       `cbor:"4,keyasint,omitempty"` // it is, whatever comes after
}

// maintenance is what signed records say: which packs not to rely upon.
type maintenance struct {
	state map[pack.ID]index.State
	runs  map[int]*collection // by number
	last  int                 // the highest number
	taken map[string]bool     // names under gc/, whatever is there
	// junk are objects under gc/ that maintenance did not sign, or that are damaged, and what is missing there. They count for nothing.
	junk []*DamageError
	// lost are those of them that said which packs may vanish, and now nobody knows. What was forged is not among them: its hash is right and its signature is not.
	lost []*DamageError
}

func (m *maintenance) of(id pack.ID) index.State { return m.state[id] }

// collection is one run of the collector, as its records tell.
type collection struct {
	n          int
	begun      time.Time // when the store got the candidates
	ended      time.Time // and that it is done; zero: it is not
	candidates *packList
	verdict    *packList // nil: none was given yet
	done       bool
}

// open returns the collection that is not done; nil if there is none.
func (m *maintenance) open() *collection {
	if c := m.runs[m.last]; c != nil && !c.done && c.candidates != nil {
		return c
	}
	return nil
}

// record is an object under gc/ as it was read.
type record struct {
	kind crypt.Kind
	n    int
	body []byte
	bad  *DamageError
	lost bool // its bytes are not those that were put
}

// loadMaintenance reads gc/: the candidates of collections that are not done, and every verdict ever given. A session does so before it reads the index.
func (r *Repo) loadMaintenance(ctx context.Context) (*maintenance, error) {
	stored := map[string]time.Time{}
	for info, err := range r.backend.List(ctx, gcPrefix) {
		if err != nil {
			return nil, err
		}
		stored[info.Name] = info.Modified
	}
	names := sortedKeys(stored)
	records, err := r.readRecords(ctx, names)
	if err != nil {
		return nil, err
	}
	missed, err := r.unlistedRecords(ctx, names, records, stored)
	if err != nil {
		return nil, err
	}
	more, err := r.readRecords(ctx, missed)
	if err != nil {
		return nil, err
	}
	names, records = append(names, missed...), append(records, more...)
	m := &maintenance{state: map[pack.ID]index.State{}, runs: map[int]*collection{}, taken: map[string]bool{}}
	lists := map[string]*packList{}
	done, begun, last := map[int]bool{}, map[int]bool{}, 0
	for i, name := range names {
		rec := &records[i]
		if rec.bad == nil {
			var err error
			if rec.kind == crypt.KindDone {
				var d doneRecord
				if err = tree.Unmarshal(rec.body, &d); err == nil && d.N != rec.n {
					err = fmt.Errorf("it says %d", d.N)
				}
			} else {
				l := &packList{}
				if err = l.parse(rec.body, rec.n); err == nil {
					lists[name] = l
				}
			}
			if err != nil {
				rec.bad, rec.lost = &DamageError{Object: name, Err: err}, true
			}
		}
		if rec.bad == nil {
			last = max(last, rec.n)
		}
	}
	// The number counts even if the rest is lost, but for forgeries and for what no collection can have come to: each one leaves a record, and begins with the next number that is free.
	most := last + len(names) + 1
	for i := range records {
		rec := &records[i]
		if rec.bad == nil || rec.lost && rec.n <= most {
			last = max(last, rec.n)
			begun[rec.n] = begun[rec.n] || rec.kind == crypt.KindCandidates
			done[rec.n] = done[rec.n] || rec.kind == crypt.KindDone && rec.bad == nil
		}
	}
	junk := map[string]bool{}
	for i := range records {
		rec := &records[i]
		if rec.bad == nil {
			continue
		}
		junk[names[i]] = true
		m.junk = append(m.junk, rec.bad)
		// Without a done the candidates stay condemned: that is safe.
		if rec.lost && (rec.kind == crypt.KindVerdict || rec.kind == crypt.KindCandidates && !done[rec.n]) {
			m.lost = append(m.lost, rec.bad)
		}
	}
	// A collection begins when the one before it is done, and none of their records is ever removed.
	for n := 1; n <= last; n++ {
		if name := gcName(n); !begun[n] && !junk[name] {
			m.junk = append(m.junk, &DamageError{Object: name, Err: fs.ErrNotExist})
		}
		if name := gcName(n) + doneSuffix; n < last && !done[n] && !junk[name] {
			m.junk = append(m.junk, &DamageError{Object: name, Err: fs.ErrNotExist})
		}
	}
	m.last = last
	for _, name := range names {
		m.taken[name] = true
	}
	for n := range begun {
		m.runs[n] = &collection{n: n, begun: stored[gcName(n)], candidates: lists[gcName(n)], verdict: lists[gcName(n)+freeSuffix], done: done[n], ended: stored[gcName(n)+doneSuffix]}
	}
	for name, l := range lists {
		kind, n, _ := gcKind(name)
		state := index.Condemned
		if kind == crypt.KindVerdict {
			state = index.Freed
			if broken.forgetVerdicts && done[n] {
				continue
			}
		} else if done[n] {
			continue
		}
		for _, p := range l.Packs {
			m.state[pack.ID(p)] = max(m.state[pack.ID(p)], state)
		}
	}
	return m, nil
}

// readRecords reads objects under gc/.
func (r *Repo) readRecords(ctx context.Context, names []string) ([]record, error) {
	records := make([]record, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, name := range names {
		rec := &records[i]
		var ok bool
		if rec.kind, rec.n, ok = gcKind(name); !ok {
			rec.bad = &DamageError{Object: name, Err: errNoSuchName}
			continue
		}
		g.Go(func() (err error) {
			_, rec.body, err = r.openSealed(gctx, name, rec.kind)
			if d, ok := errors.AsType[*DamageError](err); ok {
				rec.bad = d
				if rec.lost, err = r.rotten(gctx, name, err); err == nil && !rec.lost {
					// It may have been read wrong, once. What it says must not be passed over for that.
					if _, body, again := r.fetchSealed(gctx, name, rec.kind); again == nil {
						rec.body, rec.bad = body, nil
					}
				}
			}
			return err
		})
	}
	return records, g.Wait()
}

// unlistedRecords returns the names of records that the list of gc/ should have had and had not, and adds them to stored. What is put while a list goes on may be in it or not, so
// one that a collection overtakes may have the end and not the verdict, and what that names would seem to be there.
func (r *Repo) unlistedRecords(ctx context.Context, names []string, records []record, stored map[string]time.Time) (missed []string, err error) {
	last, over := 0, false
	for i := range names {
		if rec := &records[i]; rec.bad == nil && rec.n >= last {
			over = rec.kind == crypt.KindDone || over && rec.n == last
			last = rec.n
		}
	}
	if broken.gcTrustsList {
		return nil, nil
	}
	for n := 1; n <= last; n++ {
		for _, name := range []string{gcName(n), gcName(n) + freeSuffix, gcName(n) + doneSuffix} {
			if _, listed := stored[name]; listed || n == last && !over {
				continue
			}
			info, err := r.backend.Stat(ctx, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			stored[name] = info.Modified
			missed = append(missed, name)
		}
	}
	return missed, nil
}

// parse decodes the list of collection n.
func (l *packList) parse(body []byte, n int) error {
	if err := tree.Unmarshal(body, l); err != nil {
		return err
	}
	if l.N != n {
		return fmt.Errorf("it says %d", l.N)
	}
	for i, p := range l.Packs {
		if len(p) != len(pack.ID{}) || i > 0 && bytes.Compare(l.Packs[i-1], p) >= 0 {
			return errors.New("packs that are not in order")
		}
	}
	return nil
}

// rotten tells of an object that did not open for the reason why whether its bytes are not those that were put under its name, or it is gone. If not, whoever put it was not the one who may.
// The error is the backend's.
func (r *Repo) rotten(ctx context.Context, name string, why error) (bool, error) {
	return rotten(ctx, r.backend, name, why)
}

func rotten(ctx context.Context, b backend.Backend, name string, why error) (bool, error) {
	if errors.Is(why, crypt.ErrSignature) {
		return false, nil
	}
	object, err := b.Get(ctx, name, 0, -1, nil)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, crypt.ErrDamaged) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	return crypt.Verify(name, object) != nil, nil
}

// gcKind takes apart the name of an object under gc/.
func gcKind(name string) (crypt.Kind, int, bool) {
	s, kind := strings.TrimPrefix(name, gcPrefix), crypt.KindCandidates
	if t, ok := strings.CutSuffix(s, freeSuffix); ok {
		s, kind = t, crypt.KindVerdict
	} else if t, ok := strings.CutSuffix(s, doneSuffix); ok {
		s, kind = t, crypt.KindDone
	}
	n, ok := number(s)
	return kind, n, ok
}

// openSealed reads a sealed object of one of the wanted kinds, from the cache if it is there: no object ever changes. The error is a *DamageError when the
// object is missing, damaged or unsigned; a *crypt.VersionError; or the backend's.
func (r *Repo) openSealed(ctx context.Context, name string, want ...crypt.Kind) (crypt.Kind, []byte, error) {
	if object := r.cache.get("objects", cacheName(name)); object != nil {
		if kind, body, err := r.openObject(name, object, want...); err == nil {
			return kind, body, nil
		}
	}
	return r.fetchSealed(ctx, name, want...)
}

// fetchSealed is openSealed from the backend.
func (r *Repo) fetchSealed(ctx context.Context, name string, want ...crypt.Kind) (crypt.Kind, []byte, error) {
	object, err := r.backend.read(ctx, name, func(object []byte) error {
		_, _, err := r.openObject(name, object, want...)
		return err
	})
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &DamageError{Object: name, Err: fs.ErrNotExist}
		} else if errors.Is(err, crypt.ErrDamaged) {
			err = &DamageError{Object: name, Err: err}
		}
		return 0, nil, err
	}
	kind, body, err := r.openObject(name, object, want...)
	if err == nil {
		r.remember("objects", cacheName(name), object)
	}
	return kind, body, err
}

func cacheName(name string) string { return strings.ReplaceAll(name, "/", "_") }

func (r *Repo) openObject(name string, object []byte, want ...crypt.Kind) (crypt.Kind, []byte, error) {
	kind, body, err := openKey.object(r.keys, name, object, want...)
	if errors.Is(err, crypt.ErrDamaged) {
		err = &DamageError{Object: name, Err: err}
	}
	return kind, body, err
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
