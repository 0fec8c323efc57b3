//go:build !linux

package miniotest

import (
	"errors"
	"net/netip"
	"testing"
)

func inNamespace(t *testing.T) bool {
	t.Helper()
	if required() {
		t.Fatal("network namespaces are Linux's")
	}
	t.Skip("network namespaces are Linux's")
	return false
}

func address(int) netip.Addr { return netip.Addr{} }

func addresses(int) error { return errors.ErrUnsupported }
