package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/repo"
)

type copyJSON struct {
	Complete     bool         `json:"complete"`
	Copied       int          `json:"copied"`
	Repaired     int          `json:"repaired"`
	Present      int          `json:"present"`
	Bytes        int64        `json:"bytes"`
	BytesChecked int64        `json:"bytes_checked"`
	Seconds      float64      `json:"seconds"`
	Damaged      []damageJSON `json:"damaged"`
	MoreDamaged  int          `json:"more_damaged"`
}

type damageJSON struct {
	Side   string `json:"side"`
	Object string `json:"object"`
	Error  string `json:"error"`
}

const copyHelp = `JSON: {complete, copied, repaired, present, bytes, bytes_checked, seconds,
damaged: [{side, object, error}], more_damaged}. copied, repaired and present are
numbers of objects that the destination lacked, had damaged, and had; bytes are
those that were written, bytes_checked those that were read at the destination.
side is source or destination, where an object is damaged and stayed so; of each
side at most 1,000, and more_damaged is the number of others. complete: there is
none.`

func (a *app) replicateCmd() *cobra.Command {
	var to, from, lock string
	cmd := &cobra.Command{
		Use:   "replicate (--to URL | --from URL)",
		Short: "Copy what is new to a second store, or from it",
		Long: `Copy what the destination lacks of the repository to it. With --to, the
repository is the source. With --from, it is the destination: so a second
provider pulls, with credentials that can only read the first.

The destination is an earlier replica, or an empty folder or one that is not
there yet. No secret is needed; those of the source open the replica. Nothing is
deleted or overwritten, backups may run meanwhile, and what was interrupted goes
on when this is run again. Each object is verified on its way. Slots that were
removed at the source stay in the replica: remove them there as well.

The exit status is 1 if something is damaged: all else was copied then.

` + copyHelp,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (to == "") == (from == "") {
				return usageError(cmd, "give either --to or --from")
			}
			w := copyWork{copy: repo.Replicate, flag: "--to", other: to, create: true}
			if from != "" {
				w.flag, w.other, w.pull = "--from", from, true
			}
			l, err := parseLock(lock)
			if err != nil {
				return err
			}
			return a.copy(cmd.Context(), w, &repo.CopyOptions{Lock: l})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the destination: a path or `URL`")
	cmd.Flags().StringVar(&from, "from", "", "the source: a path or `URL`")
	cmd.Flags().StringVar(&lock, "lock", "none", "lock what is put, as in compliance:30d")
	return cmd
}

// copyWork is what replicate or heal is to do.
type copyWork struct {
	copy   func(ctx context.Context, dst, src backend.Backend, o *repo.CopyOptions) (*repo.CopyReport, error)
	flag   string // that names the other side
	other  string
	pull   bool // the other side is the source
	create bool // make the destination's folder
}

// copyStores opens both sides, the source first: a folder is made only for something to be put there, and undo removes it again.
func (a *app) copyStores(ctx context.Context, w copyWork) (dst, src backend.Backend, undo func(), err error) {
	url, err := a.url()
	if err != nil {
		return nil, nil, nil, err
	}
	undo = func() {}
	other := func(create bool) (backend.Backend, error) {
		b, err := a.openURL(ctx, w.other, create)
		if errors.Is(err, open.ErrScheme) {
			return nil, failed{statusFailed, fmt.Sprintf("%v: correct %s", err, w.flag)}
		} else if err != nil {
			return nil, at(stepReplica, w.other, err)
		}
		return b, nil
	}
	makes := func(url string) {
		if path, ok := open.Path(url); ok && w.create {
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				undo = func() { os.Remove(path) } // it stays if anything is in it
			}
		}
	}
	if w.pull {
		if src, err = other(false); err != nil {
			return nil, nil, nil, err
		}
		makes(url)
		dst, err = a.backend(ctx, w.create)
		return dst, src, undo, err
	}
	if src, err = a.backend(ctx, false); err != nil {
		return nil, nil, nil, err
	}
	makes(w.other)
	dst, err = other(w.create)
	return dst, src, undo, err
}

func (a *app) copy(ctx context.Context, w copyWork, o *repo.CopyOptions) error {
	dst, src, undo, err := a.copyStores(ctx, w)
	if err != nil {
		return err
	}
	from, to := a.repository, w.other
	if w.pull {
		from, to = to, from
	}
	p := a.progress()
	o.Progress = func(s repo.CopyProgress) {
		line := fmt.Sprintf("%s  copied %s, %s", clock(s.Elapsed), count(int64(s.Copied+s.Repaired), "object", "objects"), size(s.Bytes))
		if s.BytesChecked > 0 {
			line += fmt.Sprintf(", checked %s", size(s.BytesChecked))
		}
		p.show(line + fmt.Sprintf(", %s there", count(int64(s.Present), "object", "objects")))
	}
	begun := time.Now()
	rep, err := w.copy(ctx, dst, src, o)
	p.clear()
	source, destination := rep.Damaged()
	_, damaged := errors.AsType[*repo.DamageError](err)
	switch {
	case errors.Is(err, repo.ErrNoRepository):
		undo()
		return failed{statusFailed, fmt.Sprintf("%v: the source is %s, the destination %s: correct --repo, VARVE_REPO or %s; \"varve replicate\" fills an empty destination", err, from, to, w.flag)}
	case errors.Is(err, repo.ErrExists):
		return failed{statusFailed, fmt.Sprintf("%v: nothing was changed in %s; the destination is a replica of the source, %s, or empty", err, to, from)}
	case err != nil && !(damaged && source+destination > 0):
		return err
	}
	if werr := a.reportCopy(rep, time.Since(begun)); werr != nil {
		return werr
	}
	if err != nil {
		hint := "\"varve heal\" repairs the source from a replica that has them whole"
		if source == 0 {
			hint = "\"varve heal\" repairs the destination from a replica that has them whole"
		}
		return failed{statusFailed, fmt.Sprintf("%v: %s", err, hint)}
	}
	return nil
}

func (a *app) reportCopy(r *repo.CopyReport, took time.Duration) error {
	doc := copyJSON{Copied: r.Copied, Repaired: r.Repaired, Present: r.Present, Bytes: r.Bytes, BytesChecked: r.BytesChecked, Seconds: took.Seconds(),
		Damaged: []damageJSON{}, MoreDamaged: r.SourceMore + r.DestinationMore}
	for _, d := range r.Source {
		doc.Damaged = append(doc.Damaged, damageJSON{"source", d.Object, d.Err.Error()})
	}
	for _, d := range r.Destination {
		doc.Damaged = append(doc.Damaged, damageJSON{"destination", d.Object, d.Err.Error()})
	}
	doc.Complete = len(doc.Damaged) == 0
	if a.json {
		return a.writeJSON(doc)
	}
	for _, d := range doc.Damaged {
		fmt.Fprintf(a.out, "%s: damaged at the %s: %s\n", printable(d.Object), d.Side, printableLines(d.Error))
	}
	if doc.MoreDamaged > 0 {
		fmt.Fprintf(a.out, "%d more damaged objects\n", doc.MoreDamaged)
	}
	repaired, checked := "", ""
	if r.Repaired > 0 {
		repaired = fmt.Sprintf(", repaired %d", r.Repaired)
	}
	if r.BytesChecked > 0 {
		checked = fmt.Sprintf("; checked %s", size(r.BytesChecked))
	}
	_, err := fmt.Fprintf(a.out, "copied %s%s, %s; %d there already%s, in %s\n", count(int64(r.Copied), "object", "objects"), repaired, size(r.Bytes), r.Present, checked,
		duration(took))
	return err
}
