package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/varvebackup/varve/backend"
)

// all returns the versions of all names that begin with prefix, and checks what
// holds for every list of them.
func (s *suite) all(b backend.Backend, prefix string) []backend.Version {
	s.Helper()
	var all []backend.Version
	names := make(map[string]bool)
	for v, err := range backend.Versions(s.ctx, b, prefix) {
		if err != nil {
			s.Fatalf("versions of %q: %v", prefix, err)
		}
		if len(prefix) > len(v.Name) || v.Name[:len(prefix)] != prefix {
			s.Errorf("versions of %q: %s does not begin so", prefix, v.Name)
		}
		if v.ID == "" || v.Modified.IsZero() || v.Deleted && v.Size != 0 {
			s.Errorf("versions of %q: %+v", prefix, v)
		}
		if n := len(all); n > 0 && all[n-1].Name == v.Name {
			if v.Latest || v.Modified.After(all[n-1].Modified) {
				s.Errorf("versions of %q: %+v is listed behind %+v", prefix, v, all[n-1])
			}
		} else if !v.Latest || names[v.Name] {
			s.Errorf("versions of %q: %+v is the first of its name, or its name comes again", prefix, v)
		}
		if slices.ContainsFunc(all, func(w backend.Version) bool { return w.Name == v.Name && w.ID == v.ID }) {
			s.Errorf("versions of %q: %+v is listed twice", prefix, v)
		}
		names[v.Name] = true
		all = append(all, v)
	}
	return all
}

// of returns the versions of one name.
func (s *suite) of(name string) []backend.Version {
	s.Helper()
	return slices.DeleteFunc(s.all(s.b, name), func(v backend.Version) bool { return v.Name != name })
}

// wantHistory checks what the versions of a name hold, newest first, "-" being a
// mark. (A put that was repeated may have left two that are equal.)
func (s *suite) wantHistory(name string, want ...string) {
	s.Helper()
	var got []string
	for _, v := range s.of(name) {
		if v.Deleted {
			got = append(got, "-")
			continue
		}
		data, err := backend.GetVersion(s.ctx, s.b, name, v.ID, 0, -1, nil)
		if err != nil || int64(len(data)) != v.Size {
			s.Errorf("version %+v: %d bytes, %v", v, len(data), err)
		}
		got = append(got, string(data))
	}
	if got = slices.Compact(got); !slices.Equal(got, want) {
		s.Errorf("%s had %q; want %q", name, got, want)
	}
}

// now is the time by the store's clock, about.
func (s *suite) now() time.Time {
	s.Helper()
	s.put("clock", nil)
	info, err := s.b.Stat(s.ctx, "clock")
	if err != nil {
		s.Fatal(err)
	}
	return info.Modified
}

func (s *suite) ok(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// versioned reports whether there are versions here at all.
func (s *suite) versioned() bool {
	s.Helper()
	for _, err := range backend.Versions(s.ctx, s.b, "") {
		if errors.Is(err, errors.ErrUnsupported) {
			return false
		}
	}
	return true
}

// keeps reports whether what is replaced is kept.
func (s *suite) keeps() bool {
	s.Helper()
	for _, data := range []string{"kept?", "no"} {
		s.put("keeps", []byte(data))
	}
	vs := s.of("keeps")
	first, err := backend.GetVersion(s.ctx, s.b, "keeps", vs[len(vs)-1].ID, 0, -1, nil)
	s.ok("get a version", err)
	s.ok("delete", s.b.Delete(s.ctx, "keeps"))
	s.wantHistory("keeps")
	return string(first) == "kept?"
}

// noVersions: who has none says so each time.
func (s *suite) noVersions() {
	s.put("v/x", []byte("x"))
	for range 2 {
		count := 0
		for v, err := range backend.Versions(s.ctx, s.b, "v/") {
			if count++; v != (backend.Version{}) {
				s.Errorf("versions of v/: %+v", v)
			}
			s.wantError("list versions of", "v/", err, errors.ErrUnsupported)
		}
		if count != 1 {
			s.Errorf("versions of v/: %d times, want one error", count)
		}
		got, err := backend.GetVersion(s.ctx, s.b, "v/x", "null", 0, -1, []byte("abc"))
		s.wantError("get a version of", "v/x", err, errors.ErrUnsupported)
		if string(got) != "abc" {
			s.Errorf("get a version of v/x: %q; want dst as it was", got)
		}
		s.wantError("delete a version of", "v/x", backend.DeleteVersion(s.ctx, s.b, "v/x", "null"), errors.ErrUnsupported)
		s.want("v/x", []byte("x"))
	}
}

func (s *suite) versions() {
	if !s.versioned() {
		s.noVersions()
		return
	}
	keeps := s.keeps()
	past := func(all ...string) []string { // newest first
		if keeps {
			return all
		}
		return all[:1]
	}
	const name = "v/a"
	others := []string{"v/a-b", "v/ab", "v/b", "v.c"}
	for _, o := range others {
		s.put(o, []byte(o))
	}
	for _, data := range []string{"first", "the second", "third"} {
		s.put(name, []byte(data))
	}
	s.wantHistory(name, past("third", "the second", "first")...)
	s.want(name, []byte("third"))
	if err := backend.PutBytes(s.ctx, s.b, name, nil, ifAbsent); !errors.Is(err, fs.ErrExist) {
		s.Errorf("put if absent: %v", err)
	}

	// The newest ones are what List yields.
	for _, prefix := range []string{"", "v", "v/", "v/a", "v/ab", "none"} {
		list := make(map[string]backend.Info)
		for info, err := range s.b.List(s.ctx, prefix) {
			s.ok("list", err)
			info.Modified = info.Modified.Truncate(time.Second).UTC()
			list[info.Name] = info
		}
		for _, v := range s.all(s.b, prefix) {
			v.Modified = v.Modified.Truncate(time.Second).UTC()
			if v.Latest && list[v.Name] != v.Info {
				s.Errorf("versions of %q: %+v; and listed is %+v", prefix, v, list[v.Name])
			}
			if v.Latest {
				delete(list, v.Name)
			}
		}
		if len(list) > 0 {
			s.Errorf("versions of %q: without %v", prefix, list)
		}
	}
	s.versionLists()

	// The oldest goes, then the newest, and what is left comes to light.
	vs := s.of(name)
	s.ok("delete a version", backend.DeleteVersion(s.ctx, s.b, name, vs[len(vs)-1].ID))
	if !keeps {
		s.wantNone(name)
	} else {
		for _, v := range vs {
			if v.Size == int64(len("third")) {
				for range 2 { // the second time it isn't there
					s.ok("delete a version", backend.DeleteVersion(s.ctx, s.b, name, v.ID))
				}
			}
		}
		s.want(name, []byte("the second"))
		s.wantHistory(name, "the second")
	}
	s.versionRanges()

	// Delete leaves none of them, and all others.
	s.put(name, []byte("fourth"))
	s.put(name, []byte("fifth"))
	for range 2 {
		s.ok("delete", s.b.Delete(s.ctx, name))
		s.wantNone(name)
		s.wantHistory(name)
	}
	for _, o := range others {
		s.want(o, []byte(o))
		s.wantHistory(o, o)
	}
	s.ok("put if absent, after delete", backend.PutBytes(s.ctx, s.b, name, []byte("sixth"), ifAbsent))
	s.wantHistory(name, "sixth")
}

// versionLists: how a listing ends.
func (s *suite) versionLists() {
	for _, prefix := range []string{"/", "a//", "..", "a b"} {
		count := 0
		for v, err := range backend.Versions(s.ctx, s.b, prefix) {
			if count++; v != (backend.Version{}) {
				s.Errorf("versions of %q: %+v", prefix, v)
			}
			s.wantError("versions of", prefix, err, fs.ErrInvalid)
		}
		if count != 1 {
			s.Errorf("versions of %q: %d times, want one error", prefix, count)
		}
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var last error
	count := 0
	for _, err := range backend.Versions(ctx, s.b, "v/") {
		count++
		last = err
		cancel()
	}
	// A listing may have been under way already, with all of the first name.
	if !errors.Is(last, context.Canceled) || count > 10 {
		s.Errorf("versions, cancelled: %d entries, then %v", count, last)
	}
	for range backend.Versions(s.ctx, s.b, "v") {
		break
	}
	again := backend.Versions(s.ctx, s.b, "v/")
	var counts [2]int
	for i := range counts {
		for v, err := range again {
			s.ok("versions", err)
			if _, err := s.b.Stat(s.ctx, v.Name); err != nil {
				s.Errorf("the store, used by the loop over a list of versions: %v", err)
			}
			counts[i]++
		}
	}
	if counts[0] == 0 || counts[0] != counts[1] {
		s.Errorf("two loops over one list of versions: %d entries", counts)
	}
}

// versionRanges: GetVersion reads like Get.
func (s *suite) versionRanges() {
	const name = "v/r"
	data := content(300_000, 3)
	s.put(name, data)
	vs := s.of(name)
	id, size := vs[len(vs)-1].ID, int64(len(data))
	s.put(name, []byte("short"))
	if !s.hasVersion(name, id, data) {
		s.put(name, data) // no versions are kept
	}
	other := s.of("v/b")[0].ID
	if other == id {
		other = "none-such"
	}
	for _, c := range []struct {
		name, id string
		off, n   int64
		err      error
	}{
		{name, id, 0, -1, nil}, {name, id, 0, size, nil}, {name, id, 0, 0, nil}, {name, id, 65_535, 131_074, nil}, {name, id, 7, -1, nil},
		{name, id, size, -1, nil}, {name, id, size, 0, nil},
		{name, id, 0, size + 1, io.ErrUnexpectedEOF}, {name, id, size, 1, io.ErrUnexpectedEOF}, {name, id, size + 1, 0, io.ErrUnexpectedEOF},
		{name, id, size + 1, -1, io.ErrUnexpectedEOF}, {name, id, 1<<63 - 1, -1, io.ErrUnexpectedEOF},
		{name, id, -1, 1, fs.ErrInvalid}, {name, id, 0, backend.MaxSize + 1, fs.ErrInvalid}, {name, "", 0, -1, fs.ErrInvalid}, {"v//r", id, 0, -1, fs.ErrInvalid},
		{name, other, 0, -1, fs.ErrNotExist}, {name, other, 0, 0, fs.ErrNotExist}, {name, other, 10, 5, fs.ErrNotExist},
		{"v/none", id, 0, -1, fs.ErrNotExist}, {"v/none", id, 3, 0, fs.ErrNotExist}, {name, "no-id/at?all&", 0, -1, fs.ErrNotExist},
	} {
		got, err := backend.GetVersion(s.ctx, s.b, c.name, c.id, c.off, c.n, []byte("abc")[:3:3])
		what := fmt.Sprintf("get version %q [%d, +%d] of", c.id, c.off, c.n)
		want := []byte("abc")
		if c.err != nil {
			s.wantError(what, c.name, err, c.err)
		} else if s.ok(what, err); c.n < 0 {
			want = append(want, data[c.off:]...)
		} else {
			want = append(want, data[c.off:][:c.n]...)
		}
		if !bytes.Equal(got, want) {
			s.Errorf("%s %s: %d bytes; want %d", what, c.name, len(got), len(want))
		}
	}
	done, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := backend.GetVersion(done, s.b, name, id, 0, -1, nil)
	s.wantError("get a version of", name, err, context.Canceled)
	s.wantError("delete a version of", name, backend.DeleteVersion(done, s.b, name, id), context.Canceled)
	s.wantError("delete a version of", name, backend.DeleteVersion(s.ctx, s.b, name, ""), fs.ErrInvalid)
	s.wantError("delete a version of", "v//r", backend.DeleteVersion(s.ctx, s.b, "v//r", id), fs.ErrInvalid)
	s.ok("delete a version that is not there", backend.DeleteVersion(s.ctx, s.b, name, other))
	s.ok("delete a version of what is not there", backend.DeleteVersion(s.ctx, s.b, "v/none", id))
	if !s.hasVersion(name, id, data) {
		s.Errorf("%s: version %s is not there any more", name, id)
	}
	s.ok("delete", s.b.Delete(s.ctx, name))
	s.wantHistory(name)
}

func (s *suite) hasVersion(name, id string, data []byte) bool {
	s.Helper()
	got, err := backend.GetVersion(s.ctx, s.b, name, id, 0, -1, nil)
	return err == nil && bytes.Equal(got, data)
}

// marks: what somebody else's request to delete leaves.
func (s *suite) marks() {
	h, ok := s.b.(interface {
		Hide(ctx context.Context, name string) error
	})
	if !ok || !s.versioned() || !s.keeps() {
		return
	}
	const name = "m/x"
	s.put(name, []byte("one"))
	s.put(name, []byte("two"))
	s.ok("hide", h.Hide(s.ctx, name))
	s.wantNone(name)
	s.wantHistory(name, "-", "two", "one")
	mark := s.of(name)[0]
	for _, n := range []int64{-1, 0, 3} {
		_, err := backend.GetVersion(s.ctx, s.b, name, mark.ID, 0, n, nil)
		s.wantError("get the mark on", name, err, fs.ErrNotExist)
	}

	_, err := backend.RetentionOf(s.ctx, s.b, name, "")
	locks := !errors.Is(err, errors.ErrUnsupported)
	if locks {
		hour := backend.Retention{Mode: backend.Governance, Until: s.now().Add(time.Hour)}
		for _, id := range []string{"", mark.ID} {
			_, err := backend.RetentionOf(s.ctx, s.b, name, id)
			s.wantError("retention", name, err, fs.ErrNotExist)
			s.wantError("retain", name, backend.Retain(s.ctx, s.b, name, id, hour), fs.ErrNotExist)
			s.wantError("shorten", name, backend.Shorten(s.ctx, s.b, name, id, backend.Retention{}), fs.ErrNotExist)
		}
		// What was hidden stays so.
		vs := s.of(name)
		oldest := vs[len(vs)-1].ID
		s.ok("retain", backend.Retain(s.ctx, s.b, name, oldest, hour))
		for range 2 {
			s.wantError("delete", name, s.b.Delete(s.ctx, name), backend.ErrRetained)
			s.wantNone(name)
			s.wantHistory(name, "-", "one")
		}
		s.ok("shorten", backend.Shorten(s.ctx, s.b, name, oldest, backend.Retention{}))
	}

	// Without the mark, what it hid is back.
	s.ok("delete the mark", backend.DeleteVersion(s.ctx, s.b, name, mark.ID))
	if locks {
		s.want(name, []byte("one"))
	} else {
		s.want(name, []byte("two"))
	}
	s.ok("hide", h.Hide(s.ctx, name))
	s.ok("put if absent, above a mark", backend.PutBytes(s.ctx, s.b, name, []byte("three"), ifAbsent))
	s.want(name, []byte("three"))
	s.ok("hide", h.Hide(s.ctx, name))
	for range 2 {
		s.ok("delete", s.b.Delete(s.ctx, name))
		s.wantHistory(name)
	}
	// A mark on nothing goes, too.
	s.ok("hide", h.Hide(s.ctx, "m/none"))
	s.ok("delete", s.b.Delete(s.ctx, "m/none"))
	s.wantHistory("m/none")
}

func (s *suite) asOf() {
	if !s.versioned() {
		s.put("x", []byte("x"))
		v := backend.AsOf(s.b, time.Now())
		_, err := v.Get(s.ctx, "x", 0, -1, nil)
		s.wantError("get", "x", err, errors.ErrUnsupported)
		_, err = v.Stat(s.ctx, "x")
		s.wantError("stat", "x", err, errors.ErrUnsupported)
		for _, err := range v.List(s.ctx, "x") {
			s.wantError("list", "x", err, errors.ErrUnsupported)
		}
		return
	}
	if !s.keeps() {
		return
	}
	s.put("a/then", []byte("then"))
	s.put("a/same", []byte("same"))
	var at time.Time
	for _, v := range s.all(s.b, "a/") {
		if v.Modified.After(at) {
			at = v.Modified
		}
	}
	// Until the store's clock ticks.
	for ticked := false; !ticked; {
		s.put("a/then", []byte("and later"))
		ticked = s.of("a/then")[0].Modified.After(at)
		if !ticked {
			s.ok("delete a version", backend.DeleteVersion(s.ctx, s.b, "a/then", s.of("a/then")[0].ID))
		}
	}
	s.put("a/new", []byte("new"))
	if h, ok := s.b.(interface {
		Hide(ctx context.Context, name string) error
	}); ok {
		s.ok("hide", h.Hide(s.ctx, "a/same"))
	}

	v := backend.AsOf(s.b, at)
	got := suite{T: s.T, b: v, ctx: s.ctx}
	for range 2 {
		got.want("a/then", []byte("then"))
		got.want("a/same", []byte("same"))
		got.wantNone("a/new")
		got.wantNone("a/none")
		if list := got.listed("a/"); !slices.Equal(list, []string{"a/same", "a/then"}) {
			s.Errorf("as of then, listed: %q", list)
		}
		if part, err := v.Get(s.ctx, "a/then", 1, 2, []byte("w")); err != nil || string(part) != "whe" {
			s.Errorf("as of then, get a part: %q, %v", part, err)
		}
		_, err := v.Get(s.ctx, "a/then", 3, 2, nil)
		s.wantError("get", "a/then", err, io.ErrUnexpectedEOF)
	}
	for _, past := range s.all(v, "a/") {
		if past.Modified.After(at) {
			s.Errorf("as of then, there is %+v", past)
		}
	}
	s.wantError("put", "a/x", backend.PutBytes(s.ctx, v, "a/x", nil, nil), fs.ErrPermission)
	s.wantError("delete", "a/then", v.Delete(s.ctx, "a/then"), fs.ErrPermission)
	s.wantError("delete a version of", "a/then", backend.DeleteVersion(s.ctx, v, "a/then", s.of("a/then")[0].ID), fs.ErrPermission)
	hour := backend.Retention{Mode: backend.Governance, Until: at.Add(time.Hour)}
	s.wantError("retain", "a/then", backend.Retain(s.ctx, v, "a/then", "", hour), fs.ErrPermission)
	s.wantError("shorten", "a/then", backend.Shorten(s.ctx, v, "a/then", "", hour), fs.ErrPermission)
	_, err := v.Stat(s.ctx, "a//x")
	s.wantError("stat", "a//x", err, fs.ErrInvalid)
	s.want("a/then", []byte("and later"))

	before := suite{T: s.T, b: backend.AsOf(s.b, at.Add(-24*time.Hour)), ctx: s.ctx}
	before.wantNone("a/then")
	if list := before.listed(""); len(list) > 0 {
		s.Errorf("a day before, listed: %q", list)
	}
	now := suite{T: s.T, b: backend.AsOf(s.b, at.Add(24*time.Hour)), ctx: s.ctx}
	now.want("a/then", []byte("and later"))
	now.want("a/new", []byte("new"))
}
