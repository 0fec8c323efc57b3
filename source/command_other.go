//go:build !linux

package source

import "os/exec"

// awaitExit waits for cmd and collects it. The group's id might then be taken by another, but ids are not given out
// again within moments.
func awaitExit(cmd *exec.Cmd) (reaped bool, err error) { return true, cmd.Wait() }
