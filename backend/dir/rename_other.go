//go:build unix && !linux && !darwin

package dir

func renameExclusive(from, to string) error { return errNoLink }
