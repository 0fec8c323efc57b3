package source

import (
	"os"
	"os/exec"
	"syscall"
)

func shell(line string) *exec.Cmd {
	cmd := exec.Command("cmd")
	// cmd takes its line apart itself, by rules of its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: "cmd /C " + line}
	return cmd
}

func setGroup(*exec.Cmd) {}

func terminate(p *os.Process) { p.Kill() }
func kill(p *os.Process)      { p.Kill() }
