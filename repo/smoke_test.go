package repo_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	b := mem.New(nil)
	key, _ := crypt.NewKey()
	r, _, err := repo.Create(ctx, b, key, &repo.Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 4<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	src := fstest.MapFS{"a/b.txt": {Data: []byte("hello")}, "a/c/d": {Data: big}, "e": {}}
	s, err := r.Backup(ctx, "shop", src, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	r, err = repo.Open(ctx, b, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err = r.Lookup(ctx, "shop@latest")
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.FS(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(f, "a/b.txt", "a/c/d", "e"); err != nil {
		t.Fatal(err)
	}
	s, err = r.Backup(ctx, "shop", src, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
}
