package mem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/varvebackup/varve/backend"
)

var _ backend.Thief = (*Mem)(nil)

// Erase implements [backend.Thief]. Everybody may bypass a lock of governance.
func (m *Mem) Erase(ctx context.Context, name, id string) error {
	err := m.DeleteVersion(ctx, name, id)
	if !errors.Is(err, backend.ErrRetained) {
		return err
	}
	if serr := m.Shorten(ctx, name, id, backend.Retention{}); errors.Is(serr, fs.ErrPermission) {
		return err
	} else if serr != nil && !errors.Is(serr, fs.ErrNotExist) {
		return fmt.Errorf("backend/mem: erase %s: %w", name, serr)
	}
	return m.DeleteVersion(ctx, name, id)
}
