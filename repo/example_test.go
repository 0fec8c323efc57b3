package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// exampleRepo makes a repository in memory.
func exampleRepo() *repo.Repo {
	key, err := crypt.NewKey()
	if err != nil {
		log.Fatal(err)
	}
	r, _, err := repo.Create(context.Background(), mem.New(nil), key, nil)
	if err != nil {
		log.Fatal(err)
	}
	return r
}

func exampleBackup(r *repo.Repo, fsys fs.FS) *repo.Snapshot {
	s, err := r.Backup(context.Background(), "shop", fsys, nil)
	if err != nil {
		log.Fatal(err)
	}
	return s
}

func ExampleCreate() {
	ctx := context.Background()
	store := mem.New(nil)
	r, recovery, err := repo.Create(ctx, store, crypt.Passphrase("correct horse battery staple"), nil)
	if err != nil {
		log.Fatal(err)
	}
	r.Close()

	// The recovery key opens it as well. Write it down: nothing else knows it.
	r, err = repo.Open(ctx, store, recovery, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()

	_, _, err = repo.Create(ctx, store, recovery, nil)
	fmt.Println(errors.Is(err, repo.ErrExists))
	// Output: true
}

func ExampleRepo_Backup() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	files := fstest.MapFS{"uploads/cat.jpg": {Data: []byte("a cat")}, "uploads/dog.jpg": {Data: []byte("a dog")}}
	for range 2 {
		s, err := r.Backup(ctx, "shop", files, &repo.BackupOptions{Tags: map[string]string{"host": "web-1"}})
		if errors.Is(err, repo.ErrIncomplete) {
			fmt.Println("some files could not be read") // and s is there all the same
		} else if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d files, %d bytes, %d of them new\n", s.Stats.Files, s.Stats.Bytes, s.Stats.New)
	}
	// Output:
	// 2 files, 10 bytes, 10 of them new
	// 2 files, 10 bytes, 0 of them new
}

func ExampleRepo_FS() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	exampleBackup(r, fstest.MapFS{"db.sql": {Data: []byte("CREATE TABLE orders;")}, "uploads/cat.jpg": {Data: []byte("a cat")}})

	s, err := r.Lookup(ctx, "shop@latest")
	if err != nil {
		log.Fatal(err)
	}
	fsys, err := r.FS(ctx, s)
	if err != nil {
		log.Fatal(err)
	}
	err = fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	dump, err := fs.ReadFile(fsys, "db.sql")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", dump)
	// Output:
	// .
	// db.sql
	// uploads
	// uploads/cat.jpg
	// CREATE TABLE orders;
}

func ExampleRepo_Restore() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	s := exampleBackup(r, fstest.MapFS{"db.sql": {Data: []byte("...")}, "uploads/cat.jpg": {Data: []byte("a cat")}, "uploads/dog.jpg": {Data: []byte("a dog")}})

	dir, err := os.MkdirTemp("", "restored-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	report, err := r.Restore(ctx, s, dir, &repo.RestoreOptions{Base: "uploads", Paths: []string{"cat.jpg"}, Verify: true})
	if failed, ok := errors.AsType[*repo.RestoreError](err); ok {
		fmt.Println("not restored:", failed.Failed)
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Files, "file,", report.Bytes, "bytes")
	cat, err := os.ReadFile(filepath.Join(dir, "cat.jpg"))
	fmt.Println(string(cat), err)
	// Output:
	// 1 file, 5 bytes
	// a cat <nil>
}

func ExampleRepo_Snapshots() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	for _, day := range []string{"Monday", "Tuesday", "Wednesday"} {
		if _, err := r.Backup(ctx, "shop", fstest.MapFS{"day": {Data: []byte(day)}}, &repo.BackupOptions{Tags: map[string]string{"day": day}}); err != nil {
			log.Fatal(err)
		}
	}
	for s, err := range r.Snapshots(ctx, repo.Filter{Series: "shop", Newest: 2}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.Tags["day"], s.Stats.Files)
	}
	// Output:
	// Tuesday 1
	// Wednesday 1
}

func ExampleRepo_Diff() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	a := exampleBackup(r, fstest.MapFS{"cat.jpg": {Data: []byte("a cat")}, "dog.jpg": {Data: []byte("a dog")}})
	b := exampleBackup(r, fstest.MapFS{"cat.jpg": {Data: []byte("another cat")}, "fish/carp.jpg": {Data: []byte("a carp")}})
	for c, err := range r.Diff(ctx, a, b) {
		switch {
		case err != nil:
			log.Fatal(err)
		case c.Before == nil:
			fmt.Println("added", c.Path)
		case c.After == nil:
			fmt.Println("removed", c.Path)
		case c.Content:
			fmt.Println("changed", c.Path)
		}
	}
	// Output:
	// changed cat.jpg
	// removed dog.jpg
	// added fish
}

func ExampleRepo_Check() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	exampleBackup(r, fstest.MapFS{"cat.jpg": {Data: []byte(strings.Repeat("meow ", 100))}})
	report, err := r.Check(ctx, &repo.CheckOptions{ReadData: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Snapshots, len(report.Findings))
	// Output: 1 0
}

func ExampleEscape() {
	name := "caf\xe9 \\ café" // Latin-1, then UTF-8
	readable := repo.Escape(name)
	fmt.Println(readable)
	raw, err := repo.Unescape(readable)
	fmt.Println(raw == name, err)
	// Output:
	// caf\xe9 \\ café
	// true <nil>
}

func ExampleRepo_Plan() {
	ctx := context.Background()
	r := exampleRepo()
	defer r.Close()
	for _, name := range []string{"one", "two", "three"} {
		exampleBackup(r, fstest.MapFS{"cat.jpg": {Data: []byte(name)}})
	}
	plan, err := r.Plan(ctx, "", repo.Keep{Last: 2, Tags: []string{"release"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range plan.Snapshots {
		fmt.Println(s.Goes(), s.Why)
	}
	if err := r.Forget(ctx, plan.Forget()...); err != nil { // Unforget takes it back, for a week
		log.Fatal(err)
	}
	// Output:
	// true []
	// false [last 2]
	// false [the newest of its series last 2]
}
