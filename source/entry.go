package source

import (
	"encoding/binary"
	"io/fs"
	"os/user"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/varvebackup/varve/repo"
)

// The kind of an entry in a listing is the d_type of Linux; elsewhere, and on a few file systems, it is unknown.
const kindUnknown = 0

var kindModes = [16]fs.FileMode{
	1:  fs.ModeNamedPipe,
	2:  fs.ModeDevice | fs.ModeCharDevice,
	4:  fs.ModeDir,
	6:  fs.ModeDevice,
	8:  0,
	10: fs.ModeSymlink,
	12: fs.ModeSocket,
}

// knownKind returns kind, or kindUnknown if kindModes does not have it.
func knownKind(kind byte) byte {
	if int(kind) < len(kindModes) && (kindModes[kind] != 0 || kind == 8) {
		return kind
	}
	return kindUnknown
}

// An info is an fs.FileInfo. It is one piece of memory: a walk makes millions.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	dev   uint64
	attr  repo.Attr
	token [41]byte // attr.Token
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.size }
func (i *info) Mode() fs.FileMode  { return i.mode }
func (i *info) ModTime() time.Time { return i.mtime }
func (i *info) IsDir() bool        { return i.mode.IsDir() }
func (i *info) Sys() any           { return &i.attr }
func (i *info) String() string     { return fs.FormatFileInfo(i) }

// setToken fills the change token: size, mtime, ctime, inode, big-endian, and sight. The device is not in it, for its
// number may be another one after each boot. A folder gets none: it would say nothing of what is below.
func (i *info) setToken(ctime time.Time, ino uint64, sight byte) {
	if i.IsDir() {
		return
	}
	be := binary.BigEndian
	t := i.token[:0]
	t = be.AppendUint64(t, uint64(i.size))
	t = be.AppendUint64(t, uint64(i.mtime.Unix()))
	t = be.AppendUint32(t, uint32(i.mtime.Nanosecond()))
	t = be.AppendUint64(t, uint64(ctime.Unix()))
	t = be.AppendUint32(t, uint32(ctime.Nanosecond()))
	t = be.AppendUint64(t, ino)
	i.attr.Token = append(t, sight)
	i.attr.Changed = i.mtime
	if ctime.After(i.mtime) {
		i.attr.Changed = ctime
	}
}

// sightOf is the byte of a token that says which extended attributes are seen: none unless they are read, and some by
// root alone. Whoever keeps attributes by the token must not take those of another sight for what is there.
func sightOf(noXattrs bool, euid int) (sight byte) {
	if !noXattrs {
		sight |= 1
	}
	if euid == 0 {
		sight |= 2
	}
	return sight
}

// owners looks up the names of user and group ids, each once.
type owners struct {
	sight byte // for the tokens of what is described

	last   atomic.Pointer[owner] // most files have the owner of the one before
	mu     sync.Mutex            // guards users and groups
	users  map[uint32]string
	groups map[uint32]string
}

type owner struct {
	uid, gid    uint32
	user, group string
}

func (o *owners) lookup(uid, gid uint32) *owner {
	if l := o.last.Load(); l != nil && l.uid == uid && l.gid == gid {
		return l
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == nil {
		o.users, o.groups = map[uint32]string{}, map[uint32]string{}
	}
	l := &owner{uid: uid, gid: gid}
	var ok bool
	if l.user, ok = o.users[uid]; !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			l.user = u.Username
		}
		o.users[uid] = l.user
	}
	if l.group, ok = o.groups[gid]; !ok {
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
			l.group = g.Name
		}
		o.groups[gid] = l.group
	}
	o.last.Store(l)
	return l
}

// An entry is an entry of a listing.
type entry struct {
	h     *handle // its folder
	name  string
	mode  fs.FileMode
	first atomic.Pointer[info] // what the listing had to find out already, for the first Info
}

func (e *entry) Name() string      { return e.name }
func (e *entry) IsDir() bool       { return e.mode.IsDir() }
func (e *entry) Type() fs.FileMode { return e.mode }
func (e *entry) String() string    { return fs.FormatDirEntry(e) }

func (e *entry) Info() (fs.FileInfo, error) {
	if fi := e.first.Swap(nil); fi != nil {
		return fi, nil
	}
	fi, err := e.lstat()
	if err != nil {
		path := e.name
		if e.h.path != "." {
			path = e.h.path + "/" + path
		}
		return nil, pathError("lstat", path, err)
	}
	return fi, nil
}

func (e *entry) lstat() (*info, error) {
	if err := e.h.acquire(); err != nil {
		return nil, err
	}
	defer e.h.release()
	return e.h.dir.lstat(e.name, &e.h.t.owners)
}
