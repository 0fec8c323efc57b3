// Package mariatest runs a real MariaDB for tests and benchmarks: a server of their own, in a temporary folder, that only they can reach and that ends with them.
//
//	db := mariatest.Start(t)
//	db.Query("", "create database shop")
//	src := source.MySQL(db.URL("shop"), nil)
//
// The programs are those in PATH or /usr/sbin. Where they are missing, the test is skipped; with VARVE_TEST_REQUIRE=1, which CI sets, it fails.
package mariatest

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/varvebackup/varve/internal/daemon"
	"github.com/varvebackup/varve/internal/needs"
)

// Server is a running MariaDB. Its methods are for the goroutine of the test, and fail it.
type Server struct {
	// Socket is where it listens.
	Socket string

	t    testing.TB
	stop func()
}

func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// Start starts a server, on a Unix socket alone and without syncing to disk, that is stopped when the test ends. Its superuser is root, without a password. Root may
// not run one: then it runs as the user mysql or nobody.
func Start(t testing.TB) *Server {
	t.Helper()
	var programs [2]string
	for i, name := range []string{"mariadb-install-db", "mariadbd"} {
		p, err := find(name)
		if err != nil {
			needs.Skip(t, "there is no MariaDB ("+name+"): install the package mariadb-server")
		}
		programs[i] = p
	}
	home := daemon.NewHome(t, "mysql")
	s := &Server{Socket: filepath.Join(home.Dir, "socket"), t: t}
	data := "--datadir=" + filepath.Join(home.Dir, "data")
	home.MustRun(programs[0], "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db")
	cmd := home.Command(programs[1], "--no-defaults", data, "--socket="+s.Socket, "--skip-networking", "--pid-file="+filepath.Join(home.Dir, "pid"), "--tmpdir="+home.Dir,
		"--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M", "--skip-log-bin")
	s.stop = home.Start(cmd, "ready for connections", syscall.SIGTERM)
	return s
}

// Stop stops the server, if it runs, before the test ends.
func (s *Server) Stop() {
	s.t.Helper()
	s.stop()
}

// URL returns what source.MySQL takes for a database, as the superuser.
func (s *Server) URL(db string) string { return s.URLAs("root", db) }

// URLAs is URL for another user, maybe with a password: "clerk:secret".
func (s *Server) URLAs(user, db string) string {
	return "mysql://" + user + "@localhost/" + url.PathEscape(db) + "?socket=" + url.QueryEscape(s.Socket)
}

// Query runs SQL in a database, "" for none, and returns what it prints: a line for each row, with tabs between columns.
func (s *Server) Query(db, sql string) string {
	s.t.Helper()
	return s.run(db, strings.NewReader(sql))
}

// Load makes a database from a dump.
func (s *Server) Load(db string, dump io.Reader) {
	s.t.Helper()
	s.Query("", "create database `"+strings.ReplaceAll(db, "`", "``")+"`")
	s.run(db, dump)
}

func (s *Server) run(db string, sql io.Reader) string {
	s.t.Helper()
	program, err := find("mariadb")
	if err != nil {
		s.t.Fatal(err)
	}
	args := []string{"--no-defaults", "--socket=" + s.Socket, "--user=root", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"}
	if db != "" {
		args = append(args, "--database="+db)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin = sql
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(fmt.Errorf("mariadb %s: %w\n%s", db, err, stderr.Bytes()))
	}
	return string(out)
}
