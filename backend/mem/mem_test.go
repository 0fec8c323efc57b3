package mem_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backend.Backend { return mem.New(nil) })
}

func TestContractWithVersions(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backend.Backend { return mem.New(&mem.Options{Versions: true}) })
}

func TestClock(t *testing.T) {
	now := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	m := mem.New(&mem.Options{Now: func() time.Time { return now }})
	for range 2 {
		if err := backend.PutBytes(t.Context(), m, "x", nil, nil); err != nil {
			t.Fatal(err)
		}
		if info, err := m.Stat(t.Context(), "x"); err != nil || !info.Modified.Equal(now) {
			t.Errorf("modified %v, %v; want %v", info.Modified, err, now)
		}
		now = now.Add(time.Hour)
	}
}

// Locks are over when the store's clock says so.
func TestLockEnds(t *testing.T) {
	now := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	m := mem.New(&mem.Options{Now: func() time.Time { return now }, Versions: true})
	lock := backend.Retention{Mode: backend.Compliance, Until: now.Add(time.Hour)}
	if err := backend.PutBytes(t.Context(), m, "x", nil, &backend.PutOptions{Retain: lock}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour - time.Second)
	if got, err := m.Retention(t.Context(), "x", ""); err != nil || got != lock {
		t.Errorf("locked: %v, %v", got, err)
	}
	if err := m.Delete(t.Context(), "x"); !errors.Is(err, backend.ErrRetained) {
		t.Errorf("delete: %v", err)
	}
	now = now.Add(time.Second)
	if got, err := m.Retention(t.Context(), "x", ""); err != nil || !got.IsZero() {
		t.Errorf("locked: %v, %v", got, err)
	}
	weaker := backend.Retention{Mode: backend.Governance, Until: now.Add(time.Second)}
	if err := m.Retain(t.Context(), "x", "", weaker); err != nil {
		t.Error(err)
	}
	if got, err := m.Retention(t.Context(), "x", ""); err != nil || got != weaker {
		t.Errorf("locked: %v, %v", got, err)
	}
	now = now.Add(time.Second)
	if err := m.Delete(t.Context(), "x"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func Example() {
	ctx := context.Background()
	m := mem.New(nil)
	if err := backend.PutBytes(ctx, m, "config/1", []byte("hello"), &backend.PutOptions{IfAbsent: true}); err != nil {
		fmt.Println(err)
	}
	data, err := m.Get(ctx, "config/1", 1, 3, nil)
	fmt.Printf("%s %v\n", data, err)
	// Output: ell <nil>
}
