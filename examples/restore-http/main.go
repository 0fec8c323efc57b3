// Restore-http serves a snapshot over HTTP, on this host alone: to look at what there was, and to fetch a part of a large dump without restoring it.
//
//	SHOP_KEY=varve-key-... restore-http -repo /mnt/backup/shop -key-env SHOP_KEY -snapshot shop@latest
//	curl -r 0-999 http://127.0.0.1:8080/db.sql
//
// Each request fetches, opens and checks the frames that it needs and no others.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatal(err)
	}
}

// run serves until ctx is done. It says where on out.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("restore-http", flag.ContinueOnError)
	flags.SetOutput(out)
	folder := flags.String("repo", "", "`folder` of the repository")
	keyEnv := flags.String("key-env", "VARVE_KEY", "environment `variable` with the key, or with the passphrase")
	spec := flags.String("snapshot", "", "`snapshot`: shop@latest, shop@2026-11-20, or the start of an id")
	addr := flags.String("addr", "127.0.0.1:8080", "`address` to listen on; whoever reaches it reads everything")
	if err := flags.Parse(args); err != nil {
		return err
	}

	secret := os.Getenv(*keyEnv)
	if *folder == "" || *spec == "" || secret == "" {
		return fmt.Errorf("give -repo, -snapshot, and a key in the environment variable %s", *keyEnv)
	}
	unlocker := crypt.Passphrase(secret)
	if key, err := crypt.ParseKey(secret); err == nil {
		unlocker = key
	}
	store, err := dir.Open(*folder)
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, store, unlocker, nil)
	if err != nil {
		return err
	}
	defer r.Close()
	snapshot, err := r.Lookup(ctx, *spec)
	if err != nil {
		return err
	}
	fsys, err := r.FS(ctx, snapshot)
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.FileServerFS(fsys),
		ReadHeaderTimeout: 10 * time.Second,
	}
	fmt.Fprintf(out, "snapshot %s at http://%s/\n", snapshot.ID, listener.Addr())
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		// The snapshot can be read until ctx is done, so requests that are under way fail now; wait for them to notice.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(ctx)
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
