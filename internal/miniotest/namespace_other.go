//go:build !linux

package miniotest

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/varvebackup/varve/internal/needs"
)

func inNamespace(t *testing.T) bool {
	t.Helper()
	needs.Skip(t, "network namespaces are Linux's")
	return false
}

func address(int) netip.Addr { return netip.Addr{} }

func addresses(int) error { return errors.ErrUnsupported }
