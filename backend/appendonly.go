package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// AppendOnly returns b without the ways to lose an object: Delete is refused
// with [fs.ErrPermission], and so is a Put that would replace one. A Put that
// asks for IfAbsent gets [fs.ErrExist], as always.
//
// It guards against mistakes in this process, not against a thief, who would
// use b. Put it around [Retry], not inside: Retry takes the second refusal of
// a replacing Put for the truth, while the first try may have stored it.
func AppendOnly(b Backend) Backend { return &appendOnly{b} }

type appendOnly struct{ Backend }

func (a *appendOnly) Unwrap() Backend { return a.Backend }

func (a *appendOnly) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *PutOptions) error {
	var opts PutOptions
	if o != nil {
		opts = *o
	}
	replace := !opts.IfAbsent
	opts.IfAbsent = true
	err := a.Backend.Put(ctx, name, r, size, &opts)
	if replace && errors.Is(err, fs.ErrExist) {
		// Not wrapped: the caller did not ask whether the object exists.
		return fmt.Errorf("backend: put %s: append-only, and the object exists: %w", name, fs.ErrPermission)
	}
	return err
}

func (a *appendOnly) Delete(ctx context.Context, name string) error {
	return fmt.Errorf("backend: delete %s: append-only: %w", name, fs.ErrPermission)
}

func (a *appendOnly) Retain(ctx context.Context, name, version string, r Retention) error {
	return Retain(ctx, a.Backend, name, version, r)
}

func (a *appendOnly) Retention(ctx context.Context, name, version string) (Retention, error) {
	return RetentionOf(ctx, a.Backend, name, version)
}

func (a *appendOnly) Shorten(ctx context.Context, name, version string, _ Retention) error {
	return fmt.Errorf("backend: shorten %s: append-only: %w", name, fs.ErrPermission)
}

func (a *appendOnly) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return Versions(ctx, a.Backend, prefix)
}

func (a *appendOnly) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return GetVersion(ctx, a.Backend, name, id, off, n, dst)
}

func (a *appendOnly) DeleteVersion(ctx context.Context, name, id string) error {
	return fmt.Errorf("backend: delete a version of %s: append-only: %w", name, fs.ErrPermission)
}
