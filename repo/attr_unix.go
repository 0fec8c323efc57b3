//go:build linux || darwin

package repo

import (
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// statAttr understands what os hands out.
func statAttr(info fs.FileInfo) *Attr {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st == nil {
		return nil
	}
	a := &Attr{Owned: true, UID: st.Uid, GID: st.Gid}
	if info.Mode().IsRegular() && st.Nlink > 1 {
		a.Link.Dev, a.Link.Ino = uint64(st.Dev), st.Ino
	}
	a.Major, a.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	mtime, ctime := info.ModTime(), changeTime(st)
	a.Token = fileToken(st.Size, mtime, ctime, uint64(st.Dev), st.Ino)
	if a.Changed = mtime; ctime.After(mtime) {
		a.Changed = ctime
	}
	return a
}

func unixTime(ts syscall.Timespec) time.Time { return time.Unix(int64(ts.Sec), int64(ts.Nsec)) }
