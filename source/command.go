package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// CommandOptions say how a command is run.
type CommandOptions struct {
	// Env is added to this process's environment, as "KEY=value"; a later value wins. The place for a password:
	// arguments are for all to see.
	Env []string

	// Dir is the working directory; empty: this process's.
	Dir string
}

// Command returns a Stream whose content is the standard output of a program, argv[0], run with the other elements as
// its arguments and with no input. There is a run for each Open.
//
// A run that fails fails the backup: when the output ends and the exit status is not zero, Read returns a *CommandError
// instead of io.EOF; a program that can't be started is one at Open. Closing the file early, or the end of its context,
// ends the run: its process group gets SIGTERM, and SIGKILL when the program is gone or 2 s have passed. What a program
// that exits leaves running is killed too. Close waits for all that. Only who leaves the process group escapes; on Windows
// the program alone is killed.
func Command(name string, argv []string, o *CommandOptions) fs.FS {
	return Stream(name, func(ctx context.Context) (io.ReadCloser, error) {
		if len(argv) == 0 {
			return nil, &CommandError{Err: errors.New("no program given")}
		}
		return start(ctx, argv[0], exec.Command(argv[0], argv[1:]...), o)
	})
}

// Shell is a Command that runs line by sh -c, or cmd /C on Windows. The shell knows the exit status of the last program
// of a pipeline only: in "pg_dump shop | gzip" a failed dump is a shorter backup, not an error, unless the line sets
// pipefail (sh -c knows that if it is bash or recent enough).
func Shell(name, line string, o *CommandOptions) fs.FS {
	return Stream(name, func(ctx context.Context) (io.ReadCloser, error) {
		cmd := shell(line)
		return start(ctx, cmd.Args[0], cmd, o)
	})
}

// CommandError is why a command failed. It holds no arguments, for these may be secret.
type CommandError struct {
	Name   string // of the program
	Err    error  // *exec.ExitError, the context's error, or why it could not be started
	Stderr string // the last 4 KiB of what it wrote to standard error
	Hint   string // what may help, where that is known
}

func (e *CommandError) Error() string {
	s := fmt.Sprintf("source: command %s: %v", e.Name, e.Err)
	if t := strings.TrimSpace(e.Stderr); t != "" {
		s += ": " + t
	}
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

func (e *CommandError) Unwrap() error { return e.Err }

const (
	grace      = 2 * time.Second // from SIGTERM to SIGKILL
	stderrKept = 4 << 10
)

// A run is a running command, and its standard output.
type run struct {
	ctx    context.Context
	name   string
	cmd    *exec.Cmd
	out    *os.File // read end of its standard output
	stderr *os.File // read end of its standard error
	tail   tail     // of stderr; complete once wg is done
	stop   chan struct{}
	ended  chan struct{}
	wg     sync.WaitGroup // drain and watch

	mu      sync.Mutex // guards reaped
	reaped  bool       // its process id may be another's
	endOnce sync.Once
	err     error // of the run, once ended is closed
}

func start(ctx context.Context, name string, cmd *exec.Cmd, o *CommandOptions) (*run, error) {
	if o != nil {
		cmd.Dir = o.Dir
		if o.Env != nil {
			cmd.Env = append(cmd.Environ(), o.Env...)
		}
	}
	setGroup(cmd)
	fail := func(err error) (*run, error) { return nil, &CommandError{Name: name, Err: err} }
	out, outW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		out.Close()
		outW.Close()
		return fail(err)
	}
	// Both are files, so exec copies nothing itself.
	cmd.Stdout, cmd.Stderr = outW, stderrW
	err = cmd.Start()
	outW.Close()
	stderrW.Close()
	if err != nil {
		out.Close()
		stderr.Close()
		if _, dirErr := os.Stat(cmd.Dir); cmd.Dir != "" && dirErr != nil {
			err = dirErr // else it is the program that seems to be missing
		}
		return fail(err)
	}
	r := &run{ctx: ctx, name: name, cmd: cmd, out: out, stderr: stderr, stop: make(chan struct{}), ended: make(chan struct{})}
	r.wg.Go(func() { io.Copy(&r.tail, stderr) })
	r.wg.Go(r.watch)
	return r, nil
}

// endsWithContext marks what needs no help to end a Read once its context is done.
func (r *run) endsWithContext() {}

// output runs a program to its end and returns what it wrote.
func output(ctx context.Context, cmd *exec.Cmd, o *CommandOptions) ([]byte, error) {
	r, err := start(ctx, programName(cmd.Path), cmd, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// programName returns the base name of a program, for messages.
func programName(path string) string {
	return strings.TrimSuffix(filepath.Base(path), ".exe")
}

// watch ends the run when its context or Close says so.
func (r *run) watch() {
	select {
	case <-r.ended:
		return
	case <-r.ctx.Done():
	case <-r.stop:
	}
	r.signal(terminate)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.ended:
	case <-timer.C:
		r.signal(kill)
		// Who left the group may still hold the pipe.
		r.out.SetReadDeadline(time.Now())
	}
}

// signal calls f for the process group, unless it is none of ours any more.
func (r *run) signal(f func(*os.Process)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.reaped {
		f(r.cmd.Process)
	}
}

func (r *run) Read(p []byte) (int, error) {
	n, err := r.out.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	if errors.Is(err, fs.ErrClosed) {
		return 0, fs.ErrClosed
	}
	r.end()
	if r.err != nil {
		return 0, r.err
	}
	if err != io.EOF {
		return 0, &CommandError{Name: r.name, Err: err}
	}
	return 0, io.EOF
}

// Close ends the run. How it had gone is Read's to say.
func (r *run) Close() error {
	err := r.out.Close()
	select {
	case <-r.ended:
	default:
		close(r.stop)
		r.end()
	}
	return err
}

// end waits for the program to exit, kills what it left behind, and sets r.err.
func (r *run) end() {
	r.endOnce.Do(func() {
		reaped, err := awaitExit(r.cmd)
		r.signal(kill)
		r.mu.Lock()
		if !reaped {
			err = r.cmd.Wait()
		}
		r.reaped = true
		r.mu.Unlock()

		// All that the group wrote is in the pipe; who left the group may hold it open for ever.
		r.stderr.SetReadDeadline(time.Now().Add(time.Second))
		close(r.ended)
		r.wg.Wait()
		r.stderr.Close()
		if ctxErr := r.ctx.Err(); ctxErr != nil {
			err = ctxErr
		}
		if err != nil {
			r.err = &CommandError{Name: r.name, Err: err, Stderr: r.tail.String()}
		}
	})
}

// A tail keeps the last bytes that were written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*stderrKept {
		t.b = append(t.b[:0], t.b[len(t.b)-stderrKept:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	b := t.b
	if len(b) > stderrKept {
		b = b[len(b)-stderrKept:]
	}
	return string(b)
}
