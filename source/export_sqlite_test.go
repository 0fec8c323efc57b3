//go:build cgo

package source

import (
	"testing"
	"time"
)

// SetSQLiteWait makes d how long a locked database is waited for, during a test.
func SetSQLiteWait(t *testing.T, d time.Duration) {
	old := sqliteWait
	sqliteWait = d
	t.Cleanup(func() { sqliteWait = old })
}
