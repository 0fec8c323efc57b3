package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// MySQLOptions say what of a MySQL or MariaDB server is dumped, and how.
type MySQLOptions struct {
	// Databases are those to dump; nil: the one that the URL names. All: each but the server's own (mysql, sys and the
	// schemas of information and performance), so without users and what they may do.
	Databases []string
	All       bool

	// Tables are those to dump, of one database.
	Tables []string

	// Bin is the folder of the programs; empty: PATH.
	Bin string

	// Args are further arguments for the dump program, for all to see: "--ignore-table=shop.sessions".
	Args []string
}

// MySQL returns an fs.FS with the dump of each database of a MySQL or MariaDB server, shop.sql for the database shop, as
// mariadb-dump or mysqldump writes it, whichever is the server's own or, failing that, is there: in one transaction,
// which is consistent for InnoDB alone, with routines, triggers and events. Each dump is a Stream, read from the server as
// it is needed, and ends in "-- Dump completed", or fails. It names no database and can be loaded into any.
//
// The user needs the privileges SELECT, LOCK TABLES, SHOW VIEW, EVENT and TRIGGER. Without the last one the server shows the
// dump program no triggers and no error either: they are missing, in silence.
//
// conn is mysql://user@host:3306/shop; what follows a '?' are further options of the client program
// (?socket=/run/mysqld/mysqld.sock, ?ssl-ca=/etc/ssl/ca.pem). With a password, the programs get it, and what else is secret, in a private file, removed
// afterwards, and read no other option file; without, they read theirs, ~/.my.cnf for one.
func MySQL(conn string, o *MySQLOptions) fs.FS {
	if o == nil {
		o = &MySQLOptions{}
	}
	m := &mysql{o: *o}
	m.err = m.parse(conn)
	return &dumps{list: m.list}
}

type mysql struct {
	o      MySQLOptions
	err    error    // of the URL
	db     string   // that it names
	args   []string // for any client
	secret string   // content of an option file; "" if nothing is secret
}

func (m *mysql) parse(conn string) error {
	u, err := url.Parse(conn)
	// The error of url.Parse repeats it all, password included.
	if err != nil || u.Scheme != "mysql" && u.Scheme != "mariadb" || u.Opaque != "" {
		return errors.New("source: MySQL: not a URL as in mysql://user@host:3306/database; a special character in a password is written %XX")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("source: MySQL: what follows the '?' of the URL can't be read")
	}
	m.db = strings.TrimPrefix(u.Path, "/")
	set := func(key, value string) {
		if value != "" {
			m.args = append(m.args, "--"+key+"="+value)
		}
	}
	set("host", u.Hostname())
	set("port", u.Port())
	set("user", u.User.Username())
	var lines []string
	hide := func(key, value string) {
		lines = append(lines, key+"=\""+strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(value)+"\"\n")
	}
	if pw, ok := u.User.Password(); ok {
		hide("password", pw)
	}
	for key, values := range query {
		switch value := values[len(values)-1]; {
		case strings.Contains(key, "pass"):
			hide(key, value)
		case value == "":
			m.args = append(m.args, "--"+key)
		default:
			set(key, value)
		}
	}
	slices.Sort(m.args)
	if lines != nil {
		m.secret = "[client]\n" + strings.Join(lines, "")
	}
	return nil
}

func (m *mysql) list(ctx context.Context) ([]dumpFile, error) {
	if m.err != nil {
		return nil, m.err
	}
	names := m.o.Databases
	switch {
	case m.o.All:
		var err error
		names, err = m.query(ctx, "select schema_name from information_schema.schemata where schema_name not in ('mysql', 'sys', 'information_schema', 'performance_schema')")
		if err != nil {
			return nil, err
		}
	case names == nil && m.db != "":
		names = []string{m.db}
	case len(names) == 0:
		return nil, errors.New("source: MySQL: no database is named, in the URL or by an option")
	}
	if len(m.o.Tables) > 0 && len(names) != 1 {
		return nil, fmt.Errorf("source: MySQL: tables of %d databases: they can be chosen in one only", len(names))
	}
	var files []dumpFile
	for _, db := range names {
		if db == "" || strings.Contains(db, "\x00") {
			return nil, fmt.Errorf("source: MySQL: no database can be called %q", db)
		}
		files = append(files, dumpFile{name: dumpName(db, ".sql"), open: func(ctx context.Context) (io.ReadCloser, error) { return m.dump(ctx, db) }})
	}
	slices.SortFunc(files, func(a, b dumpFile) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(files, func(a, b dumpFile) bool { return a.name == b.name }), nil
}

func (m *mysql) dump(ctx context.Context, db string) (io.ReadCloser, error) {
	version, err := m.query(ctx, "select version()")
	if err != nil {
		return nil, err
	}
	maria := strings.Contains(strings.Join(version, ""), "MariaDB")
	names := []string{"mysqldump", "mariadb-dump"}
	if maria {
		names = []string{"mariadb-dump", "mysqldump"}
	}
	program, err := m.program(names...)
	if err != nil {
		return nil, err
	}
	own, err := output(ctx, exec.Command(program, "--no-defaults", "--version"), nil)
	if err != nil {
		return nil, err
	}
	args := []string{
		"--single-transaction", "--quick", "--routines", "--triggers", "--events", "--no-tablespaces", "--tz-utc",
		// Equal content gives equal dumps, and how one ends tells that it is complete.
		"--comments", "--skip-dump-date",
		// Bytes as hexadecimal digits survive any client on their way back, at next to no cost once compressed.
		"--hex-blob", "--default-character-set=utf8mb4", "--max-allowed-packet=1G",
		// Where a statement ends depends on all rows before it, so a row that comes or goes moves every end behind it: with
		// long statements there are few. Below 4 MiB any server takes them back with its usual max_allowed_packet.
		"--extended-insert", "--net-buffer-length=4000000",
	}
	if !strings.Contains(string(own), "MariaDB") {
		args = append(args, "--loose-set-gtid-purged=OFF") // else the dump fits an empty server only
		if maria {
			args = append(args, "--loose-column-statistics=0")
		}
	}
	return m.start(ctx, program, slices.Concat(args, m.o.Args, []string{"--", db}, m.o.Tables)...)
}

// program returns the first of these that there is.
func (m *mysql) program(names ...string) (string, error) {
	for _, name := range names {
		if path, err := exec.LookPath(joinBin(m.o.Bin, name)); err == nil {
			return path, nil
		}
	}
	where := "in PATH"
	if m.o.Bin != "" {
		where = "in " + m.o.Bin
	}
	return "", &CommandError{Name: names[0], Err: exec.ErrNotFound, Hint: "there is no " + strings.Join(names, " or ") + " " + where + ": install the client programs (mariadb-client or mysql-client)"}
}

// joinBin returns the path of a program in bin; just its name if bin is empty.
func joinBin(bin, name string) string {
	if bin == "" {
		return name
	}
	return filepath.Join(bin, name)
}

// query runs SQL and returns the only column of the rows.
func (m *mysql) query(ctx context.Context, sql string) ([]string, error) {
	program, err := m.program("mariadb", "mysql")
	if err != nil {
		return nil, err
	}
	d, err := m.start(ctx, program, "--batch", "--skip-column-names", "--default-character-set=utf8mb4", "--execute="+sql)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	d.complete = nil
	out, err := io.ReadAll(d)
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`)
	var rows []string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, unescape.Replace(strings.TrimSuffix(line, "\n")))
	}
	return rows, nil
}

func (m *mysql) start(ctx context.Context, program string, args ...string) (*dump, error) {
	cmd := exec.Command(program)
	var remove func()
	if m.secret != "" {
		path, done, err := privateFile(cmd, m.secret)
		if err != nil {
			return nil, err
		}
		remove = done
		cmd.Args = append(cmd.Args, "--defaults-file="+path) // has to be the first
	}
	cmd.Args = slices.Concat(cmd.Args, m.args, args)
	r, err := start(ctx, programName(program), cmd, &CommandOptions{Env: []string{"LC_ALL=C"}})
	if err != nil {
		if remove != nil {
			remove()
		}
		return nil, err
	}
	return &dump{run: r, hint: mysqlHint, complete: endsIn("\n-- Dump completed"), close: remove}, nil
}

func mysqlHint(e *CommandError) {
	if strings.Contains(e.Stderr, "insufficient privileges to SHOW CREATE") {
		e.Hint = "let the user read the routines of others (MariaDB: grant select on mysql.proc, MySQL: grant show_routine on *.*), or leave routines out by the argument --skip-routines"
	}
}
