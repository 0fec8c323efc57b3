//go:build cgo

package source_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"path/filepath"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/varvebackup/varve/source"
)

// The driver is github.com/mattn/go-sqlite3; Backup is its own, and keeps pages where they are.
func ExampleSQLite() {
	dir, err := os.MkdirTemp("", "shop")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite3", filepath.Join(dir, "app.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE orders(id INTEGER PRIMARY KEY)"); err != nil {
		log.Fatal(err)
	}

	backup := func(ctx context.Context, conn any, path string) (err error) {
		u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "_synchronous=off"}
		to, err := new(sqlite3.SQLiteDriver).Open(u.String())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, to.Close()) }()
		b, err := to.(*sqlite3.SQLiteConn).Backup("main", conn.(*sqlite3.SQLiteConn), "main")
		if err != nil {
			return err
		}
		for done := false; !done && err == nil; {
			if err = ctx.Err(); err == nil {
				done, err = b.Step(1000)
			}
		}
		return errors.Join(err, b.Finish())
	}
	fsys := source.SQLite("app.db", db, &source.SQLiteOptions{Backup: backup}) // for repo.Backup

	f, err := fsys.Open("app.db")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 15)
	if _, err := io.ReadFull(f, head); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", head)
	// Output: SQLite format 3
}
