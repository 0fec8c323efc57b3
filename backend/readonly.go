package backend

import (
	"context"
	"fmt"
	"io"
	"io/fs"
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
