//go:build !unix

package pgtest

import (
	"errors"
	"syscall"
)

func unprivileged() (*syscall.SysProcAttr, func(dir string) error, error) {
	return nil, nil, errors.New("tests with PostgreSQL need a Unix system")
}
