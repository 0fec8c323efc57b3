package backend_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
)

func TestThief(t *testing.T) {
	ctx := t.Context()
	later := func(m backend.Mode) *backend.PutOptions {
		return &backend.PutOptions{Retain: backend.Retention{Mode: m, Until: time.Now().Add(time.Hour)}}
	}
	for name, wrap := range map[string]func(backend.Backend) backend.Backend{
		"bare":   func(b backend.Backend) backend.Backend { return b },
		"prefix": func(b backend.Backend) backend.Backend { return backend.Prefix(b, "p/") },
		"limit":  func(b backend.Backend) backend.Backend { return backend.Limit(b, &backend.LimitOptions{Concurrent: 1}) },
		"retry":  func(b backend.Backend) backend.Backend { return backend.Retry(b, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			b := wrap(mem.New(&mem.Options{Versions: true}))
			for mode, want := range map[backend.Mode]error{"": nil, backend.Governance: nil, backend.Compliance: backend.ErrRetained} {
				name := "a" + string(mode)
				o := later(mode)
				if mode == "" {
					o = nil
				}
				if err := backend.PutBytes(ctx, b, name, []byte("x"), o); err != nil {
					t.Fatal(err)
				}
				if err := backend.Hide(ctx, b, name); err != nil {
					t.Errorf("hide %s: %v", name, err)
				}
				if _, err := b.Stat(ctx, name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("hidden: %v", err)
				}
				n := 0
				for v, err := range backend.Versions(ctx, b, name) {
					if err != nil {
						t.Fatal(err)
					}
					if v.Name != name {
						continue
					}
					if n++; !v.Deleted {
						if err := backend.Erase(ctx, b, name, v.ID); !errors.Is(err, want) {
							t.Errorf("erase %s: %v", name, err)
						}
					}
				}
				if n != 2 {
					t.Errorf("%d versions of %s", n, name)
				}
			}
			for what, careful := range map[string]backend.Backend{"read-only": backend.ReadOnly(b), "append-only": backend.AppendOnly(b), "as of": backend.AsOf(b, time.Now())} {
				if err := backend.Hide(ctx, careful, "a"); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s: hide: %v", what, err)
				}
				if err := backend.Erase(ctx, careful, "a", "1"); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s: erase: %v", what, err)
				}
			}
		})
	}
	if err := backend.Hide(ctx, struct{ backend.Backend }{mem.New(nil)}, "a"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a store without: %v", err)
	}
}
