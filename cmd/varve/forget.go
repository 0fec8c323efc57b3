package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	_ "time/tzdata" // for --time-zone on a machine without

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type forgetJSON struct {
	Forgotten []string      `json:"forgotten"`
	DryRun    bool          `json:"dry_run"`
	Plan      []plannedJSON `json:"plan"`
	Damaged   []brokenJSON  `json:"damaged"`
	Prune     *pruneJSON    `json:"prune"`
}

type plannedJSON struct {
	ID     string    `json:"id"`
	Series string    `json:"series"`
	Time   time.Time `json:"time"`
	Stored time.Time `json:"stored"`
	Why    []string  `json:"why"`
}

// brokenJSON is an object that is damaged.
type brokenJSON struct {
	Object string `json:"object"`
	Error  string `json:"error"`
}

// keepFlags are the rules of forget as they are written.
type keepFlags struct {
	keep         repo.Keep
	within, zone string
}

func (a *app) forgetCmd() *cobra.Command {
	var k keepFlags
	var dry, prune bool
	cmd := &cobra.Command{
		Use:   "forget ([SERIES] --keep-... | SNAP...)",
		Short: "Forget snapshots by rules, or by name",
		Long: `Forget the snapshots of a series, or of each series, that no rule keeps; or those
that are named. What is forgotten is not listed any more. It can be taken back by
"varve unforget" for a week; two days after that the next "varve prune" lets it go. It
takes a maintainer's or owner's key.

--keep-daily 7 keeps the newest snapshot of each of the newest 7 days on which there
is one; hours, ISO weeks, months and years likewise. Days are those of --time-zone.
--keep-last 3 keeps the newest 3. --keep-within 30d keeps what is at most so much
older than the newest of its series. --keep-tag only adds to the others.

Always kept are: the newest snapshot of a series, its newest complete one, and one
whose time differs from the store's by more than two days (one of two clocks was
wrong, or somebody lied); this one makes no other go. A snapshot that could not
read all takes the place of no complete one. A series that several hosts fill in
turn is warned about: each should have a series of its own.

JSON: {forgotten: [ID], dry_run, plan: [{id, series, time, stored, why: [TEXT]}],
damaged: [{object, error}], prune}. plan has each snapshot of the series, stored is
when the store got it, why is all that keeps it: it goes if that is empty. damaged
are manifests that cannot be opened; they stay. prune is what --prune did, as
"varve prune" prints it, else null.`,
		Args:              arguments(0, -1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			rules := false
			for _, name := range []string{"last", "hourly", "daily", "weekly", "monthly", "yearly", "within", "tag"} {
				rules = rules || cmd.Flags().Changed("keep-"+name)
			}
			switch {
			case !rules && len(args) == 0:
				return usageError(cmd, "say what to keep, as in --keep-daily 7, or which snapshots to forget")
			case !rules && cmd.Flags().Changed("time-zone"):
				return usageError(cmd, "--time-zone is for the rules of --keep-daily and the like")
			case rules && (len(args) > 1 || len(args) == 1 && strings.ContainsRune(args[0], '@')):
				return usageError(cmd, "rules are for one series, or for all: name snapshots without rules")
			case rules && len(args) == 1 && args[0] == "":
				// As of a variable that is not set. It does not mean all series.
				return usageError(cmd, "the series has no name: leave it out for all series")
			case !rules:
				return a.forgetNamed(cmd.Context(), args, dry, prune)
			}
			if err := k.parse(); err != nil {
				return err
			}
			series := ""
			if len(args) == 1 {
				series = args[0]
			}
			return a.forgetByRules(cmd.Context(), series, k.keep, dry, prune)
		},
	}
	f := cmd.Flags()
	for name, n := range map[string]*int{"last": &k.keep.Last, "hourly": &k.keep.Hourly, "daily": &k.keep.Daily, "weekly": &k.keep.Weekly, "monthly": &k.keep.Monthly, "yearly": &k.keep.Yearly} {
		what := map[string]string{"last": "the newest `N`", "hourly": "the newest of each of `N` hours", "daily": "the newest of each of `N` days", "weekly": "the newest of each of `N` ISO weeks",
			"monthly": "the newest of each of `N` months", "yearly": "the newest of each of `N` years"}[name]
		f.IntVar(n, "keep-"+name, 0, "keep "+what)
	}
	f.StringVar(&k.within, "keep-within", "", "keep what is at most this `PERIOD` older than the newest: 30d, 12h")
	f.StringArrayVar(&k.keep.Tags, "keep-tag", nil, "keep those with this `KEY=VALUE`, or KEY for any value (repeatable)")
	f.StringVar(&k.zone, "time-zone", "UTC", "where days begin: a `ZONE` such as Europe/Berlin, or Local")
	f.BoolVarP(&dry, "dry-run", "n", false, "only tell")
	f.BoolVar(&prune, "prune", false, "then do what \"varve prune\" does")
	return cmd
}

func (k *keepFlags) parse() (err error) {
	if k.within != "" {
		if k.keep.Within, err = parsePeriod(k.within); err != nil {
			return fmt.Errorf("--keep-within: %w", err)
		}
	}
	if k.keep.Location, err = time.LoadLocation(k.zone); err != nil {
		return fmt.Errorf("--time-zone: %w: give a name such as Europe/Berlin", err)
	}
	return nil
}

func (a *app) forgetByRules(ctx context.Context, series string, keep repo.Keep, dry, prune bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	plan, err := r.Plan(ctx, series, keep)
	if errors.Is(err, fs.ErrInvalid) {
		return failed{statusFailed, fmt.Sprintf("%v: give --keep-last, --keep-daily and the like as numbers above 0, or --keep-within", err)}
	} else if err != nil {
		return err
	}
	for _, w := range plan.Warnings {
		a.warn(w)
	}
	for _, d := range plan.Damaged {
		a.warn(fmt.Sprintf("%v: it stays, and \"varve check\" tells more", d))
	}
	if series != "" && len(plan.Snapshots)+len(plan.Damaged) == 0 {
		return failed{statusFailed, fmt.Sprintf("there is no snapshot of the series %q: \"varve snapshots\" lists those that there are", series)}
	}
	doc := forgetJSON{Forgotten: append([]string{}, plan.Forget()...), DryRun: dry, Plan: []plannedJSON{}, Damaged: []brokenJSON{}}
	for i := range plan.Snapshots {
		s := &plan.Snapshots[i]
		doc.Plan = append(doc.Plan, plannedJSON{s.ID, s.Series, s.Time.UTC(), s.Stored.UTC(), append([]string{}, s.Why...)})
	}
	for _, d := range plan.Damaged {
		doc.Damaged = append(doc.Damaged, brokenJSON{d.Object, d.Err.Error()})
	}
	// The table comes first, so that what a failure left half done can be told from it.
	if !a.json && len(doc.Plan) > 0 {
		if err := a.planTable(doc.Plan, keep.Location); err != nil {
			return err
		}
	}
	return a.forget(ctx, r, &doc, prune)
}

func (a *app) planTable(plan []plannedJSON, in *time.Location) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "ID\tTIME (%s)\tSERIES\tSTAYS FOR\n", in)
	for _, s := range plan {
		why := strings.Join(s.Why, ", ")
		if why == "" {
			why = "- goes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", shortID(s.ID), s.Time.In(in).Format(time.DateTime), printable(s.Series), printable(why))
	}
	return w.Flush()
}

func (a *app) forgetNamed(ctx context.Context, specs []string, dry, prune bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	doc := forgetJSON{Forgotten: []string{}, DryRun: dry, Plan: []plannedJSON{}, Damaged: []brokenJSON{}}
	named, left := map[string]bool{}, map[string]int{}
	for _, spec := range specs {
		s, err := lookup(ctx, r, spec)
		if err != nil {
			return insteadOf(ctx, r, spec, err)
		}
		if !named[s.ID] {
			doc.Forgotten = append(doc.Forgotten, s.ID)
			left[s.Series] = 0
		}
		named[s.ID] = true
	}
	for s, err := range r.Snapshots(ctx, repo.Filter{}) {
		if err != nil {
			break // what is damaged does not stop what is asked for
		}
		if _, ok := left[s.Series]; ok && !named[s.ID] {
			left[s.Series]++
		}
	}
	for _, series := range slices.Sorted(maps.Keys(left)) {
		if left[series] == 0 {
			a.warn(fmt.Sprintf("that is all that there is of the series %q", series))
		}
	}
	return a.forget(ctx, r, &doc, prune)
}

// insteadOf says what it is that is no snapshot, if it is something: one that was forgotten, or a series. Else it returns err.
func insteadOf(ctx context.Context, r *repo.Repo, spec string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for s, serr := range r.Snapshots(ctx, repo.Filter{Forgotten: true}) {
		if serr == nil && strings.HasPrefix(s.ID, spec) {
			return failed{statusFailed, fmt.Sprintf("%s was forgotten already: \"varve snapshots --forgotten\" tells until when it can be taken back", s.ID)}
		}
	}
	for s, serr := range r.Snapshots(ctx, repo.Filter{}) {
		if serr == nil && s.Series == spec {
			return failed{statusFailed, fmt.Sprintf("there is no snapshot %q: of a series, say what to keep, as in --keep-daily 7, or which snapshot, as in %s@latest", spec, spec)}
		}
	}
	return err
}

// forget does what doc says.
func (a *app) forget(ctx context.Context, r *repo.Repo, doc *forgetJSON, prune bool) error {
	n := count(int64(len(doc.Forgotten)), "snapshot", "snapshots")
	said := n + " would be forgotten\n"
	if !doc.DryRun {
		begun := time.Now()
		if err := r.Forget(ctx, doc.Forgotten...); err != nil {
			return err
		}
		said = n + " forgotten"
		if len(doc.Forgotten) > 0 {
			them := "them"
			if len(doc.Forgotten) == 1 {
				them = "it"
			}
			said += fmt.Sprintf("; \"varve unforget\" takes %s back, until %s", them, local(begun.Add(repo.UndoWindow)))
		}
		said += "\n"
	}
	if len(doc.Plan) > 0 {
		said = fmt.Sprintf("%s, %s", count(int64(len(doc.Plan)-len(doc.Forgotten)), "snapshot stays", "snapshots stay"), said)
	}
	if !a.json {
		if _, err := fmt.Fprint(a.out, said); err != nil {
			return err
		}
	}
	if !prune {
		if a.json {
			return a.writeJSON(doc)
		}
		return nil
	}
	rep, err := a.runPrune(ctx, r, &repo.PruneOptions{DryRun: doc.DryRun})
	if a.json {
		p := pruneOf(rep, doc.DryRun)
		doc.Prune = &p
		if werr := a.writeJSON(doc); werr != nil {
			return werr
		}
		return err
	}
	if werr := a.reportPrune(rep, doc.DryRun, err); werr != nil {
		return werr
	}
	return err
}

func (a *app) unforgetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "unforget ID...",
		Short: "Take back snapshots that were forgotten",
		Long: `Take back snapshots that were forgotten less than a week ago, or longer if no prune
has let them go. "varve snapshots --forgotten" lists them; the start of an id is
enough. It takes a maintainer's or owner's key.

JSON: {unforgotten: [ID]}.`,
		Args:              arguments(1, -1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.unforget(cmd.Context(), args) },
	}
}

type unforgetJSON struct {
	Unforgotten []string `json:"unforgotten"`
}

func (a *app) unforget(ctx context.Context, specs []string) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	var all []string
	for s, err := range r.Snapshots(ctx, repo.Filter{Forgotten: true}) {
		if err != nil {
			a.warn(err.Error())
			break
		}
		all = append(all, s.ID)
	}
	doc := unforgetJSON{Unforgotten: []string{}}
	for _, spec := range specs {
		var found []string
		for _, id := range all {
			if spec != "" && strings.HasPrefix(id, spec) {
				found = append(found, id)
			}
		}
		switch len(found) {
		case 0:
			if s, err := r.Lookup(ctx, spec); err == nil {
				return failed{statusFailed, fmt.Sprintf("%s was not forgotten", s.ID)}
			}
			return failed{statusFailed, fmt.Sprintf("no forgotten snapshot has an id that begins with %q: \"varve snapshots --forgotten\" lists those that can be taken back, and another copy may still have one that a prune has let go", spec)}
		case 1:
			doc.Unforgotten = append(doc.Unforgotten, found[0])
		default:
			return failed{statusFailed, fmt.Sprintf("%d forgotten snapshots have ids that begin with %q, give more of it", len(found), spec)}
		}
	}
	if err := r.Unforget(ctx, doc.Unforgotten...); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(doc)
	}
	for _, id := range doc.Unforgotten {
		fmt.Fprintf(a.out, "taken back: %s\n", id)
	}
	return nil
}
