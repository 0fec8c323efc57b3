package source_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name   string
		fsys   fs.FS
		want   string // the output
		fails  string // what the error begins with
		stderr string // what it ends in
	}{
		{"output", source.Command("f", []string{"printf", "%s|", "a b", "c"}, nil), "a b|c|", "", ""},
		{"no output", source.Command("f", []string{"true"}, nil), "", "", ""},
		{"no input", source.Command("f", []string{"cat"}, nil), "", "", ""},
		{"status", source.Command("f", []string{"false"}, nil), "", "source: command false: exit status 1", ""},
		{"half", source.Shell("f", "echo half; echo secret >/dev/null; echo no space >&2; exit 3", nil), "half\n", "source: command sh: exit status 3: ", "no space"},
		{"signal", source.Shell("f", "kill -9 $$", nil), "", "source: command sh: signal: killed", ""},
		{"talkative", source.Shell("f", "echo out; echo first >&2; yes 0123456789abcde | head -n 100000 >&2; echo last >&2; exit 1", nil), "out\n", "source: command sh: exit status 1: ", "abcde\nlast"},
		{"stderr alone is no failure", source.Shell("f", "echo warning >&2; echo out", nil), "out\n", "", ""},
		{"output closed early, failed late", source.Shell("f", "echo out; exec >&-; sleep 0.1; exit 4", nil), "out\n", "source: command sh: exit status 4", ""},
		{"output by who is left behind", source.Shell("f", "(sleep 0.1; echo late) & echo early", nil), "early\nlate\n", "", ""},
		{"env and dir", source.Shell("f", `echo "$VARVE $HOME_IS_KEPT"; pwd -P`, &source.CommandOptions{Env: []string{"VARVE=x"}, Dir: dir}), "x kept\n" + dir + "\n", "", ""},
		{"large", source.Shell("f", "head -c 3000000 /dev/zero", nil), strings.Repeat("\x00", 3000000), "", ""},
		{"pipeline: the shell's own business", source.Shell("f", "false | echo short", nil), "short\n", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("HOME_IS_KEPT", "kept")
			f, err := tt.fsys.Open("f")
			must(t, err)
			got, err := io.ReadAll(f)
			if string(got) != tt.want {
				t.Errorf("output of %d bytes: %.200q", len(got), got)
			}
			if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.fails) || !strings.HasSuffix(err.Error(), tt.stderr)) {
				t.Errorf("%.300v", err)
			}
			if tt.fails != "" {
				var ce *source.CommandError
				var exit *exec.ExitError
				if !errors.As(err, &ce) || !errors.As(err, &exit) || len(ce.Stderr) > 4096 || strings.Contains(err.Error(), "secret") {
					t.Errorf("%.300v", err)
				}
				if _, again := f.Read(make([]byte, 1)); again != err {
					t.Errorf("then %v", again)
				}
			}
			must(t, f.Close())
		})
	}
}

func TestCommandNotStarted(t *testing.T) {
	for _, tt := range []struct {
		name string
		fsys fs.FS
		want error
		text string
	}{
		{"not found", source.Command("f", []string{"no-such-program", "--password=secret"}, nil), exec.ErrNotFound, `command no-such-program: exec: "no-such-program": executable file not found in $PATH`},
		{"no file", source.Command("f", []string{"/no/such/program"}, nil), fs.ErrNotExist, "command /no/such/program"},
		{"no folder", source.Command("f", []string{"true"}, &source.CommandOptions{Dir: "/no/such/folder"}), fs.ErrNotExist, "/no/such/folder"},
		{"empty", source.Command("f", nil, nil), nil, "no program given"},
	} {
		_, err := fs.Stat(tt.fsys, "f")
		must(t, err)
		_, err = tt.fsys.Open("f")
		var ce *source.CommandError
		if !errors.As(err, &ce) || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// family is a command that ignores SIGTERM as far as stubborn says, has children, and tells their process ids.
func family(stubborn string) fs.FS {
	return source.Shell("f", stubborn+`sh -c 'echo $$; exec sleep 1000' & sh -c 'trap "" TERM; echo $$; sleep 1000; sleep 1000' & echo $$; yes`, nil)
}

// watchers returns a handle on each process that tells of its end.
func watchers(t *testing.T, pids []int) (fds []unix.PollFd) {
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return fds
}

func TestCommandEnds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		stubborn string
		end      func(cancel context.CancelFunc, f fs.File) error
	}{
		{"early close", "", func(_ context.CancelFunc, f fs.File) error { return nil }},
		{"cancel while reading", "", func(cancel context.CancelFunc, f fs.File) error {
			time.AfterFunc(10*time.Millisecond, cancel)
			_, err := io.Copy(io.Discard, f)
			return err
		}},
		{"cancel while nobody reads", "", func(cancel context.CancelFunc, f fs.File) error {
			cancel()
			_, err := io.Copy(io.Discard, f)
			return err
		}},
		{"one that won't listen", "trap '' TERM PIPE;", func(cancel context.CancelFunc, f fs.File) error { return nil }},
		{"close while another reads", "", func(_ context.CancelFunc, f fs.File) error {
			go f.Close()
			_, err := io.Copy(io.Discard, f)
			if errors.Is(err, fs.ErrClosed) {
				err = nil
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			f, err := family(tt.stubborn).(repo.ContextFS).OpenContext(ctx, "f")
			must(t, err)
			var pids []int
			for lines := bufio.NewScanner(f); len(pids) < 3 && lines.Scan(); {
				if pid, err := strconv.Atoi(lines.Text()); err == nil {
					pids = append(pids, pid)
				}
			}
			if len(pids) != 3 {
				t.Fatal("not running:", pids)
			}
			family := watchers(t, pids)
			err = tt.end(cancel, f)
			if ctx.Err() != nil != errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			f.Close()
			for i := range family {
				n, err := unix.Poll(family[i:i+1], 10_000)
				for err == unix.EINTR {
					n, err = unix.Poll(family[i:i+1], 10_000)
				}
				if n != 1 {
					t.Error("still running: ", pids[i], err)
				}
			}
		})
	}
}

// Who leaves the group and keeps the pipes open doesn't keep Close.
func TestCommandDeserter(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("needs setsid")
	}
	f, err := source.Shell("f", "setsid sh -c 'echo $$; exec sleep 1000' & wait", nil).Open("f")
	must(t, err)
	line, err := bufio.NewReader(f).ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	must(t, f.Close())
	must(t, syscall.Kill(pid, syscall.SIGKILL))
}
