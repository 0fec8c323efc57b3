package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
	"github.com/varvebackup/varve/source/bucket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRepo(t testing.TB) *repo.Repo {
	t.Helper()
	key, err := crypt.NewKey()
	must(t, err)
	r, _, err := repo.Create(t.Context(), mem.New(nil), key, &repo.Options{Cache: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func snapshotFS(t testing.TB, r *repo.Repo, s *repo.Snapshot) fs.FS {
	t.Helper()
	f, err := r.FS(t.Context(), s)
	must(t, err)
	return f
}

// unread returns what a snapshot says could not be read.
func unread(t testing.TB, r *repo.Repo, series string, fsys fs.FS) (*repo.Snapshot, []string) {
	t.Helper()
	var list []string
	s, err := r.Backup(t.Context(), series, fsys, &repo.BackupOptions{Tolerate: func(path string, err error) bool {
		list = append(list, path+": "+err.Error())
		return false
	}})
	if s == nil || err != nil && !errors.Is(err, repo.ErrIncomplete) {
		t.Fatal(err)
	}
	return s, list
}

// odd are keys that are no paths, or hard to keep in order.
func odd() []string {
	return []string{
		"a", "a/b", "a-b", "a-b/c", "a!", "a//b", "a/", "a//", "/", "/x", "//", "///y", ".", "..", "./x", "../x", "x/.", "x/..", "x/../y", "dir/", "dir/sub/", "dir/f",
		"50%", "%~", "%~.", "a%~=", "tab\tnl\n\x7f", "\x01", "\x02/\x01", "ö/ü", "日本語/テキスト", " lead", "trail ", "plus+and&amp;<>\"'", "q?x=1#f", `back\slash`, `\x41`, "%2e%2e/%2F",
		strings.Repeat("s", 300) + "/" + strings.Repeat("t", 700), strings.Repeat("k", 1024), strings.Repeat("d/", 511) + "dd", strings.Repeat("/", 1024), strings.Repeat("e/", 400) + "-",
	}
}

func fill(s *service, name string, n int) {
	for i, k := range odd() {
		s.put(name, k, fmt.Sprintf("content of %d", i), "Content-Type", "image/jpeg", "Cache-Control", "max-age=60", "Content-Disposition", `attachment; filename="x"`,
			"Content-Encoding", "gzip", "Content-Language", "de", "Expires", "Thu, 01 Dec 2044 16:00:00 GMT", "X-Amz-Meta-Owner", fmt.Sprint("o", i), "X-Amz-Website-Redirect-Location", "/y",
			"tag:state", "new", "tag:n", fmt.Sprint(i))
	}
	for i := range n {
		s.put(name, fmt.Sprintf("img-%d/%d/%d.jpg", i%7, i%31, i), strings.Repeat(fmt.Sprintln(i), i%50))
	}
}

// What is in a bucket is in the snapshot, and what is in the snapshot can be put into another one. What has not changed costs nothing but the listing.
func TestRoundTrip(t *testing.T) {
	many := 3000
	if testing.Short() || raceEnabled {
		many = 500
	}
	s := newService(t)
	fill(s, "media", many)
	r := newRepo(t)
	src := source.Join{"media": s.open("media", nil)}
	first, list := unread(t, r, "shop", src)
	if len(list) > 0 {
		t.Fatal(list)
	}
	if want := int64(len(odd()) + many); first.Stats.Files != want {
		t.Errorf("%d files, not %d", first.Stats.Files, want)
	}
	n, _ := s.requests()
	if n["GET"] != len(odd())+many || n["LIST"] > 30 || n["HEAD"] > 0 || n["TAGS"] > len(odd())+1 {
		t.Errorf("requests of the first backup: %v", n)
	}
	s.reset()
	second, _ := unread(t, r, "shop", src)
	if n, asked := s.requests(); len(asked) > 0 || n["LIST"] > 30 {
		t.Errorf("requests of the second backup: %v %q", n, asked)
	}
	s.reset()
	s.put("media", "img-3/3/3.jpg", "new")
	s.put("media", "zz/new", "new", "tag:x", "y")
	third, _ := unread(t, r, "shop", src)
	if _, asked := s.requests(); fmt.Sprint(asked) != "[GET img-3/3/3.jpg TAGS img-3/3/3.jpg GET zz/new TAGS zz/new]" {
		t.Errorf("requests of the third backup: %q", asked)
	}
	if third.Stats.Read != 6 {
		t.Errorf("%d bytes read", third.Stats.Read)
	}
	s.put("copy", "extra", "x")
	s.remove("copy", "extra")
	dst := s.open("copy", nil)
	for _, snap := range []*repo.Snapshot{second, third} {
		s.reset()
		report, err := dst.Put(t.Context(), snapshotFS(t, r, snap), &bucket.PutOptions{Base: "media", Overwrite: repo.OverwriteIfDifferent})
		must(t, err)
		n, _ := s.requests()
		if snap == third {
			s.same("media", "copy")
			if report.Put != 2 || report.Kept != int64(len(odd())+many-1) || n["PUT"] != 2 {
				t.Errorf("put again: %+v, %v", report, n)
			}
		} else if report.Kept != 0 || report.Put != int64(len(odd())+many) || n["HEAD"] > 0 || n["LIST"] > 2 {
			t.Errorf("put: %+v, %v", report, n)
		}
	}
}

func TestFS(t *testing.T) {
	s := newService(t)
	for _, k := range []string{"a/b.jpg", "a/c/d", "a-b", "e", "a%~b", "f/", "g", "g/h"} {
		s.put("media", k, "content of "+k)
	}
	must(t, fstest.TestFS(s.open("media", nil), "a/b.jpg", "a/c/d", "a-b", "e", "a%~~b", "f/%~.", "g%~=", "g/h"))
	f := s.open("media", &bucket.Options{Prefix: "a/"})
	must(t, fstest.TestFS(f, "b.jpg", "c/d"))
	for _, name := range []string{"x", "b.jpg/x", "c%~=", "b.jpg%~=", "%~"} {
		if _, err := fs.Stat(f, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An object that was replaced since it was listed is read as it is; one that is gone is recorded, and so is one that is replaced and whose connection is cut.
func TestMeanwhile(t *testing.T) {
	s := newService(t)
	big := strings.Repeat("0123456789", 1<<18)
	for i := range 20 {
		s.put("media", fmt.Sprintf("o%02d", i), fmt.Sprint("old", i))
	}
	s.put("media", "resumed", big)
	s.put("media", "switched", big)
	s.put("media", "broken", big)
	s.cut["resumed"], s.cut["switched"], s.cut["broken"] = 3, 1, 1000
	var gets, switched atomic.Int64
	s.hook = func(kind, key string) {
		if kind == "GET" && key == "broken" && gets.Add(1) == 1 {
			s.remove("media", "o05")
			s.put("media", "o06", "new content")
		}
		if kind == "GET" && key == "switched" && switched.Add(1) == 2 {
			s.put("media", "switched", "other")
		}
	}
	r := newRepo(t)
	snap, list := unread(t, r, "shop", s.open("media", nil))
	if len(list) != 2 || !strings.HasPrefix(list[0], "o05: ") || !strings.Contains(list[0], fs.ErrNotExist.Error()) || !strings.Contains(list[1], "switched: read switched: it was replaced while it was read") {
		t.Errorf("not read: %q", list)
	}
	f := snapshotFS(t, r, snap)
	for name, want := range map[string]string{"o04": "old4", "o06": "new content", "resumed": big, "broken": big} {
		if got, err := fs.ReadFile(f, name); string(got) != want || err != nil {
			t.Errorf("%s: %d bytes %.20q, %v", name, len(got), got, err)
		}
	}
	// What was replaced has no token: it is read again.
	s.hook = nil
	s.reset()
	unread(t, r, "shop", s.open("media", nil))
	if _, asked := s.requests(); !strings.Contains(fmt.Sprint(asked), "GET o06") || strings.Contains(fmt.Sprint(asked), "GET o04") {
		t.Errorf("asked again: %q", asked)
	}
}

// A connection that yields nothing is given up.
func TestNoProgress(t *testing.T) {
	s := newService(t)
	s.put("media", "x", "ab")
	s.cut["x"] = 1000
	f, err := s.open("media", nil).Open("x")
	must(t, err)
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "ab" { // one byte each time is progress
		t.Errorf("%q, %v", b, err)
	}
}

// Metadata are replaced by copying an object onto itself: the ETag stays, the time does not.
func TestMetadataAlone(t *testing.T) {
	s := newService(t)
	s.put("media", "x", "content", "X-Amz-Meta-A", "1")
	r := newRepo(t)
	f := s.open("media", nil)
	unread(t, r, "shop", f)
	s.now = s.now.Add(time.Hour)
	s.put("media", "x", "content", "X-Amz-Meta-A", "2")
	snap, _ := unread(t, r, "shop", f)
	fi, err := fs.Stat(snapshotFS(t, r, snap), "x")
	must(t, err)
	if a := fi.Sys().(*repo.Attr); a.Meta["x-amz-meta-a"] != "2" || a.Meta["etag"] == "" || a.ContentType != "binary/octet-stream" {
		t.Errorf("%+v", a)
	}
}

func TestErrors(t *testing.T) {
	once := &backend.RetryOptions{Tries: 1}
	for _, c := range []struct {
		name, want string
		is         error
		do         func(s *service, o *bucket.Options) string // returns the bucket
	}{
		{"no such bucket", "there is no bucket pictures at", nil, func(s *service, o *bucket.Options) string { return "pictures" }},
		{"no such prefix", `no key begins with "uploads/"`, fs.ErrNotExist, func(s *service, o *bucket.Options) string { o.Prefix = "uploads/"; return "media" }},
		{"may not list", "s3:ListBucket", fs.ErrPermission, func(s *service, o *bucket.Options) string { s.deny["LIST"] = true; return "media" }},
		{"no order", "in no order", nil, func(s *service, o *bucket.Options) string { s.unsorted = true; return "media" }},
		{"nobody there", "no answer from", nil, func(s *service, o *bucket.Options) string { s.srv.Close(); return "media" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t)
			s.put("media", "a", "x")
			s.put("media", "b", "x")
			o := &bucket.Options{}
			o.S3.Retry = once
			name := c.do(s, o)
			r := newRepo(t)
			f := s.open(name, o)
			snap, err := r.Backup(t.Context(), "shop", f, nil)
			if snap != nil || err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v, %v", snap, err)
			}
			if c.name == "no such prefix" {
				return
			}
			if _, err = f.Put(t.Context(), fstest.MapFS{"x": {}}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("put: %v", err)
			}
		})
	}
	for _, o := range []*bucket.Options{{Prefix: strings.Repeat("x", 1025)}} {
		if _, err := bucket.Open(t.Context(), "media", o); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%v", err)
		}
	}
	if _, err := bucket.Open(t.Context(), "b", nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

// Who may read objects but not their tags gets the objects, and is told.
func TestNoTags(t *testing.T) {
	s := newService(t)
	s.put("media", "a", "x", "tag:k", "v")
	s.put("media", "b", "x")
	s.deny["TAGS"] = true
	r := newRepo(t)
	snap, list := unread(t, r, "shop", s.open("media", nil))
	if len(list) != 2 || !strings.Contains(list[0], "s3:GetObjectTagging") {
		t.Errorf("%q", list)
	}
	if b, err := fs.ReadFile(snapshotFS(t, r, snap), "a"); string(b) != "x" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, list := unread(t, r, "shop2", s.open("media", &bucket.Options{NoTags: true})); len(list) > 0 {
		t.Errorf("%q", list)
	}
	s.deny["TAGS"], s.deny["GET"] = false, true
	if _, list := unread(t, r, "shop3", s.open("media", nil)); len(list) != 2 || !strings.Contains(list[0], "s3:GetObject on") {
		t.Errorf("%q", list)
	}
}

// A backup that is cancelled leaves nothing behind that runs: see TestMain.
func TestCancel(t *testing.T) {
	s := newService(t)
	for i := range 500 {
		s.put("media", fmt.Sprint(i), "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	s.hook = func(kind, _ string) {
		if kind == "GET" && n.Add(1) == 100 {
			cancel()
		}
	}
	if snap, err := newRepo(t).Backup(ctx, "shop", s.open("media", nil), nil); snap != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", snap, err)
	}
}

// Small objects are read several at a time.
func TestAhead(t *testing.T) {
	s := newService(t)
	for i := range 400 {
		s.put("media", fmt.Sprintf("%d/%d", i%3, i), strings.Repeat("x", i))
	}
	var now, most atomic.Int64
	s.hook = func(kind, key string) {
		if kind != "GET" {
			return
		}
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		now.Add(-1)
	}
	snap, list := unread(t, newRepo(t), "shop", s.open("media", nil))
	if n, _ := s.requests(); len(list) > 0 || n["GET"] != 400 || snap.Stats.Files != 400 {
		t.Errorf("%v, %q", n, list)
	}
	if most.Load() < 4 {
		t.Errorf("at most %d requests at a time", most.Load())
	}
	// In the root too, whose listing ends before its last objects are opened.
	for i := range 700 {
		s.put("flat", fmt.Sprintf("%03d", i), strings.Repeat("x", i))
	}
	s.reset()
	most.Store(0)
	flat := s.open("flat", nil)
	_, list = unread(t, newRepo(t), "shop", flat)
	if n, _ := s.requests(); len(list) > 0 || n["GET"] != 700 || n["LIST"] > 5 || most.Load() < 4 {
		t.Errorf("%v, %q, at most %d requests at a time", n, list, most.Load())
	}
	// What was listed then is nothing to go by any more.
	s.put("flat", "699", "new")
	if fi, err := flat.Stat("699"); err != nil || fi.Size() != 3 {
		t.Errorf("%v, %v", fi, err)
	}
}

// Calls are at most five a second also after one that took long.
func TestPutProgress(t *testing.T) {
	s := newService(t)
	var calls []time.Time
	enough := make(chan struct{})
	tree := waitFS{fstest.MapFS{"a": {Data: []byte("content")}}, enough}
	_, err := s.open("media", nil).Put(t.Context(), tree, &bucket.PutOptions{Progress: func(repo.Progress) {
		calls = append(calls, time.Now())
		switch len(calls) {
		case 1:
			time.Sleep(250 * time.Millisecond) // longer than from one call to the next
		case 4:
			close(enough)
		}
	}})
	must(t, err)
	for i := range calls[1 : len(calls)-1] { // the last one is beyond the five a second
		if d := calls[i+1].Sub(calls[i]); d < 200*time.Millisecond {
			t.Errorf("two calls within %v", d)
		}
	}
}

// A waitFS opens files once something has happened.
type waitFS struct {
	fstest.MapFS
	what <-chan struct{}
}

func (w waitFS) Open(name string) (fs.File, error) {
	if name == "a" {
		<-w.what
	}
	return w.MapFS.Open(name)
}

func TestPut(t *testing.T) {
	s := newService(t)
	s.put("media", "old", "x")
	s.put("media", "same", "content", "Content-Type", "application/octet-stream")
	s.put("media", "size", "conten2", "Content-Type", "application/octet-stream")
	s.put("media", "type", "content", "Content-Type", "text/plain")
	s.put("media", "a", "beside")
	s.put("media", "dir/sub", "beside")
	tree := fstest.MapFS{"same": {Data: []byte("content")}, "size": {Data: []byte("content")}, "type": {Data: []byte("content")}, "new/x": {Data: []byte("content")}, "a/b": {Data: []byte("content")},
		"dir%~=": {Data: []byte("object")}, "dir/x": {Data: []byte("content")}, "bad%~": {Data: []byte("x")}, "link": {Mode: fs.ModeSymlink, Data: []byte("x")}, "two": {}, "two%~=": {}, "empty": {Mode: fs.ModeDir}}
	f := s.open("media", nil)
	var last repo.Progress
	report, err := f.Put(t.Context(), tree, &bucket.PutOptions{Overwrite: repo.OverwriteIfDifferent, Delete: true, Progress: func(p repo.Progress) { last = p }})
	failed, ok := errors.AsType[*repo.RestoreError](err)
	if !ok || len(failed.Failed) != 3 || failed.Failed[0].Path != "bad%~" || failed.Failed[1].Path != "link" || failed.Failed[2].Path != "two%~=" {
		t.Errorf("%v", err)
	}
	if report.Put != 7 || report.Kept != 1 || report.Deleted != 0 || last.Files != 8 {
		t.Errorf("%+v, %+v", report, last)
	}
	delete(tree, "bad%~")
	delete(tree, "link")
	delete(tree, "two%~=")
	s.reset()
	report, err = f.Put(t.Context(), tree, &bucket.PutOptions{Overwrite: repo.OverwriteIfDifferent, Delete: true})
	n, asked := s.requests()
	if err != nil || report.Put != 0 || report.Kept != 8 || report.Deleted != 3 || n["PUT"] != 0 || n["DELETE"] != 3 {
		t.Errorf("%+v, %v, %q", report, err, asked)
	}
	for _, key := range []string{"old", "a", "dir/sub"} {
		if s.buckets["media"][key] != nil {
			t.Errorf("%s is still there", key)
		}
	}
	if o := s.buckets["media"]["dir"]; o == nil || string(o.data) != "object" {
		t.Errorf("%v", o)
	}
	// One file, below a prefix.
	report, err = s.open("media", &bucket.Options{Prefix: "here/"}).Put(t.Context(), tree, &bucket.PutOptions{Base: "new/x", Delete: true})
	if o := s.buckets["media"]["here/x"]; err != nil || report.Put != 1 || o == nil || len(s.buckets["media"]) != 9 {
		t.Errorf("%+v, %v, %v", report, err, o)
	}
	if _, err := f.Put(t.Context(), tree, &bucket.PutOptions{Base: "nothing"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// A file that is cut short is not put.
	if _, err := f.Put(t.Context(), shortFS{tree}, nil); err == nil || s.buckets["media"]["short"] != nil {
		t.Errorf("%v", err)
	}
	s.deny["PUT"] = true
	s.remove("media", "same")
	if _, err := f.Put(t.Context(), tree, nil); err == nil || !strings.Contains(err.Error(), "s3:PutObject on") {
		t.Errorf("%v", err)
	}
}

// shortFS has a file that ends early.
type shortFS struct{ fstest.MapFS }

func (s shortFS) ReadDir(name string) ([]fs.DirEntry, error) {
	fi, _ := fstest.MapFS{"short": {Data: []byte("0123456789")}}.Stat("short")
	return []fs.DirEntry{fs.FileInfoToDirEntry(fi)}, nil
}

func (s shortFS) Open(name string) (fs.File, error) {
	if name == "short" {
		return fstest.MapFS{"short": {Data: bytes.Repeat([]byte("x"), 5)}}.Open("short")
	}
	return s.MapFS.Open(name)
}
