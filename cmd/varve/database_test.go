package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/mariatest"
	"github.com/varvebackup/varve/internal/pgtest"
)

// varveIn returns what runs varve with a repository of its own and returns standard output.
func varveIn(t *testing.T) func(args ...string) []byte {
	t.Helper()
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	vars := map[string]string{"VARVE_REPO": filepath.Join(tmp, "repository"), "VARVE_CACHE": filepath.Join(tmp, "cache"), "VARVE_KEY": key.Text()}
	varve := func(args ...string) []byte {
		t.Helper()
		var stdout, stderr bytes.Buffer
		e := env{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, width: func() int { return 0 }, getenv: func(name string) string { return vars[name] }}
		if status := run(t.Context(), e, args); status != 0 || stderr.Len() > 0 {
			t.Fatalf("varve %q: status %d\n%s", args, status, &stderr)
		}
		return stdout.Bytes()
	}
	varve("init")
	return varve
}

// TestRestorePostgres goes the ways back that the documentation names.
func TestRestorePostgres(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Shop("shop", 500)
	rows := func(db string) string {
		return pg.Query(db, "select (select count(*) from orders), (select count(*) from events), (select sum(price) from order_lines)")
	}
	varve := varveIn(t)

	// varve cat shop@latest:db/shop.sql | psql
	varve("backup", "shop", "db="+pg.URL("shop")+"#max-lag=1m")
	pg.Load("again", bytes.NewReader(varve("cat", "shop@latest:db/shop.sql")))
	if got, want := rows("again"), rows("shop"); got != want {
		t.Errorf("%s, want %s", got, want)
	}

	// varve restore, and pg_restore of the file
	varve("backup", "shop", "db="+pg.URL("shop")+"#format=custom")
	dir := filepath.Join(t.TempDir(), "restored")
	varve("restore", "shop@latest", dir)
	pg.Create("archive")
	for _, argv := range [][]string{
		{pg.Program("pg_restore"), "--exit-on-error", "--jobs=2", "--dbname=" + pg.URL("archive"), filepath.Join(dir, "db", "shop.dump")},
		{pg.Program("psql"), "--no-psqlrc", "--dbname=" + pg.URL("postgres"), "--file=" + filepath.Join(dir, "db", "globals.sql")},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	if got, want := rows("archive"), rows("shop"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestRestoreMySQL(t *testing.T) {
	t.Parallel()
	db := mariatest.Start(t)
	db.Query("", "create database shop; use shop; create table orders (id int primary key, note text); insert into orders select seq, concat('für ', seq) from seq_1_to_1000")
	varve := varveIn(t)
	varve("backup", "shop", "db="+db.URL("shop"))
	db.Load("again", bytes.NewReader(varve("cat", "shop@latest:db/shop.sql")))
	if got := db.Query("again", "select count(*), sum(id), max(note) from orders"); got != "1000\t500500\tfür 999\n" {
		t.Error(got)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	varve("restore", "shop@latest", dir)
	f, err := os.Open(filepath.Join(dir, "db", "shop.sql"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	db.Load("third", io.Reader(f))
}
