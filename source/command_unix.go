//go:build unix

package source

import (
	"os"
	"os/exec"
	"syscall"
)

func shell(line string) *exec.Cmd { return exec.Command("sh", "-c", line) }

// setGroup makes cmd the leader of a process group of its own.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGTERM) }
func kill(p *os.Process)      { syscall.Kill(-p.Pid, syscall.SIGKILL) }
