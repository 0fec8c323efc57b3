// Package daemon runs the server of a database for a test: in a temporary folder, as somebody who is not root, until the test ends.
//
//	h := daemon.NewHome(t, "postgres")
//	stop := h.Start(h.Command("postgres", "-D", filepath.Join(h.Dir, "data")), "ready to accept", os.Interrupt)
package daemon

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/internal/needs"
)

// Home is a folder that is gone when the test ends, and the user whom it belongs to. Its methods are for the goroutine of the test, and fail it.
type Home struct {
	Dir string

	t    testing.TB
	attr *syscall.SysProcAttr
}

// NewHome makes one. Root may not run such servers: then it belongs to the first of these users that there is, or to nobody; where there is none, the test is skipped.
func NewHome(t testing.TB, users ...string) *Home {
	t.Helper()
	attr, chown, err := user(users...)
	if err != nil {
		needs.Skip(t, err.Error())
	}
	// The name of a socket has at most a hundred bytes, so not t.TempDir.
	dir, err := os.MkdirTemp("", "db")
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
	return &Home{Dir: dir, t: t, attr: attr}
}

// Command returns a program that is to run as the user, in the folder.
func (h *Home) Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.SysProcAttr = h.Dir, h.attr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "HOME="+h.Dir, "TMPDIR="+h.Dir)
	return cmd
}

// MustRun runs a program to its end.
func (h *Home) MustRun(program string, args ...string) {
	h.t.Helper()
	if out, err := h.Command(program, args...).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v\n%s", filepath.Base(program), err, out)
	}
}

// Start starts a server and returns when it says, on standard error, that it is ready. stop sends it a signal and waits for its end, once; the end of the test does so too.
func (h *Home) Start(cmd *exec.Cmd, ready string, signal os.Signal) (stop func()) {
	t, name := h.t, filepath.Base(cmd.Path)
	t.Helper()
	log := &watcher{ready: []byte(ready), seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = io.Discard, log, 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-log.seen:
	case err := <-ended:
		t.Fatalf("%s ended: %v\n%s", name, err, log)
	}
	stop = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(signal); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v\n%s", name, err, log)
		}
	})
	t.Cleanup(stop)
	return stop
}

// watcher keeps what a server says and tells when it is ready.
type watcher struct {
	ready []byte
	seen  chan struct{} // closed when it is

	mu   sync.Mutex // guards what follows
	text []byte
	done bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if !w.done && bytes.Contains(w.text, w.ready) {
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
