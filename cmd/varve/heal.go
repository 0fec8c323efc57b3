package main

import (
	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

func (a *app) healCmd() *cobra.Command {
	var from string
	var quick, replace bool
	var lock string
	cmd := &cobra.Command{
		Use:   "heal --from URL",
		Short: "Repair the repository from a replica",
		Long: `Read every object of the repository, and fetch those that are damaged or missing
from a replica of it, or fetch for a replica from the repository that it is one
of. With --quick, read nothing: fetch what is missing or of another size.

With --replace, the replica is right where both have something whole that is not
the same. It is for the past of a bucket that keeps versions, after somebody
overwrote or deleted what is in it:
  varve heal --replace --from 's3://bucket/prefix?endpoint=...&as-of=TIME'

No secret is needed. Each object is verified on its way. Backups may run
meanwhile, and what was interrupted goes on when this is run again. What was
deleted on purpose and is still in the replica comes back: forgotten snapshots
stay forgotten, but slots that were removed have to be removed again.

The exit status is 1 if something stays damaged: all else was repaired then.

` + copyHelp,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from == "" {
				return usageError(cmd, "give --from")
			}
			l, err := parseLock(lock)
			if err != nil {
				return err
			}
			return a.copy(cmd.Context(), copyWork{copy: repo.Heal, flag: "--from", other: from, pull: true}, &repo.CopyOptions{Quick: quick, Replace: replace, Lock: l})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the replica to repair it from: a path or `URL`")
	cmd.Flags().StringVar(&lock, "lock", "none", "lock what is put, as in compliance:30d")
	cmd.Flags().BoolVar(&replace, "replace", false, "where both are whole and differ, the replica is right")
	cmd.Flags().BoolVar(&quick, "quick", false, "only what is missing or of another size")
	return cmd
}
