// Package shop is the small shop that examples back up: pictures that customers uploaded, and a dump of its database.
package shop

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Picture returns bytes that no compression makes smaller, as those of a picture.
func Picture(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, 20_000+r.IntN(60_000))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Dump returns the database as SQL: each day, one order in a hundred has another state than the day before, and 500 are new.
func Dump(day int) []byte {
	var b bytes.Buffer
	b.WriteString("CREATE TABLE orders (id int, email text, total numeric, state text);\nCOPY orders FROM stdin;\n")
	for id := range 49_500 + 500*day {
		r := rand.New(rand.NewPCG(uint64(id), 2))
		state := "paid"
		if r.IntN(100) < day {
			state = "sent"
		}
		fmt.Fprintf(&b, "%d\tcustomer-%x@example.org\t%d.%02d\t%s\n", id, r.Uint32(), r.IntN(500), r.IntN(100), state)
	}
	b.WriteString("\\.\n")
	return b.Bytes()
}

// Write writes files below a folder, by their paths.
func Write(root string, files map[string][]byte) error {
	for name, data := range files {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Compare returns an error unless a folder holds these files and no other.
func Compare(root string, files map[string][]byte) error {
	found := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		if want, ok := files[name]; !ok || !bytes.Equal(got, want) {
			return fmt.Errorf("%s was restored with other bytes than it had", name)
		}
		found++
		return nil
	})
	if err == nil && found != len(files) {
		err = fmt.Errorf("%d files were restored of %d", found, len(files))
	}
	return err
}
