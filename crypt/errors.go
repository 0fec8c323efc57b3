package crypt

import (
	"errors"
	"fmt"
)

var (
	// ErrRole says that the role of these keys may not do this: the key that it takes isn't there.
	ErrRole = errors.New("not allowed for this key's role")

	// ErrWrongKey says that a passphrase or key does not open a slot.
	ErrWrongKey = errors.New("wrong passphrase or key")

	// ErrDamaged says that an object's bytes are not what was written under that name: a hash, a seal or a
	// signature does not fit, or the bytes are malformed. The error that wraps it names the object.
	ErrDamaged = errors.New("damaged")

	// ErrSignature is the kind of ErrDamaged where an object is sealed right, but not signed by maintenance.
	ErrSignature = fmt.Errorf("not signed by maintenance: %w", ErrDamaged)
)

// VersionError says that an object is well, as far as anyone can tell, but written by a later program.
type VersionError struct {
	Object   string // its name
	Version  int    // format version of the object
	Features uint32 // the required features that this program doesn't know
	Epoch    uint32 // key epoch of the object
}

func (e *VersionError) Error() string {
	switch {
	case e.Version != version:
		return fmt.Sprintf("crypt: %s: format version %d, this program knows version %d", e.Object, e.Version, version)
	case e.Features != 0:
		return fmt.Sprintf("crypt: %s: requires features %#x, which this program (format version %d) does not know", e.Object, e.Features, version)
	default:
		return fmt.Sprintf("crypt: %s: key epoch %d, this program (format version %d) knows epoch %d", e.Object, e.Epoch, version, epoch)
	}
}

// damaged returns an ErrDamaged that says what is wrong with the object.
func damaged(object, what string) error {
	return fmt.Errorf("crypt: %s: %s: %w", object, what, ErrDamaged)
}
