package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/repo"
)

// lockJSON is how long what is put is locked; "" and 0: it is not.
type lockJSON struct {
	Mode    string `json:"mode"`
	Seconds int64  `json:"seconds"`
}

func lockOf(l repo.Lock) lockJSON { return lockJSON{string(l.Mode), int64(l.Period / time.Second)} }

type extendJSON struct {
	Objects  int        `json:"objects"`
	Unlocked int        `json:"unlocked"`
	Due      int        `json:"due"`
	Until    *time.Time `json:"until"`
	First    string     `json:"first"`
	Deleted  []string   `json:"deleted"`
	DryRun   bool       `json:"dry_run"`
}

const lockHelp = `MODE:PERIOD, such as governance:30d or compliance:8760h, or none. While a lock
lasts, nobody can delete or replace for good what is stored: in governance mode
but for those whom the store gives that permission, in compliance mode without
exception. It takes a bucket that was created with object lock.`

func (a *app) lockCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lock",
		Short: "Show, set and extend how long stored objects cannot be deleted",
		Long: `Show how the repository locks what it stores. A lock is
` + lockHelp + `

JSON: {mode, seconds}, "" and 0 if nothing is locked.`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			return a.showLock(r)
		},
	}
	cmd.AddCommand(a.lockSetCmd(), a.lockExtendCmd())
	return cmd
}

func (a *app) showLock(r *repo.Repo) error {
	if a.json {
		return a.writeJSON(lockOf(r.Lock()))
	}
	if (r.Lock() == repo.Lock{}) {
		_, err := fmt.Fprintln(a.out, "what is stored is not locked")
		return err
	}
	_, err := fmt.Fprintf(a.out, "what is stored is locked: %s for %s\n", r.Lock().Mode, period(r.Lock().Period))
	return err
}

func (a *app) lockSetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "set LOCK",
		Short: "Set how long what is stored from now on cannot be deleted",
		Long: `Set how what is stored from now on is locked. LOCK is
` + lockHelp + `

"varve lock extend" gives it to what is stored already, and has to run more often
than once in half a period. A maintainer's or owner's key can do this.

JSON: {mode, seconds}.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := parseLock(args[0])
			if err != nil {
				return err
			}
			r, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			if err := r.SetLock(cmd.Context(), l); err != nil {
				return err
			}
			return a.showLock(r)
		},
	}
}

func (a *app) lockExtendCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "extend",
		Short: "Renew the locks of all that snapshots need",
		Long: `Renew the locks of all that snapshots need and of which less than half is left,
so that each lasts a whole period again. Run it more often than once in half a
period: every week, say. A maintainer's or owner's key can do this.

JSON: {objects, unlocked, due, until, first, deleted: [NAME], dry_run}. objects
are needed; unlocked of them had no lock; due were extended, or would be with
--dry-run. until is when the first lock ends now, null if an object has none, and
first is that object. deleted are needed objects that somebody deleted: only
older versions of them are left, see "varve heal".`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.extend(cmd.Context(), dry) },
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what is due")
	return cmd
}

func (a *app) extend(ctx context.Context, dry bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	begun := time.Now()
	p := a.progress()
	rep, err := r.ExtendLocks(ctx, &repo.ExtendOptions{DryRun: dry, Progress: func(done, total int) {
		p.show(fmt.Sprintf("%s  %d of %d objects", clock(time.Since(begun)), done, total))
	}})
	p.clear()
	if err != nil {
		return err
	}
	doc := extendJSON{Objects: rep.Objects, Unlocked: rep.Unlocked, Due: rep.Due, First: rep.First, Deleted: append([]string{}, rep.Deleted...), DryRun: dry}
	if !rep.Until.IsZero() {
		until := rep.Until.UTC()
		doc.Until = &until
	}
	if a.json {
		err = a.writeJSON(doc)
	} else {
		did := "extended"
		if dry {
			did = "to be extended"
		}
		fmt.Fprintf(a.out, "%s needed, %d %s, %d of them were not locked\n", count(int64(rep.Objects), "object", "objects"), rep.Due, did, rep.Unlocked)
		if doc.Until != nil {
			fmt.Fprintf(a.out, "the first lock ends %s (%s)\n", doc.Until.Format(time.RFC3339), printable(rep.First))
		}
		for _, name := range rep.Deleted {
			fmt.Fprintf(a.out, "deleted: %s\n", printable(name))
		}
	}
	if err == nil && len(rep.Deleted) > 0 {
		return failed{statusFailed, fmt.Sprintf("%s that snapshots need were deleted by somebody; older versions are there: restore from the time before (as-of in the bucket's URL), and \"varve heal --from\" that URL brings them back",
			count(int64(len(rep.Deleted)), "object", "objects"))}
	}
	return err
}

// parseLock reads MODE:PERIOD or "none".
func parseLock(s string) (repo.Lock, error) {
	if s == "none" {
		return repo.Lock{}, nil
	}
	mode, rest, ok := strings.Cut(s, ":")
	if m := backend.Mode(mode); !ok || m != backend.Governance && m != backend.Compliance {
		return repo.Lock{}, fmt.Errorf("a lock is governance:PERIOD, compliance:PERIOD or none, as in governance:30d, not %q", s)
	}
	d, err := parsePeriod(rest)
	if err != nil {
		return repo.Lock{}, err
	}
	return repo.Lock{Mode: backend.Mode(mode), Period: d}, nil
}

var errPeriod = errors.New("a period is a number of days, as in 30d, or as in 720h")

// parsePeriod reads 30d, or what time.ParseDuration reads.
func parsePeriod(s string) (time.Duration, error) {
	const most = 100 * 366
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n <= 0 || n > most {
			return 0, fmt.Errorf("%w, not %q", errPeriod, s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%w, not %q", errPeriod, s)
	}
	return d, nil
}

// period prints whole days as such.
func period(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return count(int64(d/(24*time.Hour)), "day", "days")
	}
	return d.String()
}
