package mem_test

import (
	"context"
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
