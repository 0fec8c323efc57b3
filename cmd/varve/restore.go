package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type restoreJSON struct {
	Snapshot     string       `json:"snapshot"`
	Files        int64        `json:"files"`
	Folders      int64        `json:"folders"`
	Others       int64        `json:"others"`
	Kept         int64        `json:"kept"`
	Deleted      int64        `json:"deleted"`
	Bytes        int64        `json:"bytes"`
	BytesFetched int64        `json:"bytes_fetched"`
	Seconds      float64      `json:"seconds"`
	Failed       []unreadJSON `json:"failed"`
	MoreFailed   int          `json:"more_failed"`
}

type restoreFlags struct {
	overwrite       string
	verify, noOwner bool
	delete          bool
}

var overwrites = map[string]repo.Overwrite{"never": repo.OverwriteNever, "if-different": repo.OverwriteIfDifferent, "always": repo.OverwriteAlways}

func (a *app) restoreCmd() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore SNAP[:PATH] DIR|s3://BUCKET[/PREFIX]",
		Short: "Get back a snapshot, or a part of it",
		Long: `Write what is in a snapshot, or in one folder of it, into the folder DIR, which
is made if it is missing. A PATH that is a file is written into DIR under its
own name. Nothing outside of DIR is ever written.

--overwrite says what happens to what is in DIR already:
  never          it is kept as it is
  if-different   files of another size or modification time are replaced; an
                 interrupted restore goes on so
  always         all is replaced

Owners are set when varve runs as root, unless --no-owner is given. What cannot
be restored is listed, the rest is restored, and the exit status is 1.

The files are put into a bucket, below PREFIX and a slash, if its URL is given in
the place of DIR, as for a source (see "varve backup --help"): an object for each
file, with content type, metadata and tags as they were. if-different replaces
what has another content or other metadata, which takes a look at each object.
With --delete, what the snapshot lacks is deleted below PREFIX at the end, unless
something could not be restored, or read when the snapshot was made.

  varve restore shop@latest:media 's3://shop-media?endpoint=minio.local:9000'

JSON: {snapshot, files, folders, others, kept, deleted, bytes, bytes_fetched,
seconds, failed: [{path, error}], more_failed}. snapshot is its id, kept counts entries
that were there and stayed, and failed holds at most 10,000 entries; more_failed
is the number of others.`,
		Args: arguments(2, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd.Context(), args[0], args[1], &f) },
	}
	cmd.Flags().StringVar(&f.overwrite, "overwrite", "never", "never, if-different or always")
	cmd.Flags().BoolVar(&f.verify, "verify", false, "read all back and compare")
	cmd.Flags().BoolVar(&f.noOwner, "no-owner", false, "leave owners as they come")
	cmd.Flags().BoolVar(&f.delete, "delete", false, "delete the objects of the bucket that the snapshot lacks")
	cmd.RegisterFlagCompletionFunc("overwrite", cobra.FixedCompletions([]string{"never", "if-different", "always"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) restore(ctx context.Context, spec, dir string, f *restoreFlags) error {
	overwrite, ok := overwrites[f.overwrite]
	if !ok {
		return fmt.Errorf("--overwrite %s: it is one of never, if-different and always", f.overwrite)
	}
	if isBucket(dir) {
		return a.restoreBucket(ctx, spec, dir, overwrite, f)
	}
	if f.delete {
		return errors.New("--delete is for buckets: what else is in a folder stays there")
	}
	r, s, path, err := a.openSpec(ctx, spec)
	if err != nil {
		return err
	}
	defer r.Close()
	// A path that is not there is found before DIR is made.
	if _, _, err := openFS(ctx, r, s, path); err != nil {
		return err
	}
	begun := time.Now()
	p := a.progress()
	report, err := r.Restore(ctx, s, dir, &repo.RestoreOptions{Base: path, Overwrite: overwrite, NoOwner: f.noOwner, Verify: f.verify, Progress: p.restore})
	p.clear()
	failures, partly := errors.AsType[*repo.RestoreError](err)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return failed{statusFailed, fmt.Sprintf("interrupted: what was restored so far is in %s, and --overwrite if-different goes on from there", dir)}
	case err != nil && !partly:
		return err
	}
	if werr := a.reportRestore(s.ID, dir, report, 0, failures, time.Since(begun)); werr != nil {
		return werr
	}
	if partly {
		return failed{statusFailed, fmt.Sprintf("%s to %s as it was, the rest was", count(int64(len(failures.Failed)+failures.More), "entry was not restored", "entries were not restored"), dir)}
	}
	return nil
}

func (a *app) reportRestore(id, dir string, r *repo.RestoreReport, deleted int64, failures *repo.RestoreError, took time.Duration) error {
	doc := restoreJSON{Snapshot: id, Files: r.Files, Folders: r.Folders, Others: r.Others, Kept: r.Skipped, Deleted: deleted, Bytes: r.Bytes, BytesFetched: r.Fetched,
		Seconds: took.Seconds(), Failed: []unreadJSON{}}
	if failures != nil {
		doc.MoreFailed = failures.More
		for _, f := range failures.Failed {
			doc.Failed = append(doc.Failed, unreadJSON{f.Path, trim(f.Err)})
		}
	}
	if a.json {
		return a.writeJSON(doc)
	}
	for _, f := range doc.Failed {
		fmt.Fprintf(a.stderr, "varve: not restored: %s: %s\n", printable(f.Path), printableLines(f.Error))
	}
	if doc.MoreFailed > 0 {
		fmt.Fprintf(a.stderr, "varve: not restored: %d more\n", doc.MoreFailed)
	}
	kept := ""
	if r.Skipped > 0 {
		kept = fmt.Sprintf(", kept %s as they were", count(r.Skipped, "entry", "entries"))
	}
	if deleted > 0 {
		kept += fmt.Sprintf(", deleted %s", count(deleted, "object", "objects"))
	}
	_, err := fmt.Fprintf(a.out, "restored %s to %s: %s, %s%s, in %s\n", shortID(id), printable(dir), count(r.Files, "file", "files"), size(r.Bytes), kept, duration(took))
	return err
}
