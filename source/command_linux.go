package source

import (
	"os/exec"

	"golang.org/x/sys/unix"
)

// awaitExit waits until cmd has exited. It is left a zombie, so that its group's id stays taken; reaped is false.
func awaitExit(cmd *exec.Cmd) (reaped bool, err error) {
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	return false, nil
}
