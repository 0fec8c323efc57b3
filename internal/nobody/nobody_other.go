//go:build !unix

// Package nobody lets root run the servers of tests that refuse to run as root.
package nobody

import (
	"errors"
	"syscall"
)

// Attr has no answer here.
func Attr(...string) (*syscall.SysProcAttr, func(dir string) error, error) {
	return nil, nil, errors.New("tests with such a server need a Unix system")
}
