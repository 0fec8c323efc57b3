package source

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
)

// names is the listing of a folder: a million names take their own bytes and 19 more each.
type names struct {
	chunks []string  // records of packName, one after another; a name in use keeps only its chunk alive
	count  int       // of the records; after sort, of the names
	refs   []nameRef // sorted, after sort
}

type nameRef struct {
	key        uint64 // the name's first bytes behind the prefix that all names share
	chunk, off uint32
}

// packName appends a record: a byte for the kind, two for the length, the name.
func packName(dst []byte, kind byte, name []byte) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(name)))
	return append(dst, name...)
}

func unpackName(chunk string, off uint32) (kind byte, name string) {
	n := uint32(chunk[off+1])<<8 | uint32(chunk[off+2])
	return chunk[off], chunk[off+3 : off+3+n]
}

// add takes over count records; it copies chunk.
func (l *names) add(chunk []byte, count int) {
	if count > 0 {
		l.chunks = append(l.chunks, string(chunk))
		l.count += count
	}
}

// sort puts the names into the order of their bytes, each once: the system may list a name twice if the folder changes
// meanwhile, and what it said last counts.
func (l *names) sort() {
	if l.count == 0 {
		return
	}
	_, prefix := unpackName(l.chunks[0], 0)
	l.refs = make([]nameRef, 0, l.count)
	for c, chunk := range l.chunks {
		for off := uint32(0); off < uint32(len(chunk)); {
			_, name := unpackName(chunk, off)
			l.refs = append(l.refs, nameRef{chunk: uint32(c), off: off})
			n := 0
			for n < len(prefix) && n < len(name) && prefix[n] == name[n] {
				n++
			}
			prefix = prefix[:n]
			off += 3 + uint32(len(name))
		}
	}
	for i := range l.refs {
		_, name := l.at(i)
		var key [8]byte
		copy(key[:], name[len(prefix):])
		l.refs[i].key = binary.BigEndian.Uint64(key[:])
	}
	// Names hold no zero byte, so padding with zeros keeps their order; equal keys say nothing.
	slices.SortFunc(l.refs, func(a, b nameRef) int {
		if c := cmp.Compare(a.key, b.key); c != 0 {
			return c
		}
		_, an := unpackName(l.chunks[a.chunk], a.off)
		_, bn := unpackName(l.chunks[b.chunk], b.off)
		return cmp.Or(strings.Compare(an, bn), cmp.Compare(b.chunk, a.chunk), cmp.Compare(b.off, a.off))
	})
	l.refs = slices.CompactFunc(l.refs, func(a, b nameRef) bool {
		if a.key != b.key {
			return false
		}
		_, an := unpackName(l.chunks[a.chunk], a.off)
		_, bn := unpackName(l.chunks[b.chunk], b.off)
		return an == bn
	})
	l.count = len(l.refs)
}

func (l *names) at(i int) (kind byte, name string) {
	r := l.refs[i]
	return unpackName(l.chunks[r.chunk], r.off)
}
