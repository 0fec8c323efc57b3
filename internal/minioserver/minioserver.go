// Package minioserver builds MinIO and runs it as a process, on an address of this machine and in a folder, for tests (see package miniotest) and examples.
//
//	program, err := minioserver.Program()
//	s := &minioserver.Server{Program: program, Address: "127.0.0.1:9000", Dir: dir, User: "user", Password: "long-password"}
//	err = s.Start()
//	defer s.Stop()
//	err = s.Ready(ctx)
//
// The program is built from the module in the folder server, which pins its version, once for all into the user's cache folder; that takes some minutes.
package minioserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// A Server is a MinIO that may run. Its fields are set before Start; its methods are for one goroutine at a time.
type Server struct {
	Program        string   // as Program returns it
	Address        string   // host:port; it speaks plain HTTP
	Dir            string   // everything that it writes
	Drives         []string // the drives of all nodes, as MinIO wants them: http://host:port/path. None: it is alone, with one folder below Dir
	User, Password string   // of the all-powerful user; the password has 8 characters at least

	log   buffer
	cmd   *exec.Cmd     // nil while it is not running
	ended chan struct{} // closed when cmd has ended
	err   error         // of cmd, when it has ended
}

// FreePort returns an address on the loopback interface that nobody listens on at the moment.
func FreePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Start starts the process. The address is taken, and requests are answered, only when Ready says so.
func (s *Server) Start() error {
	home := filepath.Join(s.Dir, "home")
	drives := s.Drives
	if drives == nil {
		drives = []string{filepath.Join(s.Dir, "data")}
		if err := os.MkdirAll(drives[0], 0o700); err != nil {
			return fmt.Errorf("minioserver: %w", err)
		}
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return fmt.Errorf("minioserver: %w", err)
	}
	cmd := exec.Command(s.Program, append([]string{"server", "--address", s.Address, "--certs-dir", filepath.Join(home, "certs")}, drives...)...)
	cmd.Dir = home
	cmd.Env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(),
		"MINIO_ROOT_USER=" + s.User, "MINIO_ROOT_PASSWORD=" + s.Password,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1",
		"MINIO_SITE_REGION=us-east-1", // or any will do
	}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &s.log, &s.log, 10*time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("minioserver: %w", err)
	}
	ended := make(chan struct{})
	s.cmd, s.ended = cmd, ended
	go func() {
		s.err = cmd.Wait()
		close(ended)
	}()
	return nil
}

// Running tells whether it was started and neither killed nor stopped since.
func (s *Server) Running() bool { return s.cmd != nil }

// Ready waits until the server takes reads and writes; if it belongs to several, until enough of them have found each other for that. The error says what the
// server said if it ends instead, or if it is not ready within a minute.
func (s *Server) Ready(ctx context.Context) error { return s.ready(ctx, "/minio/health/cluster") }

// Whole waits until the server sees so many of the others that it could itself be stopped: with four, all.
func (s *Server) Whole(ctx context.Context) error {
	return s.ready(ctx, "/minio/health/cluster?maintenance=true")
}

func (s *Server) ready(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// No connection outlives a request: tests look for what is left behind.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		err := get(ctx, client, "http://"+s.Address+path)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.cmd = nil
			return fmt.Errorf("minioserver: it ended: %v\n%s", s.err, &s.log)
		case <-ctx.Done():
			return fmt.Errorf("minioserver: not ready: %w (%w)\n%s", context.Cause(ctx), err, &s.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// get returns no error if the answer is 200.
func get(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Kill ends the server as kill -9 does, and returns when it is gone. One that does not run stays so.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.ended
	s.cmd = nil
}

// Stop asks the server to end, insists after ten seconds, and returns when it is gone. One that does not run stays so.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(os.Interrupt)
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.ended
	}
	s.cmd = nil
}

// Log returns what the server has said so far.
func (s *Server) Log() string { return s.log.String() }

// A buffer keeps what a server says.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
