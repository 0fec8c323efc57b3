package bucket

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

const (
	maxKey = 1024 // bytes, says S3

	mark    = "%~"
	special = mark + "." // ends the name that no folder can hold
	beside  = mark + "=" // ends the name of an object that has the name of a folder
)

var (
	encoder = strings.NewReplacer(mark, mark+"~", "\x00", "\x01\x01", "\x01", "\x01\x02")
	decoder = strings.NewReplacer(mark+"~", mark, "\x01\x01", "\x00", "\x01\x02", "\x01")
)

// encode writes a segment of a key without its ending. It keeps the order of all strings.
func encode(segment string) string { return encoder.Replace(segment) }

// nameOf returns the name in a tree of a segment of a key.
func nameOf(segment string) string {
	switch segment {
	case "", ".", "..":
		return segment + special
	}
	return encode(segment)
}

// besideOf returns the name of an object whose last segment also is a folder's.
func besideOf(segment string) string { return encode(segment) + beside }

// segmentOf is the reverse of nameOf and besideOf; ok is false for what neither of them returns.
func segmentOf(name string) (segment string, isBeside, ok bool) {
	body, isBeside := strings.CutSuffix(name, beside)
	if isBeside {
		segment = decoder.Replace(body)
		return segment, true, besideOf(segment) == name
	}
	body, _ = strings.CutSuffix(name, special)
	segment = decoder.Replace(body)
	if nameOf(segment) != name {
		// What ends in special by itself is a name of which the ending is a part, and that has no such form.
		return "", false, false
	}
	return segment, false, true
}

// errNoKey says that no key has a path.
var errNoKey = errors.New("no key has such a path (see package source/bucket)")

// Path returns the path of a key, in a tree of raw names. besideFolder says that there are keys which begin with this one and a slash.
func Path(key string, besideFolder bool) string {
	names := strings.Split(key, "/")
	last := len(names) - 1
	for i, s := range names {
		if i == last && besideFolder {
			names[i] = besideOf(s)
		} else {
			names[i] = nameOf(s)
		}
	}
	return strings.Join(names, "/")
}

// Key returns the key that has a path, and whether it stands beside a folder: the reverse of Path. The error is fs.ErrInvalid for what Path does not return.
func Key(path string) (key string, besideFolder bool, err error) {
	names := strings.Split(path, "/")
	last := len(names) - 1
	for i, n := range names {
		s, b, ok := segmentOf(n)
		if !ok || b && i != last {
			return "", false, fmt.Errorf("source/bucket: %q: %w: %w", path, errNoKey, fs.ErrInvalid)
		}
		names[i], besideFolder = s, b
	}
	return strings.Join(names, "/"), besideFolder, nil
}
