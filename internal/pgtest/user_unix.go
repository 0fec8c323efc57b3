//go:build unix

package pgtest

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// unprivileged returns how to start a program that refuses to run as root, and what gives a folder to it.
func unprivileged() (*syscall.SysProcAttr, func(dir string) error, error) {
	if os.Geteuid() != 0 {
		return nil, func(string) error { return nil }, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, nil, err
		}
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return attr, func(dir string) error { return os.Chown(dir, int(uid), int(gid)) }, nil
	}
	return nil, nil, errors.New("root may not run PostgreSQL, and there is no user postgres or nobody")
}
