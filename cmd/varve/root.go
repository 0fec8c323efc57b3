package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/repo"
)

// Exit statuses.
const (
	statusDone       = 0
	statusFailed     = 1
	statusIncomplete = 3
)

// app is one run of the program.
type app struct {
	env
	out *output // around env.stdout

	command    string // that was run, without the program's name
	repository string
	named      bool // by --repo
	replicas   []string
	cache      string
	noCache    bool
	json       bool

	closers []io.Closer // of backends
}

// run runs a command line, without the program's name, and returns the exit status.
func run(ctx context.Context, e env, args []string) int {
	a := &app{env: e, out: &output{w: e.stdout}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(e.stdin)
	root.SetOut(a.out)
	root.SetErr(e.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	a.command = strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")
	for _, c := range a.closers {
		c.Close() // connections that are kept; what was written is written
	}
	// Flags may not have been read when there is an error in them.
	a.json = a.json || slices.Contains(args, "--json")
	return a.finish(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "varve",
		Short: "Encrypted, deduplicated backups of a web application",
		Long: `varve backs up folders, files, streams and the output of commands as encrypted,
deduplicated snapshots, and gets them back.

The repository is named by --repo or VARVE_REPO: a path, file:///path, or a
bucket: s3://bucket/prefix?endpoint=host:port&region=name (see also path-style=1,
insecure=1 and ca=FILE; its keys come from AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role). The
repository's secret comes from one of VARVE_PASSPHRASE, VARVE_PASSPHRASE_FILE,
VARVE_KEY and VARVE_KEY_FILE (of a file, all but the newline at its end), else
varve asks on the terminal; there, a key is understood as well.

SNAP names a snapshot: shop@latest, shop@2026-11-20 (the newest of that day),
shop@20261120T0315 (the newest whose id begins so), or the start of an id.
SNAP:PATH names what is in it. Paths are written as "varve ls" prints them: \xHH
is a byte that is no readable text, and a backslash is doubled.

With --json, each command prints one JSON document on standard output; its help
says which. An error is {"error": "..."} on standard error.

Exit status: 0 done, 1 failed, 3 a snapshot was made, but some files could not
be read whole (they are listed on standard error).`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			a.named = cmd.Flags().Changed("repo")
		},
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err.Error()) })
	f := root.PersistentFlags()
	f.StringVar(&a.repository, "repo", "", "repository: a path, file:///path or s3://bucket/prefix (default VARVE_REPO)")
	f.StringArrayVar(&a.replicas, "replica", nil, "read what is damaged or missing from this replica, a path or `URL`; repeatable (default VARVE_REPLICA)")
	f.StringVar(&a.cache, "cache", "", "cache folder (default VARVE_CACHE, else varve in the user's cache folder)")
	f.BoolVar(&a.noCache, "no-cache", false, "use no cache folder")
	f.BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(a.initCmd(), a.backupCmd(), a.snapshotsCmd(), a.lsCmd(), a.catCmd(), a.restoreCmd(), a.diffCmd(), a.checkCmd(), a.forgetCmd(), a.unforgetCmd(), a.pruneCmd(), a.replicateCmd(), a.healCmd(), a.lockCmd(), a.doctorCmd(), a.keyCmd(), a.versionCmd())
	return root
}

// noSuchCommand is for commands that only have others below them.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(cmd, fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0]))
	}
	return nil
}

// arguments demands between least and most arguments; most < 0: any number.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		use := strings.TrimSuffix(cmd.UseLine(), " [flags]")
		switch {
		case most == 0:
			return usageError(cmd, fmt.Sprintf("%q takes no arguments, and %q is one", use, args[0]))
		case len(args) == 0:
			return usageError(cmd, fmt.Sprintf("%q takes arguments, and there are none", use))
		}
		return usageError(cmd, fmt.Sprintf("%q takes other arguments than these %d", use, len(args)))
	}
}

func usageError(cmd *cobra.Command, what string) error {
	return fmt.Errorf("%s (see \"%s --help\")", strings.TrimSuffix(what, "."), cmd.CommandPath())
}

// errNameless: as of a variable that is not set. The repository in VARVE_REPO is another one.
var errNameless = errors.New("--repo names no repository: give it a path, file:///path or s3://bucket/prefix, or leave it out for the one in VARVE_REPO")

var errUnnamed = errors.New("no repository is named: give --repo, or set VARVE_REPO, to a path, file:///path or s3://bucket/prefix")

// url returns which repository is meant.
func (a *app) url() (string, error) {
	if a.repository == "" && a.named {
		return "", errNameless
	}
	if a.repository == "" {
		a.repository = a.getenv("VARVE_REPO")
	}
	if a.repository == "" {
		return "", errUnnamed
	}
	return a.repository, nil
}

// backend opens the store that the repository is, or will be, in.
func (a *app) backend(ctx context.Context, create bool) (backend.Backend, error) {
	url, err := a.url()
	if err != nil {
		return nil, err
	}
	b, err := a.openURL(ctx, url, create)
	if err != nil {
		return nil, at(stepStore, url, err)
	}
	return b, nil
}

// openURL opens a store, which run closes.
func (a *app) openURL(ctx context.Context, url string, create bool) (backend.Backend, error) {
	b, err := open.URL(ctx, url, &open.Options{Create: create})
	if c, ok := b.(io.Closer); ok && err == nil {
		a.closers = append(a.closers, c)
	}
	return b, err
}

// open opens the repository. What can go wrong without a secret goes wrong before anybody is asked for one.
func (a *app) open(ctx context.Context) (*repo.Repo, error) {
	b, err := a.backend(ctx, false)
	if err != nil {
		return nil, err
	}
	u, err := a.secret(ctx)
	if err != nil {
		return nil, err
	}
	o := a.options()
	if len(a.replicas) == 0 && a.getenv("VARVE_REPLICA") != "" {
		a.replicas = []string{a.getenv("VARVE_REPLICA")}
	}
	for _, url := range a.replicas {
		replica, err := a.openURL(ctx, url, false)
		if err != nil {
			// What the repository itself has can be had all the same.
			a.warn(fmt.Sprintf("a replica is left out: %v; correct --replica or VARVE_REPLICA", err))
			continue
		}
		o.Replicas = append(o.Replicas, replica)
	}
	return repo.Open(ctx, b, u, o)
}

func (a *app) options() *repo.Options {
	if a.cache == "" {
		a.cache = a.getenv("VARVE_CACHE")
	}
	if a.noCache {
		a.cache = ""
	} else if a.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			// As in a cron job without HOME. All works, but slower.
			a.noCache = true
			a.warn(fmt.Sprintf("there is no cache folder, so all files are read: %v; give --cache or VARVE_CACHE, or --no-cache if that is as it should be", err))
		} else {
			a.cache = filepath.Join(dir, "varve")
		}
	}
	return &repo.Options{Cache: a.cache, Logger: slog.New(&warner{a: a, said: map[string]bool{}})}
}

// ownFolders returns the folders on this machine that varve itself writes to.
func (a *app) ownFolders() (own []string) {
	if url, err := a.url(); err == nil {
		if path, ok := open.Path(url); ok {
			own = append(own, path)
		}
	}
	if cache := a.options().Cache; cache != "" {
		own = append(own, cache)
	}
	return own
}

// lookup finds the snapshot that a person names.
func lookup(ctx context.Context, r *repo.Repo, spec string) (*repo.Snapshot, error) {
	s, err := r.Lookup(ctx, spec)
	if err != nil {
		return nil, at(stepSnapshot, spec, err)
	}
	return s, nil
}

// openSpec opens the repository and finds the snapshot of SNAP[:PATH]. The path is as repo's FS spells it.
func (a *app) openSpec(ctx context.Context, spec string) (*repo.Repo, *repo.Snapshot, string, error) {
	snap, path, err := splitSpec(spec)
	if err != nil {
		return nil, nil, "", err
	}
	r, err := a.open(ctx)
	if err != nil {
		return nil, nil, "", err
	}
	s, err := lookup(ctx, r, snap)
	if err != nil {
		r.Close()
		return nil, nil, "", err
	}
	return r, s, path, nil
}
