package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

type backupJSON struct {
	Snapshot snapshotJSON `json:"snapshot"`
	Made     bool         `json:"made"`
	Seconds  float64      `json:"seconds"`
	Unread   []unreadJSON `json:"unread"`
}

type unreadJSON struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// maxUnread bounds the list of what could not be read. The rest is counted.
const maxUnread = 10_000

type backupFlags struct {
	tags    []string
	folders folderOptions
	host    string
	minAge  time.Duration
}

func (a *app) backupCmd() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup SERIES [AS=]SOURCE...",
		Short: "Make a snapshot",
		Long: `Make a snapshot of one or more sources in a series, such as "shop" or
"shop/web-1".

SOURCE is
  a folder         with all that is in it; links, devices and the like are
                   recorded, never followed or opened
  a file           by itself
  -                what comes from standard input
  exec:COMMAND     what COMMAND prints, run by the shell; if it fails, there is
                   no snapshot. The shell knows the status of the last program
                   of a pipeline only: a dump that fails goes unnoticed in
                   "exec:pg_dump shop | sed ...", unless the shell knows
                   "set -o pipefail" and the command begins with that
  sqlite:PATH      a database of SQLite, at one moment, whoever writes to it: a
                   file that can be opened again. The sqlite3 program copies it
                   to the folder for temporary files (TMPDIR) first
  postgres://USER@HOST:PORT/DATABASE
                   a database of PostgreSQL, as pg_dump writes it: a folder with
                   DATABASE.sql, and globals.sql with the roles
  mysql://USER@HOST:PORT/DATABASE
                   a database of MySQL or MariaDB (also mariadb://), as
                   mysqldump writes it: a folder with DATABASE.sql
  mongodb://... redis://...
                   all of a MongoDB (as mongodump --archive writes it), or of a
                   Redis (an RDB file): a file
  s3://BUCKET/PREFIX?endpoint=HOST
                   the objects of a bucket whose keys begin with PREFIX and a
                   slash, with content type, metadata and tags. The query may
                   have endpoint, region, path-style, insecure, ca, and profile:
                   whose keys of ~/.aws/credentials are used, if not those that
                   open the repository's bucket

The programs that dump a database must be installed here, and not older than its
server. Give no password in a URL, for all to see in the list of processes: put
it into PGPASSWORD or ~/.pgpass, ~/.my.cnf, or REDISCLI_AUTH. To give one all the
same, write special characters as %XX. What the clients know besides follows a
'?', as in ?sslmode=verify-full or ?socket=/run/mysqld/mysqld.sock, and options
follow a '#', joined by '&':
  all              every database, one file each; or database=NAME, repeated
  table=NAME       only that; repeated. PostgreSQL knows schema=NAME, too
  format=custom    PostgreSQL: DATABASE.dump, for pg_restore
  max-lag=5m       PostgreSQL: no backup from a standby that lags more
  no-globals       PostgreSQL: no globals.sql
  arg=ARGUMENT     another argument for the dump program; repeated
  bin=FOLDER       where the programs are

AS is the name that the source gets in the snapshot. Without it, the content of
a folder or database that is the only source is the snapshot's root; anything
else gets its base name, standard input the name "stdin", a command the base name
of its program, and a database the name "postgres", "mysql", "mongo.archive" or
"redis.rdb". What stands before the first '=' of an argument is AS unless there is a
slash in it, so a path with a '=' is written ./a=b. An argument that begins with
exec: or sqlite: has no AS, whatever '=' there is in it.

Commands, databases and standard input are read first, then the files, buckets
last; "varve snapshots --parts" tells when each was. If one of them cannot be
read, there is no snapshot, unless --optional names it: then it is listed like a
file that cannot be read, and the exit status is 3. A dump
that turns out to be compressed is warned about: it would be new from end to end
each day.

--exclude takes a line of a .gitignore file in the root of each folder: "*.tmp",
"/cache/", "!keep.tmp"; --exclude-from takes a file of such lines. --ignore-file
names files in the folders themselves, such as .gitignore, each of which counts
for its folder and all below it. The repository itself and the cache folder are
left out of any folder that they lie in.

A file that cannot be read, vanishes or changes meanwhile does not stop the
backup: it is listed on standard error and in the snapshot, and the exit status
is 3.

  pg_dump shop | varve backup shop db.sql=- uploads=/srv/shop/uploads
  varve backup shop db=postgres://backup@localhost/shop uploads=/srv/shop/uploads --exclude '/cache/'
  varve backup shop db.sql="exec:pg_dump shop"
  varve cat shop@latest:db/shop.sql | psql restored

JSON: {snapshot: SNAPSHOT, made, seconds, unread: [{path, error}]}; SNAPSHOT is
described at "varve snapshots". made is false if --min-age found that snapshot
recent enough. unread holds at most 10,000 entries; snapshot.unread is their
number.`,
		Args: arguments(2, -1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.backup(cmd.Context(), args[0], args[1:], &f) },
	}
	cmd.Flags().StringArrayVar(&f.tags, "tag", nil, "keep `KEY=VALUE` in the snapshot (repeatable)")
	cmd.Flags().StringArrayVar(&f.folders.exclude, "exclude", nil, "leave out what matches `PATTERN`, as in .gitignore (repeatable)")
	cmd.Flags().StringArrayVar(&f.folders.excludeFrom, "exclude-from", nil, "leave out what matches a line of `FILE` (repeatable)")
	cmd.Flags().StringArrayVar(&f.folders.ignoreFiles, "ignore-file", nil, "leave out what files called `NAME` in the folders say, as in .gitignore (repeatable)")
	cmd.Flags().BoolVar(&f.folders.excludeCaches, "exclude-caches", false, "leave out what is in folders with a CACHEDIR.TAG")
	cmd.Flags().BoolVar(&f.folders.oneFileSystem, "one-file-system", false, "leave out what other file systems hold that are mounted in a folder")
	cmd.Flags().StringArrayVar(&f.folders.optional, "optional", nil, "make a snapshot without the source called `AS` if it cannot be read (repeatable)")
	cmd.Flags().StringVar(&f.host, "host", "", "name of the host in the snapshot (default the system's)")
	cmd.Flags().DurationVar(&f.minAge, "min-age", 0, "make none if the newest one is younger, as in 20h")
	return cmd
}

func (a *app) backup(ctx context.Context, series string, args []string, f *backupFlags) error {
	tags, err := parseTags(f.tags)
	if err != nil {
		return err
	}
	src, err := openSources(args, a.stdin, &f.folders, a.ownFolders(), a.options().Cache)
	if err != nil {
		return err
	}
	defer src.Close()
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()

	begun := time.Now()
	unread := []unreadJSON{}
	var warnings []string
	fsys := source.Warn(src.fsys, func(path, text string) { warnings = append(warnings, path+": "+text) })
	p := a.progress()
	snap, err := r.Backup(ctx, series, fsys, &repo.BackupOptions{
		Tags:   tags,
		Host:   f.host,
		MinAge: f.minAge,
		// A writer's key may not read names in the snapshot, so what could not be read is noted as it happens.
		Tolerate: func(path string, err error) bool {
			if len(unread) < maxUnread {
				unread = append(unread, unreadJSON{repo.Escape(path), trim(err)})
			}
			return false
		},
		Progress: p.backup,
	})
	p.clear()
	for _, w := range warnings {
		a.warn(w)
	}
	if snap == nil {
		if errors.Is(err, repo.ErrUncertain) {
			return err
		}
		if context.Cause(ctx) != nil {
			return failed{statusFailed, "interrupted: no snapshot was made, earlier ones are as they were, and what was stored already serves the next backup"}
		}
		if _, ok := errors.AsType[*source.CommandError](err); ok || errors.Is(err, source.ErrLag) {
			return fmt.Errorf("no snapshot was made: %w", err)
		}
		return err
	}
	fresh := errors.Is(err, repo.ErrFresh)
	if fresh {
		err = nil
	}
	if werr := a.reportBackup(snap, !fresh, time.Since(begun), unread); werr != nil {
		return werr
	}
	if errors.Is(err, repo.ErrIncomplete) {
		n := count(snap.Stats.Unread, "entry was", "entries were")
		return failed{statusIncomplete, fmt.Sprintf("the snapshot was made, but %s not read whole", n)}
	}
	return err
}

func (a *app) reportBackup(s *repo.Snapshot, made bool, took time.Duration, unread []unreadJSON) error {
	if a.json {
		return a.writeJSON(backupJSON{snapshotOf(s), made, took.Seconds(), unread})
	}
	if !made {
		_, err := fmt.Fprintf(a.out, "%s has a snapshot of %s ago, none was made: %s\n", printable(s.Series), duration(time.Since(s.Time)), s.ID)
		return err
	}
	for _, u := range unread {
		fmt.Fprintf(a.stderr, "varve: not read whole: %s: %s\n", printable(u.Path), printableLines(u.Error))
	}
	if more := s.Stats.Unread - int64(len(unread)); more > 0 {
		fmt.Fprintf(a.stderr, "varve: not read whole: %d more\n", more)
	}
	_, err := fmt.Fprintf(a.out, "snapshot %s\n%s, %s: read %s, new %s, stored %s, in %s\n", s.ID, count(s.Stats.Files, "file", "files"), size(s.Stats.Bytes),
		size(s.Stats.Read), size(s.Stats.New), size(s.Stats.Stored), duration(took))
	return err
}
