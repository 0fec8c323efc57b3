package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/varvebackup/varve/crypt"
)

var (
	errNoSecret = errors.New("there is no secret and no terminal to ask on: set one of VARVE_PASSPHRASE, VARVE_PASSPHRASE_FILE, VARVE_KEY and VARVE_KEY_FILE")
	errDiffer   = errors.New("the two passphrases differ: nothing was changed, try again")
	errEmpty    = errors.New("an empty passphrase protects nothing: nothing was changed")
)

// secret returns what opens the repository.
func (a *app) secret(ctx context.Context) (crypt.Unlocker, error) {
	u, err := a.secretOfEnv()
	if u != nil || err != nil {
		return u, err
	}
	text, err := a.ask(ctx, "Passphrase or key: ")
	if errors.Is(err, errNoTerminal) {
		return nil, errNoSecret
	} else if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	if k, err := crypt.ParseKey(text); err == nil {
		return k, nil
	}
	if text == "" {
		return nil, errors.New("no passphrase was entered")
	}
	return crypt.Passphrase(text), nil
}

// firstSecret returns what is to open a new repository.
func (a *app) firstSecret(ctx context.Context) (crypt.Unlocker, error) {
	u, err := a.secretOfEnv()
	if u != nil || err != nil {
		return u, err
	}
	u, err = a.askTwice(ctx)
	if errors.Is(err, errNoTerminal) {
		return nil, errNoSecret
	}
	return u, err
}

// secretOfEnv returns the secret that the environment names; nil if it names none.
func (a *app) secretOfEnv() (crypt.Unlocker, error) {
	var name string
	for _, n := range []string{"VARVE_PASSPHRASE", "VARVE_PASSPHRASE_FILE", "VARVE_KEY", "VARVE_KEY_FILE"} {
		switch {
		case a.getenv(n) == "":
		case name != "":
			return nil, fmt.Errorf("both %s and %s are set: leave one of them out", name, n)
		default:
			name = n
		}
	}
	if name == "" {
		return nil, nil
	}
	text := a.getenv(name)
	if strings.HasSuffix(name, "_FILE") {
		var err error
		if text, err = secretOfFile(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if strings.HasPrefix(name, "VARVE_PASSPHRASE") {
		return crypt.Passphrase(text), nil
	}
	k, err := crypt.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// secretOfFile returns what is in a file, without the newline at its end.
func secretOfFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", at(stepSecret, path, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

func (a *app) askTwice(ctx context.Context) (crypt.Unlocker, error) {
	first, err := a.ask(ctx, "New passphrase: ")
	if err != nil {
		return nil, err
	}
	if first == "" {
		return nil, errEmpty
	}
	second, err := a.ask(ctx, "Once more: ")
	if err != nil {
		return nil, err
	}
	if first != second {
		return nil, errDiffer
	}
	return crypt.Passphrase(first), nil
}
