package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

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
}

// maintenance is what signed records say: which packs not to rely upon.
type maintenance struct {
	state map[pack.ID]index.State
	// junk are objects under gc/ that maintenance did not sign, or that are damaged. They count for nothing.
	junk []*DamageError
}

func (m *maintenance) of(id pack.ID) index.State { return m.state[id] }

// loadMaintenance reads gc/: the candidates of collections that are not done, and every verdict ever given. A session does so before it reads the index.
func (r *Repo) loadMaintenance(ctx context.Context) (*maintenance, error) {
	names, err := listNames(ctx, r.backend, gcPrefix)
	if err != nil {
		return nil, err
	}
	done := map[int]bool{}
	lists := map[string]*packList{}
	m := &maintenance{state: map[pack.ID]index.State{}}
	bodies := make([][]byte, len(names))
	errs := make([]error, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, name := range names {
		kind, _, ok := gcKind(name)
		if !ok {
			errs[i] = &DamageError{Object: name, Err: errors.New("no object of this format has that name")}
			continue
		}
		g.Go(func() error {
			_, body, err := r.openSealed(gctx, name, kind)
			if d, ok := errors.AsType[*DamageError](err); ok {
				errs[i] = d
				return nil
			}
			bodies[i] = body
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, name := range names {
		kind, n, _ := gcKind(name)
		if errs[i] == nil {
			switch kind {
			case crypt.KindDone:
				var d doneRecord
				if errs[i] = tree.Unmarshal(bodies[i], &d); errs[i] == nil && d.N == n {
					done[n] = true
				}
			default:
				var l packList
				if errs[i] = tree.Unmarshal(bodies[i], &l); errs[i] == nil {
					lists[name] = &l
				}
			}
		}
		if errs[i] != nil {
			d, ok := errors.AsType[*DamageError](errs[i])
			if !ok {
				d = &DamageError{Object: name, Err: errs[i]}
			}
			m.junk = append(m.junk, d)
		}
	}
	for name, l := range lists {
		kind, n, _ := gcKind(name)
		state := index.Condemned
		if kind == crypt.KindVerdict {
			state = index.Freed
		} else if done[n] {
			continue
		}
		for _, p := range l.Packs {
			if len(p) == len(pack.ID{}) {
				m.state[pack.ID(p)] = max(m.state[pack.ID(p)], state)
			}
		}
	}
	return m, nil
}

// gcKind takes apart the name of an object under gc/.
func gcKind(name string) (crypt.Kind, int, bool) {
	s, kind := strings.TrimPrefix(name, gcPrefix), crypt.KindCandidates
	if t, ok := strings.CutSuffix(s, ".free"); ok {
		s, kind = t, crypt.KindVerdict
	} else if t, ok := strings.CutSuffix(s, ".done"); ok {
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
	object, err := r.backend.Get(ctx, name, 0, -1, nil)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &DamageError{Object: name, Err: fs.ErrNotExist}
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
	kind, body, err := r.keys.Open(name, object, want...)
	if errors.Is(err, crypt.ErrDamaged) {
		err = &DamageError{Object: name, Err: err}
	}
	return kind, body, err
}

// forgotten returns the sessions whose snapshots a signed record forgets. Records that nobody signed, or that are damaged, come back as junk.
func (r *Repo) forgotten(ctx context.Context) (map[string]bool, []*DamageError, error) {
	names, err := listNames(ctx, r.backend, forgottenPrefix)
	if err != nil {
		return nil, nil, err
	}
	set := map[string]bool{}
	var junk []*DamageError
	for _, name := range names {
		session := strings.TrimPrefix(name, forgottenPrefix)
		err := r.checkForgotten(ctx, name, session)
		if d, ok := errors.AsType[*DamageError](err); ok {
			junk = append(junk, d)
		} else if err != nil {
			return nil, nil, err
		} else {
			set[session] = true
		}
	}
	return set, junk, nil
}

func (r *Repo) checkForgotten(ctx context.Context, name, session string) error {
	_, body, err := r.openSealed(ctx, name, crypt.KindForgotten)
	if err != nil {
		return err
	}
	var rec sessionRecord
	if err := tree.Unmarshal(body, &rec); err != nil {
		return &DamageError{Object: name, Err: err}
	}
	if rec.Session != session {
		return &DamageError{Object: name, Err: fmt.Errorf("it forgets %s", rec.Session)}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
