package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type checkJSON struct {
	Sound     bool          `json:"sound"`
	Snapshots int           `json:"snapshots"`
	Segments  int           `json:"segments"`
	Packs     int           `json:"packs"`
	Blobs     int           `json:"blobs"`
	PacksRead int           `json:"packs_read"`
	BytesRead int64         `json:"bytes_read"`
	Seconds   float64       `json:"seconds"`
	Findings  []findingJSON `json:"findings"`
	Lock      *lockedJSON   `json:"lock"`
}

type lockedJSON struct {
	Objects  int        `json:"objects"`
	Unlocked int        `json:"unlocked"`
	Until    *time.Time `json:"until"`
	First    string     `json:"first"`
}

type findingJSON struct {
	Object    string   `json:"object"`
	Error     string   `json:"error"`
	Harmless  bool     `json:"harmless"`
	Elsewhere bool     `json:"elsewhere"`
	Snapshots []string `json:"snapshots"`
	Paths     []string `json:"paths"`
	MorePaths int      `json:"more_paths"`
}

func (a *app) checkCmd() *cobra.Command {
	var readData string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check that all snapshots can be restored",
		Long: `Check that everything that the snapshots need is there and fits together. With
--read-data, read all stored data as well; with --read-data=n/N, the nth of N
parts of it: seven nights of 1/7 to 7/7 read everything once a week.

Each finding names the object that is wrong, the snapshots that it hurts and the
paths in them that cannot be restored. The exit status is 1 if something is
hurt.

JSON: {sound, snapshots, segments, packs, blobs, packs_read, bytes_read,
seconds, findings: [{object, error, harmless, elsewhere, snapshots, paths,
more_paths}], lock}.
snapshots of a finding are ids; its paths are "ID:PATH", at most 1,000, and
more_paths is the number of others. A harmless one, such as a second copy that
is damaged, hurts nothing. elsewhere: the store has an older version that is
whole. lock is {objects, unlocked, until, first}: how many
objects the newest snapshots need, how many of these can be deleted now, and when
the first of them can be (null: now); null if the repository locks nothing.`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := parseReadData(readData)
			if err != nil {
				return err
			}
			return a.check(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&readData, "read-data", "", "read all data, or part `n/N` of it")
	cmd.Flags().Lookup("read-data").NoOptDefVal = "all"
	return cmd
}

// parseReadData reads "", "all" or "n/N".
func parseReadData(s string) (*repo.CheckOptions, error) {
	switch s {
	case "":
		return &repo.CheckOptions{}, nil
	case "all":
		return &repo.CheckOptions{ReadData: true}, nil
	}
	n, of, _ := strings.Cut(s, "/")
	part, err := strconv.Atoi(n)
	parts, perr := strconv.Atoi(of)
	if err != nil || perr != nil || part < 1 || part > parts {
		return nil, fmt.Errorf("--read-data=%s: it is n/N, such as 1/7, with n from 1 to N", s)
	}
	return &repo.CheckOptions{ReadData: true, Part: part, Parts: parts}, nil
}

func (a *app) check(ctx context.Context, o *repo.CheckOptions) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	begun := time.Now()
	p := a.progress()
	o.Progress = func(s repo.CheckProgress) {
		p.show(fmt.Sprintf("%s  %d of %d packs, %s", clock(time.Since(begun)), s.Packs, s.TotalPacks, size(s.Bytes)))
	}
	report, err := r.Check(ctx, o)
	p.clear()
	if err != nil {
		return err
	}
	if err := a.reportCheck(report, o.ReadData, time.Since(begun)); err != nil {
		return err
	}
	if !report.Sound() {
		return failed{statusFailed, damageSentence(report.Findings)}
	}
	return nil
}

// damageSentence says what findings that are not all harmless mean.
func damageSentence(findings []repo.Finding) string {
	for _, f := range findings {
		if !f.Harmless && (!f.Elsewhere || len(f.Snapshots)+len(f.Paths) > 0) {
			return "the repository is damaged: what is listed cannot be restored from it, all else can"
		}
	}
	return "somebody overwrote objects, and all can still be restored, from their older versions: \"varve heal --replace --from\" the bucket as of the time before (as-of in its URL) puts those back on top"
}

func (a *app) reportCheck(r *repo.CheckReport, data bool, took time.Duration) error {
	doc := checkJSON{Sound: r.Sound(), Snapshots: r.Snapshots, Segments: r.Segments, Packs: r.Packs, Blobs: r.Blobs, PacksRead: r.PacksRead, BytesRead: r.BytesRead,
		Seconds: took.Seconds(), Findings: []findingJSON{}}
	for _, f := range r.Findings {
		doc.Findings = append(doc.Findings, findingJSON{f.Object, f.Err.Error(), f.Harmless, f.Elsewhere, append([]string{}, f.Snapshots...), append([]string{}, f.Paths...), f.More})
	}
	if l := r.Lock; l != nil {
		doc.Lock = &lockedJSON{Objects: l.Objects, Unlocked: l.Unlocked, First: l.First}
		if !l.Until.IsZero() {
			until := l.Until.UTC()
			doc.Lock.Until = &until
		}
	}
	if a.json {
		return a.writeJSON(doc)
	}
	for _, f := range doc.Findings {
		harmless := ""
		if f.Harmless {
			harmless = " (harmless)"
		}
		fmt.Fprintf(a.out, "%s: %s%s\n", printable(f.Object), printableLines(f.Error), harmless)
		for _, s := range f.Snapshots {
			fmt.Fprintf(a.out, "  hurts snapshot %s\n", printable(s))
		}
		for _, p := range f.Paths {
			fmt.Fprintf(a.out, "  hurts %s\n", printable(p))
		}
		if f.MorePaths > 0 {
			fmt.Fprintf(a.out, "  hurts %d more paths\n", f.MorePaths)
		}
	}
	if l := doc.Lock; l != nil && l.Unlocked > 0 {
		fmt.Fprintf(a.out, "%d of the %d objects that the newest snapshots need are not locked, %s is one: run \"varve lock extend\"\n", l.Unlocked, l.Objects, printable(l.First))
	} else if l != nil && l.Until != nil {
		fmt.Fprintf(a.out, "all that the newest snapshots need is locked until %s at least\n", l.Until.Format(time.RFC3339))
	}
	verdict := "sound"
	if !doc.Sound {
		verdict = "NOT sound"
	}
	read := ""
	if data {
		read = fmt.Sprintf("; read %s, %s", count(int64(r.PacksRead), "pack", "packs"), size(r.BytesRead))
	}
	_, err := fmt.Fprintf(a.out, "%s: %s, %s, %s%s, in %s\n", verdict, count(int64(r.Snapshots), "snapshot", "snapshots"), count(int64(r.Packs), "pack", "packs"),
		count(int64(r.Blobs), "blob", "blobs"), read, duration(took))
	return err
}
