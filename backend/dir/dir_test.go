package dir_test

import (
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/dir"
)

func open(t *testing.T) *dir.Dir {
	t.Helper()
	d, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend { return open(t) })
}
