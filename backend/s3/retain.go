package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
)

var _ backend.Retainer = (*Bucket)(nil)

var modes = map[backend.Mode]minio.RetentionMode{backend.Governance: minio.Governance, backend.Compliance: minio.Compliance}

// now is the time by the store's clock, or up to a second earlier; the host's if
// the store has not answered yet.
func (b *Bucket) now() time.Time { return time.Now().Add(time.Duration(b.skew.Load())) }

// checked returns r in the store's resolution, or what is wrong with it. The
// store has been heard of before.
func (b *Bucket) checked(op, name string, r backend.Retention) (backend.Retention, error) {
	if _, ok := modes[r.Mode]; !ok {
		return r, fmt.Errorf("backend/s3: %s %s: no mode of locks: %q: %w", op, name, r.Mode, fs.ErrInvalid)
	}
	if r = r.RoundUp(); !r.Until.After(b.now()) {
		return r, b.explain(op, name, "", minio.ErrorResponse{StatusCode: 400, Message: "must be in the future"})
	}
	return r, nil
}

// lockable finds out, once, whether the bucket has locks: a service that does
// not know of them might ignore the headers that ask for one, and store the
// object without.
func (b *Bucket) lockable(ctx context.Context, op, name string) error {
	if b.locks.Load() {
		return nil
	}
	for a := b.attempts(ctx, op, name, "s3:GetBucketObjectLockConfiguration"); ; {
		state, _, _, _, err := b.core.GetObjectLockConfig(ctx, b.name)
		switch {
		case err == nil && state == "Enabled", denied(err):
			// One that refuses knows, and will say so when it is asked for a lock.
			b.locks.Store(true)
			return nil
		case err == nil:
			err = errNoLocks
		}
		if err := a.again(err); err != nil {
			return err
		}
	}
}

// Retention implements [backend.Retainer].
func (b *Bucket) Retention(ctx context.Context, name, version string) (backend.Retention, error) {
	return b.retention(ctx, "retention", name, version)
}

func (b *Bucket) retention(ctx context.Context, op, name, version string) (backend.Retention, error) {
	key, err := b.object(ctx, op, name)
	if err != nil {
		return backend.Retention{}, err
	}
	for a := b.attempts(ctx, op, name, "s3:GetObjectRetention"); ; {
		mode, until, err := b.core.GetObjectRetention(ctx, b.name, key, version)
		switch {
		case err == nil:
			var r backend.Retention
			if until == nil || !until.After(b.now()) {
				return r, nil
			}
			for m, s := range modes {
				if s == *mode {
					return backend.Retention{Mode: m, Until: until.UTC()}, nil
				}
			}
			err = protocolError(fmt.Sprintf("it has a mode of locks %q", *mode))
		case minio.ToErrorResponse(err).Code == "NoSuchObjectLockConfiguration":
			return backend.Retention{}, nil
		}
		if err := a.again(b.unlockable(ctx, op, name, version, err)); err != nil {
			return backend.Retention{}, err
		}
	}
}

// unlockable returns what an error of a request about a lock means: a mark has
// none, which is said in the words for what can't be done.
func (b *Bucket) unlockable(ctx context.Context, op, name, version string, err error) error {
	api := minio.ToErrorResponse(err)
	if !noVersion(api) || api.Code == "NoSuchKey" {
		return err
	}
	if api.Code == "MethodNotAllowed" {
		if _, serr := b.stat(ctx, op, name, version); !errors.Is(serr, fs.ErrNotExist) {
			return err
		}
	}
	return errNoVersion
}

// setLock sends one request at least; a zero r takes the lock away.
func (b *Bucket) setLock(ctx context.Context, op, name, key, version string, r backend.Retention, bypass bool) error {
	o := minio.PutObjectRetentionOptions{VersionID: version, GovernanceBypass: bypass}
	needs := "s3:PutObjectRetention"
	if bypass {
		needs += " and s3:BypassGovernanceRetention"
	}
	if !r.IsZero() {
		mode := modes[r.Mode]
		o.Mode, o.RetainUntilDate = &mode, &r.Until
	}
	for a := b.attempts(ctx, op, name, needs); ; {
		err := b.core.PutObjectRetention(ctx, b.name, key, o)
		if err == nil {
			return nil
		}
		if err := a.again(b.unlockable(ctx, op, name, version, err)); err != nil {
			return err
		}
	}
}

// Retain implements [backend.Retainer]. To make a lock of governance one of
// compliance needs the permission to bypass it (s3:BypassGovernanceRetention);
// nothing else does.
func (b *Bucket) Retain(ctx context.Context, name, version string, r backend.Retention) error {
	const op = "retain"
	key, err := b.object(ctx, op, name)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		had, err := b.retention(ctx, op, name, version)
		if err != nil {
			return err
		}
		want, err := b.checked(op, name, r)
		if err != nil {
			return err
		}
		if want = want.Stricter(had); want.Mode == had.Mode && want.Until.Equal(had.Until) {
			return nil
		}
		raise := had.Mode == backend.Governance && want.Mode == backend.Compliance
		err = b.setLock(ctx, op, name, key, version, want, false)
		if raise && (errors.Is(err, backend.ErrRetained) || errors.Is(err, fs.ErrPermission)) {
			err = b.setLock(ctx, op, name, key, version, want, true)
		}
		if !errors.Is(err, backend.ErrRetained) || try == 3 {
			return err
		}
		// Somebody else has made it longer meanwhile: perhaps long enough.
	}
}

// Shorten implements [backend.Retainer].
func (b *Bucket) Shorten(ctx context.Context, name, version string, r backend.Retention) error {
	const op = "shorten"
	key, err := b.object(ctx, op, name)
	if err != nil {
		return err
	}
	if !r.IsZero() {
		if err := b.lockable(ctx, op, name); err != nil {
			return err
		}
		if r, err = b.checked(op, name, r); err != nil {
			return err
		}
	}
	err = b.setLock(ctx, op, name, key, version, r, true)
	if f := new(failure); errors.As(err, &f) && f.is == backend.ErrRetained {
		f.is = fs.ErrPermission
	}
	return err
}

// locked returns what locks a version, as an error, or nil if nothing does or if
// that can't be found out.
func (b *Bucket) locked(ctx context.Context, name, key, id string) error {
	r, err := b.retention(ctx, "retention", name, id)
	if err == nil && !r.IsZero() {
		return lockedError(fmt.Sprintf("version %s is locked until %s (%s)", id, r.Until.Format(time.RFC3339), r.Mode))
	}
	for a := b.attempts(ctx, "retention", name, "s3:GetObjectLegalHold"); ; {
		hold, err := b.core.GetObjectLegalHold(ctx, b.name, key, minio.GetObjectLegalHoldOptions{VersionID: id})
		if err == nil {
			if hold != nil && *hold == minio.LegalHoldEnabled {
				return lockedError(fmt.Sprintf("version %s is under a legal hold", id))
			}
			return nil
		}
		if a.again(err) != nil {
			return nil
		}
	}
}
