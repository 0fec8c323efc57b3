package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// Keep says which snapshots of a series stay. Any one rule holds a snapshot.
//
// A rule for periods keeps the newest snapshot of each of the newest so many hours, days, ISO weeks, months or years in which there is one; periods without any do not count. A day is
// one in Location, however long: an hour that comes twice is two.
//
// A snapshot that could not read all (Snapshot.Incomplete) displaces no complete one. Each rule chooses among the complete ones as if there were no others; and it chooses once more among
// all, where an incomplete one stands for its period only if that has no complete one.
type Keep struct {
	Last    int // the newest so many
	Hourly  int
	Daily   int
	Weekly  int
	Monthly int
	Yearly  int
	// Within keeps all that are no older than the newest of the series by more than this. It is counted from there and not from now: where no new ones come, none goes.
	Within time.Duration
	// Tags keeps those that have any of these, each KEY=VALUE, or KEY for any value. It only adds: at least one of the fields above has to keep something.
	Tags []string
	// Location is where days begin. Nil is UTC, so that a plan is the same on all machines.
	Location *time.Location
}

// Plan tells of each snapshot whether it stays and why.
type Plan struct {
	Snapshots []Planned      // series by series, each oldest first
	Damaged   []*DamageError // manifests that cannot be opened; they stay, and count for nothing
	Warnings  []string       // series of which one snapshot may not stand for another
}

// Planned is what becomes of one snapshot.
type Planned struct {
	*Snapshot
	Stored time.Time // when the store got it, by its clock
	Why    []string  // all that holds it, such as "daily 2026-11-20"; empty: it goes
}

// Goes tells whether the snapshot is to be forgotten.
func (p *Planned) Goes() bool { return len(p.Why) == 0 }

// Forget returns the ids of those that go, for Repo.Forget.
func (p *Plan) Forget() (ids []string) {
	for i := range p.Snapshots {
		if p.Snapshots[i].Goes() {
			ids = append(ids, p.Snapshots[i].ID)
		}
	}
	return ids
}

// Plan applies rules to each series on its own: to one, or to all if series is empty. It changes nothing; the same plan holds until there are other snapshots, and once those that go
// are forgotten, the same rules forget no more.
//
// Whatever the rules say, these stay: the newest of a series; its newest complete one; and one whose own time differs from that of the store by more than two days, for then one of two clocks
// was wrong, or somebody lied. Such a one also makes no other go: it fills no period. (A backup that took longer than two days, and those that Heal or Replicate brought
// later, count so as well: forget them by their ids.)
//
// A series that several machines or jobs fill in turn with different things is planned like any other, and Warnings says so: each should have a series of its own.
//
// fs.ErrInvalid: rules that keep nothing, numbers below 0, or what is no series' name. A series without snapshots is no error. Any key may plan; a writer's does not see what snapshots hold, and
// is warned of hosts alone. Manifests that cannot be opened are no error either, but in Damaged. The plan is the caller's.
func (r *Repo) Plan(ctx context.Context, series string, keep Keep) (*Plan, error) {
	p, err := r.own.plan(ctx, series, keep)
	if err != nil {
		return nil, fmt.Errorf("plan what to keep: %w", err)
	}
	return p, nil
}

func (r *Repo) plan(ctx context.Context, series string, keep Keep) (*Plan, error) {
	if err := keep.valid(); err != nil {
		return nil, err
	}
	if series != "" {
		if err := checkSeries(series); err != nil {
			return nil, fmt.Errorf("%w: %w", err, fs.ErrInvalid)
		}
	}
	stored := map[string]time.Time{}
	for info, err := range r.backend.List(ctx, snapshotsPrefix) {
		if err != nil {
			return nil, err
		}
		stored[sessionOf(info.Name)] = info.Modified
	}
	snaps, damaged, err := r.listSnapshots(ctx, series)
	if err != nil {
		return nil, err
	}
	p := &Plan{Damaged: damaged}
	for _, s := range snaps {
		at, ok := stored[s.ID]
		if !ok {
			continue // it was made since
		}
		p.Snapshots = append(p.Snapshots, Planned{Snapshot: s, Stored: at})
	}
	slices.SortFunc(p.Snapshots, func(a, b Planned) int { return cmp.Or(strings.Compare(a.Series, b.Series), compareTimes(a, b)) })
	for of := range chunkBy(p.Snapshots, func(a, b *Planned) bool { return a.Series == b.Series }) {
		keep.apply(of)
		w, err := r.mixed(ctx, of)
		if err != nil {
			return nil, err
		}
		p.Warnings = append(p.Warnings, w...)
	}
	return p, nil
}

// compareTimes orders snapshots of a series. Those of the same moment are ordered by their ids, which no two share.
func compareTimes(a, b Planned) int {
	return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
}

// chunkBy yields the runs of s whose neighbours are the same.
func chunkBy[T any](s []T, same func(a, b *T) bool) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(s) > 0 {
			n := 1
			for n < len(s) && same(&s[n-1], &s[n]) {
				n++
			}
			if !yield(s[:n:n]) {
				return
			}
			s = s[n:]
		}
	}
}

func (k *Keep) valid() error {
	kept := k.Within > 0
	for _, n := range []int{k.Last, k.Hourly, k.Daily, k.Weekly, k.Monthly, k.Yearly} {
		if n < 0 {
			return fmt.Errorf("to keep %d of something: %w", n, fs.ErrInvalid)
		}
		kept = kept || n > 0
	}
	if k.Within < 0 {
		return fmt.Errorf("to keep what is younger than %v: %w", k.Within, fs.ErrInvalid)
	}
	if !kept {
		return fmt.Errorf("rules that keep nothing would forget nearly all, so nothing is forgotten: %w", fs.ErrInvalid)
	}
	return nil
}

// apply finds what holds each snapshot of one series, oldest first.
func (k *Keep) apply(series []Planned) {
	in := k.Location
	if in == nil {
		in = time.UTC
	}
	var all, complete []*Planned // newest first, those whose time can be believed
	for i := range slices.Backward(series) {
		s := &series[i]
		if d := s.Time.Sub(s.Stored); d.Abs() > times.trust {
			way, off := "before", d.Abs().Round(time.Hour)
			if d > 0 {
				way = "after"
			}
			if off > 240*time.Hour {
				off = off.Round(24 * time.Hour)
			}
			s.hold(fmt.Sprintf("its time is not plausible: %s %s the store's", days(off), way))
			continue
		}
		all = append(all, s)
		if !s.Incomplete() {
			complete = append(complete, s)
		}
	}
	if len(all) > 0 {
		all[0].hold("the newest of its series")
		for _, s := range all {
			if k.Within > 0 && all[0].Time.Sub(s.Time) <= k.Within {
				s.hold("within " + days(k.Within))
			}
			for _, t := range k.Tags {
				if s.tagged(t) {
					s.hold("tag " + t)
				}
			}
		}
	}
	if len(complete) > 0 && complete[0] != all[0] {
		complete[0].hold("the newest complete one of its series")
	}
	for _, rule := range []struct {
		n      int
		period func(s *Planned) string
	}{
		{k.Hourly, func(s *Planned) string { return "hourly " + s.Time.In(in).Format("2006-01-02 15:00 -0700") }},
		{k.Daily, func(s *Planned) string { return "daily " + s.Time.In(in).Format(time.DateOnly) }},
		{k.Weekly, func(s *Planned) string {
			year, week := s.Time.In(in).ISOWeek()
			return fmt.Sprintf("weekly %d-W%02d", year, week)
		}},
		{k.Monthly, func(s *Planned) string { return "monthly " + s.Time.In(in).Format("2006-01") }},
		{k.Yearly, func(s *Planned) string { return "yearly " + s.Time.In(in).Format("2006") }},
	} {
		for _, from := range [][]*Planned{complete, all} {
			// A clock that is set back may lead out of a day and into it again, so periods are told by their names.
			stands := map[string]*Planned{}
			var order []string
			for _, s := range from {
				name := rule.period(s)
				if stands[name] == nil {
					order = append(order, name)
				}
				if stands[name] == nil || stands[name].Incomplete() && !s.Incomplete() {
					stands[name] = s
				}
			}
			for _, name := range order[:min(rule.n, len(order))] {
				stands[name].hold(name)
			}
		}
	}
	for _, from := range [][]*Planned{complete, all} {
		for _, s := range from[:min(k.Last, len(from))] {
			s.hold(fmt.Sprintf("last %d", k.Last))
		}
	}
}

// hold says why the snapshot stays.
func (p *Planned) hold(why string) {
	if !slices.Contains(p.Why, why) {
		p.Why = append(p.Why, why)
	}
}

// tagged tells whether the snapshot has the tag t, KEY or KEY=VALUE.
func (s *Snapshot) tagged(t string) bool {
	for k, v := range s.Tags {
		if k == t || k+"="+v == t {
			return true
		}
	}
	return false
}

// days prints a duration as days or hours where it is some.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// mixedLook is of how many snapshots of a series, the newest, the folder at the top is looked at.
const mixedLook = 8

// mixed warns of a series that several machines, or several jobs, fill in turn. One that moved to another machine once, or whose machines have a new name each time, is no such.
func (r *Repo) mixed(ctx context.Context, series []Planned) (warnings []string, err error) {
	name := series[0].Series
	hosts := make([]string, len(series))
	for i := range series {
		hosts[i] = series[i].Host
	}
	if h := inTurn(hosts); h != nil {
		warnings = append(warnings, fmt.Sprintf("the series %q comes from several hosts in turn (%s), and a snapshot of one takes the place of another's: give each a series of its own", name, strings.Join(h, ", ")))
	}
	if r.keys.Role() == crypt.Writer {
		return warnings, nil // it may not read names
	}
	look := series[max(0, len(series)-mixedLook):]
	if len(look) < 3 {
		return warnings, nil
	}
	top := make([][]string, len(look))
	g, gctx := errgroup.WithContext(ctx)
	for i := range look {
		g.Go(func() (err error) {
			top[i], err = r.topNames(gctx, look[i].Snapshot)
			if _, ok := errors.AsType[*DamageError](err); ok {
				err = nil // others tell of that
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// Those that have no name in common hold different things.
	groupOf := map[string]string{}
	var groups []string
	for _, names := range top {
		if len(names) == 0 {
			continue
		}
		group := strings.Join(names[:min(3, len(names))], ", ")
		if i := slices.IndexFunc(names, func(n string) bool { return groupOf[n] != "" }); i >= 0 {
			group = groupOf[names[i]]
		}
		for _, n := range names {
			groupOf[n] = group
		}
		groups = append(groups, group)
	}
	if t := inTurn(groups); t != nil {
		warnings = append(warnings, fmt.Sprintf("snapshots of the series %q hold different things in turn (%s), and one takes the place of another: give each job a series of its own", name, strings.Join(t, "; ")))
	}
	return warnings, nil
}

// inTurn returns the different values of s if one of them comes again after another one: in the order in which they came, a few at most.
func inTurn(s []string) (values []string) {
	s = slices.Compact(slices.Clone(s))
	for _, v := range s {
		if !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	if len(values) == len(s) {
		return nil
	}
	if len(values) > 5 {
		values = append(values[:5:5], "...")
	}
	return values
}

// topNames returns the names in the root folder of a snapshot, in readable form, of a long one the first.
func (r *Repo) topNames(ctx context.Context, s *Snapshot) (names []string, err error) {
	root, err := tree.LoadRoot(ctx, r.node, s.root)
	if err != nil {
		return nil, err
	}
	if len(root.Folder) == 0 {
		return nil, nil
	}
	for e, err := range tree.Entries(ctx, r.node, pack.ID(root.Folder)) {
		if err != nil {
			return names, err
		}
		if names = append(names, Escape(string(e.Name))); len(names) == 1000 {
			break
		}
	}
	return names, nil
}
