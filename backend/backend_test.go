package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
)

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "packs/0a/0a1b": true, "A-Z_0.9": true, "s/1.end": true,
		strings.Repeat("x", 255): true, strings.Repeat("x", 256): false,
		strings.Repeat("x/", 255) + "xy": true, strings.Repeat("x/", 256) + "x": false,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false, ".": false, "..": false, "a/../b": false,
		".a": false, "a/.b": false, "a.": false, "a./b": false, "a b": false, "a\\b": false, "é": false, "a\x00": false,
	} {
		if backend.ValidName(name) != want {
			t.Errorf("ValidName(%.40q) = %v", name, !want)
		}
	}
}

// What begins a valid name is a valid prefix, cut anywhere.
func TestValidPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-c0.-]{1,5}(/[a-c0.-]{1,5}){0,3}`).Filter(backend.ValidName).Draw(t, "name")
		cut := rapid.IntRange(0, len(name)).Draw(t, "cut")
		if !backend.ValidPrefix(name[:cut]) {
			t.Errorf("ValidPrefix(%q) is false, and %q begins so", name[:cut], name)
		}
	})
	for _, bad := range []string{"/", ".", "..", "a//", "a/.", "a b", "a./"} {
		if backend.ValidPrefix(bad) {
			t.Errorf("ValidPrefix(%q) is true", bad)
		}
	}
}

func Example() {
	ctx := context.Background()
	store := backend.AppendOnly(backend.Retry(backend.Prefix(mem.New(nil), "shop/"), nil))
	if err := backend.PutBytes(ctx, store, "config/1", []byte("hello"), nil); err != nil {
		fmt.Println(err)
	}
	fmt.Println(backend.PutBytes(ctx, store, "config/1", []byte("other"), nil))
	for info, err := range store.List(ctx, "config/") {
		fmt.Println(info.Name, info.Size, err)
	}
	// Output:
	// backend: put config/1: append-only, and the object exists: permission denied
	// config/1 5 <nil>
}

func ExampleAsOf() {
	ctx := context.Background()
	now := time.Date(2026, 11, 19, 8, 0, 0, 0, time.UTC)
	store := mem.New(&mem.Options{Versions: true, Now: func() time.Time { return now }})
	for _, data := range []string{"monday's", "tuesday's"} {
		if err := backend.PutBytes(ctx, store, "x", []byte(data), nil); err != nil {
			fmt.Println(err)
		}
		now = now.Add(24 * time.Hour)
	}
	then := backend.AsOf(store, time.Date(2026, 11, 19, 12, 0, 0, 0, time.UTC))
	data, err := then.Get(ctx, "x", 0, -1, nil)
	fmt.Printf("%s %v\n", data, err)
	// Output: monday's <nil>
}

func ExampleRetain() {
	ctx := context.Background()
	now := time.Date(2026, 11, 19, 8, 0, 0, 0, time.UTC)
	store := mem.New(&mem.Options{Versions: true, Now: func() time.Time { return now }})
	month := backend.Retention{Mode: backend.Compliance, Until: now.AddDate(0, 1, 0)}
	if err := backend.PutBytes(ctx, store, "x", []byte("data"), &backend.PutOptions{Retain: month}); err != nil {
		fmt.Println(err)
	}
	err := store.Delete(ctx, "x")
	fmt.Println(errors.Is(err, backend.ErrRetained))
	month.Until = month.Until.AddDate(0, 1, 0)
	fmt.Println(backend.Retain(ctx, store, "x", "", month))
	// Output:
	// true
	// <nil>
}
