// Package open turns a URL, as a person writes it in a configuration, into a
// [backend.Backend].
//
//	/srv/backup  ./backup  C:\backup    a folder (backend/dir)
//	file:///srv/backup                  the same
//
// It is the only package that knows every store; a program that needs one of
// them imports that one.
package open

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"runtime"
	"strings"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
)

// Options changes what URL does. Nil and zero: open what exists.
type Options struct {
	// Create makes the store's folder if it is missing.
	Create bool
}

// ErrScheme is the error for a URL whose scheme names no store.
var ErrScheme = errors.New("no such kind of store (there are: a path, file:///path)")

// Two letters at least: C: is a drive.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// URL opens the store at a path or URL. What begins with letters and a colon is
// a URL (./a:b is a path). The error is ErrScheme for a scheme that is none of
// the above, fs.ErrNotExist if the folder is missing and is not to be created,
// and otherwise that of the store.
func URL(ctx context.Context, rawURL string, o *Options) (backend.Backend, error) {
	if o == nil {
		o = new(Options)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("backend/open: %s: %w", rawURL, err)
	}
	if rawURL == "" {
		return nil, errors.New("backend/open: empty path or URL")
	}
	switch s := strings.ToLower(scheme.FindString(rawURL)); s {
	case "":
		return openDir(rawURL, o)
	case "file:":
		path, err := filePath(rawURL)
		if err != nil {
			return nil, err
		}
		return openDir(path, o)
	default:
		// The URL itself is not repeated: it may hold a password.
		return nil, fmt.Errorf("backend/open: %s %w", s, ErrScheme)
	}
}

func openDir(path string, o *Options) (backend.Backend, error) {
	// Not returned at once: a nil *dir.Dir would be a Backend that is not nil.
	open := dir.Open
	if o.Create {
		open = dir.Create
	}
	d, err := open(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// filePath returns the path of a file: URL.
func filePath(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("backend/open: %w", err)
	}
	if u.Host != "" && u.Host != "localhost" || u.User != nil {
		return "", fmt.Errorf("backend/open: %s: a file URL names no host; write file:///path", rawURL)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return "", fmt.Errorf("backend/open: %s: a file URL has no query or fragment (write %%3F and %%23 in a path)", rawURL)
	}
	path := u.Path
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("backend/open: %s: the path of a file URL begins with a slash; write file:///path", rawURL)
	}
	if runtime.GOOS == "windows" && len(path) > 2 && path[2] == ':' {
		path = path[1:] // file:///C:/backup
	}
	return path, nil
}

// Path returns the folder that URL would open; ok is false for a store that is no folder, and for what URL refuses.
func Path(rawURL string) (path string, ok bool) {
	switch strings.ToLower(scheme.FindString(rawURL)) {
	case "":
		return rawURL, rawURL != ""
	case "file:":
		path, err := filePath(rawURL)
		return path, err == nil
	}
	return "", false
}
