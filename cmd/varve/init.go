package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type initJSON struct {
	Repository  string   `json:"repository"`
	RecoveryKey string   `json:"recovery_key"`
	Lock        lockJSON `json:"lock"`
	PutIfAbsent bool     `json:"put_if_absent"`
}

func (a *app) initCmd() *cobra.Command {
	var lock string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a repository",
		Long: `Make a repository in an empty folder, or one that is not there yet.

The secret opens it as its owner. A recovery key is printed, once: it opens the
repository as well, on the day on which the secret is lost.

With --lock, what is stored is locked. A lock is
` + lockHelp + `

JSON: {repository, recovery_key, lock: {mode, seconds}, put_if_absent};
repository is its id. put_if_absent is false for a store that replaces objects
whatever it is told: there, nothing can be deleted beside running backups.`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := parseLock(lock)
			if err != nil {
				return err
			}
			return a.init(cmd.Context(), l)
		},
	}
	cmd.Flags().StringVar(&lock, "lock", "none", "lock what is stored, as in governance:30d")
	return cmd
}

func (a *app) init(ctx context.Context, lock repo.Lock) error {
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
	o := a.options()
	o.Lock = lock
	r, key, err := repo.Create(ctx, b, u, o)
	if err != nil {
		return err
	}
	defer r.Close()
	if !r.PutIfAbsent() {
		a.warn("this store has no put-if-absent: whoever may write to it may replace what is there, and old backups can only be removed while none is running (prune --exclusive)")
	}
	if a.json {
		return a.writeJSON(initJSON{r.ID(), key.Text(), lockOf(r.Lock()), r.PutIfAbsent()})
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
