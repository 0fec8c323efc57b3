package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type pruneJSON struct {
	Finished        []int         `json:"finished"`
	Freed           int           `json:"freed"`
	BytesFreed      int64         `json:"bytes_freed"`
	Snapshots       int           `json:"snapshots"`
	Retained        int           `json:"retained"`
	Spared          int           `json:"spared"`
	Voided          []string      `json:"voided"`
	TakenOut        []string      `json:"taken_out"`
	Run             int           `json:"run"`
	Due             *time.Time    `json:"due"`
	Waiting         []waitingJSON `json:"waiting"`
	Condemned       int           `json:"condemned"`
	BytesCondemned  int64         `json:"bytes_condemned"`
	Repacked        int           `json:"repacked"`
	BytesRepacked   int64         `json:"bytes_repacked"`
	BytesCopied     int64         `json:"bytes_copied"`
	BytesStored     int64         `json:"bytes_stored"`
	BytesNeeded     int64         `json:"bytes_needed"`
	SegmentsWritten int           `json:"segments_written"`
	SegmentsRemoved int           `json:"segments_removed"`
	Damaged         []brokenJSON  `json:"damaged"`
	DryRun          bool          `json:"dry_run"`
}

type waitingJSON struct {
	Session string    `json:"session"`
	Since   time.Time `json:"since"`
	Last    time.Time `json:"last"`
}

func pruneOf(r *repo.PruneReport, dry bool) pruneJSON {
	doc := pruneJSON{Finished: append([]int{}, r.Finished...), Freed: r.Freed, BytesFreed: r.FreedBytes, Snapshots: r.Snapshots, Retained: r.Retained, Spared: r.Spared, Voided: append([]string{}, r.Voided...),
		TakenOut: append([]string{}, r.TakenOut...),
		Run:      r.Run, Waiting: []waitingJSON{}, Condemned: r.Condemned, BytesCondemned: r.CondemnedBytes, Repacked: r.Repacked, BytesRepacked: r.RepackedBytes, BytesCopied: r.CopiedBytes,
		BytesStored: r.Stored, BytesNeeded: r.Live, SegmentsWritten: r.SegmentsWritten, SegmentsRemoved: r.SegmentsGone, Damaged: []brokenJSON{}, DryRun: dry}
	if !r.Due.IsZero() {
		due := r.Due.UTC()
		doc.Due = &due
	}
	for _, w := range r.Waiting {
		doc.Waiting = append(doc.Waiting, waitingJSON{w.Session, w.Since.UTC(), w.Last.UTC()})
	}
	for _, d := range r.Rotten {
		doc.Damaged = append(doc.Damaged, brokenJSON{d.Object, d.Err.Error()})
	}
	return doc
}

const pruneHelp = `JSON: {finished: [N], freed, bytes_freed, snapshots, retained, spared, voided: [ID],
taken_out: [NAME], run, due, waiting: [{session, since, last}], condemned, bytes_condemned, repacked,
bytes_repacked, bytes_copied, bytes_stored, bytes_needed, segments_written,
segments_removed, damaged: [{object, error}], dry_run}. freed are packs that were
deleted, snapshots are forgotten ones that are gone for good, retained are objects
that are locked until later, voided are sessions that were closed; spared are packs
that a followed source freed and that a snapshot here needs; taken_out are objects
of --condemn that were deleted, or would be. finished are the
collections that came to their end, run is the one that is open now, 0 if none is:
it can come to its end at due, once the sessions in waiting are over, which showed
life last at that time. condemned are packs that it will free (in a dry run, those
that a new one would); repacked of them were copied first, or would be. bytes_stored is what all packs took, bytes_needed
what of that snapshots need. damaged are packs that could not be copied.`

func (a *app) pruneCmd() *cobra.Command {
	var o repo.PruneOptions
	var most, follow, after string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free what no snapshot needs",
		Long: `Free what no snapshot needs, while backups may run. It takes two runs that lie an
hour apart or more: one notes what can go, the next one deletes of that what is
still not needed, and notes again. So run it every night. It waits for nobody: what
cannot be deleted yet, because a backup runs that may have missed the note, is left
to the next run. What was interrupted goes on when this is run again. It takes a
maintainer's or owner's key; an owner's frees a little more, for it can take apart
what is stored together.

What was forgotten is freed nine days later at the earliest.

--exclusive frees at once. Backups that run are closed and fail. In a store without
put-if-absent this is the only way, and only --void-open closes backups there.
--condemn NAME takes out an object under index/, snapshots/, gc/ or forgotten/ that
is damaged for good and blocks this, or a snapshot that cannot be restored whole; what
only it names is lost, so try "varve heal" before. What is in order stays, and then
nothing is done.

With --follow, the repository is a replica, and the URL is what "varve replicate"
fills it from. What the source freed 30 days ago (--follow-after) is freed then, by
the records that its prunes signed, and markers of old copies are removed. Nothing
else is: what merely vanished at the source stays, and so does all that a snapshot
needs that the replica lists. No other prune is for a replica.

The exit status is 1 if something is damaged.

` + pruneHelp,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.VoidOpen && !o.Exclusive {
				return usageError(cmd, "--void-open goes with --exclusive")
			}
			given := cmd.Flags().Changed
			if given("max-repack") {
				if o.MaxRepack, err = parseRepack(most); err != nil {
					return err
				}
			}
			if given("follow") && follow == "" {
				// As of a variable that is not set. Without --follow this would be a prune of the replica's own.
				return usageError(cmd, "--follow names no source")
			}
			if given("follow-after") && follow == "" {
				return usageError(cmd, "--follow-after goes with --follow")
			}
			if follow != "" && (o.Exclusive || len(o.Condemn) > 0 || given("max-repack")) {
				return usageError(cmd, "--follow goes with --follow-after and --dry-run alone")
			}
			if given("follow-after") {
				if o.FollowAfter, err = parsePeriod(after); err != nil {
					return fmt.Errorf("--follow-after: %w", err)
				}
			}
			if follow != "" {
				if o.Follow, err = a.openURL(cmd.Context(), follow, false); err != nil {
					return failed{statusFailed, fmt.Sprintf("the source can't be opened: %v: correct --follow", err)}
				}
			}
			return a.prune(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "only tell what a run that begins now would note")
	f.StringVar(&most, "max-repack", "", "copy at most this `SIZE` of packs of which a part is needed, such as 2GiB; 0: none (default: no limit)")
	f.BoolVar(&o.Exclusive, "exclusive", false, "free at once, and close backups that run")
	f.BoolVar(&o.VoidOpen, "void-open", false, "with --exclusive: close them in a store without put-if-absent, too")
	f.StringVar(&follow, "follow", "", "this is a replica: free what its source, a path or `URL`, freed long ago")
	f.StringVar(&after, "follow-after", "", "how long ago: a `PERIOD` such as 30d (default 30d)")
	f.StringArrayVar(&o.Condemn, "condemn", nil, "take out the object of this `NAME` (repeatable)")
	return cmd
}

func parseRepack(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	// A comma would be passed over: 1,5GiB as 15.
	if err != nil || n > 1<<62 || strings.Contains(s, ",") {
		return 0, fmt.Errorf("--max-repack %s: a size is a number and a unit, as in 2GiB or 1.5GiB", s)
	}
	if n == 0 {
		return -1, nil
	}
	return int64(n), nil
}

func (a *app) prune(ctx context.Context, o *repo.PruneOptions) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	rep, err := a.runPrune(ctx, r, o)
	if werr := a.reportPrune(rep, o.DryRun, err); werr != nil {
		return werr
	}
	return err
}

func (a *app) runPrune(ctx context.Context, r *repo.Repo, o *repo.PruneOptions) (*repo.PruneReport, error) {
	p := a.progress()
	o.Progress = func(s repo.PruneProgress) {
		line := fmt.Sprintf("%s  %s", clock(s.Elapsed), s.Doing)
		switch {
		case s.Total > 0 && s.Doing == "copying":
			line += " " + share(s.Done, s.Total, s.Elapsed)
		case s.Total > 0:
			line += fmt.Sprintf(" %d of %s", s.Done, count(s.Total, "object", "objects"))
		}
		p.show(line)
	}
	rep, err := r.Prune(ctx, o)
	p.clear()
	if err != nil {
		return rep, at(stepPrune, "", err)
	}
	if len(rep.Rotten) > 0 {
		return rep, failed{statusFailed, fmt.Sprintf("%s damaged, which could not be copied and so stay: \"varve check --read-data\" tells what that hurts, \"varve heal\" repairs them from a replica",
			count(int64(len(rep.Rotten)), "pack is", "packs are"))}
	}
	return rep, nil
}

// reportPrune says what was done, also by a run that failed in the end.
func (a *app) reportPrune(r *repo.PruneReport, dry bool, failure error) error {
	doc := pruneOf(r, dry)
	if a.json {
		if failure != nil && doc.empty() {
			return nil // nothing was begun: the error is all that there is to tell
		}
		return a.writeJSON(doc)
	}
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, d := range doc.Damaged {
		say("%s: damaged: %s", printable(d.Object), printableLines(d.Error))
	}
	for _, name := range doc.TakenOut {
		if dry {
			say("would take out %s", printable(name))
		} else {
			say("took out %s", printable(name))
		}
	}
	if doc.Freed > 0 {
		say("freed %s, %s", count(int64(doc.Freed), "pack", "packs"), size(doc.BytesFreed))
	}
	if doc.Snapshots > 0 {
		say("removed %s for good", count(int64(doc.Snapshots), "forgotten snapshot", "forgotten snapshots"))
	}
	if doc.Spared > 0 {
		say("%s that the source freed stay: snapshots here need them; \"varve replicate\" may bring what took their place", count(int64(doc.Spared), "pack", "packs"))
	}
	if doc.Retained > 0 {
		say("%s locked in the store: a later run deletes them", count(int64(doc.Retained), "object is", "objects are"))
	}
	for _, id := range doc.Voided {
		say("closed the session %s: its backup can't end any more", printable(id))
	}
	would := ""
	if dry {
		would = "would be "
	}
	if doc.Repacked > 0 && dry {
		say("%s of %s would be copied, for a part of them is needed", count(int64(doc.Repacked), "pack", "packs"), size(doc.BytesRepacked))
	} else if doc.Repacked > 0 && failure != nil {
		say("copied %s of what is needed in %s of %s", size(doc.BytesCopied), count(int64(doc.Repacked), "pack", "packs"), size(doc.BytesRepacked))
	} else if doc.Repacked > 0 {
		say("copied what is needed in %s of %s: %s", count(int64(doc.Repacked), "pack", "packs"), size(doc.BytesRepacked), size(doc.BytesCopied))
	}
	if doc.Condemned > 0 && doc.BytesCondemned > 0 {
		say("%s of %s %snoted to be freed", count(int64(doc.Condemned), "pack", "packs"), size(doc.BytesCondemned), would)
	} else if doc.Condemned > 0 {
		say("%s %snoted to be freed", count(int64(doc.Condemned), "pack", "packs"), would)
	}
	for _, w := range doc.Waiting {
		say("waits for the session %s, open since %s, last seen %s: if it shows no more life, it is closed %s", printable(w.Session), local(w.Since), local(w.Last), local(w.Last.Add(48*time.Hour)))
	}
	switch {
	case len(doc.Waiting) > 0:
		say("run this again when they are over: tomorrow, say")
	case dry && doc.Run > 0 && doc.Due != nil:
		say("what a run noted before this one can be freed after %s", local(*doc.Due))
	case doc.Run > 0 && doc.Due != nil:
		say("run this again after %s to free them", local(*doc.Due))
	}
	if doc.BytesStored > 0 {
		say("%s stored in packs, of which snapshots need %s", size(doc.BytesStored), size(doc.BytesNeeded))
	}
	if b.Len() == 0 && failure == nil {
		say("nothing is to be freed")
	}
	_, err := a.out.Write([]byte(b.String()))
	return err
}

// empty tells whether nothing was done.
func (p *pruneJSON) empty() bool {
	return len(p.Finished) == 0 && p.Freed == 0 && p.Snapshots == 0 && len(p.Voided) == 0 && len(p.TakenOut) == 0 && p.Run == 0 && p.BytesCopied == 0 && p.SegmentsRemoved == 0 && len(p.Damaged) == 0
}

// pruneHint says what to do about what stopped a prune.
func pruneHint(err error) string {
	_, damaged := errors.AsType[*repo.DamageError](err)
	switch {
	case errors.Is(err, repo.ErrRole):
		return "prune with a maintainer's or owner's passphrase or key; \"varve key list\" shows the roles that there are"
	case damaged:
		return "\"varve check\" tells what is wrong, and \"varve heal\" brings it back from a replica; if it is lost for good, \"varve prune --condemn NAME\" takes an object under index/, snapshots/, gc/ or forgotten/ out"
	case errors.Is(err, repo.ErrBusy):
		return "run it when no backup runs, or with --void-open, which closes them"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk is full, and what is needed is written before anything is deleted: free some space and run this again; --max-repack 0 takes the least"
	case errors.Is(err, repo.ErrNoRepository):
		return "--follow names the store that the replica is filled from"
	case errors.Is(err, errors.ErrUnsupported):
		return "\"varve prune --exclusive\" does it while no backup runs"
	case errors.Is(err, fs.ErrInvalid):
		return "correct --condemn: \"varve check\" names what is damaged, and \"varve forget\" is for snapshots that are in order"
	}
	return ""
}
