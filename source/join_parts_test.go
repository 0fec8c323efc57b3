package source_test

import (
	"errors"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// bucketLike has a bucket's name.
type bucketLike struct{ fstest.MapFS }

func (bucketLike) Bucket() string { return "media" }

func TestJoinOrder(t *testing.T) {
	tree := fstest.MapFS{"a": {}}
	j := source.Join{"a-bucket": bucketLike{tree}, "b-tree": tree, "c": source.Join{"x": tree}, "z.sql": source.Shell("z.sql", "true", nil),
		"y.sql": source.Optional(source.Shell("y.sql", "true", nil)), "a-tree": source.Optional(tree)}
	if got, want := j.Parts(), []string{"y.sql", "z.sql", "c", "a-tree", "b-tree", "a-bucket"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for name, want := range map[string]bool{"y.sql": true, "a-tree": true, "z.sql": false, "none": false} {
		if j.Optional(name) != want {
			t.Errorf("Optional(%q) is %v", name, !want)
		}
	}
	if err := fstest.TestFS(source.Join{"a": source.Optional(tree)}, "a/a"); err != nil {
		t.Error(err)
	}
}

// The parts of a snapshot have their times, in the order in which they were read; what was optional and failed is recorded instead.
func TestJoinPartTimes(t *testing.T) {
	r := partsRepo(t)
	tree := fstest.MapFS{"a": {Data: []byte("a")}}
	j := source.Join{"tree": tree, "db.sql": source.Shell("db.sql", "echo rows", nil), "lost.sql": source.Optional(source.Shell("lost.sql", "echo half; exit 1", nil))}
	s, err := r.Backup(t.Context(), "shop", j, nil)
	if !errors.Is(err, repo.ErrIncomplete) || s == nil {
		t.Fatal(err)
	}
	parts, err := r.Parts(t.Context(), s)
	if err != nil || len(parts) != 2 || parts[0].Name != "db.sql" || parts[1].Name != "tree" {
		t.Fatalf("%v, %v", parts, err)
	}
	if parts[0].Begun.Before(s.Time.Add(-1e9)) || parts[0].Ended.After(parts[1].Begun) || parts[1].Ended.After(s.End.Add(1e9)) {
		t.Errorf("%v of %v to %v", parts, s.Time, s.End)
	}
	unread, err := r.Unread(t.Context(), s)
	if err != nil || len(unread) != 1 || unread[0].Path != "lost.sql" {
		t.Errorf("%v, %v", unread, err)
	}
	delete(j, "lost.sql")
	j["lost.sql"] = source.Shell("lost.sql", "echo half; exit 1", nil)
	if s, err := r.Backup(t.Context(), "shop", j, nil); err == nil || s != nil {
		t.Errorf("a part that is not optional failed: %v, %v", s, err)
	}
}

func partsRepo(t *testing.T) *repo.Repo {
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := repo.Create(t.Context(), mem.New(nil), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
