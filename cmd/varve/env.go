package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"
)

// env is what a command has of the world around it, so that tests run it in their own.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// width returns how many columns the terminal has that stderr is; 0: it is none.
	width func() int
	// ask prints a prompt on the terminal and reads a line without showing it. errNoTerminal: there is none.
	ask func(ctx context.Context, prompt string) (string, error)
}

func systemEnv() env {
	return env{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: os.Getenv,
		width: func() int {
			fd := int(os.Stderr.Fd())
			if !term.IsTerminal(fd) {
				return 0
			}
			if w, _, err := term.GetSize(fd); err == nil && w > 0 {
				return w
			}
			return 80
		},
		ask: askTerminal,
	}
}

var errNoTerminal = errors.New("no terminal to ask on")

// askTerminal asks on the process's terminal even where stdin is something else, as in pg_dump | varve backup.
func askTerminal(ctx context.Context, prompt string) (string, error) {
	in, out, err := terminal()
	if err != nil {
		return "", err
	}
	defer in.Close()
	defer out.Close()
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", errNoTerminal
	}
	fmt.Fprint(out, prompt)
	type answer struct {
		text []byte
		err  error
	}
	done := make(chan answer, 1)
	// A read from a terminal cannot be cancelled. When ctx is, the process is about to end, and this goroutine with it.
	go func() {
		b, err := term.ReadPassword(fd)
		done <- answer{b, err}
	}()
	select {
	case <-ctx.Done():
		term.Restore(fd, state)
		fmt.Fprintln(out)
		return "", context.Cause(ctx)
	case a := <-done:
		fmt.Fprintln(out)
		if errors.Is(a.err, io.EOF) {
			return "", errors.New("nothing was entered")
		}
		return strings.TrimSuffix(string(a.text), "\r"), a.err
	}
}

func terminal() (in, out *os.File, err error) {
	inName, outName := "/dev/tty", "/dev/tty"
	if runtime.GOOS == "windows" {
		inName, outName = "CONIN$", "CONOUT$"
	}
	if in, err = os.OpenFile(inName, os.O_RDWR, 0); err != nil {
		return nil, nil, errNoTerminal
	}
	if out, err = os.OpenFile(outName, os.O_RDWR, 0); err != nil || !term.IsTerminal(int(in.Fd())) {
		in.Close()
		return nil, nil, errNoTerminal
	}
	return in, out, nil
}
