package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/varvebackup/varve/repo"
)

// splitSpec takes SNAP[:PATH] apart. The path is as repo's FS spells it; "." for the root.
func splitSpec(arg string) (snap, name string, err error) {
	snap, name, _ = strings.Cut(arg, ":")
	raw, err := unprintable(name)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", arg, err)
	}
	name = strings.TrimPrefix(path.Clean("/"+raw), "/")
	if name == "" {
		return snap, ".", nil
	}
	return snap, repo.Escape(name), nil
}

// unprintable takes back what repo.Escape and printable do to a path: it returns the raw bytes.
func unprintable(s string) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		var c [1]byte
		switch {
		case strings.HasPrefix(after, `\`):
			b.WriteByte('\\')
			s = after[1:]
		case len(after) >= 3 && after[0] == 'x' && isHex(after[1:3], c[:]):
			b.WriteByte(c[0])
			s = after[3:]
		default:
			return "", errors.New(`a backslash in a path is written twice, and a byte that is no readable text as \xHH`)
		}
	}
}

// isHex tells whether digits are hex, and puts the bytes that they give into dst.
func isHex(digits string, dst []byte) bool {
	_, err := hex.Decode(dst, []byte(digits))
	return err == nil
}
