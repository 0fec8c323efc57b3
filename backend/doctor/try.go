package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/backend"
)

// A run is one examination.
type run struct {
	b     backend.Backend
	id    string        // of its objects
	ahead time.Duration // the store's clock, to make locks by

	mu  sync.Mutex // guards what follows
	rep *Report
	own map[string]bool // names that may be there
}

const (
	clock   = 2 * time.Second // the coarsest resolution of a store's clock
	lockFor = 3 * time.Second // the first try; what takes longer is tried with more
	lockMax = 5 * time.Minute
	racers  = 4         // that put one object at the same time
	age     = time.Hour // of what an earlier run left, and not one that is under way
	samples = 10        // objects whose locks are looked at, in each folder
)

func random() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// object returns the bytes of a probe: they end in the BLAKE3 of the rest, as
// those of all objects of a repository do.
func object(what string) []byte {
	b := []byte("varve probe\n" + what + "\n")
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// name returns, and remembers, the name of a probe in a folder.
func (r *run) name(folder, what string) string {
	n := folder + "probe-" + r.id + "-" + what
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own == nil {
		r.own = map[string]bool{}
	}
	r.own[n] = true
	return n
}

// note changes the report.
func (r *run) note(f func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.rep)
}

func (r *run) examine(ctx context.Context) error {
	// Without a list there is no backup either, and of a wrong key or a missing
	// bucket the store says so here.
	for info, err := range r.b.List(ctx, "config/") {
		if err != nil {
			return err
		}
		r.rep.Repository = r.rep.Repository || !strings.HasPrefix(info.Name, "config/probe-")
	}
	for b := r.b; b != nil; b = unwrap(b) {
		if s, ok := b.(interface{ Insecure() bool }); ok {
			r.rep.Bucket, r.rep.TLS = true, answer(!s.Insecure())
		}
	}
	// The one folder that everybody who backs up writes to goes first: it tells
	// the time.
	first, err := r.folder(ctx, "sessions/")
	if err != nil {
		return err
	}
	folders := []Folder{*first}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range slices.Concat(vital, records) {
		if name == "sessions/" {
			continue
		}
		g.Go(func() error {
			f, err := r.folder(gctx, name)
			if err == nil {
				r.note(func(*Report) { folders = append(folders, *f) })
			}
			return err
		})
	}
	g.Go(func() error { return r.race(gctx) })
	if r.rep.Repository {
		g.Go(func() error { return r.used(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.SortFunc(folders, func(a, b Folder) int { return strings.Compare(a.Name, b.Name) })
	r.rep.Folders = folders
	if r.rep.Versions == Unknown {
		r.rep.Versions = r.keeps(ctx)
	}
	r.rep.Left, err = r.clean(ctx, true)
	return err
}

func unwrap(b backend.Backend) backend.Backend {
	if w, ok := b.(interface{ Unwrap() backend.Backend }); ok {
		return w.Unwrap()
	}
	return nil
}

func answer(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

// keeps asks a store in which nothing could be replaced whether it keeps
// versions.
func (r *run) keeps(ctx context.Context) Answer {
	for b := r.b; b != nil; b = unwrap(b) {
		if s, ok := b.(interface {
			KeepsVersions(context.Context) (bool, error)
		}); ok {
			if kept, err := s.KeepsVersions(ctx); err == nil {
				return answer(kept)
			}
			return Unknown
		}
	}
	for v, err := range backend.Versions(ctx, r.b, "") {
		if errors.Is(err, errors.ErrUnsupported) {
			return No
		}
		if err == nil && v.ID != "null" {
			return Yes
		}
		break
	}
	return Unknown
}

// folder tries everything in one folder.
func (r *run) folder(ctx context.Context, folder string) (*Folder, error) {
	none := Lock{Untried, Untried, Untried, Untried}
	f := &Folder{Name: folder, Put: Untried, Overwrite: Untried, Hide: Untried, Delete: Untried, DeleteVersion: Untried, Governance: none, Compliance: none}
	if err := r.plain(ctx, f); err != nil {
		return nil, err
	}
	// The repository locks nothing elsewhere.
	if f.Put != Done || !slices.Contains(vital, folder) {
		return f, nil
	}
	for mode, l := range map[backend.Mode]*Lock{backend.Governance: &f.Governance, backend.Compliance: &f.Compliance} {
		if err := r.lock(ctx, folder, mode, l); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// plain tries everything with an object that is not locked.
func (r *run) plain(ctx context.Context, f *Folder) (err error) {
	name := r.name(f.Name, "plain")
	first, second := object(name), object(name+" again")
	ifAbsent := &backend.PutOptions{IfAbsent: true}

	begun := time.Now()
	f.Put, err = result(backend.PutBytes(ctx, r.b, name, first, ifAbsent))
	if f.Put == Unsupported {
		r.note(func(p *Report) { p.PutIfAbsent = No })
		f.Put, err = result(backend.PutBytes(ctx, r.b, name, first, nil))
	}
	if err != nil {
		return err
	}
	ended := time.Now()
	if f.Put == Done {
		if f.Name == "sessions/" {
			if err := r.read(ctx, name, first, begun, ended); err != nil {
				return err
			}
		}
		err := backend.PutBytes(ctx, r.b, name, second, ifAbsent)
		if o, rerr := result(err); !errors.Is(err, fs.ErrExist) && rerr != nil {
			return rerr
		} else if o == Done {
			r.note(func(p *Report) { p.PutIfAbsent = No })
		} else {
			r.note(func(p *Report) {
				if p.PutIfAbsent == Unknown {
					p.PutIfAbsent = Yes
				}
			})
		}
	}
	if f.Overwrite, err = result(backend.PutBytes(ctx, r.b, name, second, nil)); err != nil {
		return err
	}
	if f.Put == Done && f.Overwrite == Done {
		if err := r.kept(ctx, name, first); err != nil {
			return err
		}
	}
	// What is not there can be hidden and deleted as well, if that is allowed.
	if f.Hide, err = result(backend.Hide(ctx, r.b, name)); err != nil {
		return err
	}
	if f.Put == Done && f.Overwrite != Done && f.Hide == Done {
		if err := r.kept(ctx, name, first); err != nil {
			return err
		}
	}
	version := "null"
	for v, err := range backend.Versions(ctx, r.b, name) {
		if o, err := result(err); o != Done {
			if err != nil {
				return err
			}
			break
		}
		if v.Name == name && !v.Deleted {
			version = v.ID // the oldest in the end
		}
	}
	f.DeleteVersion, err = result(backend.DeleteVersion(ctx, r.b, name, version))
	if f.DeleteVersion == Locked { // the bucket locks by itself what is put
		f.DeleteVersion, err = result(backend.Erase(ctx, r.b, name, version))
	}
	if f.DeleteVersion == Locked && backend.Shorten(ctx, r.b, name, version, backend.Retention{}) == nil {
		f.DeleteVersion, err = result(backend.Erase(ctx, r.b, name, version))
	}
	if err != nil {
		return err
	}
	if f.Delete, err = result(r.b.Delete(ctx, name)); f.Put != Done && f.Delete == Done {
		f.Delete = Untried // there was nothing to delete
	}
	return err
}

// read looks whether an object that was just put is there, and when.
func (r *run) read(ctx context.Context, name string, want []byte, begun, ended time.Time) error {
	there := true
	got, err := r.b.Get(ctx, name, 0, -1, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // who can't read can't back up
	}
	there = there && bytes.Equal(got, want)
	listed := false
	for info, err := range r.b.List(ctx, name) {
		if err != nil {
			return err
		}
		listed = listed || info.Name == name
	}
	info, err := r.b.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		there = false
	} else if err != nil {
		return err
	} else {
		r.ahead = info.Modified.Sub(begun.Add(ended.Sub(begun) / 2))
		skew := time.Duration(0)
		if d := info.Modified.Sub(begun); d < -clock {
			skew = d
		} else if d := info.Modified.Sub(ended); d > clock {
			skew = d
		}
		r.note(func(p *Report) { p.Skew = skew })
	}
	r.note(func(p *Report) { p.ReadAfterWrite = answer(there && listed) })
	return nil
}

// kept looks whether the store still has a content that was replaced or hidden.
func (r *run) kept(ctx context.Context, name string, want []byte) error {
	found := No
	for v, err := range backend.Versions(ctx, r.b, name) {
		o, err := result(err)
		if err != nil {
			return err
		}
		if o == Refused {
			return nil // unknown
		}
		if o != Done {
			break
		}
		if v.Name != name || v.Latest || v.Deleted {
			continue
		}
		got, err := backend.GetVersion(ctx, r.b, name, v.ID, 0, -1, nil)
		if err == nil && bytes.Equal(got, want) || errors.Is(err, fs.ErrPermission) {
			found = Yes
		}
	}
	r.note(func(p *Report) {
		if p.Versions != No { // not everywhere is no
			p.Versions = found
		}
	})
	return nil
}

// lock tries to get rid of an object that is locked. What was tried when the lock
// may have been over tells nothing, and is tried again with a longer one.
func (r *run) lock(ctx context.Context, folder string, mode backend.Mode, l *Lock) error {
	for d := lockFor; ; d *= 4 {
		over, err := r.tryLock(ctx, folder, mode, l, d)
		if err != nil || !over {
			return err
		}
		*l = Lock{l.Put, Untried, Untried, Untried}
		if d*4 > lockMax {
			return nil
		}
	}
}

func (r *run) tryLock(ctx context.Context, folder string, mode backend.Mode, l *Lock, d time.Duration) (over bool, err error) {
	begun := time.Now()
	name := r.name(folder, fmt.Sprintf("%s-%d", mode, d/time.Second))
	until := begun.Add(r.ahead + d)
	l.Put, err = result(backend.PutBytes(ctx, r.b, name, object(name), &backend.PutOptions{IfAbsent: true, Retain: backend.Retention{Mode: mode, Until: until}}))
	if errors.Is(err, fs.ErrInvalid) { // over already
		return true, nil
	}
	if err != nil || l.Put != Done {
		return false, err
	}
	is, err := backend.RetentionOf(ctx, r.b, name, "")
	if o, rerr := result(err); rerr != nil {
		return false, rerr
	} else if o == Done && is.IsZero() {
		// It took the lock and forgot it, or it is over.
		l.Put = Unsupported
		return time.Since(begun) > d/2, nil
	}
	version := ""
	for v, err := range backend.Versions(ctx, r.b, name) {
		if o, err := result(err); o != Done {
			if err != nil {
				return false, err
			}
			break
		}
		if v.Name == name {
			version = v.ID
		}
	}
	if version == "" {
		l.Delete, err = result(r.b.Delete(ctx, name))
	} else {
		l.Delete, err = result(backend.Erase(ctx, r.b, name, version))
	}
	if err != nil {
		return false, err
	}
	if l.Delete == Done {
		return time.Since(begun) > d/2, nil // nothing is left to try with
	}
	l.Shorten, err = result(backend.Shorten(ctx, r.b, name, version, backend.Retention{Mode: mode, Until: until.Add(-d / 3)}))
	if errors.Is(err, fs.ErrInvalid) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	l.Remove, err = result(backend.Shorten(ctx, r.b, name, version, backend.Retention{}))
	if err != nil {
		return false, err
	}
	return time.Since(begun) > d/2, nil
}

// race has several put one object at the same time.
func (r *run) race(ctx context.Context) error {
	name := r.name("sessions/", "race")
	won := make([]bool, racers)
	g, gctx := errgroup.WithContext(ctx)
	for i := range racers {
		g.Go(func() error {
			err := backend.PutBytes(gctx, r.b, name, object(fmt.Sprint(name, i)), &backend.PutOptions{IfAbsent: true})
			won[i] = err == nil
			if _, rerr := result(err); !errors.Is(err, fs.ErrExist) && rerr != nil {
				return rerr
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	winners := 0
	for _, w := range won {
		if w {
			winners++
		}
	}
	if winners > 1 {
		r.note(func(p *Report) { p.PutIfAbsent = No })
	}
	return nil
}
