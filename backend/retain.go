package backend

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrRetained says of an object that it is locked, so it stays for now: a "not
// yet" rather than a failure.
var ErrRetained = errors.New("backend: the object is locked")

// A Mode says who may end a [Retention] early.
type Mode string

const (
	Governance Mode = "governance" // whoever has a special permission of the store
	Compliance Mode = "compliance" // nobody, the store's owner included
)

// A Retention keeps an object from being deleted: object lock. In a store that
// keeps versions it holds for one version; others of the same name may be put
// above it and hide it.
type Retention struct {
	Mode  Mode
	Until time.Time // in a second's resolution; zero: there is no lock
}

// IsZero reports whether there is no lock.
func (r Retention) IsZero() bool { return r.Until.IsZero() }

// RoundUp returns r until a full second, no earlier, in UTC: in the resolution of
// stores.
func (r Retention) RoundUp() Retention {
	if !r.IsZero() {
		t := r.Until.UTC().Truncate(time.Second)
		if t.Before(r.Until) {
			t = t.Add(time.Second)
		}
		r.Until = t
	}
	return r
}

// Stricter returns a lock that is no weaker than either: until the later time,
// and of compliance if one of them is.
func (r Retention) Stricter(s Retention) Retention {
	switch {
	case r.IsZero():
		return s
	case s.IsZero():
		return r
	}
	if s.Mode == Compliance {
		r.Mode = Compliance
	}
	if s.Until.After(r.Until) {
		r.Until = s.Until
	}
	return r
}

// A Retainer is a Backend that can lock objects, see [PutOptions].Retain too. A
// version is an id of [Version], or "" for the newest. Besides the outcomes of
// [Backend], the error is [fs.ErrNotExist] if there is no such object or version,
// or if it is the mark of a deletion; [fs.ErrInvalid] for a lock that has no mode
// or would be over already, by the store's clock; and [errors.ErrUnsupported]
// where the store, or this bucket in it, has no locks. The package functions
// [Retain], [RetentionOf] and [Shorten] are for any Backend.
type Retainer interface {
	// Retain locks a version for at least as long as r says, and at least as
	// strictly: a lock that is there already becomes the stricter of the two
	// (see [Retention.Stricter]), and none is ever shortened. A zero r is
	// [fs.ErrInvalid].
	Retain(ctx context.Context, name, version string, r Retention) error

	// Retention returns the lock of a version, zero if it has none or if that
	// is over.
	Retention(ctx context.Context, name, version string) (Retention, error)

	// Shorten makes r, which may be zero, the lock of a version, with every
	// permission that the credentials have: what a thief would do, and doctors
	// try. The error is [fs.ErrPermission] if the store refuses.
	Shorten(ctx context.Context, name, version string, r Retention) error
}

func unsupported(op, name, what string) error {
	return fmt.Errorf("backend: %s %s: this store has no %s: %w", op, name, what, errors.ErrUnsupported)
}

// Retain is b's [Retainer] method, or [errors.ErrUnsupported].
func Retain(ctx context.Context, b Backend, name, version string, r Retention) error {
	if p, ok := b.(Retainer); ok {
		return p.Retain(ctx, name, version, r)
	}
	return unsupported("retain", name, "locks")
}

// RetentionOf is b's [Retainer] method Retention, or [errors.ErrUnsupported].
func RetentionOf(ctx context.Context, b Backend, name, version string) (Retention, error) {
	if p, ok := b.(Retainer); ok {
		return p.Retention(ctx, name, version)
	}
	return Retention{}, unsupported("retention", name, "locks")
}

// Shorten is b's [Retainer] method, or [errors.ErrUnsupported].
func Shorten(ctx context.Context, b Backend, name, version string, r Retention) error {
	if p, ok := b.(Retainer); ok {
		return p.Shorten(ctx, name, version, r)
	}
	return unsupported("shorten", name, "locks")
}
