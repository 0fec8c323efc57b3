// Quickstart backs up a small shop on two days and gets the first day back. It needs nothing but Go, and leaves nothing behind:
//
//	go run ./examples/quickstart
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/examples/internal/shop"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	tmp, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	// A repository in a folder. What Create returns beside it is the recovery key: print it, lock it away.
	store, err := dir.Create(filepath.Join(tmp, "repository"))
	if err != nil {
		return err
	}
	options := &repo.Options{Cache: filepath.Join(tmp, "cache")}
	r, _, err := repo.Create(ctx, store, crypt.Passphrase("correct horse battery staple"), options)
	if err != nil {
		return err
	}
	defer r.Close()

	// The shop: 200 pictures that customers uploaded, and a dump of its database, here 50,000 orders from a function. With a real one it is
	// source.Command("db.sql", []string{"pg_dump", "shop"}, nil).
	files := map[string][]byte{}
	for i := range 200 {
		files[fmt.Sprintf("uploads/%03d.jpeg", i)] = shop.Picture(i)
	}
	if err := shop.Write(tmp, files); err != nil {
		return err
	}
	uploads, err := source.Dir(filepath.Join(tmp, "uploads"), nil)
	if err != nil {
		return err
	}
	defer uploads.Close()
	day := 1
	sources := source.Join{
		"uploads": uploads,
		"db.sql": source.Stream("db.sql", func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(shop.Dump(day))), nil
		}),
	}

	first, err := r.Backup(ctx, "shop", sources, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "day 1: %8d bytes read, %8d bytes stored\n", first.Stats.Read, first.Stats.Stored)

	// The next day two pictures are new, and some orders. (The other pictures are read again only as they are hardly a moment old; from two seconds on, a look at
	// their size and times would do.)
	if err := shop.Write(tmp, map[string][]byte{"uploads/007.jpeg": shop.Picture(1007), "uploads/200.jpeg": shop.Picture(200)}); err != nil {
		return err
	}
	day = 2
	second, err := r.Backup(ctx, "shop", sources, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "day 2: %8d bytes read, %8d bytes stored\n", second.Stats.Read, second.Stats.Stored)

	// Back to the first day.
	restored := filepath.Join(tmp, "restored")
	if _, err := r.Restore(ctx, first, restored, nil); err != nil {
		return err
	}
	files["db.sql"] = shop.Dump(1)
	if err := shop.Compare(restored, files); err != nil {
		return err
	}
	fmt.Fprintln(out, "day 1 restored: identical")
	return nil
}
