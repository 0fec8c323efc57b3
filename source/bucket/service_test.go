package bucket_test

import (
	"context"
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/source/bucket"
)

// service is a small S3 service that has the keys which MinIO refuses ("a" beside "a/b", "a//b", "../x"), which Amazon has, and that misbehaves when it is told to.
type service struct {
	t   testing.TB
	srv *httptest.Server

	mu       sync.Mutex // guards what follows
	buckets  map[string]map[string]*stored
	sorted   map[string][]string // keys, nil when to be made again
	count    map[string]int      // requests, by kind
	asked    []string            // kind and key of each request but listings
	now      time.Time           // of the next put
	deny     map[string]bool     // kinds that are not permitted
	hook     func(kind, key string)
	cut      map[string]int // how many answers for a key end in the middle
	unsorted bool
}

type stored struct {
	data     []byte
	header   http.Header
	tags     url.Values
	modified time.Time
	etag     string
}

func newService(t testing.TB) *service {
	s := &service{t: t, buckets: map[string]map[string]*stored{"media": {}}, sorted: map[string][]string{}, count: map[string]int{}, deny: map[string]bool{}, cut: map[string]int{},
		now: time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)}
	s.srv = httptest.NewServer(s)
	t.Cleanup(s.srv.Close)
	return s
}

func (s *service) open(name string, o *bucket.Options) *bucket.FS {
	s.t.Helper()
	if o == nil {
		o = new(bucket.Options)
	}
	o.S3.Endpoint, o.S3.Region, o.S3.Insecure, o.S3.PathStyle = strings.TrimPrefix(s.srv.URL, "http://"), "us-east-1", true, true
	o.S3.Credentials = credentials.NewStaticV4("key", "secret", "")
	if o.S3.Retry == nil {
		o.S3.Retry = &backend.RetryOptions{Tries: 3, Wait: time.Millisecond}
	}
	f, err := bucket.Open(context.Background(), name, o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
	return f
}

// put puts an object. header are pairs; "tag:x" makes a tag.
func (s *service) put(name, key, data string, header ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &stored{data: []byte(data), header: http.Header{"Content-Type": {"binary/octet-stream"}}, tags: url.Values{}, modified: s.now, etag: fmt.Sprintf("%x", md5.Sum([]byte(data)))}
	for i := 0; i < len(header); i += 2 {
		if tag, ok := strings.CutPrefix(header[i], "tag:"); ok {
			o.tags.Set(tag, header[i+1])
		} else {
			o.header.Set(header[i], header[i+1])
		}
	}
	if s.buckets[name] == nil {
		s.buckets[name] = map[string]*stored{}
	}
	s.buckets[name][key] = o
	s.sorted[name] = nil
}

func (s *service) remove(name, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.buckets[name], key)
	s.sorted[name] = nil
}

// reset forgets the requests so far.
func (s *service) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count, s.asked = map[string]int{}, nil
}

func (s *service) requests() (map[string]int, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.count), slices.Clone(s.asked)
}

func (s *service) refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no.</Message></Error>", code)
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	name, key, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	key, err := url.PathUnescape(key)
	if err != nil {
		s.t.Error(err)
	}
	kind := r.Method
	q := r.URL.Query()
	switch {
	case q.Has("tagging"):
		kind = "TAGS"
	case q.Has("list-type"):
		kind = "LIST"
	}
	s.mu.Lock()
	s.count[kind]++
	if kind != "LIST" {
		s.asked = append(s.asked, kind+" "+key)
	}
	denied, hook := s.deny[kind], s.hook
	s.mu.Unlock()
	if hook != nil {
		hook(kind, key)
	}
	var body []byte
	if kind == "PUT" {
		body, _ = io.ReadAll(r.Body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	o := b[key]
	switch {
	case denied:
		s.refuse(w, http.StatusForbidden, "AccessDenied")
	case b == nil:
		s.refuse(w, http.StatusNotFound, "NoSuchBucket")
	case kind == "LIST":
		s.list(w, name, q)
	case kind == "PUT":
		h := http.Header{}
		for k, v := range r.Header {
			if l := strings.ToLower(k); strings.HasPrefix(l, "x-amz-meta-") || slices.Contains([]string{"content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires", "x-amz-website-redirect-location"}, l) {
				h[k] = v
			}
		}
		tags, _ := url.ParseQuery(r.Header.Get("X-Amz-Tagging"))
		n := &stored{data: body, header: h, tags: tags, modified: s.now, etag: fmt.Sprintf("%x", md5.Sum(body))}
		b[key] = n
		s.sorted[name] = nil
		w.Header().Set("ETag", `"`+n.etag+`"`)
	case kind == "DELETE":
		delete(b, key)
		s.sorted[name] = nil
		w.WriteHeader(http.StatusNoContent)
	case o == nil:
		s.refuse(w, http.StatusNotFound, "NoSuchKey")
	case kind == "TAGS":
		io.WriteString(w, "<Tagging><TagSet>")
		for k := range o.tags {
			fmt.Fprintf(w, "<Tag><Key>%s</Key><Value>%s</Value></Tag>", k, o.tags.Get(k))
		}
		io.WriteString(w, "</TagSet></Tagging>")
	default:
		if m := r.Header.Get("If-Match"); m != "" && strings.Trim(m, `"`) != o.etag {
			s.refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		h := w.Header()
		maps.Copy(h, o.header)
		h.Set("ETag", `"`+o.etag+`"`)
		h.Set("Last-Modified", o.modified.Format(http.TimeFormat))
		if len(o.tags) > 0 {
			h.Set("x-amz-tagging-count", strconv.Itoa(len(o.tags)))
		}
		data, status := o.data, http.StatusOK
		if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(from, "-"))
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, len(data)-1, len(data)))
			data, status = data[n:], http.StatusPartialContent
		}
		h.Set("Content-Length", strconv.Itoa(len(data)))
		w.WriteHeader(status)
		if kind == "HEAD" {
			return
		}
		if s.cut[key] > 0 && len(data) > 1 {
			s.cut[key]--
			w.Write(data[:len(data)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(data)
	}
}

func (s *service) list(w http.ResponseWriter, name string, q url.Values) {
	if s.sorted[name] == nil {
		s.sorted[name] = slices.Sorted(maps.Keys(s.buckets[name]))
	}
	keys := s.sorted[name]
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	i := sort.Search(len(keys), func(i int) bool { return keys[i] > after })
	if p := q.Get("prefix"); p > after {
		i = sort.SearchStrings(keys, p)
	}
	n, _ := strconv.Atoi(q.Get("max-keys"))
	type content struct {
		Key, LastModified, ETag string
		Size                    int
	}
	var res struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		EncodingType          string
		IsTruncated           bool
		NextContinuationToken string
		Contents              []content
	}
	res.EncodingType = "url"
	for ; i < len(keys) && strings.HasPrefix(keys[i], q.Get("prefix")); i++ {
		if len(res.Contents) == n {
			res.IsTruncated, res.NextContinuationToken = true, keys[i-1]
			break
		}
		o := s.buckets[name][keys[i]]
		res.Contents = append(res.Contents, content{url.QueryEscape(keys[i]), o.modified.Format("2006-01-02T15:04:05.000Z"), `"` + o.etag + `"`, len(o.data)})
	}
	if s.unsorted {
		slices.Reverse(res.Contents)
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(res)
}

// same compares two buckets: bytes, metadata and tags.
func (s *service) same(a, b string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, x := range s.buckets[a] {
		y := s.buckets[b][key]
		switch {
		case y == nil:
			s.t.Errorf("%q is not in %s", key, b)
		case string(x.data) != string(y.data):
			s.t.Errorf("%q holds %.40q and %.40q", key, x.data, y.data)
		case !maps.EqualFunc(x.header, y.header, slices.Equal), !maps.EqualFunc(x.tags, y.tags, slices.Equal):
			s.t.Errorf("%q has %v %v and %v %v", key, x.header, x.tags, y.header, y.tags)
		}
	}
	for key := range s.buckets[b] {
		if s.buckets[a][key] == nil {
			s.t.Errorf("%q is not in %s", key, a)
		}
	}
}
