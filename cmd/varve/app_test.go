package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/crypt"
)

// shell runs commands in the test's own process.
type shell struct {
	env
	out, err bytes.Buffer
	vars     map[string]string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{vars: map[string]string{"VARVE_REPO": filepath.Join(t.TempDir(), "repo"), "VARVE_CACHE": t.TempDir(), "VARVE_KEY": key.Text()}}
	s.env = env{
		stdin: strings.NewReader(""), stdout: &s.out, stderr: &s.err,
		getenv: func(n string) string { return s.vars[n] },
		width:  func() int { return 0 },
		ask:    func(context.Context, string) (string, error) { return "", errNoTerminal },
	}
	return s
}

func (s *shell) run(t *testing.T, want int, args ...string) {
	t.Helper()
	s.out.Reset()
	s.err.Reset()
	if got := run(t.Context(), s.env, args); got != want {
		t.Fatalf("varve %s: status %d\n%s%s", strings.Join(args, " "), got, &s.out, &s.err)
	}
}

// answers returns an ask that gives these answers in turn.
func answers(t *testing.T, a ...string) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) {
		if len(a) == 0 {
			t.Error("asked once too often")
			return "", errNoTerminal
		}
		next := a[0]
		a = a[1:]
		return next, nil
	}
}

func TestAsk(t *testing.T) {
	s := newShell(t)
	delete(s.vars, "VARVE_KEY")
	s.run(t, 1, "init")
	if !strings.Contains(s.err.String(), "VARVE_PASSPHRASE_FILE") {
		t.Error(s.err.String())
	}
	s.ask = answers(t, "one", "another")
	s.run(t, 1, "init")
	if !strings.Contains(s.err.String(), "differ") {
		t.Error(s.err.String())
	}
	s.ask = answers(t, "")
	s.run(t, 1, "init")
	if _, err := os.Stat(s.vars["VARVE_REPO"]); err == nil {
		t.Error("a folder was left behind")
	}
	s.ask = answers(t, "secret", "secret")
	s.run(t, 0, "init")
	key := "varve-key-" + strings.Fields(strings.SplitN(s.out.String(), "varve-key-", 2)[1])[0]
	s.ask = answers(t, "secret")
	s.run(t, 0, "key", "list")
	// A wrong passphrase is not asked for again.
	s.ask = answers(t, "Secret")
	s.run(t, 1, "snapshots")
	if !strings.Contains(s.err.String(), "wrong passphrase") {
		t.Error(s.err.String())
	}
	s.ask = answers(t, key)
	s.run(t, 0, "key", "list")
	if !strings.Contains(s.out.String(), "recovery") {
		t.Error(s.out.String())
	}
}

// TestProgress: on a terminal there is a line that is gone at the end, and it obeys no name.
func TestProgress(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a\x1b[31m"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.width = func() int { return 60 }
	s.run(t, 0, "init")
	for _, args := range [][]string{{"backup", "shop", dir}, {"check", "--read-data"}, {"prune"}, {"restore", "shop@latest", filepath.Join(t.TempDir(), "out")}} {
		s.run(t, 0, args...)
		text := s.err.String()
		if !strings.HasPrefix(text, "\r") || !strings.HasSuffix(text, "\r\x1b[K") {
			t.Errorf("%s: %q", args[0], text)
		}
		if strings.Contains(text, "\x1b[31m") {
			t.Errorf("%s: a name is obeyed: %q", args[0], text)
		}
		for line := range strings.SplitSeq(text, "\r") {
			if n := len([]rune(strings.TrimSuffix(line, "\x1b[K"))); n >= 60 {
				t.Errorf("%s: %d columns", args[0], n)
			}
		}
	}
	s.width = func() int { return 0 }
	s.run(t, 0, "check")
	if s.err.Len() != 0 {
		t.Errorf("without a terminal: %q", s.err.String())
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "out", Err: syscall.ENOSPC}
}

func TestStandardOutput(t *testing.T) {
	s := newShell(t)
	s.run(t, 0, "init")
	s.stdin = strings.NewReader(strings.Repeat("row\n", 1<<16))
	s.run(t, 0, "backup", "shop", "db.sql=-")
	for _, args := range [][]string{{"cat", "shop@latest:db.sql"}, {"ls", "shop@latest"}, {"--json", "ls", "shop@latest"}, {"snapshots"}, {"version"}} {
		s.stdout = brokenPipe{}
		s.run(t, 1, args...)
		if s.err.Len() != 0 {
			t.Errorf("%v: a broken pipe is told: %q", args, s.err.String())
		}
		s.stdout = fullDisk{}
		s.run(t, 1, args...)
		if text := s.err.String(); !strings.Contains(text, "disk is full") {
			t.Errorf("%v: %q", args, text)
		}
	}
}

// TestCancelInput: a backup that waits for input ends when it is told to.
func TestCancelInput(t *testing.T) {
	s := newShell(t)
	s.run(t, 0, "init")
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		w.Write([]byte("some"))
		w.Write([]byte("more")) // the first was read
		cancel(errors.Join(errors.New("a signal"), context.Canceled))
	}()
	s.stdin = r
	s.out.Reset()
	if got := run(ctx, s.env, []string{"backup", "shop", "-"}); got != 1 || !strings.Contains(s.err.String(), "no snapshot was made") {
		t.Fatalf("status %d: %s", got, &s.err)
	}
	s.run(t, 0, "snapshots")
	if s.out.Len() != 0 {
		t.Error(s.out.String())
	}
}

func TestCacheFolder(t *testing.T) {
	s := newShell(t)
	s.run(t, 0, "init")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(t, 1, "snapshots", "--cache", file)
	if !strings.Contains(s.err.String(), "--no-cache") {
		t.Error(s.err.String())
	}
	s.run(t, 0, "snapshots", "--cache", file, "--no-cache")
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0:00", 61 * time.Second: "1:01", 10*time.Hour + 2*time.Minute: "10:02:00"} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %s", d, got)
		}
	}
	if got, want := share(1<<20, 4<<20, time.Minute), "1.0 MiB of 4.0 MiB (25 %), 3:00 left"; got != want {
		t.Errorf("share: %s", got)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 雪": "plain äöü 雪",
		"a\nb":        `a\x0ab`,
		"a\x1b[2Jb":   `a\x1b[2Jb`,
		"a\u202eb":    `a\xe2\x80\xaeb`,
		"a\xffb":      `a\xffb`,
		"a\ufffdb":    "a\ufffdb",
		"\u009b":      `\xc2\x9b`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s", in, got)
		}
		if raw, err := unprintable(want); err != nil || raw != in {
			t.Errorf("unprintable(%s) = %q, %v", want, raw, err)
		}
	}
	for _, bad := range []string{`a\b`, `\`, `\x1`, `\xzz`, `\x+1`, `\x 1`} {
		if raw, err := unprintable(bad); err == nil {
			t.Errorf("unprintable(%s) = %q", bad, raw)
		}
	}
	if got := printableLines("one\ntwo\r\n\x1bthree\tfour\n"); got != "one\n  two\n  \\x1bthree four" {
		t.Errorf("printableLines: %q", got)
	}
}

func TestSplitSpec(t *testing.T) {
	for in, want := range map[string][2]string{
		"shop@latest":            {"shop@latest", "."},
		"shop@latest:":           {"shop@latest", "."},
		"shop@latest:/":          {"shop@latest", "."},
		"shop@latest:a/b":        {"shop@latest", "a/b"},
		"shop@latest:/a//b/":     {"shop@latest", "a/b"},
		"shop@latest:./a:b":      {"shop@latest", "a:b"},
		"shop@latest:../../a":    {"shop@latest", "a"},
		`2026:a\x0ab`:            {"2026", "a\nb"},
		`2026:a\\b`:              {"2026", `a\\b`},
		`2026:\xff`:              {"2026", `\xff`},
		"2026:raw\xff":           {"2026", `raw\xff`},
		`2026:\x41`:              {"2026", "A"},
		"shop/web-1@latest:a=b ": {"shop/web-1@latest", "a=b "},
	} {
		snap, path, err := splitSpec(in)
		if err != nil || snap != want[0] || path != want[1] {
			t.Errorf("splitSpec(%q) = %q, %q, %v", in, snap, path, err)
		}
	}
}

func TestParsePart(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"folder", "a=b"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"file", "x=y"} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]part{
		"folder":                        {name: "folder", kind: folder},
		"./folder/":                     {name: "folder", kind: folder},
		"up=folder":                     {name: "up", as: true, kind: folder},
		"./a=b":                         {name: "a=b", kind: folder},
		"x=a=b":                         {name: "x", as: true, kind: folder},
		"file":                          {name: "file", kind: file},
		"/":                             {name: "", kind: folder},
		"root=/":                        {name: "root", as: true, kind: folder},
		"-":                             {name: "stdin", kind: standardInput},
		"db.sql=-":                      {name: "db.sql", as: true, kind: standardInput},
		"exec:pg_dump shop":             {name: "pg_dump", kind: command, line: "pg_dump shop"},
		"exec:A=b /usr/bin/pg_dump x=y": {name: "pg_dump", kind: command, line: "A=b /usr/bin/pg_dump x=y"},
		"sqlite:file":                   {name: "file", kind: sqlite},
		"db=sqlite:file":                {name: "db", as: true, kind: sqlite},
		"sqlite:x=y":                    {name: "x=y", kind: sqlite},
		"db.sql=exec:pg_dump --x=y":     {name: "db.sql", as: true, kind: command, line: "pg_dump --x=y"},
	} {
		got, err := parsePart(in)
		if err != nil || got.name != want.name || got.as != want.as || got.kind != want.kind || got.line != want.line {
			t.Errorf("parsePart(%q) = %+v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "x=", "=folder", "..=folder", "exec:", "exec: A=b", "a=b", os.DevNull, "nope", "sqlite:", "sqlite:folder", "sqlite:nope", "sqlite:" + os.DevNull} {
		if p, err := parsePart(bad); err == nil {
			t.Errorf("parsePart(%q) = %+v", bad, p)
		}
	}
}
