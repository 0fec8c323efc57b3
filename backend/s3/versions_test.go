package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/internal/miniotest"
)

func lockBucket(srv *miniotest.Server) string {
	return srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})
}

func inAnHour() backend.Retention {
	return backend.Retention{Mode: backend.Governance, Until: time.Now().Add(time.Hour)}
}

// What a locked put says, and that it is not sent where nothing would lock.
func TestLockedPutRequests(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := lockBucket(srv)
	b, w := wired(t, srv, bucket, nil)
	lock := inAnHour()
	lock.Until = lock.Until.Truncate(time.Second).Add(time.Millisecond)
	for i := range 2 {
		if err := backend.PutBytes(t.Context(), b, "x", []byte("data"), &backend.PutOptions{Retain: lock}); err != nil {
			t.Fatal(err)
		}
		h := w.requests[len(w.requests)-1].Header
		signed := h.Get("Authorization")
		if h.Get("X-Amz-Object-Lock-Mode") != "GOVERNANCE" || h.Get("X-Amz-Object-Lock-Retain-Until-Date") != lock.Until.UTC().Add(time.Second).Format(time.RFC3339) ||
			len(h.Get("X-Amz-Checksum-Crc32c")) != 8 || !strings.Contains(signed, "x-amz-object-lock-mode;x-amz-object-lock-retain-until-date") || !strings.Contains(signed, "x-amz-checksum-crc32c") {
			t.Errorf("headers %v", h)
		}
		want := "[GET /" + bucket + "/ PUT /" + bucket + "/x]"
		if i > 0 {
			want = "[PUT /" + bucket + "/x]"
		}
		if got := fmt.Sprint(w.take()); got != want {
			t.Errorf("put %d: requests %s, want %s", i, got, want)
		}
	}
	plain, w := wired(t, srv, srv.Bucket(), nil)
	err := backend.PutBytes(t.Context(), plain, "x", []byte("data"), &backend.PutOptions{Retain: lock})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "has no object lock. A bucket gets it when it is created") {
		t.Errorf("locked put without locks: %v", err)
	}
	for _, r := range w.take() {
		if strings.HasPrefix(r, "PUT") {
			t.Errorf("locked put without locks: %s", r)
		}
	}
	// A lock that the service refuses is not stored without.
	past := backend.Retention{Mode: backend.Compliance, Until: time.Now().Add(-time.Hour)}
	if err := backend.PutBytes(t.Context(), b, "past", []byte("data"), &backend.PutOptions{Retain: past}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("lock in the past: %v", err)
	}
	if _, err := b.Stat(t.Context(), "past"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a refused put: %v", err)
	}
}

func TestContractOnARoughWayWithLocks(t *testing.T) {
	srv := miniotest.Start(t)
	p := &rough{server: srv.Endpoint, seed: 11, latency: time.Millisecond, busy: 8, dropUp: 5, dropDown: 8}
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		name := lockBucket(srv)
		return hiding{open(t, name, at(srv, p.start(t))), srv, name, ""}
	})
	if p.faults.Load() < 20 {
		t.Errorf("only %d faults", p.faults.Load())
	}
}

// Replies that get lost: the requests took effect.
func TestLostRepliesAboutLocks(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := lockBucket(srv)
	p := &rough{server: srv.Endpoint, seed: 5, lose: 40}
	b := open(t, bucket, at(srv, p.start(t)))
	for i := range 15 {
		name := fmt.Sprintf("x/%d", i)
		lock := inAnHour().RoundUp()
		if err := backend.PutBytes(t.Context(), b, name, []byte(name), &backend.PutOptions{IfAbsent: true, Retain: lock}); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Retention(t.Context(), name, ""); err != nil || got != lock {
			t.Errorf("%s: lock %v, %v", name, got, err)
		}
		if err := b.Delete(t.Context(), name); !errors.Is(err, backend.ErrRetained) {
			t.Errorf("%s: delete: %v", name, err)
		}
		if err := b.Shorten(t.Context(), name, "", backend.Retention{}); err != nil {
			t.Errorf("%s: shorten: %v", name, err)
		}
		if err := b.Delete(t.Context(), name); err != nil {
			t.Errorf("%s: delete: %v", name, err)
		}
	}
	for v, err := range b.Versions(t.Context(), "") {
		t.Errorf("left: %+v, %v", v, err)
	}
	if p.faults.Load() < 20 {
		t.Errorf("only %d faults", p.faults.Load())
	}
}

// A listing of several pages that cut through names, whose requests fail now
// and then, is whole and in order.
func TestVersionPages(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := versionedBucket(srv)
	b := open(t, bucket, at(srv, srv.Endpoint))
	const names, each = 300, 7
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				for k := range each {
					if err := backend.PutBytes(t.Context(), b, fmt.Sprintf("v/%d", i), make([]byte, k), nil); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	p := &rough{server: srv.Endpoint, seed: 3, busy: 20, dropDown: 40}
	shaky := open(t, bucket, at(srv, p.start(t)))
	for range 3 {
		n := 0
		seen := make(map[string]bool)
		for v, err := range shaky.Versions(t.Context(), "v/") {
			if err != nil {
				t.Fatal(err)
			}
			if want := int64(each - 1 - n%each); v.Size != want || v.Latest != (want == each-1) || seen[v.ID] {
				t.Errorf("entry %d: %+v; want size %d", n, v, want)
			}
			seen[v.ID] = true
			n++
		}
		if n != names*each {
			t.Errorf("%d of %d versions are listed", n, names*each)
		}
	}
	if p.faults.Load() < 3 {
		t.Errorf("only %d faults", p.faults.Load())
	}
}

// A Delete that ends at any place lets nothing be seen that was not seen before.
func TestDeleteInterrupted(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := versionedBucket(srv)
	plain := hiding{open(t, bucket, at(srv, srv.Endpoint)), srv, bucket, ""}
	const versions = 4
	for _, hidden := range []bool{false, true} {
		for after := range versions + 1 {
			name := fmt.Sprintf("x/%v/%d", hidden, after)
			for i := range versions {
				put(t, plain, name, fmt.Sprint(i))
			}
			total := versions
			if hidden {
				total++
				if err := plain.Hide(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			deletes := 0
			tr := &http.Transport{DisableKeepAlives: true}
			o := at(srv, srv.Endpoint)
			o.Retry = &backend.RetryOptions{Tries: 1}
			o.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodDelete {
					if deletes == after {
						return nil, errors.New("the power went out")
					}
					deletes++
				}
				return tr.RoundTrip(r)
			})
			err := open(t, bucket, o).Delete(t.Context(), name)
			if (err == nil) != (after >= total) {
				t.Errorf("%s: delete: %v", name, err)
			}
			got, err := plain.Get(t.Context(), name, 0, -1, nil)
			if gone := hidden || after >= total; gone && !errors.Is(err, fs.ErrNotExist) || !gone && (err != nil || string(got) != fmt.Sprint(versions-1)) {
				t.Errorf("%s: after %d of %d deletions there is %q, %v", name, deletes, total, got, err)
			}
			if err := plain.Delete(t.Context(), name); err != nil {
				t.Errorf("%s: delete again: %v", name, err)
			}
			for v, err := range plain.Versions(t.Context(), name) {
				t.Errorf("%s: left: %+v, %v", name, v, err)
			}
		}
	}
}

func put(t *testing.T, b backend.Backend, name, data string) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, []byte(data), nil); err != nil {
		t.Fatal(err)
	}
}

// A bucket that begins to keep versions while it is in use: no marks are left.
func TestVersionsSwitchedOn(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	b := open(t, bucket, at(srv, srv.Endpoint))
	put(t, b, "x", "one")
	if err := b.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := srv.Client().EnableVersioning(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		put(t, b, "x", "two")
		put(t, b, "x", "three")
		if err := b.Delete(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		for v, err := range b.Versions(t.Context(), "") {
			t.Errorf("left: %+v, %v", v, err)
		}
	}
	if kept, err := b.KeepsVersions(t.Context()); err != nil || !kept {
		t.Errorf("keeps versions: %v, %v", kept, err)
	}
}

// Legal holds lock, too; and locks end by themselves.
func TestOtherLocks(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := lockBucket(srv)
	b := open(t, bucket, at(srv, srv.Endpoint))
	put(t, b, "held", "held")
	hold := func(status minio.LegalHoldStatus) {
		t.Helper()
		if err := srv.Client().PutObjectLegalHold(t.Context(), bucket, "held", minio.PutObjectLegalHoldOptions{Status: &status}); err != nil {
			t.Fatal(err)
		}
	}
	hold(minio.LegalHoldEnabled)
	if err := b.Delete(t.Context(), "held"); !errors.Is(err, backend.ErrRetained) {
		t.Errorf("delete: %v", err)
	}
	for v, err := range b.Versions(t.Context(), "held") {
		if err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteVersion(t.Context(), "held", v.ID); !errors.Is(err, backend.ErrRetained) {
			t.Errorf("delete a version: %v", err)
		}
	}
	if got, err := b.Get(t.Context(), "held", 0, -1, nil); err != nil || string(got) != "held" {
		t.Errorf("get: %q, %v", got, err)
	}
	hold(minio.LegalHoldDisabled)
	if err := b.Delete(t.Context(), "held"); err != nil {
		t.Errorf("delete: %v", err)
	}

	lock := backend.Retention{Mode: backend.Compliance, Until: time.Now().Add(2 * time.Second)}
	if err := backend.PutBytes(t.Context(), b, "soon", []byte("x"), &backend.PutOptions{Retain: lock}); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "soon"); !errors.Is(err, backend.ErrRetained) {
		t.Errorf("delete: %v", err)
	}
	for {
		r, err := b.Retention(t.Context(), "soon", "")
		if err != nil {
			t.Fatal(err)
		}
		if r.IsZero() {
			break
		}
		time.Sleep(50 * time.Millisecond) // only the store's clock ends a lock
	}
	if err := b.Delete(t.Context(), "soon"); err != nil {
		t.Errorf("delete after the lock: %v", err)
	}
}

// What other services answer in the place of a lock.
func TestLockOrPermission(t *testing.T) {
	xml := func(w http.ResponseWriter, text string) { fmt.Fprint(w, `<?xml version="1.0"?>`+text) }
	for name, c := range map[string]struct {
		deletion        http.HandlerFunc
		retention, hold string // "": there is none
		retentionDenied bool
		is              error
		sentence        string
	}{
		"a lock":           {apiError(403, "AccessDenied", "Access Denied"), "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2999-01-02T03:04:05.000Z</RetainUntilDate></Retention>", "", false, backend.ErrRetained, "version v1 is locked until 2999-01-02T03:04:05Z (compliance)"},
		"a hold":           {apiError(403, "AccessDenied", "Access Denied"), "", "<LegalHold><Status>ON</Status></LegalHold>", false, backend.ErrRetained, "version v1 is under a legal hold"},
		"a lock, in words": {apiError(403, "AccessDenied", "Access Denied because object protected by object lock."), "", "", true, backend.ErrRetained, "it is locked"},
		"no hold":          {apiError(403, "AccessDenied", "Access Denied"), "", "<LegalHold><Status>OFF</Status></LegalHold>", false, fs.ErrPermission, "s3:DeleteObjectVersion"},
		"an old lock":      {apiError(403, "AccessDenied", "Access Denied"), "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2001-01-02T03:04:05.000Z</RetainUntilDate></Retention>", "", false, fs.ErrPermission, "s3:DeleteObjectVersion"},
		"nobody knows":     {apiError(403, "AccessDenied", "Access Denied"), "", "", true, fs.ErrPermission, "s3:DeleteObjectVersion"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				none := apiError(404, "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
				switch q := r.URL.Query(); {
				case r.Method == http.MethodDelete:
					c.deletion(w, r)
				case c.retentionDenied:
					apiError(403, "AccessDenied", "Access Denied")(w, r)
				case q.Has("retention") && c.retention != "":
					xml(w, c.retention)
				case q.Has("legal-hold") && c.hold != "":
					xml(w, c.hold)
				default:
					none(w, r)
				}
			}))
			defer srv.Close()
			b := open(t, "some-bucket", &s3.Options{Endpoint: srv.URL, Region: "us-east-1", Insecure: true, Credentials: static})
			err := b.DeleteVersion(t.Context(), "x", "v1")
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.sentence) {
				t.Errorf("%v; want %v and %q", err, c.is, c.sentence)
			}
		})
	}
}

// Who may not end a lock of governance hears what is missing.
func TestBypassDenied(t *testing.T) {
	srv := httptest.NewServer(apiError(403, "AccessDenied", "Access Denied"))
	defer srv.Close()
	b := open(t, "some-bucket", &s3.Options{Endpoint: srv.URL, Region: "us-east-1", Insecure: true, Credentials: static})
	if err := b.Shorten(t.Context(), "x", "v1", backend.Retention{}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "s3:PutObjectRetention and s3:BypassGovernanceRetention") {
		t.Errorf("shorten: %v", err)
	}
}

// A service that knows nothing of versions deletes as ever; one that knows
// nothing of locks gets nothing to store.
func TestOldService(t *testing.T) {
	var stored []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch q := r.URL.Query(); {
		case q.Has("versioning"), q.Has("object-lock"), q.Has("retention"), q.Has("versions"):
			apiError(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")(w, r)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			stored = append(stored, r.Method)
			w.Header().Set("ETag", `"x"`)
		}
	}))
	defer srv.Close()
	b := open(t, "some-bucket", &s3.Options{Endpoint: srv.URL, Region: "us-east-1", Insecure: true, Credentials: static})
	if err := b.Delete(t.Context(), "x"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := backend.PutBytes(t.Context(), b, "x", []byte("x"), &backend.PutOptions{Retain: inAnHour()}); !errors.Is(err, errors.ErrUnsupported) || len(stored) > 0 {
		t.Errorf("locked put: %v; sent %q", err, stored)
	}
	for _, err := range b.Versions(t.Context(), "") {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("versions: %v", err)
		}
	}
	if kept, err := b.KeepsVersions(t.Context()); err != nil || kept {
		t.Errorf("keeps versions: %v, %v", kept, err)
	}
}

// Who lacks a permission hears which.
func TestPermissions(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := lockBucket(srv)
	all := open(t, bucket, at(srv, srv.Endpoint))
	put(t, all, "x", "one")
	put(t, all, "x", "two")
	var id string
	for v, err := range all.Versions(t.Context(), "x") {
		if err != nil {
			t.Fatal(err)
		}
		id = v.ID
	}
	without := func(denied ...string) *s3.Bucket {
		o := at(srv, srv.Endpoint)
		o.Credentials = srv.AssumeRole(fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]},
			{"Effect":"Deny","Action":["%s"],"Resource":["arn:aws:s3:::*"]}]}`, strings.Join(denied, `","`)))
		return open(t, bucket, o)
	}
	lock := inAnHour()
	if err := all.Retain(t.Context(), "x", id, lock); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		denied string
		call   func(b *s3.Bucket) error
	}{
		{"s3:PutObjectRetention", func(b *s3.Bucket) error { return b.Retain(t.Context(), "x", "", lock) }},
		{"s3:PutObjectRetention", func(b *s3.Bucket) error {
			return backend.PutBytes(t.Context(), b, "new", nil, &backend.PutOptions{Retain: lock})
		}},
		{"s3:GetObjectRetention", func(b *s3.Bucket) error { _, err := b.Retention(t.Context(), "x", ""); return err }},
		{"s3:GetObjectVersion", func(b *s3.Bucket) error { _, err := b.GetVersion(t.Context(), "x", id, 0, -1, nil); return err }},
		{"s3:DeleteObjectVersion", func(b *s3.Bucket) error {
			put(t, all, "loose", "loose")
			for v := range all.Versions(t.Context(), "loose") {
				return b.DeleteVersion(t.Context(), "loose", v.ID)
			}
			return nil
		}},
		{"s3:DeleteObjectVersion", func(b *s3.Bucket) error { return b.Delete(t.Context(), "loose") }},
		{"s3:ListBucketVersions", func(b *s3.Bucket) error { return b.Delete(t.Context(), "loose") }},
		{"s3:ListBucketVersions", func(b *s3.Bucket) error {
			for _, err := range b.Versions(t.Context(), "x") {
				return err
			}
			return nil
		}},
		{"s3:GetBucketVersioning", func(b *s3.Bucket) error { _, err := b.KeepsVersions(t.Context()); return err }},
	} {
		denied := []string{c.denied}
		if c.denied == "s3:ListBucketVersions" {
			denied = append(denied, "s3:ListBucket") // for MinIO, either is enough
		}
		err := c.call(without(denied...))
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), c.denied) {
			t.Errorf("without %s: %v", c.denied, err)
		}
	}
	if got, err := all.Get(t.Context(), "loose", 0, -1, nil); err != nil || !bytes.Equal(got, []byte("loose")) {
		t.Errorf("after refused deletions: %q, %v", got, err)
	}
	if _, err := all.Stat(t.Context(), "new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a refused put: %v", err)
	}
	if err := without("s3:BypassGovernanceRetention").Delete(t.Context(), "x"); !errors.Is(err, backend.ErrRetained) {
		t.Errorf("delete what is locked: %v", err)
	}
	// Nobody has to be allowed to ask: then versions are looked for.
	if err := without("s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration").Delete(t.Context(), "loose"); err != nil {
		t.Errorf("delete without s3:GetBucketVersioning: %v", err)
	}
	for v, err := range all.Versions(t.Context(), "loose") {
		t.Errorf("left: %+v, %v", v, err)
	}
	if err := backend.PutBytes(t.Context(), without("s3:GetBucketObjectLockConfiguration"), "new", nil, &backend.PutOptions{Retain: lock}); err != nil {
		t.Errorf("locked put without s3:GetBucketObjectLockConfiguration: %v", err)
	}
}

// A lock of compliance holds whoever tries. One of governance holds for those who
// may delete; but this MinIO asks for no permission at all from those who take it
// away first, by a retention without a mode: see the package's comment.
func TestThieves(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := lockBucket(srv)
	all := open(t, bucket, at(srv, srv.Endpoint))
	thief := func(actions string) *s3.Bucket {
		o := at(srv, srv.Endpoint)
		o.Credentials = srv.AssumeRole(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[` + actions + `],"Resource":["arn:aws:s3:::*"]}]}`)
		return open(t, bucket, o)
	}
	for who, b := range map[string]*s3.Bucket{
		"root": all, "everything": thief(`"s3:*"`), "deleter": thief(`"s3:GetObject","s3:ListBucket","s3:ListBucketVersions","s3:DeleteObject","s3:DeleteObjectVersion","s3:GetObjectRetention"`),
		"nothing": thief(`"s3:ListAllMyBuckets"`),
	} {
		for _, mode := range []backend.Mode{backend.Governance, backend.Compliance} {
			name := who + "/" + string(mode)
			lock := backend.Retention{Mode: mode, Until: time.Now().Add(time.Hour)}.RoundUp()
			if err := backend.PutBytes(t.Context(), all, name, []byte("data"), &backend.PutOptions{Retain: lock}); err != nil {
				t.Fatal(err)
			}
			if err := b.Delete(t.Context(), name); err == nil {
				t.Errorf("%s: deleted", name)
			}
			soon := backend.Retention{Mode: mode, Until: time.Now().Add(time.Minute)}
			err1, err2 := b.Shorten(t.Context(), name, "", soon), b.Shorten(t.Context(), name, "", backend.Retention{})
			if mode == backend.Governance {
				t.Logf("%s: shortened: %v, taken away: %v", name, err1, err2)
				continue
			}
			if !errors.Is(err1, fs.ErrPermission) || !errors.Is(err2, fs.ErrPermission) {
				t.Errorf("%s: shortened: %v, taken away: %v", name, err1, err2)
			}
			if got, err := all.Retention(t.Context(), name, ""); err != nil || got != lock {
				t.Errorf("%s: lock %v, %v; want %v", name, got, err, lock)
			}
		}
	}
}
