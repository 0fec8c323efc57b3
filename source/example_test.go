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
