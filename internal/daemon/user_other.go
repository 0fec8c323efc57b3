//go:build !unix

package daemon

import (
	"errors"
	"syscall"
)

// user has no answer here.
func user(...string) (*syscall.SysProcAttr, func(dir string) error, error) {
	return nil, nil, errors.New("tests with such a server need a Unix system")
}
