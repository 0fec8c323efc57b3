package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrLag is the error of a dump from a standby that lags more than PostgresOptions.MaxLag behind its primary.
var ErrLag = errors.New("source: the standby lags behind its primary")

// PostgresOptions say what of a PostgreSQL server is dumped, and how.
type PostgresOptions struct {
	// Databases are those to dump; nil: the one that the connection string or PGDATABASE names. All: each that allows
	// connections and is no template.
	Databases []string
	All       bool

	// Schemas and Tables are patterns as pg_dump knows them. Each must match something. Large objects belong to
	// neither.
	Schemas, Tables []string

	// Custom dumps in the archive format of pg_restore, as DATABASE.dump, not compressed; else as SQL, DATABASE.sql.
	Custom bool

	// NoGlobals leaves globals.sql out.
	NoGlobals bool

	// MaxLag, if not zero, is how far a standby may lag behind its primary; more is ErrLag. A primary lags nothing.
	MaxLag time.Duration

	// Bin is the folder of pg_dump, pg_dumpall and psql. Empty: of those in PATH and where systems install them, the ones of
	// the server's version, else of the next newer one.
	Bin string

	// Args are further arguments for pg_dump, for all to see: "--exclude-table-data=sessions".
	Args []string
}

// Postgres returns an fs.FS with the dump of each database of a PostgreSQL server, as pg_dump writes it: shop.sql for the
// database shop. What belongs to no database, roles and tablespaces, is in globals.sql, with the roles' passwords if the
// user may read them. Each dump is a Stream: consistent by itself, and read from the server as it is needed.
//
// conn is a URL (postgres://user@host:5432/shop?sslmode=verify-full) or another connection string of libpq; what it
// leaves out, the environment says, as ever. A password may be in it, or in PGPASSWORD or ~/.pgpass, and is on no command line.
//
// The server must be 10 or newer, and pg_dump not older than the server. What pg_dump or psql complain of is a
// *CommandError. From a standby, Attr.Meta of what Entries yields has the "lag", measured just before the dump. A standby
// that has replayed all that it received lags nothing, however old that is, as long as it is connected to its primary. A
// connection that breaks silently counts until the standby notices, after its wal_receiver_timeout.
func Postgres(conn string, o *PostgresOptions) fs.FS {
	if o == nil {
		o = &PostgresOptions{}
	}
	p := &postgres{o: *o}
	p.conn, p.err = parseConninfo(conn)
	if p.err == nil && p.conn["sslpassword"] != "" {
		p.err = errors.New("source: Postgres: sslpassword can't be handed to pg_dump unseen: name a service (service=...) whose file has it")
	}
	return &dumps{list: p.list}
}

type postgres struct {
	o    PostgresOptions
	conn conninfo
	err  error // of conn

	mu    sync.Mutex // guards tools
	tools []pgTools
}

// pgTools are the programs of one version.
type pgTools struct {
	dir     string
	major   int
	version string
}

func (t pgTools) program(name string) string { return filepath.Join(t.dir, name) }

// database returns the database that the connection string names.
func (p *postgres) database() string {
	if db := p.conn["dbname"]; db != "" {
		return db
	}
	return os.Getenv("PGDATABASE")
}

// home returns a database to ask questions in.
func (p *postgres) home() string {
	switch db := p.database(); {
	case db != "":
		return db
	case len(p.o.Databases) > 0:
		return p.o.Databases[0]
	}
	return "postgres"
}

func (p *postgres) list(ctx context.Context) ([]dumpFile, error) {
	if p.err != nil {
		return nil, p.err
	}
	names := p.o.Databases
	switch {
	case p.o.All:
		rows, err := p.query(ctx, p.home(), "from pg_database where datallowconn and not datistemplate", "datname")
		if err != nil {
			return nil, err
		}
		names = nil
		for _, row := range rows {
			names = append(names, row[0])
		}
	case names == nil && p.database() != "":
		names = []string{p.database()}
	case len(names) == 0:
		return nil, errors.New("source: Postgres: no database is named, in the connection string, by PGDATABASE or by an option")
	}
	suffix := ".sql"
	if p.o.Custom {
		suffix = ".dump"
	}
	var files []dumpFile
	for _, db := range names {
		if db == "" || strings.Contains(db, "\x00") {
			return nil, fmt.Errorf("source: Postgres: no database can be called %q", db)
		}
		files = append(files, dumpFile{
			name: dumpName(db, suffix, "globals"),
			open: func(ctx context.Context) (io.ReadCloser, error) { return p.dump(ctx, db) },
			meta: func(ctx context.Context) (map[string]string, error) { return p.meta(ctx, db) },
		})
	}
	if !p.o.NoGlobals {
		files = append(files, dumpFile{name: "globals.sql", open: p.globals})
	}
	slices.SortFunc(files, func(a, b dumpFile) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(files, func(a, b dumpFile) bool { return a.name == b.name }), nil
}

func (p *postgres) dump(ctx context.Context, db string) (io.ReadCloser, error) {
	server, err := p.server(ctx, db)
	if err != nil {
		return nil, err
	}
	if limit := p.o.MaxLag; limit > 0 && server.standby && server.lag > limit {
		return nil, fmt.Errorf("%w: by %s, at most %s is allowed", ErrLag, server.lagText(), limit)
	}
	tools, err := p.fitting(ctx, server)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-password", "--dbname=" + p.conn.argument(db)}
	if p.o.Custom {
		args = append(args, "--format=custom", "--compress=0")
	}
	if len(p.o.Schemas)+len(p.o.Tables) > 0 {
		args = append(args, "--strict-names")
	}
	for _, s := range p.o.Schemas {
		args = append(args, "--schema="+s)
	}
	for _, t := range p.o.Tables {
		args = append(args, "--table="+t)
	}
	return p.start(ctx, tools.program("pg_dump"), append(args, p.o.Args...)...)
}

func (p *postgres) globals(ctx context.Context) (io.ReadCloser, error) {
	server, err := p.server(ctx, p.home())
	if err != nil {
		return nil, err
	}
	tools, err := p.fitting(ctx, server)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-password", "--globals-only", "--dbname=" + p.conn.argument(p.home()),
		"--database=" + conninfo{}.argument(p.home())} // a name with a '=' in it would be taken for such a string
	if !server.passwords {
		args = append(args, "--no-role-passwords")
	}
	return p.start(ctx, tools.program("pg_dumpall"), args...)
}

func (p *postgres) meta(ctx context.Context, db string) (map[string]string, error) {
	server, err := p.server(ctx, db)
	if err != nil || !server.standby {
		return nil, err
	}
	return map[string]string{"lag": server.lagText()}, nil
}

func (p *postgres) start(ctx context.Context, program string, args ...string) (io.ReadCloser, error) {
	r, err := start(ctx, programName(program), exec.Command(program, args...), p.options())
	if err != nil {
		return nil, err
	}
	return &dump{run: r, hint: pgHint}, nil
}

func (p *postgres) options() *CommandOptions {
	// Times with a zone are written as in UTC wherever this runs, and messages in a language that pgHint knows.
	env := []string{"PGTZ=UTC", "LC_ALL=C"}
	if pw, ok := p.conn["password"]; ok {
		env = append(env, "PGPASSWORD="+pw)
	}
	return &CommandOptions{Env: env}
}

func pgHint(e *CommandError) {
	if strings.Contains(e.Stderr, "due to conflict with recovery") {
		e.Hint = "the standby had to remove rows that the dump still read: set hot_standby_feedback = on there, or max_standby_streaming_delay longer than a dump takes, or dump from the primary"
	}
}

// query selects columns in a database and returns the rows.
func (p *postgres) query(ctx context.Context, db, from string, columns ...string) ([][]string, error) {
	tools, err := p.found(ctx)
	if err != nil {
		return nil, err
	}
	out, err := output(ctx, exec.Command(tools[0].program("psql"), "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align",
		"--field-separator-zero", "--record-separator-zero", "--set=ON_ERROR_STOP=1", "--dbname="+p.conn.argument(db), "--command=select "+strings.Join(columns, ", ")+" "+from), p.options())
	if err != nil {
		return nil, err
	}
	// Fields and records end alike.
	fields := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if len(out) == 0 {
		fields = nil
	}
	if len(fields)%len(columns) != 0 || from == "" && len(fields) != len(columns) {
		return nil, &CommandError{Name: "psql", Err: fmt.Errorf("an answer of %d fields to a question about %d", len(fields), len(columns))}
	}
	return slices.Collect(slices.Chunk(fields, len(columns))), nil
}

// A pgServer is what a server says of itself.
type pgServer struct {
	version   string
	major     int
	passwords bool // of roles may be read
	standby   bool
	lag       time.Duration // of a standby
}

// lagUnknown is the lag of a standby of which nothing shows how far behind it is.
const lagUnknown = time.Duration(1<<63 - 1)

func (s *pgServer) lagText() string {
	if s.lag == lagUnknown {
		return "an unknown time"
	}
	return s.lag.Round(time.Millisecond).String()
}

func (p *postgres) server(ctx context.Context, db string) (*pgServer, error) {
	rows, err := p.query(ctx, db, "", "current_setting('server_version')", "current_setting('server_version_num')", "pg_is_in_recovery()",
		"has_table_privilege('pg_catalog.pg_authid', 'select')")
	if err != nil {
		return nil, err
	}
	r := rows[0]
	n, err := strconv.Atoi(r[1])
	if err != nil {
		return nil, &CommandError{Name: "psql", Err: fmt.Errorf("a server of version %q", r[1])}
	}
	s := &pgServer{version: r[0], major: n / 10000, standby: r[2] == "t", passwords: r[3] == "t"}
	if s.major < 10 {
		return nil, fmt.Errorf("source: Postgres: the server is PostgreSQL %s, at least 10 is needed", s.version)
	}
	if s.standby {
		s.lag, err = p.lag(ctx, db)
	}
	return s, err
}

const (
	catchUpTime  = 2 * time.Second        // that a standby has to replay what it received
	catchUpPause = 100 * time.Millisecond // between two looks at it
)

// lag returns how far a standby is behind its primary.
//
// The time since the last transaction that was replayed is that only if there was one since: an idle primary sends none
// for hours. So what counts first is whether all that came was replayed while more could have come. If something came just
// now after such a silence, that time says nothing either, so the standby is given a moment to replay what it has: once it
// has, it was behind by no more than that moment.
func (p *postgres) lag(ctx context.Context, db string) (time.Duration, error) {
	received, begun := "0/0", time.Now()
	for {
		rows, err := p.query(ctx, db, "",
			"coalesce(pg_last_wal_receive_lsn(), '0/0')",
			"pg_last_wal_replay_lsn() >= greatest(pg_last_wal_receive_lsn(), '0/0')",
			"'"+received+"' <> '0/0' and pg_last_wal_replay_lsn() >= '"+received+"'",
			"exists (select from pg_stat_wal_receiver)",
			"pg_is_wal_replay_paused()",
			"greatest(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()), 0)")
		if err != nil {
			return 0, err
		}
		r := rows[0]
		connected, since := r[3] == "t", lagUnknown
		if seconds, err := strconv.ParseFloat(r[5], 64); err == nil && seconds < lagUnknown.Seconds() {
			since = time.Duration(seconds * float64(time.Second))
		}
		waited := time.Since(begun)
		switch {
		case connected && r[0] != "0/0" && r[1] == "t":
			return 0, nil
		case connected && r[2] == "t":
			return min(waited, since), nil
		case !connected, r[4] == "t", since <= p.o.MaxLag, waited > catchUpTime:
			return since, nil
		}
		if received == "0/0" {
			received = r[0]
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(catchUpPause):
		}
	}
}

// fitting returns the programs for a server.
func (p *postgres) fitting(ctx context.Context, s *pgServer) (pgTools, error) {
	all, err := p.found(ctx)
	if err != nil {
		return pgTools{}, err
	}
	var best pgTools
	for _, t := range all {
		if t.major >= s.major && (best.dir == "" || t.major < best.major) {
			best = t
		}
	}
	if best.dir == "" {
		return best, &CommandError{Name: "pg_dump", Err: errors.New("it is too old"),
			Hint: fmt.Sprintf("the server is PostgreSQL %s, the newest pg_dump found is %s: install the client programs of version %d", s.version, all[0].version, s.major)}
	}
	return best, nil
}

var pgVersion = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// found returns the programs that there are, the newest first, and of one version the ones in PATH first.
func (p *postgres) found(ctx context.Context) ([]pgTools, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tools != nil {
		return p.tools, nil
	}
	dirs := []string{p.o.Bin}
	if p.o.Bin == "" {
		dirs = pgFolders()
	}
	var all []pgTools
	var failed error
	for _, dir := range dirs {
		missing := slices.ContainsFunc([]string{"pg_dump", "pg_dumpall", "psql"}, func(name string) bool {
			_, err := exec.LookPath(filepath.Join(dir, name))
			return err != nil
		})
		if missing {
			continue
		}
		out, err := output(ctx, exec.Command(filepath.Join(dir, "pg_dump"), "--version"), p.options())
		if err != nil {
			failed = err
			continue
		}
		m := pgVersion.FindStringSubmatch(string(out))
		if m == nil {
			failed = &CommandError{Name: "pg_dump", Err: fmt.Errorf("it says that it is %.60q", out)}
			continue
		}
		major, _ := strconv.Atoi(m[2])
		all = append(all, pgTools{dir, major, m[1]})
	}
	if len(all) == 0 {
		if failed != nil {
			return nil, failed
		}
		where := "in PATH or where they are usually installed"
		if p.o.Bin != "" {
			where = "in " + p.o.Bin
		}
		return nil, &CommandError{Name: "pg_dump", Err: exec.ErrNotFound,
			Hint: "pg_dump, pg_dumpall and psql are needed, and are not " + where + ": install PostgreSQL's client programs (postgresql-client)"}
	}
	slices.SortStableFunc(all, func(a, b pgTools) int { return b.major - a.major })
	p.tools = all
	return all, nil
}

// pgFolders returns where PostgreSQL's programs may be.
func pgFolders() (dirs []string) {
	if path, err := exec.LookPath("pg_dump"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
		if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(real) == "pg_wrapper" {
			// Debian's script chooses among the very programs that stand in the folders below: last.
			defer func() { dirs = append(dirs[1:], dirs[0]) }()
		}
	}
	patterns := []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"}
	if runtime.GOOS == "windows" {
		patterns = []string{filepath.Join(os.Getenv("ProgramFiles"), "PostgreSQL", "*", "bin")}
	}
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern) // these are no bad patterns
		dirs = append(dirs, found...)
	}
	return dirs
}
