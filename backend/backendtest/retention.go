package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/varvebackup/varve/backend"
)

func (s *suite) wantLock(name, id string, want backend.Retention) {
	s.Helper()
	got, err := backend.RetentionOf(s.ctx, s.b, name, id)
	if err != nil || got.Mode != want.Mode || !got.Until.Equal(want.Until) {
		s.Errorf("lock of %s: %v, %v; want %v", name, got, err, want)
	}
}

func (s *suite) putLocked(name string, data []byte, r backend.Retention, ifAbsent bool) error {
	return backend.PutBytes(s.ctx, s.b, name, data, &backend.PutOptions{Retain: r, IfAbsent: ifAbsent})
}

func (s *suite) retention() {
	const name = "locks/one"
	s.put(name, []byte("one"))
	at := s.now().Truncate(time.Second)
	governance := func(d time.Duration) backend.Retention {
		return backend.Retention{Mode: backend.Governance, Until: at.Add(d)}
	}
	compliance := func(d time.Duration) backend.Retention {
		return backend.Retention{Mode: backend.Compliance, Until: at.Add(d)}
	}

	if _, err := backend.RetentionOf(s.ctx, s.b, name, ""); errors.Is(err, errors.ErrUnsupported) {
		// Then all of it, and each time.
		for range 2 {
			_, err := backend.RetentionOf(s.ctx, s.b, name, "")
			s.wantError("retention", name, err, errors.ErrUnsupported)
			s.wantError("retain", name, backend.Retain(s.ctx, s.b, name, "", governance(time.Hour)), errors.ErrUnsupported)
			s.wantError("shorten", name, backend.Shorten(s.ctx, s.b, name, "", governance(time.Hour)), errors.ErrUnsupported)
			s.wantError("shorten to nothing", name, backend.Shorten(s.ctx, s.b, name, "", backend.Retention{}), errors.ErrUnsupported)
			for _, absent := range []bool{false, true} {
				s.wantError("put locked", "locks/new", s.putLocked("locks/new", []byte("x"), governance(time.Hour), absent), errors.ErrUnsupported)
			}
			s.wantError("replace locked", name, s.putLocked(name, []byte("x"), governance(time.Hour), false), errors.ErrUnsupported)
			s.wantNone("locks/new")
			s.want(name, []byte("one"))
		}
		return
	}

	// An object that is not locked becomes so, longer and not shorter.
	s.wantLock(name, "", backend.Retention{})
	before, err := s.b.Stat(s.ctx, name)
	s.ok("stat", err)
	for _, c := range []struct{ ask, want backend.Retention }{
		{governance(time.Hour), governance(time.Hour)}, {governance(time.Hour), governance(time.Hour)}, {governance(time.Minute), governance(time.Hour)},
		{governance(2 * time.Hour), governance(2 * time.Hour)},
		{governance(3*time.Hour - 600*time.Millisecond), governance(3 * time.Hour)}, // no shorter than asked
	} {
		s.ok("retain", backend.Retain(s.ctx, s.b, name, "", c.ask))
		s.wantLock(name, "", c.want)
	}
	if after, err := s.b.Stat(s.ctx, name); err != nil || after != before {
		s.Errorf("%+v is %+v, %v, after it was locked", before, after, err)
	}
	locked := func(name string, data []byte) {
		s.Helper()
		s.wantError("delete", name, s.b.Delete(s.ctx, name), backend.ErrRetained)
		for _, v := range s.of(name) {
			if r, err := backend.RetentionOf(s.ctx, s.b, name, v.ID); err != nil || r.IsZero() {
				continue
			}
			s.wantError("delete a version of", name, backend.DeleteVersion(s.ctx, s.b, name, v.ID), backend.ErrRetained)
		}
		s.want(name, data)
	}
	locked(name, []byte("one"))

	// And free again, for who may do so.
	s.ok("shorten", backend.Shorten(s.ctx, s.b, name, "", governance(time.Hour)))
	s.wantLock(name, "", governance(time.Hour))
	locked(name, []byte("one"))
	for range 2 {
		s.ok("shorten to nothing", backend.Shorten(s.ctx, s.b, name, "", backend.Retention{}))
		s.wantLock(name, "", backend.Retention{})
	}
	s.ok("delete", s.b.Delete(s.ctx, name))
	s.wantNone(name)
	s.wantHistory(name)

	// Locked from the first moment on.
	data := content(100_000, 5)
	for i, absent := range []bool{false, true} {
		name := fmt.Sprintf("locks/put/%d", i)
		s.ok("put locked", s.putLocked(name, data, governance(time.Hour+time.Second/3), absent))
		s.wantLock(name, "", governance(time.Hour+time.Second))
		s.want(name, data)
		locked(name, data)
		s.wantError("put if absent", name, s.putLocked(name, []byte("another"), governance(2*time.Hour), true), fs.ErrExist)
		s.wantLock(name, "", governance(time.Hour+time.Second))
	}

	// A lock is one of a version. What is put above it hides it, and stays when
	// the whole can't be deleted.
	const over = "locks/put/0"
	old := s.of(over)
	s.put(over, []byte("above"))
	s.wantLock(over, "", backend.Retention{})
	locked(over, []byte("above"))
	for _, v := range old {
		s.wantLock(over, v.ID, governance(time.Hour+time.Second))
		s.ok("retain a version", backend.Retain(s.ctx, s.b, over, v.ID, governance(2*time.Hour)))
		s.wantLock(over, v.ID, governance(2*time.Hour))
	}
	s.wantHistory(over, "above", string(data))
	s.ok("put", s.putLocked(over, []byte("top"), governance(time.Hour), false))
	for _, v := range old {
		s.ok("shorten a version", backend.Shorten(s.ctx, s.b, over, v.ID, backend.Retention{}))
	}
	locked(over, []byte("top")) // the others go
	s.wantHistory(over, "top")
	for _, v := range s.of(over) {
		s.ok("shorten", backend.Shorten(s.ctx, s.b, over, v.ID, backend.Retention{}))
	}
	s.ok("delete", s.b.Delete(s.ctx, over))
	s.wantHistory(over)

	// Compliance is for everybody.
	const strict = "locks/strict"
	s.ok("put locked", s.putLocked(strict, data, governance(20*time.Minute), true))
	for _, c := range []struct{ ask, want backend.Retention }{
		{compliance(10 * time.Minute), compliance(20 * time.Minute)}, {compliance(21 * time.Minute), compliance(21 * time.Minute)},
		{governance(time.Minute), compliance(21 * time.Minute)}, {governance(22 * time.Minute), compliance(22 * time.Minute)},
	} {
		s.ok("retain", backend.Retain(s.ctx, s.b, strict, "", c.ask))
		s.wantLock(strict, "", c.want)
	}
	for _, r := range []backend.Retention{{}, compliance(10 * time.Minute), governance(22 * time.Minute), governance(time.Hour)} {
		s.wantError("shorten", strict, backend.Shorten(s.ctx, s.b, strict, "", r), fs.ErrPermission)
		s.wantLock(strict, "", compliance(22*time.Minute))
	}
	locked(strict, data)

	s.badLocks(at)
}

// badLocks: what can't be locked, or not so.
func (s *suite) badLocks(at time.Time) {
	const name = "locks/plain"
	s.put(name, []byte("plain"))
	for _, bad := range []backend.Retention{
		{Mode: backend.Governance, Until: at.Add(-time.Hour)}, {Mode: "", Until: at.Add(time.Hour)}, {Mode: "GOVERNANCE", Until: at.Add(time.Hour)},
	} {
		for _, absent := range []bool{false, true} {
			s.wantError("put locked", "locks/new", s.putLocked("locks/new", []byte("x"), bad, absent), fs.ErrInvalid)
		}
		s.wantError("retain", name, backend.Retain(s.ctx, s.b, name, "", bad), fs.ErrInvalid)
		s.wantError("shorten", name, backend.Shorten(s.ctx, s.b, name, "", bad), fs.ErrInvalid)
	}
	s.wantError("retain not at all", name, backend.Retain(s.ctx, s.b, name, "", backend.Retention{}), fs.ErrInvalid)
	hour := backend.Retention{Mode: backend.Governance, Until: at.Add(time.Hour)}
	failing := readerFunc(func([]byte, int64) (int, error) { return 0, io.ErrClosedPipe })
	if err := s.b.Put(s.ctx, "locks/new", failing, 100, &backend.PutOptions{Retain: hour}); !errors.Is(err, io.ErrClosedPipe) {
		s.Errorf("put locked, whose reader fails: %v", err)
	}
	s.wantNone("locks/new")
	s.wantLock(name, "", backend.Retention{})
	s.want(name, []byte("plain"))

	done, cancel := context.WithCancel(s.ctx)
	cancel()
	for _, c := range []struct {
		ctx      context.Context
		name, id string
		want     error
	}{
		{s.ctx, "locks/none", "", fs.ErrNotExist}, {s.ctx, name, "none-such", fs.ErrNotExist}, {s.ctx, name, s.of("clock")[0].ID, fs.ErrNotExist},
		{s.ctx, "locks//bad", "", fs.ErrInvalid}, {s.ctx, "", "", fs.ErrInvalid}, {done, name, "", context.Canceled},
	} {
		_, err := backend.RetentionOf(c.ctx, s.b, c.name, c.id)
		s.wantError("retention", c.name, err, c.want)
		s.wantError("retain", c.name, backend.Retain(c.ctx, s.b, c.name, c.id, hour), c.want)
		s.wantError("shorten", c.name, backend.Shorten(c.ctx, s.b, c.name, c.id, hour), c.want)
		s.wantError("shorten to nothing", c.name, backend.Shorten(c.ctx, s.b, c.name, c.id, backend.Retention{}), c.want)
	}
	s.wantLock(name, "", backend.Retention{})
	s.ok("delete", s.b.Delete(s.ctx, name))
}
