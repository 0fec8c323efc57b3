package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/backend/s3/policy"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func Example() {
	text, err := policy.For(policy.SecondProvider, "backups", "shop")
	if err != nil {
		panic(err)
	}
	fmt.Print(text)
	// Output:
	// {
	//   "Version": "2012-10-17",
	//   "Statement": [
	//     {
	//       "Sid": "Look",
	//       "Effect": "Allow",
	//       "Action": ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketLocation", "s3:GetBucketVersioning"],
	//       "Resource": ["arn:aws:s3:::backups"]
	//     },
	//     {
	//       "Sid": "Read",
	//       "Effect": "Allow",
	//       "Action": ["s3:GetObject", "s3:GetObjectVersion"],
	//       "Resource": ["arn:aws:s3:::backups/shop/*"]
	//     }
	//   ]
	// }
}

// What is given to people is what is tested: the README's blocks are the files.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	must(t, err)
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		if strings.Contains(m[1], `"Statement"`) {
			blocks = append(blocks, m[1])
		}
	}
	for _, n := range []policy.Name{policy.Writer, policy.Maintainer, policy.SecondProvider} {
		text, err := policy.Template(n)
		must(t, err)
		if !slices.Contains(blocks, text) {
			t.Errorf("the README has not exactly what is in %s.json", n)
		}
	}
	if len(blocks) != 3 {
		t.Errorf("the README has %d policies", len(blocks))
	}
}

func TestFor(t *testing.T) {
	for _, n := range policy.Names {
		for prefix, want := range map[string]string{"": "arn:aws:s3:::b/", "/": "arn:aws:s3:::b/", "p/q": "arn:aws:s3:::b/p/q/", "/p/": "arn:aws:s3:::b/p/"} {
			text, err := policy.For(n, "b", prefix)
			must(t, err)
			bare, err := policy.WithoutConditions(text)
			must(t, err)
			for _, s := range []string{text, bare} {
				if !json.Valid([]byte(s)) || strings.Contains(s, "BUCKET") || strings.Contains(s, "PREFIX") || strings.Contains(s, "Bypass") {
					t.Errorf("%s: %s", n, s)
				}
				for _, m := range regexp.MustCompile(`arn:aws:s3:::b/[^"]*`).FindAllString(s, -1) {
					if !strings.HasPrefix(m, want) {
						t.Errorf("%s below %q: %s", n, prefix, m)
					}
				}
			}
			if strings.Contains(bare, "Condition") || strings.Contains(text, "s3:if-none-match") != (n == policy.Writer || n == policy.Replica) {
				t.Errorf("%s: the condition", n)
			}
		}
	}
	for _, bad := range [][2]string{{"", ""}, {"a/b", ""}, {"*", ""}, {"b", "*"}, {"b", `x"`}, {"b", "a//b"}} {
		if _, err := policy.For(policy.Writer, bad[0], bad[1]); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("bucket %q, prefix %q: %v", bad[0], bad[1], err)
		}
	}
	if _, err := policy.For("nobody", "b", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such policy: %v", err)
	}
	for _, bad := range []string{"", "{", `{"Statement": [{"NotAction": ["*"]}]}`} {
		if _, err := policy.WithoutConditions(bad); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A place is a bucket with locks, and a repository in it.
type place struct {
	t      *testing.T
	srv    *miniotest.Server
	bucket string
	root   *s3.Bucket
	key    crypt.RawKey
	repo   *repo.Repo // opened by root
}

func newPlace(t *testing.T, srv *miniotest.Server, mode backend.Mode) *place {
	p := &place{t: t, srv: srv, bucket: srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})}
	p.root = p.open(srv.Credentials())
	var err error
	p.key, err = crypt.NewKey()
	must(t, err)
	p.repo, _, err = repo.Create(t.Context(), p.root, p.key, &repo.Options{Lock: repo.Lock{Mode: mode, Period: time.Hour}})
	must(t, err)
	t.Cleanup(func() { p.repo.Close() })
	return p
}

func (p *place) open(c *credentials.Credentials) *s3.Bucket {
	p.t.Helper()
	b, err := s3.Open(p.t.Context(), p.bucket, &s3.Options{Endpoint: p.srv.Endpoint, Region: "us-east-1", Prefix: "shop", Insecure: true, Credentials: c})
	must(p.t, err)
	p.t.Cleanup(func() { b.Close() })
	return b
}

// as opens the bucket with the credentials that a policy makes. MinIO has to do without the conditions.
func (p *place) as(n policy.Name) *s3.Bucket {
	p.t.Helper()
	text, err := policy.For(n, p.bucket, "shop")
	must(p.t, err)
	text, err = policy.WithoutConditions(text)
	must(p.t, err)
	return p.open(p.srv.AssumeRole(text))
}

func tree(day int) fs.FS {
	return fstest.MapFS{
		"a": {Data: bytes.Repeat([]byte("same every day "), 20000), Mode: 0o644},
		"b": {Data: []byte(strings.Repeat(fmt.Sprintf("day %d ", day), 9000)), Mode: 0o644},
	}
}

func same(t *testing.T, r *repo.Repo, s *repo.Snapshot, want fs.FS) {
	t.Helper()
	got, err := r.FS(t.Context(), s)
	must(t, err)
	for _, name := range []string{"a", "b"} {
		w, err := fs.ReadFile(want, name)
		must(t, err)
		if g, err := fs.ReadFile(got, name); err != nil || !bytes.Equal(g, w) {
			t.Errorf("%s: %d bytes, %v", name, len(g), err)
		}
	}
}

func names(t *testing.T, b backend.Backend) (all []string) {
	t.Helper()
	for info, err := range b.List(t.Context(), "") {
		must(t, err)
		all = append(all, info.Name)
	}
	return all
}

// kinds returns one object of each kind.
func kinds(t *testing.T, b backend.Backend) (some []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, name := range names(t, b) {
		kind, _, _ := strings.Cut(name, "/")
		if kind == "sessions" {
			kind += path.Ext(name)
		}
		if !seen[kind] {
			seen[kind] = true
			some = append(some, name)
		}
	}
	for _, kind := range []string{"config", "keys", "packs", "index", "snapshots", "sessions", "sessions.end"} {
		if !seen[kind] {
			t.Fatalf("there are no %s among %v", kind, some)
		}
	}
	return some
}

func newest(t *testing.T, b backend.Backend, name string) string {
	t.Helper()
	for v, err := range backend.Versions(t.Context(), b, name) {
		must(t, err)
		if v.Name == name {
			return v.ID
		}
	}
	t.Fatalf("there are no versions of %s", name)
	return ""
}

// wantRefused: by the permissions, or because it is locked.
func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, backend.ErrRetained) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestWriter(t *testing.T) {
	srv := miniotest.Start(t)
	for _, mode := range []backend.Mode{backend.Governance, backend.Compliance} {
		t.Run(string(mode), func(t *testing.T) {
			ctx := t.Context()
			p := newPlace(t, srv, mode)
			writerKey, err := crypt.NewKey()
			must(t, err)
			_, err = p.repo.AddSlot(ctx, crypt.Writer, writerKey, "web-1")
			must(t, err)

			thief := p.as(policy.Writer)
			w, err := repo.Open(ctx, thief, writerKey, nil)
			must(t, err)
			defer w.Close()
			var snaps []*repo.Snapshot
			for day := range 2 {
				s, err := w.Backup(ctx, "shop", tree(day), nil)
				must(t, err)
				snaps = append(snaps, s)
			}
			for i, s := range snaps {
				same(t, p.repo, s, tree(i))
			}
			time.Sleep(1100 * time.Millisecond) // the store's times have full seconds
			before := time.Now()
			time.Sleep(1100 * time.Millisecond)

			ended := false
			for _, name := range kinds(t, p.root) {
				kind, _, _ := strings.Cut(name, "/")
				id := newest(t, p.root, name)
				wantRefused(t, "delete "+name, thief.Delete(ctx, name))
				wantRefused(t, "hide "+name, backend.Hide(ctx, thief, name))
				wantRefused(t, "delete a version of "+name, thief.DeleteVersion(ctx, name, id))
				wantRefused(t, "erase "+name, backend.Erase(ctx, thief, name, id))
				lock, err := p.root.Retention(ctx, name, id)
				must(t, err)
				if kind == "sessions" {
					if !lock.IsZero() {
						t.Errorf("%s is locked", name)
					}
				} else if lock.Mode != mode {
					t.Errorf("%s is not locked: %+v", name, lock)
				} else {
					shorter, none := lock, backend.Retention{}
					shorter.Until = lock.Until.Add(-30 * time.Minute)
					for _, r := range []backend.Retention{shorter, none} {
						err := thief.Shorten(ctx, name, id, r)
						if mode == backend.Governance && err == nil {
							ended = true // MinIO lets it pass. Without the permission to delete that destroys nothing.
							continue
						}
						wantRefused(t, fmt.Sprintf("shorten the lock of %s to %v", name, r), err)
					}
				}
				wantRefused(t, "erase "+name, backend.Erase(ctx, thief, name, id))
				wantRefused(t, "delete "+name, thief.Delete(ctx, name))

				// Where MinIO allows it at all, an overwrite goes through.
				err = backend.PutBytes(ctx, thief, name, []byte("robbed"), nil)
				if kind == "config" || kind == "keys" {
					wantRefused(t, "overwrite "+name, err)
				} else if err != nil {
					t.Errorf("overwrite %s: %v", name, err)
				}
			}
			for _, name := range []string{"config/2", "keys/" + strings.Repeat("0", 32), "gc/1", "gc/1.free", "forgotten/x", "other/x"} {
				wantRefused(t, "put "+name, backend.PutBytes(ctx, thief, name, []byte("junk"), &backend.PutOptions{IfAbsent: true}))
			}
			// Of what is not there, it says that, as the engine relies upon.
			if _, err := thief.Get(ctx, "snapshots/none", 0, -1, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get what is not there: %v", err)
			}
			if mode == backend.Governance && !ended {
				t.Error("this MinIO keeps locks of governance from being ended, and the documentation says that it doesn't")
			}

			// Reading falls back to older versions by itself, and the time before is still there as a whole.
			for what, b := range map[string]backend.Backend{"now": p.root, "as of before": backend.AsOf(p.root, before)} {
				r, err := repo.Open(ctx, b, p.key, nil)
				must(t, err)
				defer r.Close()
				for i, s := range snaps {
					t.Run(what, func(t *testing.T) { same(t, r, s, tree(i)) })
				}
			}
		})
	}
}

func TestMaintainer(t *testing.T) {
	srv := miniotest.Start(t)
	ctx := t.Context()
	p := newPlace(t, srv, backend.Compliance)
	b := p.as(policy.Maintainer)
	key, err := crypt.NewKey()
	must(t, err)
	_, err = p.repo.AddSlot(ctx, crypt.Maintainer, key, "maintenance")
	must(t, err)
	s, err := p.repo.Backup(ctx, "shop", tree(0), nil)
	must(t, err)

	m, err := repo.Open(ctx, b, key, nil)
	must(t, err)
	defer m.Close()
	if rep, err := m.Check(ctx, nil); err != nil || !rep.Sound() || rep.Lock == nil || rep.Lock.Unlocked > 0 {
		t.Errorf("check: %+v, %v", rep, err)
	}
	must(t, m.SetLock(ctx, repo.Lock{Mode: backend.Compliance, Period: 4 * time.Hour}))
	if rep, err := m.ExtendLocks(ctx, nil); err != nil || rep.Due == 0 || time.Until(rep.Until) < 3*time.Hour {
		t.Errorf("extend: %+v, %v", rep, err)
	}
	for _, name := range kinds(t, p.root) {
		id := newest(t, p.root, name)
		lock, err := b.Retention(ctx, name, id)
		must(t, err)
		if lock.IsZero() {
			must(t, b.Delete(ctx, name))
			if _, err := p.root.Stat(ctx, name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s was deleted: %v", name, err)
			}
			continue
		}
		for what, err := range map[string]error{"delete": b.Delete(ctx, name), "delete a version": b.DeleteVersion(ctx, name, id), "erase": b.Erase(ctx, name, id)} {
			if !errors.Is(err, backend.ErrRetained) {
				t.Errorf("%s %s: %v", what, name, err)
			}
		}
		lock.Until = lock.Until.Add(-time.Hour)
		wantRefused(t, "shorten "+name, b.Shorten(ctx, name, id, lock))
		wantRefused(t, "unlock "+name, b.Shorten(ctx, name, id, backend.Retention{}))
	}
	same(t, p.repo, s, tree(0))

	// It may lock, and delete what is locked for governance only when that is over: to bypass a lock is not in the policy.
	const name = "packs/probe-0"
	must(t, backend.PutBytes(ctx, b, name, nil, &backend.PutOptions{Retain: backend.Retention{Mode: backend.Governance, Until: time.Now().Add(time.Hour)}}))
	if err := b.Erase(ctx, name, newest(t, p.root, name)); !errors.Is(err, backend.ErrRetained) {
		t.Errorf("bypass a lock of governance: %v", err)
	}
	must(t, p.root.Erase(ctx, name, newest(t, p.root, name))) // who may, can
}

// A maintainer's credentials also make a repository.
func TestMaintainerCreates(t *testing.T) {
	srv := miniotest.Start(t)
	p := &place{t: t, srv: srv, bucket: srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})}
	key, err := crypt.NewKey()
	must(t, err)
	r, _, err := repo.Create(t.Context(), p.as(policy.Maintainer), key, &repo.Options{Lock: repo.Lock{Mode: backend.Governance, Period: time.Hour}})
	must(t, err)
	must(t, r.Close())
}

func TestSecondProvider(t *testing.T) {
	srv := miniotest.Start(t)
	ctx := t.Context()
	p := newPlace(t, srv, backend.Compliance)
	s, err := p.repo.Backup(ctx, "shop", tree(0), nil)
	must(t, err)
	pull := p.as(policy.SecondProvider)
	own := &place{t: t, srv: srv, bucket: srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})}
	there := own.as(policy.Replica)

	// A damaged object is copied from its older version.
	for _, name := range names(t, p.root) {
		if strings.HasPrefix(name, "packs/") {
			must(t, backend.PutBytes(ctx, p.root, name, []byte("rotten"), nil))
		}
	}
	if rep, err := repo.Replicate(ctx, there, pull, nil); err != nil {
		t.Fatalf("%+v, %v", rep, err)
	}
	_, err = repo.Replicate(ctx, there, pull, nil)
	must(t, err)
	for what, b := range map[string]backend.Backend{"replica": there, "memory": mem.New(nil)} {
		if what == "memory" {
			_, err := repo.Replicate(ctx, b, pull, nil)
			must(t, err)
		}
		r, err := repo.Open(ctx, b, p.key, nil)
		must(t, err)
		defer r.Close()
		same(t, r, s, tree(0))
	}

	for _, name := range kinds(t, p.root) {
		id := newest(t, p.root, name)
		wantRefused(t, "overwrite "+name, backend.PutBytes(ctx, pull, name, []byte("robbed"), nil))
		wantRefused(t, "put", backend.PutBytes(ctx, pull, "packs/new", []byte("robbed"), &backend.PutOptions{IfAbsent: true}))
		wantRefused(t, "delete "+name, pull.Delete(ctx, name))
		wantRefused(t, "hide "+name, pull.Hide(ctx, name))
		wantRefused(t, "delete a version of "+name, pull.DeleteVersion(ctx, name, id))
		wantRefused(t, "erase "+name, pull.Erase(ctx, name, id))
		if lock, err := p.root.Retention(ctx, name, id); err != nil || !lock.IsZero() { // else there is nothing to unlock, and MinIO says so
			wantRefused(t, "unlock "+name, pull.Shorten(ctx, name, id, backend.Retention{}))
		}
		wantRefused(t, "lock "+name, pull.Retain(ctx, name, id, backend.Retention{Mode: backend.Compliance, Until: time.Now().Add(9 * time.Hour)}))
	}
	for _, name := range names(t, there) {
		wantRefused(t, "delete from the replica "+name, there.Delete(ctx, name))
		wantRefused(t, "hide in the replica "+name, there.Hide(ctx, name))
	}
}

// Whether MinIO knows the condition by now: then WithoutConditions has done its work.
func TestConditionAtMinIO(t *testing.T) {
	srv := miniotest.Start(t)
	for _, n := range []policy.Name{policy.Writer, policy.Replica} {
		text, err := policy.For(n, "b", "p")
		must(t, err)
		tr := &http.Transport{DisableKeepAlives: true}
		c := credentials.New(&credentials.STSAssumeRole{Client: &http.Client{Transport: tr}, STSEndpoint: "http://" + srv.Endpoint,
			Options: credentials.STSAssumeRoleOptions{AccessKey: srv.AccessKey, SecretKey: srv.SecretKey, Policy: text, Location: "us-east-1"}})
		if _, err := c.GetWithContext(nil); err == nil || !strings.Contains(err.Error(), "if-none-match") {
			t.Errorf("%s: %v: MinIO takes the condition, and the documentation says that it doesn't", n, err)
		}
	}
}
