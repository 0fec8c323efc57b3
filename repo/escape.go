package repo

import (
	"errors"
	"strings"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// Escape returns the readable form that io/fs knows a raw name or path by: valid UTF-8 without a backslash is itself, a backslash is doubled, and each byte
// that is not part of valid UTF-8 becomes \xHH. Unescape takes it back.
func Escape(raw string) string {
	if utf8.ValidString(raw) && !strings.Contains(raw, `\`) {
		return raw
	}
	var b strings.Builder
	for len(raw) > 0 {
		r, n := utf8.DecodeRuneInString(raw)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[raw[0]>>4])
			b.WriteByte(hexDigits[raw[0]&15])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(raw[:n])
		}
		raw = raw[n:]
	}
	return b.String()
}

var errEscape = errors.New("not the readable form of a name")

// Unescape returns the raw name or path that Escape gives this form. What Escape would not write is an error.
func Unescape(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", errEscape
	}
	if !strings.Contains(name, `\`) {
		return name, nil
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch {
		case name[i] != '\\':
			b.WriteByte(name[i])
		case strings.HasPrefix(name[i:], `\\`):
			b.WriteByte('\\')
			i++
		case strings.HasPrefix(name[i:], `\x`) && i+4 <= len(name):
			hi, lo := strings.IndexByte(hexDigits, name[i+2]), strings.IndexByte(hexDigits, name[i+3])
			if hi < 0 || lo < 0 {
				return "", errEscape
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 3
		default:
			return "", errEscape
		}
	}
	if Escape(b.String()) != name {
		return "", errEscape
	}
	return b.String(), nil
}
