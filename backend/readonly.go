package backend

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// ReadOnly returns b without its writing half: Put and Delete are refused with
// [fs.ErrPermission] and don't reach b.
func ReadOnly(b Backend) Backend { return &readOnly{b} }

type readOnly struct{ Backend }

func (r *readOnly) Unwrap() Backend { return r.Backend }

func (r *readOnly) Put(ctx context.Context, name string, _ io.ReaderAt, _ int64, _ *PutOptions) error {
	return fmt.Errorf("backend: put %s: read-only: %w", name, fs.ErrPermission)
}

func (r *readOnly) Delete(ctx context.Context, name string) error {
	return fmt.Errorf("backend: delete %s: read-only: %w", name, fs.ErrPermission)
}

func (r *readOnly) Retain(ctx context.Context, name, version string, _ Retention) error {
	return fmt.Errorf("backend: retain %s: read-only: %w", name, fs.ErrPermission)
}

func (r *readOnly) Retention(ctx context.Context, name, version string) (Retention, error) {
	return RetentionOf(ctx, r.Backend, name, version)
}

func (r *readOnly) Shorten(ctx context.Context, name, version string, _ Retention) error {
	return fmt.Errorf("backend: shorten %s: read-only: %w", name, fs.ErrPermission)
}

func (r *readOnly) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return Versions(ctx, r.Backend, prefix)
}

func (r *readOnly) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return GetVersion(ctx, r.Backend, name, id, off, n, dst)
}

func (r *readOnly) DeleteVersion(ctx context.Context, name, id string) error {
	return fmt.Errorf("backend: delete a version of %s: read-only: %w", name, fs.ErrPermission)
}
