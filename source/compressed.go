package source

import (
	"bytes"
	"io/fs"
	"path"
)

// Warn returns fsys, a Join, Stream, Command, Shell, Postgres or MySQL, such that warn is called when a stream turns out
// to be compressed: such a dump is new from end to end each day. It is called once for each time that the stream is read,
// with its path and what to change, by the goroutine that reads. Any other fsys is returned as it is.
func Warn(fsys fs.FS, warn func(path, text string)) fs.FS {
	switch f := fsys.(type) {
	case *stream:
		c := *f
		c.warn = warn
		return &c
	case *dumps:
		c := *f
		c.warn = warn
		return &c
	case optional:
		return optional{Warn(f.FS, warn)}
	case Join:
		j := Join{}
		for name, part := range f {
			below := func(sub, text string) { warn(path.Join(name, sub), text) }
			if _, ok := must(part).(*stream); ok {
				below = func(_, text string) { warn(name, text) }
			}
			j[name] = Warn(part, below)
		}
		return j
	}
	return fsys
}

// headLength is how many bytes compression must see.
const headLength = 16

// compression returns what to say of a stream that begins with head; "" if it is not compressed.
func compression(head []byte) string {
	const (
		cost  = ": each day's is new from end to end, and stored whole; "
		plain = "have it written without compression"
	)
	for _, m := range []struct{ magic, name, change string }{
		{"\x1f\x8b", "gzip", plain + " (no \"| gzip\", no --gzip)"},
		{"\x28\xb5\x2f\xfd", "zstd", plain + " (no \"| zstd\")"},
		{"\xfd7zXZ\x00", "xz", plain + " (no \"| xz\")"},
		{"BZh", "bzip2", plain + " (no \"| bzip2\")"},
		{"\x04\x22\x4d\x18", "lz4", plain + " (no \"| lz4\")"},
	} {
		if bytes.HasPrefix(head, []byte(m.magic)) && (m.name != "bzip2" || len(head) >= 10 && string(head[4:10]) == "1AY&SY") {
			return "the dump is compressed (" + m.name + ")" + cost + m.change
		}
	}
	// The header of pg_dump's custom format: PGDMP, version (3 bytes), sizes of an integer and of an offset, format, and,
	// from version 1.15 on, the method of compression; before, its level, a sign byte and an integer, the lowest byte first.
	if bytes.HasPrefix(head, []byte("PGDMP")) && len(head) >= headLength {
		minor, level := head[6], head[11]
		if minor < 15 {
			level |= head[12] | head[11]
		}
		if level != 0 {
			return "the dump is compressed (pg_dump)" + cost + "give pg_dump the argument -Z0 (--compress=0)"
		}
	}
	return ""
}
