package s3

import (
	"context"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
)

var _ backend.Thief = (*Bucket)(nil)

// Hide implements [backend.Thief]: a request to delete that names no version.
func (b *Bucket) Hide(ctx context.Context, name string) error {
	key, err := b.object(ctx, "hide", name)
	if err != nil {
		return err
	}
	return b.deleteOnly(ctx, "hide", name, key)
}

// Erase implements [backend.Thief].
func (b *Bucket) Erase(ctx context.Context, name, id string) error {
	const op = "erase"
	key, err := b.versionID(ctx, op, name, id)
	if err != nil {
		return err
	}
	for a := b.attempts(ctx, op, name, "s3:DeleteObjectVersion and s3:BypassGovernanceRetention"); ; {
		err := b.core.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{VersionID: id, GovernanceBypass: true})
		if api := minio.ToErrorResponse(err); err == nil || noVersion(api) && api.Code != "MethodNotAllowed" {
			return nil
		}
		if denied(err) {
			// A lock, or a missing permission?
			if locked := b.locked(ctx, name, key, id); locked != nil {
				err = locked
			}
		}
		if err := a.again(err); err != nil {
			return err
		}
	}
}

// Insecure reports whether plain HTTP is spoken, which all on the way can read
// and change.
func (b *Bucket) Insecure() bool { return b.insecure }
