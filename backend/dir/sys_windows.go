package dir

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

func openObject(file string) (*os.File, error) { return os.Open(file) }

// touch sets the file's times to now, by the host's clock: Windows has no call
// that takes the file server's.
func touch(file string) error {
	now := time.Now()
	return os.Chtimes(file, now, now)
}

// syncFolder does nothing: Windows has no such call. NTFS journals names.
func syncFolder(string) error { return nil }

// noLinks reports whether err of os.Link says that the file system has none.
func noLinks(err error) bool {
	for _, none := range []error{windows.ERROR_INVALID_FUNCTION, windows.ERROR_NOT_SUPPORTED, windows.ERROR_TOO_MANY_LINKS} {
		if errors.Is(err, none) {
			return true
		}
	}
	return false
}

// renameExclusive is os.Rename that fails with fs.ErrExist.
func renameExclusive(from, to string) error {
	a, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return err
	}
	b, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(a, b, windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// lock does nothing: an open file can't be removed here.
func lock(*os.File) {}

func removeUnlocked(file string) { os.Remove(file) }
