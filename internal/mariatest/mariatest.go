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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/internal/nobody"
)

// Server is a running MariaDB. Its methods are for the goroutine of the test, and fail it.
type Server struct {
	// Socket is where it listens.
	Socket string

	t    testing.TB
	dir  string
	attr *syscall.SysProcAttr
	stop func() // nil when it does not run
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
			missing(t, "there is no MariaDB ("+name+"): install the package mariadb-server")
		}
		programs[i] = p
	}
	attr, chown, err := nobody.Attr("mysql")
	if err != nil {
		missing(t, err.Error())
	}
	// The name of a socket has at most a hundred bytes, so not t.TempDir.
	dir, err := os.MkdirTemp("", "maria")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := chown(dir); err != nil {
		t.Fatal(err)
	}
	s := &Server{Socket: filepath.Join(dir, "socket"), t: t, dir: dir, attr: attr}
	data := "--datadir=" + filepath.Join(dir, "data")
	if out, err := s.command(programs[0], "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db").CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v\n%s", err, out)
	}
	s.start(programs[1], data)
	return s
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "HOME="+s.dir, "TMPDIR="+s.dir)
	return cmd
}

func (s *Server) start(program, data string) {
	t := s.t
	t.Helper()
	cmd := s.command(program, "--no-defaults", data, "--socket="+s.Socket, "--skip-networking", "--pid-file="+filepath.Join(s.dir, "pid"), "--tmpdir="+s.dir,
		"--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M", "--skip-log-bin")
	log := &watcher{seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = io.Discard, log, 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-log.seen:
	case err := <-ended:
		t.Fatalf("mariadbd ended: %v\n%s", err, log)
	}
	s.stop = func() {
		s.stop = nil
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop mariadbd: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("mariadbd: %v\n%s", err, log)
		}
	}
	t.Cleanup(s.Stop)
}

// Stop stops the server, if it runs, before the test ends.
func (s *Server) Stop() {
	s.t.Helper()
	if s.stop != nil {
		s.stop()
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("VARVE_TEST_REQUIRE") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
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

// watcher keeps what a server says and tells when it is ready.
type watcher struct {
	seen chan struct{} // closed when it is

	mu   sync.Mutex // guards what follows
	text []byte
	done bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if !w.done && bytes.Contains(w.text, []byte("ready for connections")) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text)
}
