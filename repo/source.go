package repo

import (
	"context"
	"io/fs"
	"iter"
	"time"
)

// Attr is what an entry of a source has beyond io/fs. A source hands it out through FileInfo.Sys(), and the FS of
// a snapshot gives it back in the same way, so that a snapshot is itself a source. *syscall.Stat_t, which os.DirFS
// hands out, is understood as well. Every field may be left at zero.
type Attr struct {
	// Name is the entry's raw name where FileInfo.Name is only a readable form of it (FS of a snapshot);
	// nil: FileInfo.Name is the name, byte for byte, UTF-8 or not.
	Name []byte

	// Stream: the content is produced as it is read (a dump, a pipe): its size is unknown, it is read to its end before
	// any tree, never a second time, and an error while it is read fails the backup instead of being recorded.
	Stream bool

	// Block, if not zero, says of a Stream that each day's differs from the day before's in places of blocks of so many bytes, as a database's file does, and not by
	// what was put in between: it is cut at multiples of Block, at least 4 KiB and at most 64 KiB, and not where the content says so.
	Block int

	// Owned says that UID and GID count; User and Group may be empty.
	Owned       bool
	UID, GID    uint32
	User, Group string

	// Link joins hard links: entries of one backup with the same non-zero Link are one file.
	Link struct{ Dev, Ino uint64 }

	// Major and Minor number a device.
	Major, Minor uint32

	// Token changes whenever the content, the extended attributes, the content type or Meta may have changed (size, times and inode of a file; ETag or
	// version of an object). Empty: unknown, the content is read each time. Changed is the newest time that went into it; a token is
	// kept only if that lies at least 2 s before the session began, zero meaning that it needs no such margin.
	Token   []byte
	Changed time.Time

	// ContentType and Meta are an object's metadata. A source that learns of them only when it opens an object leaves both empty before: then they are
	// those of the last snapshot, if the token is.
	ContentType string
	Meta        map[string]string

	// Xattrs are extended attributes, by name. Set when they come for free; else see XattrFS.
	Xattrs map[string][]byte
}

// ContextFS is an fs.FS whose Open can be cancelled. Backup prefers it to Open. A file that was opened so may be read
// until ctx is done.
type ContextFS interface {
	fs.FS
	OpenContext(ctx context.Context, name string) (fs.File, error)
}

// EntriesFS is an fs.FS that lists a folder of any size in constant memory: each entry once, sorted by the bytes of its
// raw name, the error last and once. Backup prefers it to ReadDir, and calls Info of several entries at once.
type EntriesFS interface {
	fs.FS
	Entries(ctx context.Context, dir string) iter.Seq2[fs.DirEntry, error]
}

// XattrFS is an fs.FS that knows extended attributes. Links are not followed.
type XattrFS interface {
	fs.FS
	Xattrs(name string) (map[string][]byte, error)
}

// XattrFile is an fs.File of an XattrFS that knows its own attributes, at less cost than by name.
type XattrFile interface {
	fs.File
	Xattrs() (map[string][]byte, error)
}

// Extent is a run of bytes of a file: Length bytes from Offset on.
type Extent struct{ Offset, Length int64 }

// SparseFile is an fs.File that knows its holes: Extents returns the runs that hold data, sorted and disjoint; what lies
// between them, up to the file's size, reads as zeros. The file must also be an io.ReaderAt. Nil: no holes are known; empty but not nil: all of it is one.
type SparseFile interface {
	fs.File
	Extents() ([]Extent, error)
}

// A JoinedFS is made of parts that Backup reads in a given order whatever their names are: streams to their end first,
// so that rows of a dump never point at files that the snapshot lacks, then the trees. Parts returns the names of the entries of its root in
// that order.
type JoinedFS interface {
	fs.FS
	Parts() []string
}

// An OptionalFS is a JoinedFS some parts of which may be missing from a snapshot: when such a part cannot be read, or a stream of it fails, that is recorded like a file that
// cannot be read, instead of failing the backup.
type OptionalFS interface {
	JoinedFS
	Optional(part string) bool
}
