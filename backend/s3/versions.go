package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
)

var _ backend.Versioner = (*Bucket)(nil)

// What is known of a bucket.
const (
	unknownVersions = iota
	neverVersions   // it never kept any: there is one version of each object
	keepsVersions   // it does, or did for a time
	assumeVersions  // whoever asks is refused
)

// KeepsVersions reports whether the bucket keeps versions, or did for a time. It
// asks the service once.
func (b *Bucket) KeepsVersions(ctx context.Context) (bool, error) {
	switch b.kept.Load() {
	case neverVersions:
		return false, nil
	case keepsVersions:
		return true, nil
	}
	return b.askVersions(ctx, "look for versions in", b.name)
}

func (b *Bucket) askVersions(ctx context.Context, op, name string) (bool, error) {
	for a := b.attempts(ctx, op, name, "s3:GetBucketVersioning"); ; {
		config, err := b.core.GetBucketVersioning(ctx, b.name)
		switch {
		case err == nil && config.Status == "":
			// Unless a mark was seen meanwhile.
			b.kept.CompareAndSwap(unknownVersions, neverVersions)
			return b.kept.Load() == keepsVersions, nil
		case err == nil:
			b.kept.Store(keepsVersions)
			return true, nil
		}
		err = a.again(err)
		if errors.Is(err, errors.ErrUnsupported) { // a service without versions
			b.kept.CompareAndSwap(unknownVersions, neverVersions)
			return b.kept.Load() == keepsVersions, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// versionID is object for a call that is about one version.
func (b *Bucket) versionID(ctx context.Context, op, name, id string) (string, error) {
	if backend.ValidName(name) && id == "" {
		// To the service, that would be the newest, or a new mark.
		return "", fmt.Errorf("backend/s3: %s %s: an empty id: %w", op, name, fs.ErrInvalid)
	}
	return b.object(ctx, op, name)
}

// Versions implements [backend.Versioner]. A listing that fails goes on behind
// the last name that it yielded.
func (b *Bucket) Versions(ctx context.Context, prefix string) iter.Seq2[backend.Version, error] {
	return func(yield func(backend.Version, error) bool) {
		if !backend.ValidPrefix(prefix) {
			yield(backend.Version{}, fmt.Errorf("backend/s3: list versions of %q: no name begins so: %w", prefix, fs.ErrInvalid))
			return
		}
		for vs, err := range b.versions(ctx, "list versions of", prefix) {
			if err != nil {
				yield(backend.Version{}, err)
				return
			}
			for _, v := range vs {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}

// versions yields the versions of each name together: what begins again after a
// failure, where other versions may have come meanwhile.
func (b *Bucket) versions(ctx context.Context, op, prefix string) iter.Seq2[[]backend.Version, error] {
	return func(yield func([]backend.Version, error) bool) {
		done := "" // the last key whose versions were yielded
		for a := b.attempts(ctx, op, prefix, "s3:ListBucketVersions"); ; {
			key := done
			var of []backend.Version // of key
			var err error
			// flush yields them.
			flush := func() bool {
				if done = key; len(of) == 0 {
					return true
				}
				a.progress()
				vs := of
				of = nil
				return yield(vs, nil)
			}
			for o := range b.core.ListObjectsIter(ctx, b.name, minio.ListObjectsOptions{
				Prefix: b.prefix + prefix, Recursive: true, StartAfter: done, WithVersions: true,
			}) {
				// Not left to minio-go, which ends a cancelled listing like a whole one.
				if err = ctx.Err(); err != nil {
					break
				}
				if err = o.Err; err != nil {
					break
				}
				if o.Key < key || o.Key == done {
					err = protocolError(fmt.Sprintf("it lists out of order: %s after %s", o.Key, key))
					break
				}
				if o.Key != key {
					if !flush() {
						return
					}
					key = o.Key
				}
				name, ok := strings.CutPrefix(o.Key, b.prefix)
				if !ok || !strings.HasPrefix(name, prefix) || !backend.ValidName(name) {
					continue
				}
				id := o.VersionID
				if id == "" {
					id = "null"
				}
				if slices.ContainsFunc(of, func(v backend.Version) bool { return v.ID == id }) {
					continue // pages may overlap where something was deleted
				}
				v := backend.Version{ID: id, Latest: o.IsLatest, Deleted: o.IsDeleteMarker}
				v.Info = backend.Info{Name: name, Size: o.Size, Modified: o.LastModified}
				if v.Deleted {
					v.Size = 0
				}
				of = append(of, v)
			}
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				flush()
				return
			}
			if err := a.again(err); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// GetVersion implements [backend.Versioner].
func (b *Bucket) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	if _, err := b.versionID(ctx, "get a version of", name, id); err != nil {
		return dst, err
	}
	return b.get(ctx, name, id, off, n, dst)
}

// DeleteVersion implements [backend.Versioner]. A legal hold is a lock, too.
func (b *Bucket) DeleteVersion(ctx context.Context, name, id string) error {
	const op = "delete a version of"
	key, err := b.versionID(ctx, op, name, id)
	if err != nil {
		return err
	}
	return b.deleteVersion(ctx, op, name, key, id)
}

func (b *Bucket) deleteVersion(ctx context.Context, op, name, key, id string) error {
	for a := b.attempts(ctx, op, name, "s3:DeleteObjectVersion"); ; {
		err := b.core.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{VersionID: id})
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

// Delete implements [backend.Backend]. Where the bucket keeps versions, that is
// a listing of those of the name and a request for each. A process that is not
// allowed to ask whether it does (s3:GetBucketVersioning) takes it that it does.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	key, err := b.object(ctx, "delete", name)
	if err != nil {
		return err
	}
	if b.kept.Load() == unknownVersions {
		_, err := b.askVersions(ctx, "delete", name)
		f := new(failure)
		switch {
		case errors.As(err, &f) && f.denied:
			b.kept.CompareAndSwap(unknownVersions, assumeVersions)
		case err != nil:
			return err
		}
	}
	if b.kept.Load() == neverVersions {
		if err := b.deleteOnly(ctx, "delete", name, key); err != nil || b.kept.Load() == neverVersions {
			return err
		}
		// It keeps versions since it was asked, and has now put a mark.
	}
	return b.deleteAll(ctx, name, key)
}

// deleteOnly names no version: it deletes an object that has none, and puts a mark where there are some.
func (b *Bucket) deleteOnly(ctx context.Context, op, name, key string) error {
	for a := b.attempts(ctx, op, name, "s3:DeleteObject"); ; {
		err := b.core.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{})
		if err == nil || minio.ToErrorResponse(err).Code == minio.NoSuchKey {
			return nil
		}
		if err := a.again(err); err != nil {
			return err
		}
	}
}

// deleteAll deletes all versions of an object, and no request puts a mark. The
// newest goes last: it is what hides the others, whether it is an object or a
// mark, so nothing that was not seen before is seen between two requests, after
// a crash, or because a version that is locked stays.
func (b *Bucket) deleteAll(ctx context.Context, name, key string) error {
	var all []backend.Version
	for vs, err := range b.versions(ctx, "delete", name) {
		if err != nil {
			return err
		}
		if vs[0].Name == name { // the first of those that begin so
			all = vs
		}
		break
	}
	var retained error
	for i, v := range slices.Backward(all) {
		if i == 0 && retained != nil {
			break
		}
		err := b.deleteVersion(ctx, "delete", name, key, v.ID)
		switch {
		case errors.Is(err, backend.ErrRetained):
			retained = err
		case err != nil:
			return err
		}
	}
	return retained
}
