package backend

import (
	"context"
	"iter"
)

// A Version is one content that a name had, or the mark that it was deleted.
type Version struct {
	Info           // Size is 0 for a mark; Modified is when this version came
	ID      string // as the store names it, among those of this name
	Latest  bool   // it is what Get reads, or what makes Get say that there is no object
	Deleted bool   // a mark: from here on there was no such object
}

// A Versioner is a Backend that keeps what was replaced or deleted. Besides the
// outcomes of [Backend], the error is [errors.ErrUnsupported] where the store
// can't do so. A bucket that could keep versions and was not told to has one
// for each object. An id is one that Versions yielded; the empty one is
// [fs.ErrInvalid]. The package functions [Versions], [GetVersion] and
// [DeleteVersion] are for any Backend.
type Versioner interface {
	// Versions yields all versions of all names that begin with prefix: those
	// of one name one after the other, the newest first. Otherwise it is like
	// [Backend.List].
	Versions(ctx context.Context, prefix string) iter.Seq2[Version, error]

	// GetVersion is [Backend.Get] of one version. The error is
	// [fs.ErrNotExist] if there is none with that id, or if it is a mark.
	GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error)

	// DeleteVersion removes one version, or a mark, for good; the newest of
	// those that remain is what Get then reads. Deleting one that isn't there is
	// no error; one that is locked stays, and the error is [ErrRetained].
	DeleteVersion(ctx context.Context, name, id string) error
}

// Versions is b's [Versioner] method, or yields [errors.ErrUnsupported].
func Versions(ctx context.Context, b Backend, prefix string) iter.Seq2[Version, error] {
	if p, ok := b.(Versioner); ok {
		return p.Versions(ctx, prefix)
	}
	return func(yield func(Version, error) bool) {
		yield(Version{}, unsupported("list versions of", prefix, "versions"))
	}
}

// GetVersion is b's [Versioner] method, or [errors.ErrUnsupported].
func GetVersion(ctx context.Context, b Backend, name, id string, off, n int64, dst []byte) ([]byte, error) {
	if p, ok := b.(Versioner); ok {
		return p.GetVersion(ctx, name, id, off, n, dst)
	}
	return dst, unsupported("get a version of", name, "versions")
}

// DeleteVersion is b's [Versioner] method, or [errors.ErrUnsupported].
func DeleteVersion(ctx context.Context, b Backend, name, id string) error {
	if p, ok := b.(Versioner); ok {
		return p.DeleteVersion(ctx, name, id)
	}
	return unsupported("delete a version of", name, "versions")
}
