//go:build !linux

package varve_test

import "os"

func peakMiB(*os.ProcessState) float64 { return 0 }
