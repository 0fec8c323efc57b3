package varve_test

import (
	"os"
	"syscall"
)

// peakMiB returns the peak memory of a process that has ended.
func peakMiB(s *os.ProcessState) float64 {
	return float64(s.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}
