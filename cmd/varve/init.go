package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type initJSON struct {
	Repository  string `json:"repository"`
	RecoveryKey string `json:"recovery_key"`
}

func (a *app) initCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make a repository",
		Long: `Make a repository in an empty folder, or one that is not there yet.

The secret opens it as its owner. A recovery key is printed, once: it opens the
repository as well, on the day on which the secret is lost.

JSON: {repository, recovery_key}; repository is its id.`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.init(cmd.Context()) },
	}
}

func (a *app) init(ctx context.Context) error {
	if _, err := a.url(); err != nil {
		return err
	}
	// The folder is made last, so that none is left behind without a repository in it.
	u, err := a.firstSecret(ctx)
	if err != nil {
		return err
	}
	b, err := a.backend(ctx, true)
	if err != nil {
		return err
	}
	r, key, err := repo.Create(ctx, b, u, a.options())
	if err != nil {
		return err
	}
	defer r.Close()
	if a.json {
		return a.writeJSON(initJSON{r.ID(), key.Text()})
	}
	_, err = fmt.Fprintf(a.out, `Made the repository %s in %s.

Its recovery key is

    %s

It is shown this once and kept nowhere. Write it down, or print it, and keep it away from this machine: on the day on which the
passphrase is lost, it opens the repository (set VARVE_KEY to it). Without either, nobody can ever read the backups again; and
whoever has it can read them all.
`, r.ID(), printable(a.repository), key.Text())
	return err
}
