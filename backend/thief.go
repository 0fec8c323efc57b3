package backend

import (
	"context"
	"fmt"
	"io/fs"
)

// A Thief is a Backend that can do what no repository asks for: thieves do it, and
// doctors try. The package functions [Hide] and [Erase] are for any Backend. Besides
// the outcomes of [Backend], the error is [fs.ErrPermission] if the store refuses.
type Thief interface {
	// Hide deletes as programs do that know of no versions: Get then says that
	// there is no object of this name. In a store that keeps versions it puts a
	// mark above those that there are, also above none, and locks don't keep it
	// from that; elsewhere it deletes.
	Hide(ctx context.Context, name string) error

	// Erase is DeleteVersion of a [Versioner] with every permission that the
	// credentials have: locks of governance don't keep those from it who may
	// bypass them.
	Erase(ctx context.Context, name, id string) error
}

// Hide is b's [Thief] method, or [errors.ErrUnsupported].
func Hide(ctx context.Context, b Backend, name string) error {
	if p, ok := b.(Thief); ok {
		return p.Hide(ctx, name)
	}
	return unsupported("hide", name, "marks of deletions")
}

// Erase is b's [Thief] method, or else [DeleteVersion].
func Erase(ctx context.Context, b Backend, name, id string) error {
	if p, ok := b.(Thief); ok {
		return p.Erase(ctx, name, id)
	}
	return DeleteVersion(ctx, b, name, id)
}

func (p *prefixed) Hide(ctx context.Context, name string) error {
	return Hide(ctx, p.b, p.prefix+name)
}

func (p *prefixed) Erase(ctx context.Context, name, id string) error {
	return Erase(ctx, p.b, p.prefix+name, id)
}

func (l *limited) Hide(ctx context.Context, name string) error {
	if err := l.enter(ctx, "hide", name); err != nil {
		return err
	}
	defer l.leave()
	return Hide(ctx, l.Backend, name)
}

func (l *limited) Erase(ctx context.Context, name, id string) error {
	if err := l.enter(ctx, "erase", name); err != nil {
		return err
	}
	defer l.leave()
	return Erase(ctx, l.Backend, name, id)
}

// Hide puts one more mark if a try failed after it had put one.
func (t *retrying) Hide(ctx context.Context, name string) error {
	return t.do(ctx, "hide", name, func(int) error { return Hide(ctx, t.b, name) })
}

func (t *retrying) Erase(ctx context.Context, name, id string) error {
	return t.do(ctx, "erase", name, func(int) error { return Erase(ctx, t.b, name, id) })
}

func (r *readOnly) Hide(ctx context.Context, name string) error {
	return fmt.Errorf("backend: hide %s: read-only: %w", name, fs.ErrPermission)
}

func (r *readOnly) Erase(ctx context.Context, name, id string) error {
	return fmt.Errorf("backend: erase %s: read-only: %w", name, fs.ErrPermission)
}

func (a *appendOnly) Hide(ctx context.Context, name string) error {
	return fmt.Errorf("backend: hide %s: append-only: %w", name, fs.ErrPermission)
}

func (a *appendOnly) Erase(ctx context.Context, name, id string) error {
	return fmt.Errorf("backend: erase %s: append-only: %w", name, fs.ErrPermission)
}

func (a *asOf) Hide(ctx context.Context, name string) error {
	return Hide(ctx, a.Backend, name) // refused
}

func (a *asOf) Erase(ctx context.Context, name, id string) error {
	return Erase(ctx, a.Backend, name, id)
}
