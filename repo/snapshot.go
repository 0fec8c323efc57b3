package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Stats counts what a backup did.
type Stats struct {
	Files, Folders, Others int64 // entries in the snapshot
	Bytes                  int64 // of content in the snapshot
	Read                   int64 // bytes of content that were read from the source
	New                    int64 // bytes of content that the repository did not have
	Stored                 int64 // bytes that were put into the backend, all objects together
	Unread                 int64 // what could not be read, or changed while it was
}

// Snapshot is one snapshot of a series.
type Snapshot struct {
	ID      string // of the session that made it
	Series  string
	Time    time.Time // when it began, by the writer's clock
	End     time.Time
	Host    string
	Tags    map[string]string
	Parent  string // id of the snapshot that it was compared with, "" if none
	Stats   Stats
	Version string // of the program that wrote it
	// Forgotten is when the store got the word to forget it; zero: it is not forgotten. It can be taken back for UndoWindow from then on, and longer if no Prune lets it go.
	Forgotten time.Time

	root    pack.ID
	unread  *pack.ID
	hints   *tree.Piece // size and root of the list; nil: none
	missing int64       // unread ones that were not tolerated
	parts   []partWhen
}

// Incomplete tells whether something could not be read that was not tolerated. Repo.Unread tells what.
func (s *Snapshot) Incomplete() bool { return s.missing > 0 }

// Unread is something that a backup could not read, or that changed while it was read.
type Unread struct {
	Path      string // in readable form
	Err       string
	Tolerated bool
}

// manifest is a snapshot as it is stored.
type manifest struct {
	Series  string      `cbor:"1,keyasint"`
	Session string      `cbor:"2,keyasint"`
	Time    tree.Time   `cbor:"3,keyasint"`
	End     tree.Time   `cbor:"4,keyasint"`
	Host    string      `cbor:"5,keyasint"`
	Tags    []tree.Pair `cbor:"6,keyasint"`
	Root    []byte      `cbor:"7,keyasint"`
	Parent  string      `cbor:"8,keyasint,omitempty"`
	Stats   [8]uint64   `cbor:"9,keyasint"`
	Version string      `cbor:"10,keyasint"`
	Unread  []byte      `cbor:"11,keyasint,omitempty"`
	Missing uint64      `cbor:"12,keyasint,omitempty"`
	Hints   *tree.Piece `cbor:"13,keyasint,omitempty"`
	Parts   []partWhen  `cbor:"14,keyasint,omitempty"`
}

// partWhen is when a part of the source was read. Names of files are no business of those who may read manifests, so it says which by a keyed hash.
type partWhen struct {
	Name  []byte    `cbor:"1,keyasint"`
	Begun tree.Time `cbor:"2,keyasint"`
	Ended tree.Time `cbor:"3,keyasint"`
}

// Part is a part of a joined source in a snapshot.
type Part struct {
	Name         string // of the entry at the root, as FS spells it
	Begun, Ended time.Time
}

// partHash says which part is meant, to those who know its name.
func (r *Repo) partHash(name []byte) []byte {
	id := r.id(crypt.SectionTree, append([]byte("varve part "), name...))
	return id[:16]
}

// Parts returns when the parts of a snapshot's source were read (see JoinedFS), in the order in which they were; none if it had none. A part that was optional and failed is not
// among them. The errors are those of FS.
func (r *Repo) Parts(ctx context.Context, s *Snapshot) ([]Part, error) {
	if len(s.parts) == 0 {
		return nil, nil
	}
	fsys, err := r.FS(ctx, s)
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("the parts of %s: %w", s.ID, err)
	}
	byHash := map[string]string{}
	for _, e := range entries {
		raw, err := Unescape(e.Name())
		if err != nil {
			return nil, err
		}
		byHash[string(r.partHash([]byte(raw)))] = e.Name()
	}
	var parts []Part
	for _, p := range s.parts {
		if name, ok := byHash[string(p.Name)]; ok {
			parts = append(parts, Part{Name: name, Begun: p.Begun.Time(), Ended: p.Ended.Time()})
		}
	}
	return parts, nil
}

func (s *Snapshot) manifest() *manifest {
	m := &manifest{Series: s.Series, Session: s.ID, Time: *tree.TimeOf(s.Time), End: *tree.TimeOf(s.End), Host: s.Host, Root: s.root[:],
		Parent: s.Parent, Version: s.Version, Missing: uint64(s.missing), Hints: s.hints, Parts: s.parts}
	for _, k := range sortedKeys(s.Tags) {
		m.Tags = append(m.Tags, tree.Pair{Key: k, Value: s.Tags[k]})
	}
	if s.unread != nil {
		m.Unread = s.unread[:]
	}
	st := &s.Stats
	for i, n := range []int64{st.Files, st.Folders, st.Others, st.Bytes, st.Read, st.New, st.Stored, st.Unread} {
		m.Stats[i] = uint64(n)
	}
	return m
}

// snapshot checks m, which was found under the name of session, and returns it as a Snapshot.
func (m *manifest) snapshot(session string) (*Snapshot, error) {
	if m.Session != session || len(m.Root) != len(pack.ID{}) || len(m.Unread) != 0 && len(m.Unread) != len(pack.ID{}) ||
		m.Parent != "" && !validSession(m.Parent) || !possible(&m.Time) || !possible(&m.End) || m.Missing > math.MaxInt64 ||
		m.Hints != nil && (len(m.Hints.ID) != len(pack.ID{}) || m.Hints.Length == 0 || m.Hints.Length > math.MaxInt64/2) {
		return nil, errors.New("a manifest whose fields do not fit")
	}
	if err := checkSeries(m.Series); err != nil {
		return nil, err
	}
	for _, n := range m.Stats {
		if n > math.MaxInt64 {
			return nil, errors.New("a manifest whose numbers do not fit")
		}
	}
	s := &Snapshot{ID: session, Series: m.Series, Time: m.Time.Time(), End: m.End.Time(), Host: m.Host, Parent: m.Parent, Version: m.Version,
		root: pack.ID(m.Root), missing: int64(m.Missing), hints: m.Hints}
	for i := range m.Parts {
		if p := &m.Parts[i]; len(p.Name) != 16 || !possible(&p.Begun) || !possible(&p.Ended) {
			return nil, errors.New("a manifest whose parts do not fit")
		}
	}
	s.parts = m.Parts
	if len(m.Tags) > 0 {
		s.Tags = make(map[string]string, len(m.Tags))
	}
	for i, t := range m.Tags {
		if i > 0 && m.Tags[i-1].Key >= t.Key {
			return nil, errors.New("tags that are not in order")
		}
		s.Tags[t.Key] = t.Value
	}
	if len(m.Unread) != 0 {
		id := pack.ID(m.Unread)
		s.unread = &id
	}
	st := &s.Stats
	for i, p := range []*int64{&st.Files, &st.Folders, &st.Others, &st.Bytes, &st.Read, &st.New, &st.Stored, &st.Unread} {
		*p = int64(m.Stats[i])
	}
	return s, nil
}

// possible tells whether t is a time that a calendar has.
func possible(t *tree.Time) bool {
	y := t.Time().Year()
	return t.Ns < 1e9 && 1 < y && y < 10_000
}

// Filter chooses snapshots. The zero Filter chooses all.
type Filter struct {
	Series string            // exactly; "" for all
	Tags   map[string]string // all of these
	Newest int               // only so many, the newest; 0 for all
	// Forgotten chooses among those that were forgotten and can be taken back, instead of the others.
	Forgotten bool
}

// Snapshots yields snapshots, oldest first, without those that were forgotten unless the Filter is for these. One that cannot be opened does not hide the others: after them comes one
// error that names them all, each a *DamageError.
func (r *Repo) Snapshots(ctx context.Context, f Filter) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		list := r.listSnapshots
		if f.Forgotten {
			list = r.listForgotten
		}
		all, damaged, err := list(ctx, f.Series)
		if err != nil {
			yield(nil, fmt.Errorf("list snapshots: %w", err))
			return
		}
		all = slices.DeleteFunc(all, func(s *Snapshot) bool { return !f.match(s) })
		if f.Newest > 0 && len(all) > f.Newest {
			all = all[len(all)-f.Newest:]
		}
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
		if err := joinDamage(damaged); err != nil {
			yield(nil, err)
		}
	}
}

func (f *Filter) match(s *Snapshot) bool {
	if f.Series != "" && s.Series != f.Series {
		return false
	}
	for k, v := range f.Tags {
		if got, ok := s.Tags[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func joinDamage(damaged []*DamageError) error {
	errs := make([]error, len(damaged))
	for i, d := range damaged {
		errs[i] = d
	}
	return errors.Join(errs...)
}

// listSnapshots returns the snapshots of a series, or all, oldest first, and the manifests that could not be opened.
func (r *Repo) listSnapshots(ctx context.Context, series string) ([]*Snapshot, []*DamageError, error) {
	names, err := r.snapshotNames(ctx, series)
	if err != nil {
		return nil, nil, err
	}
	return r.openSnapshots(ctx, names)
}

// listForgotten is listSnapshots of those that were forgotten and can be taken back.
func (r *Repo) listForgotten(ctx context.Context, series string) ([]*Snapshot, []*DamageError, error) {
	names, said, err := r.manifestNames(ctx, series)
	if err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { o := said[sessionOf(n)]; return !o.forgotten || o.final })
	all, damaged, err := r.openSnapshots(ctx, names)
	for _, s := range all {
		s.Forgotten = said[s.ID].since
	}
	return all, damaged, err
}

// snapshotNames lists the manifests (and voids) of a series, or all, without those that were forgotten, sorted by session id.
func (r *Repo) snapshotNames(ctx context.Context, series string) ([]string, error) {
	names, said, err := r.manifestNames(ctx, series)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return said[sessionOf(n)].forgotten }), nil
}

// manifestNames lists the manifests (and voids) of a series, or all, without what has no manifest's name, sorted by session id, and what was said of them.
func (r *Repo) manifestNames(ctx context.Context, series string) ([]string, map[string]oblivion, error) {
	prefix := snapshotsPrefix
	if series != "" {
		sid := r.keys.SeriesID(series)
		prefix = fmt.Sprintf("%s%x/", snapshotsPrefix, sid[:])
	}
	names, err := listNames(ctx, r.backend, prefix)
	if err != nil {
		return nil, nil, err
	}
	said, _, err := r.forgotten(ctx)
	if err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		session := sessionOf(n)
		return !validSession(session) || snapshotName(session) != n
	})
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(sessionOf(a), sessionOf(b)) })
	return names, said, nil
}

// sessionOf returns the session id in the name of a manifest.
func sessionOf(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func (r *Repo) openSnapshots(ctx context.Context, names []string) ([]*Snapshot, []*DamageError, error) {
	found := make([]*Snapshot, len(names))
	damage := make([]*DamageError, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, name := range names {
		g.Go(func() error {
			s, err := r.openSnapshot(gctx, name)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, crypt.ErrSignature) {
				return nil // collected since it was listed, or a void that nobody signed: it counts for nothing
			} else if d, ok := errors.AsType[*DamageError](err); ok {
				damage[i] = d
				return nil
			}
			found[i] = s
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return slices.DeleteFunc(found, func(s *Snapshot) bool { return s == nil }),
		slices.DeleteFunc(damage, func(d *DamageError) bool { return d == nil }), nil
}

// openSnapshot reads one manifest; nil without an error for a void.
func (r *Repo) openSnapshot(ctx context.Context, name string) (*Snapshot, error) {
	session := sessionOf(name)
	if !validSession(session) || snapshotName(session) != name {
		return nil, &DamageError{Object: name, Err: errNoSuchName}
	}
	kind, body, err := r.openSealed(ctx, name, crypt.KindSnapshot, crypt.KindVoid)
	if err != nil {
		return nil, err
	}
	if kind == crypt.KindVoid {
		var rec sessionRecord
		if err := tree.Unmarshal(body, &rec); err != nil || rec.Session != session {
			return nil, &DamageError{Object: name, Err: errors.New("a void of another session")}
		}
		return nil, nil
	}
	var m manifest
	if err := tree.Unmarshal(body, &m); err != nil {
		return nil, &DamageError{Object: name, Err: err}
	}
	s, err := m.snapshot(session)
	if err != nil {
		return nil, &DamageError{Object: name, Err: err}
	}
	if sid := r.keys.SeriesID(m.Series); !strings.HasSuffix(session, fmt.Sprintf("-%x", sid[:])) {
		return nil, &DamageError{Object: name, Err: fmt.Errorf("a manifest of the series %q in the place of another", m.Series)}
	}
	return s, nil
}

// Lookup finds one snapshot: "shop@latest", "shop@2026-11-20" (the newest of that day, in local time), "shop@20261120T0315" (the newest whose id begins so), or the
// start of an id. fs.ErrNotExist: there is none. An id that several begin with is an error that says so.
func (r *Repo) Lookup(ctx context.Context, spec string) (*Snapshot, error) {
	s, err := r.lookup(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", spec, err)
	}
	return s, nil
}

func (r *Repo) lookup(ctx context.Context, spec string) (*Snapshot, error) {
	if spec == "" {
		return nil, errors.New("an empty name")
	}
	series, when, hasSeries := cutLast(spec, '@')
	if !hasSeries {
		series, when = "", spec
	}
	if when == "" {
		return nil, errors.New("behind the @ stands latest, a day, or the start of an id")
	}
	names, err := r.snapshotNames(ctx, series)
	if err != nil {
		return nil, err
	}
	day, isDay := parseDay(when)
	onDay := func(t time.Time) bool {
		return !isDay || t.In(day.Location()).Format(time.DateOnly) == day.Format(time.DateOnly)
	}
	var found []*Snapshot
	for _, name := range slices.Backward(names) {
		id := sessionOf(name)
		if when != "latest" && !isDay && !strings.HasPrefix(id, when) {
			continue
		}
		s, err := r.openSnapshot(ctx, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, crypt.ErrSignature) {
			continue // collected since it was listed, or a void that nobody signed
		}
		if _, ok := errors.AsType[*DamageError](err); ok {
			// A damaged manifest is no reason to take an older one in silence.
			if t, ok := parseSessionTime(id); ok && !onDay(t) {
				continue
			}
			return nil, err
		} else if err != nil {
			return nil, err
		}
		if s == nil || !onDay(s.Time) {
			continue
		}
		if hasSeries || when == "latest" {
			return s, nil
		}
		found = append(found, s)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%d snapshots begin so, give more of the id", len(found))
	}
	return nil, fs.ErrNotExist
}

func parseDay(s string) (time.Time, bool) {
	t, err := time.ParseInLocation(time.DateOnly, s, time.Local)
	return t, err == nil
}

func cutLast(s string, c byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, c); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// Unread lists what the backup that made s could not read. ErrRole: the key may not read names.
func (r *Repo) Unread(ctx context.Context, s *Snapshot) ([]Unread, error) {
	if s.unread == nil {
		return nil, nil
	}
	list, err := tree.LoadUnread(ctx, r.node, *s.unread)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: what could not be read: %w", s.ID, err)
	}
	out := make([]Unread, len(list))
	for i, u := range list {
		out[i] = Unread{Path: Escape(string(u.Path)), Err: u.Message, Tolerated: u.Tolerated}
	}
	return out, nil
}

// newest returns the newest snapshot of a series, nil if there is none. A damaged one is passed over: it is only compared with.
func (r *Repo) newest(ctx context.Context, series string) (*Snapshot, error) {
	names, err := r.snapshotNames(ctx, series)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Backward(names) {
		s, err := r.openSnapshot(ctx, name)
		if _, ok := errors.AsType[*DamageError](err); ok {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s != nil {
			return s, nil
		}
	}
	return nil, nil
}
