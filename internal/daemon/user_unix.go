//go:build unix

package daemon

import (
	"fmt"
	"os"
	osuser "os/user"
	"strconv"
	"syscall"
)

// user returns how to start a program that refuses to run as root, and what gives a folder to it: as the first of these users that there is, or as nobody. Who is
// not root stays who they are.
func user(users ...string) (*syscall.SysProcAttr, func(dir string) error, error) {
	if os.Geteuid() != 0 {
		return nil, func(string) error { return nil }, nil
	}
	for _, name := range append(users, "nobody") {
		u, err := osuser.Lookup(name)
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
	return nil, nil, fmt.Errorf("root may not run such a server, and there is no user %q or nobody", users)
}
