// Package pgtest runs a real PostgreSQL for tests and benchmarks: a server of their own, in a temporary folder, that only they can reach and that ends with them.
//
//	pg := pgtest.Start(t)
//	pg.Shop("shop", 30_000)
//	dump := source.Command("db.sql", pg.Dump("shop"), &source.CommandOptions{Env: pg.Env})
//
// The programs are Debian's, or those in PATH. Where they are missing, the test is skipped; with VARVE_TEST_REQUIRE=1, which CI sets, it fails.
package pgtest

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/internal/daemon"
	"github.com/varvebackup/varve/internal/needs"
)

// Server is a running PostgreSQL. Its methods are for the goroutine of the test, and fail it.
type Server struct {
	// Env is what clients need in their environment, as "KEY=value": where the server is, and its superuser's name.
	Env []string

	t    testing.TB
	bin  string
	home *daemon.Home
	stop func()
}

// Installed tells whether there is a server that Start can start.
func Installed() bool {
	_, err := find()
	return err == nil
}

// find returns the folder of the programs, of the newest version there is.
func find() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian has the server's programs there, outside of PATH
	if err != nil {
		return "", err
	}
	slices.SortFunc(dirs, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(b, a)
	})
	if p, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	for _, d := range dirs {
		missing := slices.ContainsFunc([]string{"initdb", "postgres", "pg_dump", "psql"}, func(p string) bool {
			_, err := exec.LookPath(filepath.Join(d, p))
			return err != nil
		})
		if !missing {
			return d, nil
		}
	}
	return "", exec.ErrNotFound
}

// Start starts a server, on a Unix socket alone and without syncing to disk, that is stopped when the test ends. Root may not run one: then it runs as the user
// postgres or nobody.
func Start(t testing.TB) *Server {
	t.Helper()
	s := prepare(t)
	s.home.MustRun(s.Program("initdb"), "-D", s.data(), "-A", "trust", "-U", "varve", "-E", "UTF8", "--locale=C", "--no-sync")
	s.start()
	return s
}

// Standby starts a server that follows s, as a streaming replica.
func (s *Server) Standby() *Server {
	s.t.Helper()
	r := prepare(s.t)
	r.home.MustRun(r.Program("pg_basebackup"), "--pgdata="+r.data(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--host="+s.home.Dir, "--username=varve")
	r.start()
	return r
}

// prepare makes the folder of a server.
func prepare(t testing.TB) *Server {
	t.Helper()
	bin, err := find()
	if err != nil {
		needs.Skip(t, "there is no PostgreSQL: install the package postgresql")
	}
	home := daemon.NewHome(t, "postgres")
	return &Server{Env: []string{"PGHOST=" + home.Dir, "PGPORT=5432", "PGUSER=varve", "PGDATABASE=postgres", "PGTZ=UTC", "PGOPTIONS="}, t: t, bin: bin, home: home}
}

func (s *Server) data() string { return filepath.Join(s.home.Dir, "data") }

func (s *Server) start() {
	s.t.Helper()
	cmd := s.home.Command(s.Program("postgres"), "-D", s.data(), "-k", s.home.Dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "synchronous_commit=off", "-c", "autovacuum=off", "-c", "max_wal_size=8GB", "-c", "shared_buffers=64MB", "-c", "log_checkpoints=off")
	s.stop = s.home.Start(cmd, "ready to accept", os.Interrupt) // sessions end, and it stops, at once and in order
}

// Stop stops the server, if it runs, before the test ends.
func (s *Server) Stop() {
	s.t.Helper()
	s.stop()
}

// URL returns what source.Postgres takes for a database, as the superuser.
func (s *Server) URL(db string) string { return s.URLAs("varve", db) }

// URLAs is URL for another user, maybe with a password: "clerk:secret".
func (s *Server) URLAs(user, db string) string {
	return "postgres://" + user + "@" + url.QueryEscape(s.home.Dir) + "/" + url.PathEscape(db)
}

// AskPassword makes the server ask a user for the password from now on. All others are trusted.
func (s *Server) AskPassword(user string) {
	s.t.Helper()
	path := filepath.Join(s.data(), "pg_hba.conf")
	old, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, slices.Concat([]byte("local all "+user+" scram-sha-256\n"), old), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Query("postgres", "select pg_reload_conf()")
	for range 200 {
		cmd := exec.Command(s.Program("psql"), "--no-psqlrc", "--no-password", "--dbname="+s.URLAs(user, "postgres"), "--command=select 1")
		cmd.Env = append(os.Environ(), "PGPASSWORD=", "PGPASSFILE="+os.DevNull)
		if out, err := cmd.CombinedOutput(); err != nil && bytes.Contains(out, []byte("password")) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("%s still needs no password", user)
}

// Program returns the path of one of PostgreSQL's programs.
func (s *Server) Program(name string) string { return filepath.Join(s.bin, name) }

// Dump returns the command line, program first, that writes a database to standard output as SQL: the same bytes for the same content.
func (s *Server) Dump(db string) []string {
	s.t.Helper()
	argv := []string{s.Program("pg_dump"), "--no-password", "--dbname=" + db}
	help, err := exec.Command(argv[0], "--help").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	// Since the releases of August 2025 a dump has a random word in it, unless one is given.
	if bytes.Contains(help, []byte("--restrict-key")) {
		argv = append(argv, "--restrict-key=varve")
	}
	return argv
}

// Query runs SQL in a database and returns what it prints: a line for each row, with '|' between columns.
func (s *Server) Query(db, sql string) string {
	s.t.Helper()
	out, err := s.psql(db, strings.NewReader(sql), "--quiet", "--tuples-only", "--no-align")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// Create makes an empty database.
func (s *Server) Create(db string) {
	s.t.Helper()
	s.Query("postgres", `create database "`+strings.ReplaceAll(db, `"`, `""`)+`" template template0`)
}

// Load makes a database from a dump.
func (s *Server) Load(db string, dump io.Reader) {
	s.t.Helper()
	s.Create(db)
	if _, err := s.psql(db, dump, "--quiet", "--output="+os.DevNull); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) psql(db string, sql io.Reader, args ...string) ([]byte, error) {
	cmd := exec.Command(s.Program("psql"), append([]string{"--no-psqlrc", "--no-password", "--set=ON_ERROR_STOP=1", "--dbname=" + db, "--file=-"}, args...)...)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdin = sql
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("psql %s: %w\n%s", db, err, stderr.Bytes())
	}
	return out, nil
}
