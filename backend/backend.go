// Package backend is where a repository keeps its objects: small immutable
// files under names, on a disk, in a bucket, in memory.
//
// [Backend] is the interface and the contract. Each store is a package of its
// own (backend/dir, backend/mem); package open turns a URL into one, and
// package backendtest holds the contract as a suite that every store passes.
//
// [Prefix], [ReadOnly], [AppendOnly], [Limit], [Retry] and [AsOf] wrap one Backend
// into another. A wrapper has a method Unwrap() Backend. Powers that only some
// stores have are optional interfaces, [Retainer] and [Versioner], with package
// functions for any Backend; wrappers pass them on.
package backend

import (
	"bytes"
	"context"
	"io"
	"iter"
	"time"
)

// MaxSize is the size of the largest object, in bytes.
const MaxSize = 64 << 20

// A Backend holds immutable objects, each under a name that [ValidName]
// accepts. All of its methods may be called at the same time, by goroutines
// and by other processes that use the same store.
//
// What one call wrote, every call that starts after its return sees: Get, Stat
// and List alike.
//
// Names that differ only in the case of letters, and a name that is another
// one followed by a slash and more, are not for use side by side: on some
// stores the two are one, or the second is refused.
//
// Every error names the operation and the object, and wraps what is said below,
// to be told with errors.Is. Any method may also return:
//   - [fs.ErrInvalid]: the name or an argument is one that no object can have;
//   - [fs.ErrPermission]: the store, or a wrapper, refuses this operation;
//   - ctx.Err(), promptly, when ctx is done;
//   - any other error, when the store fails; trying again may help ([Retry]).
//
// A store's own failures never wrap [fs.ErrNotExist], [fs.ErrExist] or
// [io.ErrUnexpectedEOF]: those are statements about an object. A store that is
// gone (a disk that is not mounted, no such bucket) is such a failure, never a
// store without objects.
type Backend interface {
	// Put stores the first size bytes of r under name. A reader of the store
	// sees the whole object or none of it, at any time, whatever crashes; and
	// when Put returns nil, the object outlasts a loss of power. An object of
	// that name is replaced; its old content or the new one is read meanwhile.
	//
	// With o.IfAbsent, an object of that name is left as it is, and the error
	// is [fs.ErrExist]; of several such calls for one name, whoever makes them,
	// exactly one succeeds. A nil o is the zero PutOptions.
	//
	// r is read only during the call, once or more, in any order. Its error is
	// returned and then nothing is stored; if it ends before size bytes, that
	// is [io.ErrUnexpectedEOF]. A size below 0 or above MaxSize is
	// [fs.ErrInvalid].
	//
	// After any other error than these, and than a refusal, the object may be
	// there or not, or appear later (a request that was under way), but always
	// whole.
	Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *PutOptions) error

	// Get appends the n bytes of the object that start at off to dst and
	// returns the extended slice, as append does: dst's array is used if it has
	// room. If n is negative, it reads to the object's end. On an error it
	// returns dst, its bytes unchanged.
	//
	// The error is [fs.ErrNotExist] if there is no such object,
	// [io.ErrUnexpectedEOF] if it is shorter than off, or than off+n, and
	// [fs.ErrInvalid] if off is negative or more than MaxSize bytes are asked
	// for.
	Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error)

	// Stat describes one object. The error is [fs.ErrNotExist] if there is no
	// such object.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields every object whose name begins with prefix, which may end
	// anywhere in a segment and may be empty; each once, in no stated order.
	// What is there during the whole listing is listed; what is put, replaced
	// or deleted meanwhile may be or not (a replaced object is listed). No
	// objects, or no such folder, is an empty list. It holds no lock: the loop's
	// body may use the Backend.
	//
	// An error comes last and once, with a zero Info. A prefix that no name can
	// begin with is [fs.ErrInvalid].
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object, with all of its versions where the store keeps
	// any. Deleting one that isn't there is no error. If a version is locked, the
	// error is [ErrRetained], it can be deleted later, and what is read meanwhile
	// is what was read before; versions that nobody reads may be gone. On the way
	// there is never an older content to be read. A power loss
	// shortly afterwards may bring the object back, whole.
	Delete(ctx context.Context, name string) error
}

// PutOptions changes what [Backend.Put] does. Nil and zero: replace.
type PutOptions struct {
	// IfAbsent stores the object only if there is none of its name.
	IfAbsent bool

	// Retain, if it is not zero, locks the object from the moment on in which it
	// is there, at least so long. Nothing is ever stored without: a store that
	// has no locks returns [errors.ErrUnsupported], and a lock without a mode, or
	// one that would be over already, is [fs.ErrInvalid].
	Retain Retention
}

// Info describes a stored object.
type Info struct {
	Name string
	Size int64 // in bytes

	// Modified is when the object became visible, or up to a moment later, by
	// the store's clock, in its resolution (a second or two, at worst). The
	// clock of this host has no part in it where the store has one of its own.
	Modified time.Time
}

const (
	maxName    = 512
	maxSegment = 255
)

// ValidName reports whether an object may have this name: one or more segments
// joined by single slashes, each of 1 to 255 of the bytes a-z A-Z 0-9 . _ -,
// not starting or ending in a dot, 512 bytes in all.
func ValidName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			if i == start || i-start > maxSegment || name[start] == '.' || name[i-1] == '.' {
				return false
			}
			start = i + 1
			continue
		}
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// ValidPrefix reports whether a valid name can begin with prefix: what
// [Backend.List] accepts.
func ValidPrefix(prefix string) bool {
	return prefix == "" || ValidName(prefix) || ValidName(prefix+"0")
}

// PutBytes puts data as one object, see [Backend.Put].
func PutBytes(ctx context.Context, b Backend, name string, data []byte, o *PutOptions) error {
	return b.Put(ctx, name, bytes.NewReader(data), int64(len(data)), o)
}
