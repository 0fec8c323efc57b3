// Package backendtest is the contract of [backend.Backend] as a test suite, and
// a Backend that fails on purpose.
//
// A store's tests call [Run] with a function that opens an empty store; a
// wrapper's tests do the same with a store inside. [Faulty] counts, delays,
// fails and corrupts calls, for the tests of whatever uses a Backend.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/backend"
)

// Run tests whether a Backend keeps the contract. It calls open for each of its
// parts, for a store without objects, which t.Cleanup takes away. A part fails
// if goroutines outlive it and its cleanups.
//
// A Backend that has the powers of a [backend.Retainer] or a [backend.Versioner]
// must keep their contracts, and any other must say of all of them that it has
// not. Marks are tested if the Backend has a method Hide that puts one, as a
// request to delete without an id does:
//
//	Hide(ctx context.Context, name string) error
func Run(t *testing.T, open func(t *testing.T) backend.Backend) {
	for _, part := range []struct {
		name string
		run  func(*suite)
	}{
		{"PutGetStatDelete", (*suite).basics},
		{"IfAbsent", (*suite).ifAbsent},
		{"Missing", (*suite).missing},
		{"Names", (*suite).names},
		{"Sizes", (*suite).sizes},
		{"Ranges", (*suite).ranges},
		{"Buffers", (*suite).buffers},
		{"ReaderErrors", (*suite).readerErrors},
		{"Cancelled", (*suite).cancelled},
		{"List", (*suite).list},
		{"Modified", (*suite).modified},
		{"Random", (*suite).random},
		{"ConcurrentIfAbsent", (*suite).concurrentIfAbsent},
		{"ReadWhileReplaced", (*suite).readWhileReplaced},
		{"ListWhileChanged", (*suite).listWhileChanged},
		{"Retention", (*suite).retention},
		{"Versions", (*suite).versions},
		{"Marks", (*suite).marks},
		{"AsOf", (*suite).asOf},
	} {
		t.Run(part.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) }) // first in, last out
			part.run(&suite{T: t, b: open(t), ctx: t.Context()})
		})
	}
}

// A suite is one part under way. Its methods for a Backend's methods fail the
// test on an error that is not expected.
type suite struct {
	*testing.T
	b   backend.Backend
	ctx context.Context
}

var ifAbsent = &backend.PutOptions{IfAbsent: true}

func (s *suite) put(name string, data []byte) {
	s.Helper()
	if err := backend.PutBytes(s.ctx, s.b, name, data, nil); err != nil {
		s.Fatalf("put %s: %v", name, err)
	}
}

// want checks that the object is there with this content, by Get, Stat and List.
func (s *suite) want(name string, data []byte) {
	s.Helper()
	got, err := s.b.Get(s.ctx, name, 0, -1, nil)
	if err != nil {
		s.Fatalf("get %s: %v", name, err)
	}
	if !bytes.Equal(got, data) {
		s.Fatalf("get %s: %d bytes, not the %d that were put", name, len(got), len(data))
	}
	info, err := s.b.Stat(s.ctx, name)
	if err != nil || info.Name != name || info.Size != int64(len(data)) || info.Modified.IsZero() {
		s.Fatalf("stat %s: %+v, %v; want size %d and a time", name, info, err, len(data))
	}
	if list := s.listed(name); !slices.Contains(list, name) {
		s.Fatalf("list %s: not listed, but %q", name, list)
	}
}

// wantNone checks that there is no such object.
func (s *suite) wantNone(name string) {
	s.Helper()
	if got, err := s.b.Get(s.ctx, name, 0, -1, nil); !errors.Is(err, fs.ErrNotExist) {
		s.Fatalf("get %s: %d bytes, %v; want ErrNotExist", name, len(got), err)
	}
	if info, err := s.b.Stat(s.ctx, name); !errors.Is(err, fs.ErrNotExist) || info != (backend.Info{}) {
		s.Fatalf("stat %s: %+v, %v; want no Info and ErrNotExist", name, info, err)
	}
	if list := s.listed(name); slices.Contains(list, name) {
		s.Fatalf("list %s: listed", name)
	}
}

// listed lists, and checks what holds for every list. The result is sorted.
func (s *suite) listed(prefix string) []string {
	s.Helper()
	var names []string
	for info, err := range s.b.List(s.ctx, prefix) {
		if err != nil {
			s.Fatalf("list %q: %v", prefix, err)
		}
		if !strings.HasPrefix(info.Name, prefix) {
			s.Errorf("list %q: %s does not begin so", prefix, info.Name)
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	if n := len(names); len(slices.Compact(slices.Clone(names))) != n {
		s.Errorf("list %q: an object is listed twice: %q", prefix, names)
	}
	return names
}

// wantError checks that err is target, and names the object.
func (s *suite) wantError(op, name string, err, target error) {
	s.Helper()
	if !errors.Is(err, target) {
		s.Errorf("%s %.40q: error %v; want %v", op, name, err, target)
		return
	}
	for _, other := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, io.ErrUnexpectedEOF} {
		if other != target && errors.Is(err, other) {
			s.Errorf("%s %.40q: error %v is also %v", op, name, err, other)
		}
	}
	quoted := strings.Trim(fmt.Sprintf("%q", name), `"`)
	if !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), quoted) {
		s.Errorf("%s %.40q: error %v does not name the object", op, name, err)
	}
}

// content returns n bytes that are the same for the same n and seed.
func content(n int, seed uint64) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}).Read(p)
	return p
}

var big = sync.OnceValue(func() []byte { return content(backend.MaxSize, 1) })

func (s *suite) basics() {
	s.put("config/1", []byte("one"))
	s.want("config/1", []byte("one"))
	s.put("config/1", []byte("another one"))
	s.want("config/1", []byte("another one"))
	s.put("packs/ab/abcdef", content(100_000, 7))
	s.want("packs/ab/abcdef", content(100_000, 7))
	s.want("config/1", []byte("another one"))
	if err := s.b.Delete(s.ctx, "config/1"); err != nil {
		s.Fatal(err)
	}
	s.wantNone("config/1")
	s.want("packs/ab/abcdef", content(100_000, 7))
	s.put("config/1", []byte("third"))
	s.want("config/1", []byte("third"))
}

func (s *suite) ifAbsent() {
	first, second := []byte("first"), []byte("second, longer")
	if err := backend.PutBytes(s.ctx, s.b, "gc/1", first, ifAbsent); err != nil {
		s.Fatal(err)
	}
	for range 2 {
		err := backend.PutBytes(s.ctx, s.b, "gc/1", second, ifAbsent)
		s.wantError("put if absent", "gc/1", err, fs.ErrExist)
		s.want("gc/1", first)
	}
	err := backend.PutBytes(s.ctx, s.b, "gc/1", first, ifAbsent)
	s.wantError("put the same if absent", "gc/1", err, fs.ErrExist)
	s.put("gc/1", second)
	s.want("gc/1", second)
	if err := s.b.Delete(s.ctx, "gc/1"); err != nil {
		s.Fatal(err)
	}
	if err := backend.PutBytes(s.ctx, s.b, "gc/1", first, ifAbsent); err != nil {
		s.Fatalf("put if absent, after delete: %v", err)
	}
	s.want("gc/1", first)
}

func (s *suite) missing() {
	check := func() {
		s.Helper()
		for _, name := range []string{"none", "packs/none", "packs/ab", "packs", "a/b/c/d", "packs/ab/cd/e"} {
			s.wantNone(name)
			_, err := s.b.Get(s.ctx, name, 0, 0, nil)
			s.wantError("get nothing of", name, err, fs.ErrNotExist)
			_, err = s.b.Get(s.ctx, name, 10, 5, nil)
			s.wantError("get", name, err, fs.ErrNotExist)
			_, err = s.b.Stat(s.ctx, name)
			s.wantError("stat", name, err, fs.ErrNotExist)
			if err := s.b.Delete(s.ctx, name); err != nil {
				s.Errorf("delete %s, which is not there: %v", name, err)
			}
		}
	}
	check()
	for _, prefix := range []string{"", "none", "none/", "packs/ab/", "packs/a"} {
		if list := s.listed(prefix); len(list) > 0 {
			s.Errorf("list %q of an empty store: %q", prefix, list)
		}
	}
	s.put("packs/ab/cd", []byte("x"))
	check()
	s.want("packs/ab/cd", []byte("x"))
}

// Names that are and that are not valid. Each valid one is put.
var (
	valid = []string{
		"a", "Z9", "-", "_x", "a.b", "a..b", "packs/00/" + strings.Repeat("0f", 32), "sessions/5.1", "sessions/5.end",
		strings.Repeat("s", 255), strings.Repeat("t", 200) + "/" + strings.Repeat("u", 255), // room for a Prefix
	}
	invalid = []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/.", ".a", "a/.tmp", "a.", "a./b",
		"a b", "a\\b", "a:b", "ä", "a\x00", "a\n", "a*", "a\xff", "a%41", "c:", "~/x?",
		strings.Repeat("s", 256), "a/" + strings.Repeat("s", 256), strings.Repeat("long/", 103) + "x",
	}
)

func (s *suite) names() {
	for _, name := range valid {
		s.put(name, []byte(name))
		s.want(name, []byte(name))
	}
	if list := s.listed(""); len(list) != len(valid) {
		s.Errorf("%d objects are listed of %d", len(list), len(valid))
	}
	for _, name := range invalid {
		s.wantError("put", name, backend.PutBytes(s.ctx, s.b, name, []byte("x"), nil), fs.ErrInvalid)
		s.wantError("put if absent", name, backend.PutBytes(s.ctx, s.b, name, []byte("x"), ifAbsent), fs.ErrInvalid)
		_, err := s.b.Get(s.ctx, name, 0, -1, nil)
		s.wantError("get", name, err, fs.ErrInvalid)
		_, err = s.b.Stat(s.ctx, name)
		s.wantError("stat", name, err, fs.ErrInvalid)
		s.wantError("delete", name, s.b.Delete(s.ctx, name), fs.ErrInvalid)
	}
	for _, prefix := range []string{"/", "/a", "a//", "..", "../", ".", "a/.", "a b", "a\\"} {
		count := 0
		for info, err := range s.b.List(s.ctx, prefix) {
			count++
			if info != (backend.Info{}) {
				s.Errorf("list %q: %+v", prefix, info)
			}
			s.wantError("list", prefix, err, fs.ErrInvalid)
		}
		if count != 1 {
			s.Errorf("list %q: %d times, want one error", prefix, count)
		}
	}
}

func (s *suite) sizes() {
	for _, data := range [][]byte{nil, {0}, content(1<<20+1, 2), big()} {
		name := fmt.Sprintf("size/%d", len(data))
		if err := backend.PutBytes(s.ctx, s.b, name, data, ifAbsent); err != nil {
			s.Fatalf("put %s: %v", name, err)
		}
		s.want(name, data)
	}
	for _, size := range []int64{-1, backend.MaxSize + 1, -1 << 63, 1<<63 - 1} {
		err := s.b.Put(s.ctx, "size/bad", bytes.NewReader(nil), size, nil)
		s.wantError("put", "size/bad", err, fs.ErrInvalid)
	}
	err := s.b.Put(s.ctx, "size/bad", bytes.NewReader(content(99, 1)), 100, nil)
	s.wantError("put what is too short as", "size/bad", err, io.ErrUnexpectedEOF)
	s.wantNone("size/bad")
	if err := s.b.Put(s.ctx, "size/part", bytes.NewReader(content(100, 1)), 60, nil); err != nil {
		s.Fatal(err)
	}
	s.want("size/part", content(100, 1)[:60])
}

func (s *suite) ranges() {
	const size = 300_000
	data := content(size, 3)
	s.put("r/data", data)
	s.put("r/empty", nil)
	for _, c := range []struct {
		name   string
		off, n int64
		err    error
	}{
		{"r/data", 0, -1, nil}, {"r/data", 0, size, nil}, {"r/data", 0, 0, nil}, {"r/data", 0, 1, nil},
		{"r/data", 1, 1, nil}, {"r/data", 4095, 2, nil}, {"r/data", 65_535, 131_074, nil}, {"r/data", 7, -1, nil},
		{"r/data", 7, -5, nil}, {"r/data", size - 1, 1, nil}, {"r/data", size - 1, -1, nil}, {"r/data", size, 0, nil},
		{"r/data", size, -1, nil}, {"r/empty", 0, -1, nil}, {"r/empty", 0, 0, nil},
		{"r/data", 0, size + 1, io.ErrUnexpectedEOF}, {"r/data", size - 1, 2, io.ErrUnexpectedEOF},
		{"r/data", size, 1, io.ErrUnexpectedEOF}, {"r/data", size + 1, 0, io.ErrUnexpectedEOF},
		{"r/data", size + 1, -1, io.ErrUnexpectedEOF}, {"r/data", 1 << 62, 5, io.ErrUnexpectedEOF},
		{"r/data", 1<<63 - 1, -1, io.ErrUnexpectedEOF}, {"r/data", 1<<63 - 1, backend.MaxSize, io.ErrUnexpectedEOF},
		{"r/data", 0, backend.MaxSize, io.ErrUnexpectedEOF}, {"r/empty", 0, 1, io.ErrUnexpectedEOF},
		{"r/empty", 1, -1, io.ErrUnexpectedEOF},
		{"r/data", -1, 1, fs.ErrInvalid}, {"r/data", -1, -1, fs.ErrInvalid}, {"r/data", -1 << 63, 0, fs.ErrInvalid},
		{"r/data", 0, backend.MaxSize + 1, fs.ErrInvalid}, {"r/data", 0, 1<<63 - 1, fs.ErrInvalid},
	} {
		got, err := s.b.Get(s.ctx, c.name, c.off, c.n, nil)
		if c.err != nil {
			s.wantError(fmt.Sprintf("get [%d, +%d] of", c.off, c.n), c.name, err, c.err)
			if len(got) != 0 {
				s.Errorf("get [%d, +%d] of %s: %d bytes and an error", c.off, c.n, c.name, len(got))
			}
			continue
		}
		want := data
		if c.name == "r/empty" {
			want = nil
		}
		want = want[c.off:]
		if c.n >= 0 {
			want = want[:c.n]
		}
		if err != nil || !bytes.Equal(got, want) {
			s.Errorf("get [%d, +%d] of %s: %d bytes, %v; want %d bytes", c.off, c.n, c.name, len(got), err, len(want))
		}
	}
}

// buffers: who owns which bytes.
func (s *suite) buffers() {
	data := []byte("0123456789")
	s.put("b", data)
	copy(data, "overwritten")
	s.want("b", []byte("0123456789"))

	buf := make([]byte, 3, 100)
	copy(buf, "abc")
	got, err := s.b.Get(s.ctx, "b", 2, 4, buf)
	if err != nil || string(got) != "abc2345" {
		s.Fatalf("get appends to abc: %q, %v", got, err)
	}
	if &got[0] != &buf[0] {
		s.Error("get did not use dst's array, which had room")
	}
	got, err = s.b.Get(s.ctx, "b", 0, -1, []byte("abc")[:3:3])
	if err != nil || string(got) != "abc0123456789" {
		s.Fatalf("get appends to abc without room: %q, %v", got, err)
	}
	got[3] = 'X'
	s.want("b", []byte("0123456789"))

	for _, c := range []struct {
		name   string
		off, n int64
	}{{"b", 5, 6}, {"none", 0, -1}, {"b", -1, 1}, {"b/../b", 0, -1}} {
		got, err := s.b.Get(s.ctx, c.name, c.off, c.n, []byte("abc"))
		if err == nil || string(got) != "abc" {
			s.Errorf("get [%d, +%d] of %s: %q, %v; want dst as it was, and an error", c.off, c.n, c.name, got, err)
		}
	}
}

// A readerFunc is an io.ReaderAt.
type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func (s *suite) readerErrors() {
	s.put("old", []byte("old"))
	size := int64(3 << 20)
	for _, bad := range []error{errors.New("disk on fire"), fs.ErrNotExist, io.ErrClosedPipe} {
		for _, at := range []int64{0, 1, 1 << 20, size - 1} {
			// Half of a piece and the error, as io.ReaderAt may do.
			r := readerFunc(func(p []byte, off int64) (int, error) {
				n := int(min(int64(len(p)), max(0, at-off)))
				if n < len(p) {
					return n, bad
				}
				return n, nil
			})
			for _, o := range []*backend.PutOptions{nil, ifAbsent} {
				if err := s.b.Put(s.ctx, "new", r, size, o); !errors.Is(err, bad) {
					s.Errorf("put whose reader fails at %d: %v; want %v", at, err, bad)
				}
				s.wantNone("new")
			}
			if err := s.b.Put(s.ctx, "old", r, size, nil); !errors.Is(err, bad) {
				s.Errorf("put whose reader fails at %d: %v; want %v", at, err, bad)
			}
			s.want("old", []byte("old"))
		}
	}
	if list := s.listed(""); len(list) != 1 {
		s.Errorf("failed puts left %q", list)
	}
	// io.EOF together with the last bytes is no error.
	r := readerFunc(func(p []byte, off int64) (int, error) {
		n, _ := bytes.NewReader([]byte("whole")).ReadAt(p, off)
		return n, io.EOF
	})
	if err := s.b.Put(s.ctx, "eof", r, 5, nil); err != nil {
		s.Fatalf("put whose reader returns its last bytes with io.EOF: %v", err)
	}
	s.want("eof", []byte("whole"))
}

func (s *suite) cancelled() {
	s.put("c/old", []byte("old"))
	for i := range 10 {
		s.put(fmt.Sprintf("many/%d", i), nil)
	}
	done, cancel := context.WithCancel(s.ctx)
	cancel()
	late, cancel := context.WithDeadline(s.ctx, time.Unix(0, 0))
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context
		want error
	}{{done, context.Canceled}, {late, context.DeadlineExceeded}} {
		s.wantError("put", "c/new", backend.PutBytes(c.ctx, s.b, "c/new", []byte("x"), nil), c.want)
		s.wantError("put", "c/old", backend.PutBytes(c.ctx, s.b, "c/old", []byte("x"), nil), c.want)
		_, err := s.b.Get(c.ctx, "c/old", 0, -1, nil)
		s.wantError("get", "c/old", err, c.want)
		_, err = s.b.Stat(c.ctx, "c/old")
		s.wantError("stat", "c/old", err, c.want)
		s.wantError("delete", "c/old", s.b.Delete(c.ctx, "c/old"), c.want)
		count := 0
		for _, err := range s.b.List(c.ctx, "c/") {
			count++
			s.wantError("list", "c/", err, c.want)
		}
		if count != 1 {
			s.Errorf("list with a done context: %d times; want one error", count)
		}
	}
	s.wantNone("c/new")
	s.want("c/old", []byte("old"))

	// During a put: nothing becomes visible.
	for _, o := range []*backend.PutOptions{nil, ifAbsent} {
		for _, at := range []int64{0, 1 << 20, 3<<20 - 1} {
			ctx, cancel := context.WithCancel(s.ctx)
			r := readerFunc(func(p []byte, off int64) (int, error) {
				if off <= at && at < off+int64(len(p)) {
					cancel()
				}
				return len(p), nil
			})
			err := s.b.Put(ctx, "c/new", r, 3<<20, o)
			s.wantError("put that is cancelled", "c/new", err, context.Canceled)
			s.wantNone("c/new")
			if o == nil {
				s.wantError("put that is cancelled", "c/old", s.b.Put(ctx, "c/old", r, 3<<20, o), context.Canceled)
				s.want("c/old", []byte("old"))
			}
			cancel()
		}
	}

	// During a list: the error ends it.
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var last error
	count := 0
	for _, err := range s.b.List(ctx, "many/") {
		count++
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) || count > 10 {
		s.Errorf("list that is cancelled: %d entries, then %v", count, last)
	}
}

func (s *suite) list() {
	all := []string{"a", "ab", "b/c", "b/cd", "b/d/e", "b/d/f", "b-c", "bc/x", "packs/00/00aa", "packs/00/00ab", "packs/01/01aa"}
	for i, name := range all {
		s.put(name, make([]byte, i))
	}
	for i := range 30 {
		name := fmt.Sprintf("m/%02d", i)
		all = append(all, name)
		s.put(name, nil)
	}
	slices.Sort(all)
	for _, prefix := range []string{
		"", "a", "ab", "abc", "b", "b/", "b/c", "b/d", "b/d/", "b-", "bc", "m/", "m/1", "m/2", "packs",
		"packs/", "packs/0", "packs/00", "packs/00/", "packs/00/00a", "packs/00/00ab", "packs/00/00ab/", "packs/02/", "none", "a/",
	} {
		var want []string
		for _, name := range all {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if got := s.listed(prefix); !slices.Equal(got, want) {
			s.Errorf("list %q:\n got %q\nwant %q", prefix, got, want)
		}
	}
	for info, err := range s.b.List(s.ctx, "") {
		if err != nil {
			s.Fatal(err)
		}
		st, err := s.b.Stat(s.ctx, info.Name)
		if err != nil || st.Name != info.Name || st.Size != info.Size || !st.Modified.Truncate(time.Second).Equal(info.Modified.Truncate(time.Second)) {
			s.Errorf("listed %+v, stat says %+v, %v", info, st, err)
		}
	}
	for range s.b.List(s.ctx, "") {
		break // leaving the loop early is fine
	}
	again := s.b.List(s.ctx, "m/")
	for range 2 { // and so is a second loop
		count := 0
		for range again {
			count++
		}
		if count != 30 {
			s.Errorf("the second loop over one list: %d entries", count)
		}
	}
	// The body may use the store, and take away what it runs over.
	count := 0
	for info, err := range s.b.List(s.ctx, "m/") {
		if err != nil {
			s.Fatal(err)
		}
		count++
		if err := s.b.Delete(s.ctx, info.Name); err != nil {
			s.Fatal(err)
		}
		s.put("n"+info.Name, []byte("moved"))
	}
	if list := s.listed("m/"); count != 30 || len(list) != 0 {
		s.Errorf("a loop that deletes: %d entries, left %q", count, list)
	}
}

// Times are compared to each other only: the store's clock is not the host's.
const granularity = 2 * time.Second

func (s *suite) modified() {
	stat := func(name string) time.Time {
		s.Helper()
		info, err := s.b.Stat(s.ctx, name)
		if err != nil {
			s.Fatal(err)
		}
		return info.Modified
	}
	s.put("t/first", nil)
	// An object that becomes visible after another is not older.
	r := readerFunc(func(p []byte, off int64) (int, error) {
		s.put("t/during", nil)
		return len(p), nil
	})
	for _, o := range []*backend.PutOptions{ifAbsent, nil} {
		if err := s.b.Put(s.ctx, "t/long", r, 10, o); err != nil {
			s.Fatal(err)
		}
		first, during, long := stat("t/first"), stat("t/during"), stat("t/long")
		if during.Before(first.Add(-granularity)) || long.Before(during.Add(-granularity)) {
			s.Errorf("modified: first %v, put during the long put %v, long put %v", first, during, long)
		}
		if now := stat("t/long"); !now.Equal(long) {
			s.Errorf("modified changes by itself: %v, %v", long, now)
		}
	}
	// A put that is refused does not touch the object.
	before := stat("t/first")
	backend.PutBytes(s.ctx, s.b, "t/first", nil, ifAbsent)
	if after := stat("t/first"); !after.Equal(before) {
		s.Errorf("modified: %v, and %v after a refused put", before, after)
	}
}

// random compares the store with a map, over a seeded run of operations.
func (s *suite) random() {
	rng := rand.New(rand.NewPCG(1, 2))
	model := make(map[string][]byte)
	names := []string{"x", "y", "d/x", "d/y", "d/e/x", "d/e/y", "e/x"}
	for i := range 150 {
		name := names[rng.IntN(len(names))]
		data, there := model[name]
		switch rng.IntN(5) {
		case 0:
			model[name] = content(rng.IntN(5000), uint64(i))
			s.put(name, model[name])
		case 1:
			data := content(rng.IntN(5000), uint64(i))
			err := backend.PutBytes(s.ctx, s.b, name, data, ifAbsent)
			if there != errors.Is(err, fs.ErrExist) || !there && err != nil {
				s.Fatalf("step %d: put if absent %s, there %v: %v", i, name, there, err)
			}
			if !there {
				model[name] = data
			}
		case 2:
			if err := s.b.Delete(s.ctx, name); err != nil {
				s.Fatalf("step %d: %v", i, err)
			}
			delete(model, name)
		case 3:
			if there {
				s.want(name, data)
			} else {
				s.wantNone(name)
			}
		case 4:
			if list := s.listed(""); len(list) != len(model) {
				s.Fatalf("step %d: %q, want %d objects", i, list, len(model))
			}
		}
	}
	for name, data := range model {
		s.want(name, data)
	}
}
