package backendtest

import (
	"context"

	"github.com/varvebackup/varve/backend"
)

// Hide implements [backend.Thief]. It does not fail: one that is repeated because
// its reply was lost puts a second mark, which tests of marks would count.
func (f *Faulty) Hide(ctx context.Context, name string) error {
	return backend.Hide(ctx, f.Backend, name)
}

// Erase implements [backend.Thief], without failures.
func (f *Faulty) Erase(ctx context.Context, name, id string) error {
	return backend.Erase(ctx, f.Backend, name, id)
}
