package target

import (
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf8"
)

// valid refuses any path that is not a sequence of names.
func valid(path string) error {
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || strings.IndexByte(name, 0) >= 0 {
			return ErrName
		}
		if runtime.GOOS == "windows" && !validWindows(name) {
			return ErrName
		}
	}
	return nil
}

// validWindows refuses what Windows would take for something else than a name (a drive, a stream, a device), would
// change (a dot or space at the end, bytes that are no UTF-8), or doesn't have.
func validWindows(name string) bool {
	if !utf8.ValidString(name) || strings.ContainsAny(name, `<>:"|?*\`) || strings.TrimRight(name, ". ") != name {
		return false
	}
	for _, c := range name {
		if c < ' ' {
			return false
		}
	}
	return filepath.IsLocal(name)
}

// split returns the folder and the name in it of a valid path.
func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return ".", path
}
