package repo_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// planned makes up a snapshot of a moment.
func planned(id int, at time.Time) repo.Planned {
	return repo.Planned{Snapshot: &repo.Snapshot{ID: fmt.Sprintf("%04d", id), Series: "shop", Time: at}, Stored: at}
}

func whys(of []repo.Planned) string {
	var b strings.Builder
	for _, s := range of {
		fmt.Fprintf(&b, "%s %s: %s\n", s.ID, s.Time.Format(time.RFC3339), strings.Join(s.Why, ", "))
	}
	return b.String()
}

func berlin(t testing.TB) *time.Location {
	t.Helper()
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here")
	}
	return l
}

func TestKeep(t *testing.T) {
	zone := berlin(t)
	incomplete := func(p repo.Planned) repo.Planned { repo.MakeIncomplete(p.Snapshot); return p }
	lied := func(p repo.Planned, by time.Duration) repo.Planned { p.Stored = p.Time.Add(by); return p }
	tagged := func(p repo.Planned, k, v string) repo.Planned { p.Tags = map[string]string{k: v}; return p }
	at := func(s string) time.Time { return dmgMust(time.ParseInLocation(time.DateTime, s, zone))(t) }
	utc := func(s string) time.Time { return dmgMust(time.Parse(time.DateTime, s))(t) }
	for _, c := range []struct {
		name string
		keep repo.Keep
		in   []repo.Planned
		want string
	}{
		{"days", repo.Keep{Daily: 2}, []repo.Planned{
			planned(1, utc("2026-11-17 03:00:00")), planned(2, utc("2026-11-19 03:00:00")), planned(3, utc("2026-11-19 04:00:00")), planned(4, utc("2026-11-21 23:59:59"))},
			"1: |2: |3: daily 2026-11-19|4: the newest of its series, daily 2026-11-21"},
		{"days begin in the zone", repo.Keep{Daily: 9, Location: zone}, []repo.Planned{
			planned(1, utc("2026-11-17 22:59:59")), planned(2, utc("2026-11-17 23:00:00")), planned(3, utc("2026-11-18 22:59:59"))},
			"1: daily 2026-11-17|2: |3: the newest of its series, daily 2026-11-18"},
		{"an hour that comes twice", repo.Keep{Hourly: 9, Location: zone}, []repo.Planned{
			planned(1, utc("2026-10-25 00:30:00")), planned(2, utc("2026-10-25 01:30:00")), planned(3, utc("2026-10-25 01:45:00"))},
			"1: hourly 2026-10-25 02:00 +0200|2: |3: the newest of its series, hourly 2026-10-25 02:00 +0100"},
		{"a day of 25 hours", repo.Keep{Daily: 9, Location: zone}, []repo.Planned{
			planned(1, at("2026-10-25 00:00:00")), planned(2, utc("2026-10-25 22:59:59")), planned(3, utc("2026-10-25 23:00:00"))},
			"1: |2: daily 2026-10-25|3: the newest of its series, daily 2026-10-26"},
		{"ISO weeks", repo.Keep{Weekly: 9}, []repo.Planned{
			planned(1, utc("2026-12-27 12:00:00")), planned(2, utc("2026-12-28 12:00:00")), planned(3, utc("2027-01-03 12:00:00")), planned(4, utc("2027-01-04 12:00:00"))},
			"1: weekly 2026-W52|2: |3: weekly 2026-W53|4: the newest of its series, weekly 2027-W01"},
		{"months and years", repo.Keep{Monthly: 2, Yearly: 3}, []repo.Planned{
			planned(1, utc("2024-12-31 23:59:59")), planned(2, utc("2025-01-01 00:00:00")), planned(3, utc("2025-11-30 12:00:00")), planned(4, utc("2026-01-31 12:00:00"))},
			"1: yearly 2024|2: |3: monthly 2025-11, yearly 2025|4: the newest of its series, monthly 2026-01, yearly 2026"},
		{"the same second", repo.Keep{Last: 2}, []repo.Planned{
			planned(3, utc("2026-11-17 22:59:59")), planned(1, utc("2026-11-17 22:59:59")), planned(2, utc("2026-11-17 22:59:59"))},
			"1: |2: last 2|3: the newest of its series, last 2"},
		{"within", repo.Keep{Within: 7 * day}, []repo.Planned{
			planned(1, utc("2026-11-13 11:59:59")), planned(2, utc("2026-11-13 12:00:00")), planned(3, utc("2026-11-20 12:00:00"))},
			"1: |2: within 7d|3: the newest of its series, within 7d"},
		{"tags", repo.Keep{Last: 1, Tags: []string{"release", "by=hand"}}, []repo.Planned{
			tagged(planned(1, utc("2026-11-13 11:00:00")), "release", "7"), tagged(planned(2, utc("2026-11-13 12:00:00")), "by", "hand"),
			tagged(planned(3, utc("2026-11-13 13:00:00")), "by", "clock"), planned(4, utc("2026-11-20 12:00:00"))},
			"1: tag release|2: tag by=hand|3: |4: the newest of its series, last 1"},
		{"an incomplete one displaces no complete one", repo.Keep{Daily: 2, Last: 1}, []repo.Planned{
			planned(1, utc("2026-11-10 01:00:00")), planned(2, utc("2026-11-11 01:00:00")), incomplete(planned(3, utc("2026-11-11 02:00:00"))),
			incomplete(planned(4, utc("2026-11-12 01:00:00"))), incomplete(planned(5, utc("2026-11-13 01:00:00"))), incomplete(planned(6, utc("2026-11-13 02:00:00")))},
			"1: daily 2026-11-10|2: the newest complete one of its series, daily 2026-11-11, last 1|3: |4: daily 2026-11-12|5: |6: the newest of its series, daily 2026-11-13, last 1"},
		{"only incomplete ones", repo.Keep{Daily: 2}, []repo.Planned{
			incomplete(planned(1, utc("2026-11-10 01:00:00"))), incomplete(planned(2, utc("2026-11-11 01:00:00"))), incomplete(planned(3, utc("2026-11-12 01:00:00")))},
			"1: |2: daily 2026-11-11|3: the newest of its series, daily 2026-11-12"},
		{"within, and the newest is incomplete", repo.Keep{Within: day}, []repo.Planned{
			planned(1, utc("2026-11-10 01:00:00")), planned(2, utc("2026-11-11 01:00:00")), incomplete(planned(3, utc("2026-11-19 02:00:00")))},
			"1: |2: the newest complete one of its series|3: the newest of its series, within 1d"},
		{"clocks that lie", repo.Keep{Daily: 2, Last: 2}, []repo.Planned{
			planned(1, utc("2026-11-10 01:00:00")), planned(2, utc("2026-11-11 01:00:00")),
			lied(planned(3, utc("2026-11-11 02:00:00")), 49*time.Hour), lied(planned(4, utc("2028-01-01 00:00:00")), -600*day), lied(planned(5, utc("2026-11-11 00:00:00")), 48*time.Hour)},
			"1: daily 2026-11-10|5: last 2|2: the newest of its series, daily 2026-11-11, last 2|3: its time is not plausible: 49h before the store's|4: its time is not plausible: 600d after the store's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range repo.ApplyKeep(c.keep, c.in) {
				got = append(got, strings.TrimLeft(s.ID, "0")+": "+strings.Join(s.Why, ", "))
			}
			if g := strings.Join(got, "|"); g != c.want {
				t.Errorf("got  %s\nwant %s", g, c.want)
			}
		})
	}
}

// genSeries draws snapshots around borders of all kinds.
func genSeries(t *rapid.T) []repo.Planned {
	base := dmgTime(rapid.SampledFrom([]string{"2026-10-24T20:00:00Z", "2026-03-28T20:00:00Z", "2026-12-25T00:00:00Z", "2024-02-27T00:00:00Z"}).Draw(t, "base"))
	n := rapid.IntRange(0, 40).Draw(t, "n")
	series := make([]repo.Planned, n)
	at := base
	for i := range series {
		at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 599, 1800, 3600, 7200, 6 * 3600, 86400, 86400 * 8, 86400 * 40}).Draw(t, "step")) * time.Second)
		series[i] = planned(i, at)
		series[i].Stored = at.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 0, 60, 48 * 3600, 48*3600 + 1, -50 * 3600}).Draw(t, "off")) * time.Second)
		if rapid.IntRange(0, 4).Draw(t, "incomplete") == 0 {
			repo.MakeIncomplete(series[i].Snapshot)
		}
		if rapid.IntRange(0, 9).Draw(t, "tag") == 0 {
			series[i].Tags = map[string]string{"release": "1"}
		}
	}
	return rapid.Permutation(series).Draw(t, "order")
}

func dmgTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func genKeep(t *rapid.T, zones []*time.Location) repo.Keep {
	few := rapid.SampledFrom([]int{0, 0, 1, 2, 3, 7, 100})
	k := repo.Keep{Last: few.Draw(t, "last"), Hourly: few.Draw(t, "hourly"), Daily: few.Draw(t, "daily"), Weekly: few.Draw(t, "weekly"), Monthly: few.Draw(t, "monthly"),
		Yearly: few.Draw(t, "yearly"), Within: time.Duration(few.Draw(t, "within")) * 20 * time.Hour, Location: rapid.SampledFrom(zones).Draw(t, "zone")}
	if rapid.Bool().Draw(t, "tags") {
		k.Tags = []string{rapid.SampledFrom([]string{"release", "release=1", "release=2"}).Draw(t, "by")}
	}
	return k
}

// keptNaively says the same as the rules, snapshot by snapshot and by counting.
func keptNaively(k repo.Keep, all []repo.Planned, s repo.Planned) bool {
	believed := func(p repo.Planned) bool {
		return !p.Time.After(p.Stored.Add(48*time.Hour)) && !p.Time.Before(p.Stored.Add(-48*time.Hour))
	}
	newer := func(a, b repo.Planned) bool { return a.Time.After(b.Time) || a.Time.Equal(b.Time) && a.ID > b.ID }
	if !believed(s) {
		return true
	}
	in := k.Location
	if in == nil {
		in = time.UTC
	}
	// Two snapshots are in one period if these numbers are equal.
	year := func(p repo.Planned) [5]int { return [5]int{p.Time.In(in).Year()} }
	month := func(p repo.Planned) [5]int { return [5]int{p.Time.In(in).Year(), int(p.Time.In(in).Month())} }
	week := func(p repo.Planned) [5]int {
		// The Monday before it.
		l := p.Time.In(in)
		m := time.Date(l.Year(), l.Month(), l.Day()-(int(l.Weekday())+6)%7, 12, 0, 0, 0, time.UTC)
		return [5]int{m.Year(), m.YearDay()}
	}
	today := func(p repo.Planned) [5]int { return [5]int{p.Time.In(in).Year(), p.Time.In(in).YearDay()} }
	hour := func(p repo.Planned) [5]int {
		_, off := p.Time.In(in).Zone()
		return [5]int{p.Time.In(in).Year(), p.Time.In(in).YearDay(), p.Time.In(in).Hour(), off}
	}
	self := func(p repo.Planned) [5]int {
		return [5]int{int(p.Time.Unix()), slices.IndexFunc(all, func(q repo.Planned) bool { return q.ID == p.ID })}
	}
	for _, among := range []func(repo.Planned) bool{believed, func(p repo.Planned) bool { return believed(p) && !p.Incomplete() }} {
		if !among(s) {
			continue
		}
		newest := true
		for _, p := range all {
			newest = newest && !(among(p) && newer(p, s))
		}
		if newest {
			return true
		}
		for _, rule := range []struct {
			n  int
			of func(repo.Planned) [5]int
		}{{k.Last, self}, {k.Hourly, hour}, {k.Daily, today}, {k.Weekly, week}, {k.Monthly, month}, {k.Yearly, year}} {
			first, before := true, map[[5]int]bool{}
			begun := s // the newest of its period
			for _, p := range all {
				if among(p) && rule.of(p) == rule.of(s) && newer(p, begun) {
					begun = p
				}
			}
			for _, p := range all {
				switch {
				case !among(p):
				case rule.of(p) == rule.of(s):
					better := newer(p, s)
					if p.Incomplete() != s.Incomplete() {
						better = s.Incomplete()
					}
					first = first && !better
				case newer(p, begun):
					before[rule.of(p)] = true
				}
			}
			if first && len(before) < rule.n {
				return true
			}
		}
	}
	for _, t := range k.Tags {
		if v, ok := s.Tags["release"]; ok && (t == "release" || t == "release="+v) {
			return true
		}
	}
	for _, p := range all {
		if believed(p) && k.Within > 0 && p.Time.Sub(s.Time) > k.Within {
			return false
		}
	}
	return k.Within > 0
}

func TestKeepProperties(t *testing.T) {
	zones := []*time.Location{nil, berlin(t)}
	for _, name := range []string{"America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"} {
		if l, err := time.LoadLocation(name); err == nil {
			zones = append(zones, l)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		series, keep := genSeries(t), genKeep(t, zones)
		plan := repo.ApplyKeep(keep, series)
		kept := map[string]bool{}
		var rest []repo.Planned
		for _, s := range plan {
			if kept[s.ID] = !s.Goes(); kept[s.ID] {
				rest = append(rest, s)
			}
			if want := keptNaively(keep, series, s); kept[s.ID] != want {
				t.Fatalf("%s: kept %v, naively %v\n%+v\n%s", s.ID, kept[s.ID], want, keep, whys(plan))
			}
		}
		for _, s := range repo.ApplyKeep(keep, rest) {
			if s.Goes() {
				t.Fatalf("%s goes when the others are gone\n%+v\n%s", s.ID, keep, whys(plan))
			}
		}
		more := keep
		for _, n := range []*int{&more.Last, &more.Hourly, &more.Daily, &more.Weekly, &more.Monthly, &more.Yearly} {
			*n += rapid.IntRange(0, 3).Draw(t, "more")
		}
		more.Within += time.Duration(rapid.IntRange(0, 50).Draw(t, "hours")) * time.Hour
		for _, s := range repo.ApplyKeep(more, series) {
			if kept[s.ID] && s.Goes() {
				t.Fatalf("%s goes with more generous rules\n%+v\n%+v\n%s", s.ID, keep, more, whys(plan))
			}
		}
	})
}

// Months of snapshots, planned and forgotten every day, through a repository.
func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		keep := repo.Keep{Daily: 3, Weekly: 2, Monthly: 2}
		for n := range 50 {
			d.backup(t, "shop", dmgTree{"db": dmgRand(byte(n), 100)})
			if n%2 == 0 {
				d.backup(t, "mail", dmgTree{"inbox": dmgRand(byte(n), 100)})
			}
			r := d.open(t)
			plan := dmgMust(r.Plan(t.Context(), "shop", keep))(t)
			if len(plan.Warnings) > 0 || len(plan.Damaged) > 0 {
				t.Fatalf("%+v", plan)
			}
			ids := plan.Forget()
			if err := r.Forget(t.Context(), ids...); err != nil {
				t.Fatal(err)
			}
			if again := dmgMust(r.Plan(t.Context(), "shop", keep))(t); len(again.Forget()) > 0 {
				t.Fatalf("day %d: %s", n, whys(again.Snapshots))
			}
			forgotten := 0
			for s, err := range r.Snapshots(t.Context(), repo.Filter{Forgotten: true, Series: "shop"}) {
				if err != nil || s.Forgotten.IsZero() || time.Since(s.Forgotten) < 0 {
					t.Fatalf("%+v, %v", s, err)
				}
				forgotten++
			}
			if kept := len(plan.Snapshots) - len(ids); kept+forgotten != n+1 {
				t.Fatalf("day %d: %d and %d", n, kept, forgotten)
			}
			time.Sleep(day)
		}
		all := dmgMust(d.open(t).Plan(t.Context(), "", keep))(t)
		if len(all.Snapshots) < 25 || all.Snapshots[0].Series != "mail" {
			t.Errorf("%d: %s", len(all.Snapshots), whys(all.Snapshots))
		}
		// 3 days, the Sunday before, the last of the month before (2000-01-01 was a Saturday).
		var got []string
		for _, s := range all.Snapshots {
			if s.Series == "shop" {
				got = append(got, s.Time.Format(time.DateOnly))
			}
		}
		if g := strings.Join(got, " "); g != "2000-01-31 2000-02-13 2000-02-17 2000-02-18 2000-02-19" {
			t.Error(g)
		}
	})
}

func TestPlanRefuses(t *testing.T) {
	d := dmgFixture(t)
	r := d.open(t)
	for _, k := range []repo.Keep{{}, {Tags: []string{"a"}}, {Daily: -1, Last: 3}, {Within: -1, Last: 1}} {
		if p, err := r.Plan(t.Context(), "", k); !errors.Is(err, fs.ErrInvalid) || p != nil {
			t.Errorf("%+v: %v", k, err)
		}
	}
	// A writer may plan, and forgets nothing.
	key := dmgMust(crypt.NewKey())(t)
	dmgMust(r.AddSlot(t.Context(), crypt.Writer, key, "w"))(t)
	w := dmgMust(repo.Open(t.Context(), d.b, key, nil))(t)
	p := dmgMust(w.Plan(t.Context(), "shop", repo.Keep{Last: 1}))(t)
	if ids := p.Forget(); len(p.Snapshots) != 2 || len(ids) != 1 {
		t.Errorf("%s", whys(p.Snapshots))
	} else if err := w.Forget(t.Context(), ids...); !errors.Is(err, repo.ErrRole) {
		t.Error(err)
	}
	// A manifest that does not open is named, and stays.
	name := dmgSnapshotName(p.Snapshots[1].ID)
	harms["flipped"](t, d.b, name)
	p = dmgMust(d.open(t).Plan(t.Context(), "shop", repo.Keep{Last: 1}))(t)
	if len(p.Damaged) != 1 || p.Damaged[0].Object != name || len(p.Forget()) != 0 {
		t.Errorf("%+v", p)
	}
}

// A store whose clock is not that of the machine, as in a theft: snapshots of a time to come make none go.
func TestPlanClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off time.Duration
		d := dmgNew(t, mem.New(&mem.Options{Now: func() time.Time { return time.Now().Add(off) }}))
		for range 5 {
			d.backup(t, "shop", dmgTree{"db": dmgRand(1, 100)})
			time.Sleep(day)
		}
		off = -100 * day
		for range 5 {
			time.Sleep(20 * day)
			off -= 20 * day
			d.backup(t, "shop", dmgTree{"db": dmgRand(2, 100)})
		}
		p := dmgMust(d.open(t).Plan(t.Context(), "shop", repo.Keep{Last: 4}))(t)
		if ids := p.Forget(); len(ids) != 1 || ids[0] != p.Snapshots[0].ID || !strings.Contains(p.Snapshots[9].Why[0], "not plausible") {
			t.Error(whys(p.Snapshots))
		}
	})
}

func TestPlanWarns(t *testing.T) {
	type made struct {
		host string
		tree dmgTree
	}
	db, up := dmgTree{"db.sql": []byte("x")}, dmgTree{"uploads/a": []byte("y"), "config": []byte("z")}
	for name, c := range map[string]struct {
		made []made
		want []string
	}{
		"one host":           {[]made{{"a", db}, {"a", db}, {"a", db}}, nil},
		"moved":              {[]made{{"a", db}, {"a", db}, {"b", db}, {"b", db}}, nil},
		"names of a day":     {[]made{{"x1", dmgTree{"1.sql": nil}}, {"x2", dmgTree{"2.sql": nil}}, {"x3", dmgTree{"3.sql": nil}}}, nil},
		"something is added": {[]made{{"a", db}, {"a", dmgTree{"db.sql": nil, "uploads": nil}}, {"a", db}}, nil},
		"changed once":       {[]made{{"a", db}, {"a", up}, {"a", up}}, nil},
		"in turn":            {[]made{{"a", db}, {"b", db}, {"a", db}}, []string{`"shop" comes from several hosts in turn (a, b)`}},
		"jobs":               {[]made{{"a", db}, {"a", up}, {"a", db}, {"a", up}}, []string{"different things in turn (db.sql; config, uploads)"}},
		"both":               {[]made{{"a", db}, {"b", up}, {"a", db}, {"b", up}}, []string{"several hosts", "different things"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dmgNew(t, mem.New(nil))
				for _, m := range c.made {
					dmgMust(d.open(t).Backup(t.Context(), "shop", m.tree.fs(), &repo.BackupOptions{Host: m.host}))(t)
					time.Sleep(time.Hour)
				}
				p := dmgMust(d.open(t).Plan(t.Context(), "", repo.Keep{Last: 1}))(t)
				if len(p.Warnings) != len(c.want) || len(p.Forget()) != len(c.made)-1 {
					t.Fatalf("%q, want %q", p.Warnings, c.want)
				}
				for i, w := range c.want {
					if !strings.Contains(p.Warnings[i], w) {
						t.Errorf("%q, want %q", p.Warnings[i], w)
					}
				}
			})
		})
	}
}
