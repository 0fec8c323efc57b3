package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

// snapshotJSON is a snapshot wherever one is printed.
type snapshotJSON struct {
	ID          string            `json:"id"`
	Series      string            `json:"series"`
	Time        time.Time         `json:"time"`
	End         time.Time         `json:"end"`
	Host        string            `json:"host"`
	Tags        map[string]string `json:"tags"`
	Parent      string            `json:"parent"`
	Version     string            `json:"version"`
	Incomplete  bool              `json:"incomplete"`
	Files       int64             `json:"files"`
	Folders     int64             `json:"folders"`
	Others      int64             `json:"others"`
	Bytes       int64             `json:"bytes"`
	BytesRead   int64             `json:"bytes_read"`
	BytesNew    int64             `json:"bytes_new"`
	BytesStored int64             `json:"bytes_stored"`
	Unread      int64             `json:"unread"`
	Forgotten   *time.Time        `json:"forgotten"`
	Parts       []partJSON        `json:"parts,omitempty"`
}

// partJSON is when a source of a snapshot was read.
type partJSON struct {
	Name  string    `json:"name"`
	Begun time.Time `json:"begun"`
	Ended time.Time `json:"ended"`
}

func snapshotOf(s *repo.Snapshot) snapshotJSON {
	tags := s.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	doc := snapshotJSON{ID: s.ID, Series: s.Series, Time: s.Time.UTC(), End: s.End.UTC(), Host: s.Host, Tags: tags, Parent: s.Parent, Version: s.Version,
		Incomplete: s.Incomplete(), Files: s.Stats.Files, Folders: s.Stats.Folders, Others: s.Stats.Others, Bytes: s.Stats.Bytes,
		BytesRead: s.Stats.Read, BytesNew: s.Stats.New, BytesStored: s.Stats.Stored, Unread: s.Stats.Unread}
	if !s.Forgotten.IsZero() {
		at := s.Forgotten.UTC()
		doc.Forgotten = &at
	}
	return doc
}

func (a *app) snapshotsCmd() *cobra.Command {
	var tags []string
	var newest int
	var parts bool
	var forgotten bool
	cmd := &cobra.Command{
		Use:   "snapshots [SERIES]",
		Short: "List snapshots",
		Long: `List the snapshots of a series, or all, oldest first. The ids are cut to what
tells them apart; any command takes them so. With --forgotten, list those instead
that were forgotten and that "varve unforget" takes back, and until when it surely
does.

JSON: {snapshots: [SNAPSHOT]}, where SNAPSHOT is
  {id, series, time, end, host, tags: {KEY: VALUE}, parent, version, incomplete,
   files, folders, others, bytes, bytes_read, bytes_new, bytes_stored, unread, forgotten}.
Times are RFC 3339 in UTC. parent is the id of the snapshot before, or "".
incomplete: something could not be read whole; unread counts that. bytes are
those of the content, bytes_read those of it that were read, bytes_new those of
it that the repository did not have, and bytes_stored is what that took there.
forgotten is when it was forgotten, null if it was not. With --parts there is
also parts: [{name, begun, ended}], the sources in the order in which they were
read, of a snapshot that has several.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			f := repo.Filter{Newest: newest, Forgotten: forgotten}
			if len(args) > 0 {
				f.Series = args[0]
			}
			var err error
			if f.Tags, err = parseTags(tags); err != nil {
				return err
			}
			return a.snapshots(cmd.Context(), f, parts)
		},
	}
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "only those with this `KEY=VALUE` (repeatable)")
	cmd.Flags().IntVarP(&newest, "newest", "n", 0, "only the newest `N`")
	cmd.Flags().BoolVar(&parts, "parts", false, "also when each source of a snapshot was read (takes a key that reads names)")
	cmd.Flags().BoolVar(&forgotten, "forgotten", false, "those that were forgotten")
	return cmd
}

func parseTags(args []string) (map[string]string, error) {
	tags := map[string]string{}
	for _, arg := range args {
		k, v, ok := strings.Cut(arg, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("--tag %s: a tag is KEY=VALUE", arg)
		}
		tags[k] = v
	}
	return tags, nil
}

func (a *app) snapshots(ctx context.Context, f repo.Filter, parts bool) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	all := []snapshotJSON{}
	var broken error
	for s, err := range r.Snapshots(ctx, f) {
		if err != nil {
			broken = err
			break
		}
		doc := snapshotOf(s)
		if parts {
			list, err := r.Parts(ctx, s)
			if err != nil {
				return err
			}
			for _, p := range list {
				doc.Parts = append(doc.Parts, partJSON{p.Name, p.Begun.UTC(), p.Ended.UTC()})
			}
		}
		all = append(all, doc)
	}
	// Those that can be opened are shown even if others can't.
	if a.json {
		if err := a.writeJSON(map[string]any{"snapshots": all}); err != nil {
			return err
		}
		return broken
	}
	if len(all) > 0 {
		if err := a.snapshotTable(all); err != nil {
			return err
		}
	}
	return broken
}

// shortID is the part of a snapshot's id that people are shown: its time and four random digits.
func shortID(id string) string { return id[:min(24, len(id))] }

func (a *app) snapshotTable(all []snapshotJSON) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTIME\tSERIES\tHOST\tFILES\tSIZE\tSTORED\tTAGS")
	for _, s := range all {
		var notes []string
		for _, k := range slices.Sorted(maps.Keys(s.Tags)) {
			notes = append(notes, printable(k+"="+s.Tags[k]))
		}
		if s.Incomplete {
			notes = append(notes, "(incomplete)")
		}
		if s.Forgotten != nil {
			notes = append(notes, oblivion(*s.Forgotten, time.Now()))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", shortID(s.ID), local(s.Time), printable(s.Series), printable(s.Host), s.Files,
			size(s.Bytes), size(s.BytesStored), strings.Join(notes, " "))
		for _, p := range s.Parts {
			fmt.Fprintf(w, "\t%s\t%s in %s\n", local(p.Begun), printable(p.Name), duration(p.Ended.Sub(p.Begun)))
		}
	}
	return w.Flush()
}

// oblivion says until when what was forgotten can be taken back. Now is this machine's; the store's decides.
func oblivion(forgotten, now time.Time) string {
	until := forgotten.Add(repo.UndoWindow)
	if now.After(until) {
		return fmt.Sprintf("(forgotten %s, can be taken back until a prune lets it go)", local(forgotten))
	}
	return fmt.Sprintf("(forgotten %s, can be taken back until %s)", local(forgotten), local(until))
}
