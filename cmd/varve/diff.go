package main

import (
	"bufio"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type changeJSON struct {
	Path   string     `json:"path"`
	Change string     `json:"change"`
	Before *entryJSON `json:"before,omitempty"`
	After  *entryJSON `json:"after,omitempty"`
}

func (a *app) diffCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "diff SNAP SNAP",
		Short: "Show what changed from one snapshot to another",
		Long: `Show what changed from the first snapshot to the second, one path a line:
  +  added, with all that is below it
  -  removed, with all that is below it
  M  its content is another
  U  its mode, times, owner or other metadata are others
The exit status is 0 whether or not something changed.

JSON: {changes: [{path, change, before: ENTRY, after: ENTRY}]}. change is added,
removed, content or metadata; what was added has no before, what was removed no
after. ENTRY is described at "varve ls", but has no target.`,
		Args:              arguments(2, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.diff(cmd.Context(), args[0], args[1]) },
	}
}

func (a *app) diff(ctx context.Context, older, newer string) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	x, err := lookup(ctx, r, older)
	if err != nil {
		return err
	}
	y, err := lookup(ctx, r, newer)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(a.out)
	l := &list{w: w, name: "changes"}
	for c, cerr := range r.Diff(ctx, x, y) {
		if err = cerr; err != nil {
			break
		}
		if err = a.showChange(w, l, changeOf(c)); err != nil {
			break
		}
	}
	if a.json && a.out.err == nil {
		if eerr := l.end(); err == nil {
			err = eerr
		}
	}
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}

func changeOf(c repo.Change) *changeJSON {
	j := &changeJSON{Path: c.Path}
	if c.Before != nil {
		j.Before = entryOf(c.Path, c.Before, "")
	}
	if c.After != nil {
		j.After = entryOf(c.Path, c.After, "")
	}
	switch {
	case c.Before == nil:
		j.Change = "added"
	case c.After == nil:
		j.Change = "removed"
	case c.Content:
		j.Change = "content"
	default:
		j.Change = "metadata"
	}
	return j
}

func (a *app) showChange(w *bufio.Writer, l *list, c *changeJSON) error {
	if a.json {
		return l.add(c)
	}
	e := c.After
	if e == nil {
		e = c.Before
	}
	letter := map[string]string{"added": "+", "removed": "-", "content": "M", "metadata": "U"}[c.Change]
	_, err := fmt.Fprintf(w, "%s  %s\n", letter, shown(e.Path, e.Type))
	return err
}
