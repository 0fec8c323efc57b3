package source

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// memoryFile returns a file in memory with that content, or nil if there can be none that a path leads to.
func memoryFile(content string) *os.File {
	fd, err := unix.MemfdCreate("varve", unix.MFD_CLOEXEC)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "varve")
	// MySQL's programs ignore a file that others may write to.
	if err = f.Chmod(0o600); err == nil {
		if _, err = f.WriteString(content); err == nil {
			_, err = os.Stat("/proc/self/fd/" + strconv.Itoa(fd))
		}
	}
	if err != nil {
		f.Close()
		return nil
	}
	return f
}

// extraFile returns the path of the nth of a command's ExtraFiles, for the command.
func extraFile(n int) string { return "/proc/self/fd/" + strconv.Itoa(3+n) }
