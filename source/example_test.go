package source_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/varvebackup/varve/source"
)

func ExampleDir() {
	root, err := os.MkdirTemp("", "uploads")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	for _, name := range []string{"cat.jpeg", "cat.jpeg.tmp", "keep.tmp"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			log.Fatal(err)
		}
	}

	dir, err := source.Dir(root, &source.DirOptions{Exclude: []string{"*.tmp", "!keep.tmp"}})
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Close()
	for e, err := range dir.Entries(context.Background(), ".") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e)
	}
	// Output:
	// - cat.jpeg
	// - keep.tmp
}

func ExampleJoin() {
	uploads, err := source.Dir("testdata", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer uploads.Close()
	j := source.Join{
		"config":  os.DirFS("testdata"),
		"db.sql":  source.Command("db.sql", []string{"pg_dump", "shop"}, nil), // runs when it is read
		"uploads": uploads,
	}
	fmt.Println(j.Parts())
	// Output: [db.sql config uploads]
}

func ExampleStream() {
	orders := source.Stream("orders.csv", func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("id,total\n1,9.90\n")), nil
	})
	b, err := fs.ReadFile(orders, "orders.csv")
	fmt.Printf("%s%v\n", b, err)
	// Output:
	// id,total
	// 1,9.90
	// <nil>
}

func ExampleCommand() {
	b, err := fs.ReadFile(source.Command("hello", []string{"echo", "hello"}, nil), "hello")
	fmt.Printf("%q, %v\n", b, err)
	// Output: "hello\n", <nil>
}

func ExampleShell() {
	dump := source.Shell("shop.sql", "echo 'CREATE TABLE orders'; echo 'lost connection' >&2; exit 2", nil)
	b, err := fs.ReadFile(dump, "shop.sql")
	var failed *source.CommandError
	fmt.Printf("%q\n%v\n%v\n", b, err, errors.As(err, &failed))
	// Output:
	// "CREATE TABLE orders\n"
	// source: command sh: exit status 2: lost connection
	// true
}

func ExamplePostgres() {
	// The password is in PGPASSWORD or ~/.pgpass. Nothing is asked of the server until a dump is read.
	db := source.Postgres("postgres://backup@db.internal/shop?sslmode=verify-full", &source.PostgresOptions{MaxLag: time.Minute})
	files, err := fs.Glob(db, "*")
	fmt.Println(files, err)
	// Output: [globals.sql shop.sql] <nil>
}

func ExampleMySQL() {
	db := source.MySQL("mysql://backup@db.internal/", &source.MySQLOptions{Databases: []string{"shop", "blog"}})
	files, err := fs.Glob(db, "*")
	fmt.Println(files, err)
	// Output: [blog.sql shop.sql] <nil>
}

func ExampleDatabase() {
	db, err := source.Database("postgres://backup@db.internal/shop#format=custom&max-lag=1m&no-globals")
	if err != nil {
		log.Fatal(err)
	}
	files, err := fs.Glob(db, "*")
	fmt.Println(files, err)
	// Output: [shop.dump] <nil>
}

func ExampleWarn() {
	dump := source.Stream("shop.sql.gz", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("\x1f\x8b what gzip wrote")), nil
	})
	src := source.Warn(dump, func(path, text string) { fmt.Println(path+":", text) })
	fs.ReadFile(src, "shop.sql.gz")
	// Output: shop.sql.gz: the dump is compressed (gzip): each day's is new from end to end, and stored whole; have it written without compression (no "| gzip", no --gzip)
}
