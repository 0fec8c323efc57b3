// Package tree is how folders and long contents are kept: as search trees of nodes, each node a blob, whose shape depends on
// their content alone. Where a node ends is chosen by a keyed function of the item there, so one new file in a folder of a million
// changes a few nodes. The bytes are specified in docs/FORMAT.md, section 7.
//
// [Folder] and [List] build, in constant memory; [Entries], [Find] and [Pieces] read. Nodes that were read are hostile input: a node that is
// not what a builder makes gives an error that is [ErrDamaged].
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/varvebackup/varve/pack"
)

// ErrDamaged says that a node is not what a writer of this format wrote.
var ErrDamaged = errors.New("damaged tree")

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}

const (
	// MaxNode is the most bytes of a node.
	MaxNode = 2 << 20
	// MaxEntry is the most bytes of one encoded entry.
	MaxEntry = 1 << 20
	// MaxDepth is how deep folders may nest: a path of PATH_MAX bytes has fewer elements, and paths may be a little longer.
	MaxDepth = 8192

	maxName   = 4096
	maxItems  = 1024
	maxBytes  = 256 << 10
	maxLevel  = 16
	maxInline = 4
	maxPairs  = 65536
	maxSize   = 1 << 62
	tokenSize = 16
)

// Types of nodes.
const (
	TypeEntries   = 1
	TypeEntryTree = 2
	TypeList      = 3
	TypeListTree  = 4
	TypeUnread    = 5
	TypeRoot      = 6
)

// POSIX file types in Entry.Mode.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeLink    = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModePipe    = 0o010000
)

// Flags of an entry.
const (
	FlagStream  = 1 // produced as it was read
	FlagChanged = 2 // changed while it was read
)

// Time is a moment: seconds and nanoseconds since 1970 in UTC.
type Time struct {
	_   struct{} `cbor:",toarray"`
	Sec int64
	Ns  uint32
}

// TimeOf returns t as a Time, nil for the zero time.
func TimeOf(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	return &Time{Sec: t.Unix(), Ns: uint32(t.Nanosecond())}
}

// Time returns the moment in UTC; the zero time for nil.
func (t *Time) Time() time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t.Sec, int64(t.Ns)).UTC()
}

// Xattr is one extended attribute.
type Xattr struct {
	_           struct{} `cbor:",toarray"`
	Name, Value []byte
}

// Pair is one item of an object's metadata or of a snapshot's tags.
type Pair struct {
	_          struct{} `cbor:",toarray"`
	Key, Value string
}

// Numbers are two numbers: of a device, or of the inode that hard links share.
type Numbers struct {
	_    struct{} `cbor:",toarray"`
	A, B uint64
}

// Piece is a run of content: a chunk, or a hole when it has no ID.
type Piece struct {
	_      struct{} `cbor:",toarray"`
	Length uint64
	ID     []byte // 32 bytes, or none
}

// Hole tells whether p is a run of zeros that is stored nowhere.
func (p *Piece) Hole() bool { return len(p.ID) == 0 }

// Entry is one entry of a folder.
type Entry struct {
	Name    []byte   `cbor:"1,keyasint"`
	Mode    uint32   `cbor:"2,keyasint"`
	ModTime *Time    `cbor:"3,keyasint,omitempty"`
	UID     *uint32  `cbor:"4,keyasint,omitempty"`
	GID     *uint32  `cbor:"5,keyasint,omitempty"`
	User    string   `cbor:"6,keyasint,omitempty"`
	Group   string   `cbor:"7,keyasint,omitempty"`
	Target  []byte   `cbor:"8,keyasint,omitempty"`
	Xattrs  []Xattr  `cbor:"9,keyasint,omitempty"`
	Link    *Numbers `cbor:"10,keyasint,omitempty"`
	Device  *Numbers `cbor:"11,keyasint,omitempty"`
	Size    uint64   `cbor:"12,keyasint,omitempty"`
	Inline  []Piece  `cbor:"13,keyasint,omitempty"`
	List    []byte   `cbor:"14,keyasint,omitempty"`
	Folder  []byte   `cbor:"15,keyasint,omitempty"`
	Type    string   `cbor:"16,keyasint,omitempty"` // content type
	Meta    []Pair   `cbor:"17,keyasint,omitempty"`
	Token   []byte   `cbor:"18,keyasint,omitempty"`
	Flags   uint32   `cbor:"19,keyasint,omitempty"`
}

// IsDir tells whether e is a folder.
func (e *Entry) IsDir() bool { return e.Mode&ModeType == ModeDir }

// IsRegular tells whether e is a file with content.
func (e *Entry) IsRegular() bool { return e.Mode&ModeType == ModeRegular }

// Unread is one thing that could not be read, or not as it should.
type Unread struct {
	_         struct{} `cbor:",toarray"`
	Path      []byte
	Message   string
	Tolerated bool
}

// child is an item of an index node.
type child struct {
	_     struct{} `cbor:",toarray"`
	First []byte
	ID    []byte
	Count uint64
}

type span struct {
	_      struct{} `cbor:",toarray"`
	Length uint64
	ID     []byte
}

var (
	enc = must(encOptions().UserBufferEncMode())
	dec = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
		MaxArrayElements:  131072,
		MaxMapPairs:       1024,
	}.DecMode())
)

func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	return o
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants
	}
	return v
}

// Marshal encodes v, deterministically, for everything in the format that is CBOR.
func Marshal(v any) ([]byte, error) { return enc.Marshal(v) }

// Unmarshal decodes b into v, a pointer to an empty value, and refuses what Marshal would not have written. The error is ErrDamaged.
func Unmarshal(b []byte, v any) error {
	if err := dec.Unmarshal(b, v); err != nil {
		return damaged("%v", err)
	}
	again, err := enc.Marshal(v)
	if err != nil || !bytes.Equal(again, b) {
		return damaged("not in its one canonical encoding")
	}
	return nil
}

// CheckName tells whether name may be the name of an entry.
func CheckName(name []byte) error {
	switch {
	case len(name) == 0 || len(name) > maxName:
		return damaged("a name of %d bytes", len(name))
	case bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 || string(name) == "." || string(name) == "..":
		return damaged("the name %q", name)
	}
	return nil
}

func (e *Entry) check(root bool) error {
	if root {
		if len(e.Name) != 0 || !e.IsDir() {
			return damaged("a root that is no unnamed folder")
		}
	} else if err := CheckName(e.Name); err != nil {
		return err
	}
	if e.Mode&^0o177777 != 0 {
		return damaged("mode %#o of %q", e.Mode, e.Name)
	}
	if e.ModTime != nil && e.ModTime.Ns >= 1e9 {
		return damaged("time of %q", e.Name)
	}
	if (e.UID == nil) != (e.GID == nil) || (len(e.Folder) != 0) != e.IsDir() || e.IsDir() && len(e.Folder) != len(pack.ID{}) {
		return damaged("fields of %q do not fit together", e.Name)
	}
	hasContent := len(e.Inline) > 0 || len(e.List) > 0
	if hasContent && !e.IsRegular() || len(e.Inline) > 0 && len(e.List) > 0 || len(e.Inline) > maxInline || len(e.List) != 0 && len(e.List) != len(pack.ID{}) ||
		hasContent != (e.Size > 0) || e.Size > maxSize {
		return damaged("content of %q does not fit its size", e.Name)
	}
	if len(e.Inline) > 0 {
		sum, err := checkPieces(e.Inline)
		if err != nil || sum != e.Size {
			return damaged("content of %q does not fit its size", e.Name)
		}
	}
	if !utf8.ValidString(e.User) || !utf8.ValidString(e.Group) {
		return damaged("owner of %q is not UTF-8", e.Name)
	}
	if err := e.CheckExtras(); err != nil {
		return err
	}
	if len(e.Token) != 0 && len(e.Token) != tokenSize || e.Flags&^(FlagStream|FlagChanged) != 0 {
		return damaged("change token or flags of %q", e.Name)
	}
	return nil
}

// CheckExtras tells whether an entry may have these extended attributes, content type and metadata.
func (e *Entry) CheckExtras() error {
	for i := 1; i < len(e.Xattrs); i++ {
		if bytes.Compare(e.Xattrs[i-1].Name, e.Xattrs[i].Name) >= 0 {
			return damaged("extended attributes of %q are not in order", e.Name)
		}
	}
	for i := range e.Meta {
		if i > 0 && e.Meta[i-1].Key >= e.Meta[i].Key {
			return damaged("metadata of %q is not in order", e.Name)
		}
		if !utf8.ValidString(e.Meta[i].Key) || !utf8.ValidString(e.Meta[i].Value) {
			return damaged("metadata of %q is not UTF-8", e.Name)
		}
	}
	if !utf8.ValidString(e.Type) {
		return damaged("content type of %q is not UTF-8", e.Name)
	}
	if len(e.Xattrs) > maxPairs || len(e.Meta) > maxPairs {
		return damaged("%d extended attributes and %d metadata of %q", len(e.Xattrs), len(e.Meta), e.Name)
	}
	return nil
}

func (p *Piece) check() error {
	if p.Length == 0 || p.Length > maxSize || len(p.ID) != 0 && len(p.ID) != len(pack.ID{}) || !p.Hole() && p.Length > pack.MaxPlain {
		return damaged("a piece of %d bytes with an id of %d", p.Length, len(p.ID))
	}
	return nil
}

func checkPieces(ps []Piece) (sum uint64, err error) {
	for i := range ps {
		if err := ps[i].check(); err != nil {
			return 0, err
		}
		if sum += ps[i].Length; sum > maxSize {
			return 0, damaged("a content too long")
		}
	}
	return sum, nil
}

// NewEncoder and NewDecoder write and read sequences of values, for local files.
func NewEncoder(w io.Writer) *cbor.Encoder { return enc.NewEncoder(w) }

// NewDecoder reads what NewEncoder wrote.
func NewDecoder(r io.Reader) *cbor.Decoder { return dec.NewDecoder(r) }
