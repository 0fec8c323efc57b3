// Minio does what the quickstart does, in a bucket: it backs up a small shop on two days and gets the first day back.
//
//	VARVE_S3_URL='s3://bucket/prefix?endpoint=minio.example.com:9000&region=us-east-1' AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... go run ./examples/minio
//
// The bucket is there already, and the repository stays in it; the next run goes on with that. Without VARVE_S3_URL the program builds a MinIO, which takes some
// minutes the first time, runs it on the loopback interface, and leaves nothing of it behind.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/examples/internal/shop"
	"github.com/varvebackup/varve/internal/minioserver"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Getenv("VARVE_S3_URL"))
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer, url string) error {
	tmp, err := os.MkdirTemp("", "minio")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	// The store: keys for a URL come from the environment, or from wherever else AWS's own tools look for them.
	var store backend.Backend
	if url != "" {
		store, err = open.URL(ctx, url, nil)
	} else {
		var end func()
		store, end, err = own(ctx, filepath.Join(tmp, "server"))
		defer end()
	}
	if err != nil {
		return err
	}
	if c, ok := store.(io.Closer); ok {
		defer c.Close()
	}

	// The repository. What Create returns beside it is the recovery key: print it, lock it away.
	secret, options := crypt.Passphrase("correct horse battery staple"), &repo.Options{Cache: filepath.Join(tmp, "cache")}
	r, _, err := repo.Create(ctx, store, secret, options)
	if errors.Is(err, repo.ErrExists) {
		r, err = repo.Open(ctx, store, secret, options)
	}
	if err != nil {
		return err
	}
	defer r.Close()

	// The shop: 200 pictures in a folder, and a dump of its database. With a real one that is source.Command("db.sql", []string{"pg_dump", "shop"}, nil).
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

	// The next day two pictures are new, and some orders.
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

// own runs a MinIO with one bucket below dir, and returns the store in it and what ends the server, also after an error.
func own(ctx context.Context, dir string) (store *s3.Bucket, end func(), err error) {
	end = func() {}
	program, err := minioserver.Program()
	if err != nil {
		return nil, end, err
	}
	address, err := minioserver.FreePort()
	if err != nil {
		return nil, end, err
	}
	server := &minioserver.Server{Program: program, Address: address, Dir: dir, User: "example", Password: rand.Text()}
	if err := server.Start(); err != nil {
		return nil, end, err
	}
	end = server.Stop
	if err := server.Ready(ctx); err != nil {
		return nil, end, err
	}
	keys := credentials.NewStaticV4(server.User, server.Password, "")
	admin, err := minio.New(address, &minio.Options{Creds: keys, Region: "us-east-1"})
	if err != nil {
		return nil, end, err
	}
	if err := admin.MakeBucket(ctx, "backups", minio.MakeBucketOptions{}); err != nil {
		return nil, end, err
	}
	store, err = s3.Open(ctx, "backups", &s3.Options{Endpoint: address, Region: "us-east-1", Prefix: "shop", Insecure: true, Credentials: keys})
	return store, end, err
}
