package main

import (
	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

func (a *app) healCmd() *cobra.Command {
	var from string
	var quick bool
	cmd := &cobra.Command{
		Use:   "heal --from URL",
		Short: "Repair the repository from a replica",
		Long: `Read every object of the repository, and fetch those that are damaged or missing
from a replica of it, or fetch for a replica from the repository that it is one
of. With --quick, read nothing: fetch what is missing or of another size.

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
			return a.copy(cmd.Context(), copyWork{copy: repo.Heal, flag: "--from", other: from, pull: true}, &repo.CopyOptions{Quick: quick})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the replica to repair it from: a path or `URL`")
	cmd.Flags().BoolVar(&quick, "quick", false, "only what is missing or of another size")
	return cmd
}
