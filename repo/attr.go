package repo

import (
	"encoding/binary"
	"io/fs"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/repo/internal/tree"
)

// attrOf returns what info knows beyond io/fs. It may be the source's own.
func attrOf(info fs.FileInfo) *Attr {
	switch sys := info.Sys().(type) {
	case *Attr:
		if sys != nil {
			return sys
		}
	case Attr:
		return &sys
	}
	if a := statAttr(info); a != nil {
		return a
	}
	return &Attr{}
}

// fileToken is the change token of a file that the system describes.
func fileToken(size int64, mtime, ctime time.Time, dev, ino uint64) []byte {
	b := make([]byte, 0, 56)
	for _, n := range []uint64{uint64(size), uint64(mtime.Unix()), uint64(mtime.Nanosecond()), uint64(ctime.Unix()), uint64(ctime.Nanosecond()), dev, ino} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// token is the form in which a change token is stored; nil if there is none.
func token(t []byte) []byte {
	if len(t) == 0 {
		return nil
	}
	h := blake3.Sum256(t)
	return h[:16]
}

var modeTypes = []struct {
	fs    fs.FileMode
	posix uint32
}{
	{0, tree.ModeRegular},
	{fs.ModeDir, tree.ModeDir},
	{fs.ModeSymlink, tree.ModeLink},
	{fs.ModeNamedPipe, tree.ModePipe},
	{fs.ModeSocket, tree.ModeSocket},
	{fs.ModeDevice, tree.ModeBlock},
	{fs.ModeDevice | fs.ModeCharDevice, tree.ModeChar},
}

// posixMode returns m as st_mode has it; ok is false for a type that POSIX does not know.
func posixMode(m fs.FileMode) (mode uint32, ok bool) {
	for _, t := range modeTypes {
		if m.Type() == t.fs {
			mode, ok = t.posix, true
		}
	}
	mode |= uint32(m.Perm())
	for bit, p := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= p
		}
	}
	return mode, ok
}

// fsMode is the reverse of posixMode. A type that nobody knows is irregular.
func fsMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	known := false
	for _, t := range modeTypes {
		if mode&tree.ModeType == t.posix {
			m |= t.fs
			known = true
		}
	}
	if !known {
		m |= fs.ModeIrregular
	}
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// newEntry returns the entry of a folder that info describes, without content.
func newEntry(name string, info fs.FileInfo, a *Attr, xattrs map[string][]byte) (*tree.Entry, bool) {
	mode, ok := posixMode(info.Mode())
	e := &tree.Entry{Name: []byte(name), Mode: mode, ModTime: tree.TimeOf(info.ModTime()), User: text(a.User), Group: text(a.Group), Type: text(a.ContentType)}
	if a.Owned {
		e.UID, e.GID = &a.UID, &a.GID
	}
	if (a.Link.Dev != 0 || a.Link.Ino != 0) && e.IsRegular() {
		e.Link = &tree.Numbers{A: a.Link.Dev, B: a.Link.Ino}
	}
	if m := mode & tree.ModeType; m == tree.ModeBlock || m == tree.ModeChar {
		e.Device = &tree.Numbers{A: uint64(a.Major), B: uint64(a.Minor)}
	}
	meta := a.Meta
	if len(meta) > 0 {
		meta = make(map[string]string, len(a.Meta))
		for k, v := range a.Meta {
			meta[text(k)] = text(v)
		}
	}
	for _, k := range sortedKeys(meta) {
		e.Meta = append(e.Meta, tree.Pair{Key: k, Value: meta[k]})
	}
	for _, k := range sortedKeys(xattrs) {
		e.Xattrs = append(e.Xattrs, tree.Xattr{Name: []byte(k), Value: xattrs[k]})
	}
	if a.Stream {
		e.Flags |= tree.FlagStream
	}
	return e, ok
}

// text returns s in a form that the format takes for text: as it is or, if it is not UTF-8, escaped.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return Escape(s)
}

// attrOfEntry is the reverse of newEntry.
func attrOfEntry(e *tree.Entry) *Attr {
	a := &Attr{Name: e.Name, User: e.User, Group: e.Group, ContentType: e.Type, Stream: e.Flags&tree.FlagStream != 0}
	if e.UID != nil {
		a.Owned, a.UID, a.GID = true, *e.UID, *e.GID
	}
	if e.Link != nil {
		a.Link.Dev, a.Link.Ino = e.Link.A, e.Link.B
	}
	if e.Device != nil {
		a.Major, a.Minor = uint32(e.Device.A), uint32(e.Device.B)
	}
	if len(e.Meta) > 0 {
		a.Meta = make(map[string]string, len(e.Meta))
		for _, p := range e.Meta {
			a.Meta[p.Key] = p.Value
		}
	}
	if len(e.Xattrs) > 0 {
		a.Xattrs = make(map[string][]byte, len(e.Xattrs))
		for _, x := range e.Xattrs {
			a.Xattrs[string(x.Name)] = x.Value
		}
	}
	a.Token = entryToken(e)
	return a
}

// entryToken is the change token of a file in a snapshot: what names its content, and its extended attributes and metadata.
func entryToken(e *tree.Entry) []byte {
	if !e.IsRegular() {
		return nil
	}
	t := append([]byte("snapshot"), e.List...)
	for i := range e.Inline {
		t = binary.LittleEndian.AppendUint64(t, e.Inline[i].Length)
		t = append(t, e.Inline[i].ID...)
	}
	add := func(p []byte) {
		t = binary.LittleEndian.AppendUint64(t, uint64(len(p)))
		t = append(t, p...)
	}
	for i := range e.Xattrs {
		add(e.Xattrs[i].Name)
		add(e.Xattrs[i].Value)
	}
	if e.Type != "" || len(e.Meta) > 0 {
		t = append(t, "object"...)
		add([]byte(e.Type))
	}
	for i := range e.Meta {
		add([]byte(e.Meta[i].Key))
		add([]byte(e.Meta[i].Value))
	}
	return t
}
