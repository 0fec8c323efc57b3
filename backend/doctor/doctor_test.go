package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/doctor"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/backend/s3/policy"
	"github.com/varvebackup/varve/internal/miniotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// victims are objects where a repository has those that snapshots need.
var victims = []string{"config/1", "keys/00", "packs/00/00", "index/00", "snapshots/00/00"}

// plant puts the victims, locked in a mode.
func plant(t *testing.T, owner backend.Backend, mode backend.Mode) {
	t.Helper()
	for _, name := range victims {
		o := &backend.PutOptions{IfAbsent: true}
		if mode != "" {
			o.Retain = backend.Retention{Mode: mode, Until: time.Now().Add(time.Hour)}
		}
		if err := backend.PutBytes(t.Context(), owner, name, []byte(name), o); err != nil {
			t.Fatal(err)
		}
	}
}

// rob does its worst, whatever it is told.
func rob(ctx context.Context, b backend.Backend) {
	versions := func(name string, f func(id string)) {
		ids := []string{"", "null"}
		for v, err := range backend.Versions(ctx, b, name) {
			if err != nil {
				break
			}
			ids = append(ids, v.ID)
		}
		for _, id := range ids {
			f(id)
		}
	}
	for _, name := range victims {
		backend.PutBytes(ctx, b, name, []byte("robbed"), nil)
		backend.PutBytes(ctx, b, name, []byte("robbed"), &backend.PutOptions{IfAbsent: true})
		backend.Hide(ctx, b, name)
		versions(name, func(id string) { backend.Erase(ctx, b, name, id) })
		versions(name, func(id string) {
			backend.Shorten(ctx, b, name, id, backend.Retention{})
			backend.Erase(ctx, b, name, id)
			backend.DeleteVersion(ctx, b, name, id)
		})
		b.Delete(ctx, name)
		backend.PutBytes(ctx, b, name, []byte("robbed"), nil) // also where all that was put before was just deleted
		backend.Hide(ctx, b, name)
	}
}

// harm says what became of the victims: Undone if older versions have what the newest have not, Destroys if none has.
func harm(t *testing.T, owner backend.Backend) doctor.Thief {
	t.Helper()
	worst := doctor.Adds
	for _, name := range victims {
		if got, err := owner.Get(t.Context(), name, 0, -1, nil); err == nil && string(got) == name {
			continue
		}
		there := false
		for v, err := range backend.Versions(t.Context(), owner, name) {
			if err != nil {
				break
			}
			got, err := backend.GetVersion(t.Context(), owner, name, v.ID, 0, -1, nil)
			there = there || err == nil && string(got) == name
		}
		if !there {
			return doctor.Destroys
		}
		worst = doctor.Undone
	}
	return worst
}

func examine(t *testing.T, b backend.Backend) *doctor.Report {
	t.Helper()
	r, err := doctor.Run(t.Context(), b, nil)
	if err != nil {
		t.Fatal(err)
	}
	var threats []doctor.Threat
	for _, v := range r.Verdicts {
		threats = append(threats, v.Threat)
		if v.Text == "" || v.Survives == doctor.Not && len(v.Remedies) == 0 {
			t.Errorf("%s: %+v", v.Threat, v)
		}
	}
	if want := []doctor.Threat{doctor.Crash, doctor.Rot, doctor.Mistake, doctor.Stolen, doctor.Account}; !slices.Equal(threats, want) {
		t.Errorf("threats: %v", threats)
	}
	return r
}

func verdict(r *doctor.Report, t doctor.Threat) doctor.Verdict {
	return r.Verdicts[slices.IndexFunc(r.Verdicts, func(v doctor.Verdict) bool { return v.Threat == t })]
}

// probes lists what is left of probes, all versions.
func probes(t *testing.T, owner backend.Backend) (names []string) {
	t.Helper()
	add := func(name string) {
		if strings.Contains(name, "/probe-") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for info, err := range owner.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		add(info.Name)
	}
	for v, err := range backend.Versions(t.Context(), owner, "") {
		if errors.Is(err, errors.ErrUnsupported) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		add(v.Name)
	}
	slices.Sort(names)
	return names
}

// hold asserts a verdict, and that it is true: a thief who tries gets as far as it says.
func hold(t *testing.T, owner, thief backend.Backend, want doctor.Thief, survives doctor.Survives, words string) *doctor.Report {
	t.Helper()
	r := examine(t, thief)
	v := verdict(r, doctor.Stolen)
	if r.Thief != want || v.Survives != survives || !strings.Contains(v.Text, words) {
		t.Errorf("a thief %s (%s): %s", r.Thief, v.Survives, v.Text)
	}
	if left := probes(t, owner); !slices.Equal(left, r.Left) {
		t.Errorf("it says that it left %v, and it left %v", r.Left, left)
	}
	if !r.Repository {
		t.Error("it saw no repository")
	}
	rob(t.Context(), thief)
	got := harm(t, owner)
	if want == doctor.Reads {
		want = doctor.Adds // as far as victims are concerned
	}
	if got != want {
		t.Errorf("robbed: %s, it said %s", got, want)
	}
	return r
}

// inBubble runs a subtest in which waiting for locks to end takes no time.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestMemory(t *testing.T) {
	for name, c := range map[string]struct {
		versions bool
		mode     backend.Mode
		wrap     func(backend.Backend) backend.Backend
		thief    doctor.Thief
		survives doctor.Survives
		words    string
	}{
		"plain":             {false, "", nil, doctor.Destroys, doctor.Not, "overwrite, hide and delete objects for good"},
		"append-only":       {false, "", backend.AppendOnly, doctor.Adds, doctor.Wholly, "overwriting is refused by the store"},
		"read-only":         {false, "", backend.ReadOnly, doctor.Reads, doctor.Wholly, "can only read"},
		"versions":          {true, "", nil, doctor.Destroys, doctor.Not, "their versions included"},
		"governance":        {true, backend.Governance, nil, doctor.Destroys, doctor.Not, "their versions included"},
		"compliance":        {true, backend.Compliance, nil, doctor.Undone, doctor.Restored, "locked (compliance)"},
		"append, versions":  {true, backend.Compliance, backend.AppendOnly, doctor.Adds, doctor.Wholly, "refused by the store"},
		"only hiding":       {true, "", func(b backend.Backend) backend.Backend { return hides{backend.AppendOnly(b), b} }, doctor.Undone, doctor.Restored, "which these credentials can't delete"},
		"keeps no promises": {false, "", func(b backend.Backend) backend.Backend { return forgetful{backend.AppendOnly(b), b} }, doctor.Destroys, doctor.Not, "overwrite"},
	} {
		inBubble(t, name, func(t *testing.T) {
			m := mem.New(&mem.Options{Versions: c.versions})
			plant(t, m, c.mode)
			thief := backend.Backend(m)
			if c.wrap != nil {
				thief = c.wrap(m)
			}
			r := hold(t, m, thief, c.thief, c.survives, c.words)
			if want := map[bool]doctor.Answer{true: doctor.Yes, false: doctor.No}[c.versions]; r.Versions != want && name != "read-only" {
				t.Errorf("versions: %s", r.Versions)
			}
			if r.Bucket || r.TLS != doctor.Unknown {
				t.Error("it takes memory for a bucket")
			}
		})
	}
}

// hides lets objects be hidden, and nothing else.
type hides struct {
	backend.Backend
	all backend.Backend
}

func (h hides) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	return backend.Versions(ctx, h.all, prefix)
}
func (h hides) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return backend.GetVersion(ctx, h.all, name, id, off, n, dst)
}
func (h hides) DeleteVersion(ctx context.Context, name, id string) error {
	return backend.DeleteVersion(ctx, h.Backend, name, id)
}
func (h hides) Hide(ctx context.Context, name string) error { return backend.Hide(ctx, h.all, name) }
func (h hides) Erase(ctx context.Context, name, id string) error {
	return backend.Erase(ctx, h.Backend, name, id)
}

// A forgetful store does not look at the condition of a put, and refuses one without.
type forgetful struct {
	backend.Backend
	all backend.Backend
}

func (f forgetful) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	if o == nil || !o.IfAbsent {
		return f.Backend.Put(ctx, name, r, size, o)
	}
	return f.all.Put(ctx, name, r, size, nil)
}

func TestStoreFacts(t *testing.T) {
	m := mem.New(nil)
	r := examine(t, forgetful{m, m})
	if r.PutIfAbsent != doctor.No || !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "only what is absent") }) {
		t.Errorf("put-if-absent: %s, %q", r.PutIfAbsent, r.Warnings)
	}
	if len(r.Left) > 0 || len(probes(t, m)) > 0 {
		t.Errorf("left: %v", r.Left)
	}
	for _, d := range []time.Duration{0, 50 * time.Second, 10 * time.Minute, -10 * time.Minute} {
		inBubble(t, d.String(), func(t *testing.T) {
			m := mem.New(&mem.Options{Now: func() time.Time { return time.Now().Add(d) }, Versions: true})
			r := examine(t, m)
			if diff := (r.Skew - d).Abs(); diff > 3*time.Second {
				t.Errorf("skew: %v", r.Skew)
			}
			if warned := slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "clock") }); warned != (d.Abs() > doctor.MaxSkew) {
				t.Errorf("warnings: %q", r.Warnings)
			}
			if r.Locks != doctor.Yes || r.ReadAfterWrite != doctor.Yes || r.PutIfAbsent != doctor.Yes || r.Repository {
				t.Errorf("%+v", r)
			}
			if len(r.Left) > 0 || len(probes(t, m)) > 0 {
				t.Errorf("left: %v", r.Left)
			}
		})
	}
}

func TestReplica(t *testing.T) {
	m := mem.New(nil)
	r, err := doctor.Run(t.Context(), m, &doctor.Options{Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	for threat, want := range map[doctor.Threat]doctor.Survives{doctor.Crash: doctor.Wholly, doctor.Rot: doctor.Restored, doctor.Mistake: doctor.Restored, doctor.Stolen: doctor.Restored, doctor.Account: doctor.Partly} {
		if v := verdict(r, threat); v.Survives != want {
			t.Errorf("%s: %+v", threat, v)
		}
	}
	if r.Thief != doctor.Destroys {
		t.Errorf("a thief %s: a replica does not change what can be done here", r.Thief)
	}
}

func TestFolder(t *testing.T) {
	path := t.TempDir()
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	plant(t, d, "")
	hold(t, d, d, doctor.Destroys, doctor.Not, "overwrite and delete objects for good")
}

// A maintainer's run removes what others could not, once it is old.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mem.New(&mem.Options{Versions: true})
		r := examine(t, backend.AppendOnly(m))
		if len(r.Left) == 0 || !slices.Equal(r.Left, probes(t, m)) {
			t.Fatalf("left: %v", r.Left)
		}
		time.Sleep(2 * time.Hour)
		if r := examine(t, m); len(r.Left) > 0 || len(probes(t, m)) > 0 {
			t.Errorf("left: %v, there is %v", r.Left, probes(t, m))
		}
	})
}

func TestErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := doctor.Run(ctx, mem.New(nil), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	path := t.TempDir()
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if r, err := doctor.Run(t.Context(), d, nil); err == nil {
		t.Errorf("a folder that is gone: %+v", r)
	}
}

func TestMinIO(t *testing.T) {
	srv := miniotest.Start(t)
	open := func(t *testing.T, bucket string, c *credentials.Credentials) *s3.Bucket {
		b, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Prefix: "shop", Insecure: true, Credentials: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	const root = policy.Name("root")
	const (
		refused  = "can only read"
		noDelete = "which these credentials can't delete"
		forGood  = "objects for good"
		erased   = "their versions included"
		locked   = "locked (compliance), which the thief can't end"
	)
	t.Run("buckets", func(t *testing.T) {
		for _, c := range []struct {
			bucket   string
			mode     backend.Mode
			who      policy.Name
			thief    doctor.Thief
			survives doctor.Survives
			words    string
		}{
			{"plain", "", root, doctor.Destroys, doctor.Not, forGood},
			{"plain", "", policy.Writer, doctor.Destroys, doctor.Not, forGood}, // MinIO has no condition against overwriting
			{"plain", "", policy.SecondProvider, doctor.Reads, doctor.Wholly, refused},
			{"versions", "", root, doctor.Destroys, doctor.Not, erased},
			{"versions", "", policy.Writer, doctor.Undone, doctor.Restored, noDelete},
			{"versions", "", policy.Maintainer, doctor.Destroys, doctor.Not, erased},
			{"locks", "", root, doctor.Destroys, doctor.Not, erased},
			{"locks", backend.Governance, root, doctor.Destroys, doctor.Not, erased},
			{"locks", backend.Governance, policy.Writer, doctor.Undone, doctor.Restored, noDelete},
			// MinIO lets everybody end such locks who may lock.
			{"locks", backend.Governance, policy.Maintainer, doctor.Destroys, doctor.Not, erased},
			{"locks", backend.Compliance, root, doctor.Undone, doctor.Restored, locked},
			{"locks", backend.Compliance, policy.Writer, doctor.Undone, doctor.Restored, noDelete},
			{"locks", backend.Compliance, policy.Maintainer, doctor.Undone, doctor.Restored, locked},
			{"locks", backend.Compliance, policy.Replica, doctor.Undone, doctor.Restored, noDelete},
			{"locks", backend.Compliance, policy.SecondProvider, doctor.Reads, doctor.Wholly, refused},
		} {
			bucket := srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: c.bucket == "locks"})
			if c.bucket == "versions" {
				if err := srv.Client().EnableVersioning(t.Context(), bucket); err != nil {
					t.Fatal(err)
				}
			}
			creds := srv.Credentials()
			if c.who != root {
				p, err := policy.For(c.who, bucket, "shop")
				if err != nil {
					t.Fatal(err)
				}
				if p, err = policy.WithoutConditions(p); err != nil {
					t.Fatal(err)
				}
				creds = srv.AssumeRole(p)
			}
			t.Run(fmt.Sprint(c.bucket, c.mode, " ", c.who), func(t *testing.T) {
				t.Parallel() // they wait for locks to end
				owner := open(t, bucket, srv.Credentials())
				plant(t, owner, c.mode)
				r := hold(t, owner, open(t, bucket, creds), c.thief, c.survives, c.words)
				if !r.Bucket || r.TLS != doctor.No {
					t.Errorf("%+v", r)
				}
				if want := c.bucket != "plain"; (r.Versions == doctor.Yes) != want {
					t.Errorf("versions: %s", r.Versions)
				}
				if want := c.who == root || c.who == policy.Maintainer; want != (len(r.Left) == 0) && c.who != policy.SecondProvider && c.bucket != "plain" {
					t.Errorf("left: %v", r.Left)
				}
				if inUse := r.Used != nil && r.Used.InUse; inUse != (c.mode != "") && c.who != policy.SecondProvider {
					t.Errorf("locks in use: %+v", r.Used)
				}
				account := verdict(r, doctor.Account).Survives
				if want := map[bool]doctor.Survives{true: doctor.Partly, false: doctor.Not}[c.mode == backend.Compliance && c.who != policy.SecondProvider]; account != want {
					t.Errorf("the account's thief: %s", account)
				}
			})
		}
	})
	t.Run("a bucket that locks by itself", func(t *testing.T) {
		for mode, want := range map[minio.RetentionMode]doctor.Thief{minio.Governance: doctor.Destroys, minio.Compliance: doctor.Undone} {
			bucket := srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})
			days, unit := uint(1), minio.Days
			if err := srv.Client().SetBucketObjectLockConfig(t.Context(), bucket, &mode, &days, &unit); err != nil {
				t.Fatal(err)
			}
			b := open(t, bucket, srv.Credentials())
			plant(t, b, "")
			survives, words := doctor.Not, erased
			if want == doctor.Undone {
				survives, words = doctor.Restored, noDelete
			}
			if r := hold(t, b, b, want, survives, words); r.Used == nil || !r.Used.InUse {
				t.Errorf("locks in use: %+v", r.Used)
			}
		}
	})
	bucket := srv.Bucket()
	for what, b := range map[string]*s3.Bucket{
		"bucket":          open(t, "no-such-bucket", srv.Credentials()),
		"access key":      open(t, bucket, credentials.NewStaticV4("nobody", "secret-of-nobody", "")),
		"does not belong": open(t, bucket, credentials.NewStaticV4(srv.AccessKey, "wrong-secret", "")),
	} {
		if r, err := doctor.Run(t.Context(), b, nil); err == nil || !strings.Contains(err.Error(), what) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, %+v", what, err, r)
		}
	}
}
