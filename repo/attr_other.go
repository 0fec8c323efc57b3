//go:build !linux && !darwin

package repo

import "io/fs"

// statAttr knows nothing more of files here: their size and time tell when they change.
func statAttr(info fs.FileInfo) *Attr {
	if !info.Mode().IsRegular() || info.Sys() == nil {
		return nil
	}
	return &Attr{Token: fileToken(info.Size(), info.ModTime(), info.ModTime(), 0, 0), Changed: info.ModTime()}
}
