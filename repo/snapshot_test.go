package repo_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/repo"
)

// snapSeries makes snapshots at given times in a zone that is not UTC, and returns their ids by name.
func snapSeries(t *testing.T, f func(r *repo.Repo, b backend.Backend, id map[string]string)) {
	t.Helper()
	zone := time.Local
	time.Local = time.FixedZone("here", 5*3600+1800)
	defer func() { time.Local = zone }()
	synctest.Test(t, func(t *testing.T) { // its clock begins at 2000-01-01 00:00 UTC
		r, b := treeRepo(t, nil)
		id := map[string]string{}
		for _, s := range []struct {
			name, series string
			at           time.Duration // since the beginning
			tags         map[string]string
		}{
			{"first", "shop", 18*time.Hour + 29*time.Minute + 59*time.Second, nil}, // the last second of the day here
			{"second", "shop", 18*time.Hour + 30*time.Minute, map[string]string{"a": "1"}},
			{"web", "shop/web-1", 20 * time.Hour, map[string]string{"a": "1", "b": ""}},
			{"odd", "Größe 1 [x]*", 21 * time.Hour, nil},
			{"third", "shop", 30 * time.Hour, map[string]string{"a": "2"}},
			{"slash", "a/b/", 31 * time.Hour, nil},
		} {
			time.Sleep(time.Until(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(s.at)))
			snap, err := r.Backup(context.Background(), s.series, fstest.MapFS{"f": {Data: []byte(s.name)}}, &repo.BackupOptions{Tags: s.tags, Host: "here"})
			treeMust(t, err)
			id[s.name] = snap.ID
		}
		f(r, b, id)
	})
}

func TestLookup(t *testing.T) {
	snapSeries(t, func(r *repo.Repo, b backend.Backend, id map[string]string) {
		ctx := context.Background()
		for spec, want := range map[string]string{
			"shop@latest": "third", "shop/web-1@latest": "web", "Größe 1 [x]*@latest": "odd", "a/b/@latest": "slash", "latest": "slash",
			// Days are those of the clock on the wall.
			"shop@2000-01-01": "first", "shop@2000-01-02": "third", "shop/web-1@2000-01-02": "web", "2000-01-01": "first",
			"shop@20000101": "second", "shop@20000101T182959": "first", "shop@20000101T1830": "second", "shop@" + id["first"]: "first",
			"20000102T0600": "third", id["second"]: "second", id["second"][:20]: "second",
		} {
			s, err := r.Lookup(ctx, spec)
			if err != nil || s.ID != id[want] {
				t.Errorf("%s: %+v, %v, want %s", spec, s, err, want)
			}
		}
		for _, spec := range []string{"sho@latest", "shop/@latest", "nothing", "shop@1999-12-31", "shop@2000-01-03", "shop@20000103", "web-1@latest", "shop@" + id["web"],
			"2000-01-03", "x", "shop", "shop@x", "SHOP@latest", "latest@latest", "20010101"} {
			if s, err := r.Lookup(ctx, spec); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), spec) {
				t.Errorf("%s: %v, %v", spec, s, err)
			}
		}
		for _, spec := range []string{"20000101", "2000", "2000-01-02", "shop@", ""} {
			if s, err := r.Lookup(ctx, spec); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, %v", spec, s, err)
			}
		}
	})
}

func TestSnapshots(t *testing.T) {
	snapSeries(t, func(r *repo.Repo, b backend.Backend, id map[string]string) {
		ctx := context.Background()
		name := map[string]string{}
		for n, id := range id {
			name[id] = n
		}
		list := func(f repo.Filter) (out []string, err error) {
			for s, serr := range r.Snapshots(ctx, f) {
				if serr != nil {
					if err != nil || s != nil {
						t.Error("more than an error, or more than one")
					}
					err = serr
					continue
				} else if err != nil {
					t.Error("a snapshot after the error")
				}
				out = append(out, name[s.ID])
			}
			return out, err
		}
		for _, tt := range []struct {
			f    repo.Filter
			want []string
		}{
			{repo.Filter{}, []string{"first", "second", "web", "odd", "third", "slash"}},
			{repo.Filter{Newest: 2}, []string{"third", "slash"}},
			{repo.Filter{Newest: 99}, []string{"first", "second", "web", "odd", "third", "slash"}},
			{repo.Filter{Series: "shop"}, []string{"first", "second", "third"}},
			{repo.Filter{Series: "shop", Newest: 1}, []string{"third"}},
			{repo.Filter{Series: "shop/web-1"}, []string{"web"}},
			{repo.Filter{Series: "sho"}, nil},
			{repo.Filter{Tags: map[string]string{"a": "1"}}, []string{"second", "web"}},
			{repo.Filter{Tags: map[string]string{"a": "1", "b": ""}}, []string{"web"}},
			{repo.Filter{Tags: map[string]string{"c": ""}}, nil},
			{repo.Filter{Series: "shop", Tags: map[string]string{"a": "1"}, Newest: 1}, []string{"second"}},
		} {
			if got, err := list(tt.f); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%+v: %v, %v, want %v", tt.f, got, err, tt.want)
			}
		}
		for range r.Snapshots(ctx, repo.Filter{}) {
			break
		}
		s, err := r.Lookup(ctx, "shop/web-1@latest")
		treeMust(t, err)
		if s.Series != "shop/web-1" || s.Host != "here" || !maps.Equal(s.Tags, map[string]string{"a": "1", "b": ""}) || s.Version != repo.Version ||
			!s.Time.Equal(time.Date(2000, 1, 1, 20, 0, 0, 0, time.UTC)) || s.End.Before(s.Time) || s.Parent != "" || s.Stats.Files != 1 || s.Incomplete() {
			t.Errorf("%+v", s)
		}
		if s, err := r.Lookup(ctx, "shop@latest"); err != nil || s.Parent != id["second"] {
			t.Errorf("%+v %v", s, err)
		}

		// Two manifests are damaged: the others are there, and one error names both.
		var damaged []string
		for info, err := range b.List(ctx, "snapshots/") {
			treeMust(t, err)
			if strings.HasSuffix(info.Name, id["second"]) || strings.HasSuffix(info.Name, id["third"]) {
				damaged = append(damaged, info.Name)
				treeMust(t, b.Delete(ctx, info.Name))
				treeMust(t, backend.PutBytes(ctx, b, info.Name, []byte("rubbish"), nil))
			}
		}
		got, err := list(repo.Filter{})
		if !slices.Equal(got, []string{"first", "web", "odd", "slash"}) || err == nil || !strings.Contains(err.Error(), damaged[0]) || !strings.Contains(err.Error(), damaged[1]) {
			t.Errorf("%v %v", got, err)
		}
		if d, ok := errors.AsType[*repo.DamageError](err); !ok || !slices.Contains(damaged, d.Object) {
			t.Errorf("%v", err)
		}
		if got, err := list(repo.Filter{Series: "shop/web-1"}); err != nil || !slices.Equal(got, []string{"web"}) {
			t.Error(got, err)
		}
		// An older one is never given in place of a damaged one.
		for _, spec := range []string{"shop@latest", id["third"], "shop@" + id["third"]} {
			if s, err := r.Lookup(ctx, spec); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v %v", spec, s, err)
			}
		}
		for spec, want := range map[string]string{"shop@2000-01-01": "first", "latest": "slash", "20000101T1829": "first", "shop/web-1@latest": "web"} {
			if s, err := r.Lookup(ctx, spec); err != nil || s.ID != id[want] {
				t.Errorf("%s: %v %v", spec, s, err)
			}
		}
	})
}
