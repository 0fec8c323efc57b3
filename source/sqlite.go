package source

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// ErrCorrupt is the error of a database whose copy fails SQLite's own check.
var ErrCorrupt = errors.New("source: the database is damaged")

// SQLiteOptions say how a database of SQLite is copied.
type SQLiteOptions struct {
	// TempDir is the folder for the copy, which takes as much space as the database; empty: os.TempDir().
	TempDir string

	// NoCheck omits PRAGMA quick_check on the copy, which reads all of it (about half a GB/s): for a database that is
	// damaged and is to be saved as it is, or one with extensions that the sqlite3 program lacks.
	NoCheck bool

	// Backup, for SQLite, copies the database main of conn, the driver's connection (as sql.Conn.Raw has it), to the
	// empty file path, which may have any character in it, as sqlite3_backup_init, _step and _finish do, and stops when
	// ctx is done. The connection is in a read transaction, so that one pass suffices, however much is written. Nil: VACUUM INTO.
	Backup func(ctx context.Context, conn any, path string) error

	// Program, for SQLiteFile, is the sqlite3 program; empty: the one in PATH.
	Program string
}

// SQLite returns an fs.FS with a single file, name: a copy of the database main of db, a database in a file that is
// opened by any driver of SQLite 3.27 or newer. The copy is one moment's, that at which the file is opened, whoever
// writes meanwhile. It is a database itself: once restored, it can be opened.
//
// Each Open of the file, and nothing else, makes a copy in a private folder below TempDir, and checks it. Like a Stream
// it is read once, to its end; Close, the end of the context and any error remove it. Where a file in use can be removed, it
// is as soon as it is complete, so that a killed process leaves none. One that was killed while it copied leaves a
// folder varve-sqlite-*, which is removed by the first copy in the same TempDir two days later.
//
// A database in WAL mode is written to meanwhile as ever, but its WAL can't start over until the copy is made. With a
// rollback journal, commits wait for that: set a busy timeout (PRAGMA busy_timeout) above the second or so that each
// 100 MB take. A connection of db is taken for the copy and the check.
//
// By default the copy is made by VACUUM INTO, which lays it out anew: more pages differ from the day before's. With Backup
// pages stay in place, and about half as much is stored each day (docs/DESIGN.md). Nothing else of this process
// may open the database's file, not even to read it: closing it would drop the locks of SQLite.
//
// A damaged database is ErrCorrupt; one in memory, or one that stays locked for a minute, is an error too.
func SQLite(name string, db *sql.DB, o *SQLiteOptions) fs.FS {
	c := &sqliteDB{db: db}
	return sqliteStream(name, o, func(o SQLiteOptions) sqliteCopier { c.backup = o.Backup; return c })
}

// SQLiteFile is SQLite for the database at path, which the sqlite3 program (Debian's package sqlite3) opens read-only,
// in a process of its own, and copies page by page. The file is called like the last element of path.
//
// A database that is missing is fs.ErrNotExist, and is not created. What the program complains of is a *CommandError: one
// in WAL mode, for instance, can be read only if its -shm file is there or may be created beside it, and what a crash
// left in a rollback journal must be undone by opening the database once.
//
// Run it as the owner of the database or as root. Of a database in WAL mode that nobody has open, the program makes the -shm
// file, which stays; if another user made it, the owner may read it only, and can't write to the database until it is removed.
func SQLiteFile(path string, o *SQLiteOptions) fs.FS {
	abs, err := filepath.Abs(path)
	return sqliteStream(filepath.Base(abs), o, func(o SQLiteOptions) sqliteCopier {
		return &sqliteFile{path: abs, err: err, program: o.Program}
	})
}

// sqliteBlock is the size of a page but where an old database has smaller ones; where they are larger, it divides theirs.
const sqliteBlock = 4 << 10

func sqliteStream(name string, o *SQLiteOptions, with func(SQLiteOptions) sqliteCopier) fs.FS {
	if o == nil {
		o = &SQLiteOptions{}
	}
	c, opts := with(*o), *o
	return &stream{name: name, block: sqliteBlock, open: func(ctx context.Context) (io.ReadCloser, error) {
		f, err := makeCopy(ctx, c, &opts)
		if err != nil {
			return nil, err
		}
		return f, nil
	}}
}

// A sqliteCopier copies a database to an empty file.
type sqliteCopier interface {
	// copy fails if nothing was copied though there is something. check is to say whether the copy is sound: ErrCorrupt if not.
	copy(ctx context.Context, to string, check bool) error
}

const (
	sqliteTemp  = "varve-sqlite-"
	sqliteStale = 48 * time.Hour // for what a killed process left behind
)

// A sqliteCopy is a copy being read.
type sqliteCopy struct {
	*os.File
	dir string // that it is in, if it is still there
}

// endsWithContext marks what needs no help to end a Read once its context is done: a file never waits.
func (c *sqliteCopy) endsWithContext() {}

func (c *sqliteCopy) Close() error {
	err := c.File.Close()
	if c.dir != "" {
		err = errors.Join(err, os.RemoveAll(c.dir))
	}
	return err
}

func makeCopy(ctx context.Context, c sqliteCopier, o *SQLiteOptions) (_ *sqliteCopy, err error) {
	temp := o.TempDir
	if temp == "" {
		temp = os.TempDir()
	}
	if temp, err = filepath.Abs(temp); err != nil { // a program may run elsewhere
		return nil, err
	}
	sweepCopies(temp)
	dir, err := os.MkdirTemp(temp, sqliteTemp) // 0700
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	path := filepath.Join(dir, "copy.db")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := c.copy(ctx, path, !o.NoCheck); err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err) // a driver says "interrupted"
		}
		return nil, err
	}
	if f, err = os.Open(path); err != nil {
		return nil, err
	}
	if os.RemoveAll(dir) == nil {
		dir = ""
	}
	return &sqliteCopy{f, dir}, nil
}

// sweepCopies removes what killed processes left behind. What is not ours resists.
func sweepCopies(temp string) {
	left, err := os.ReadDir(temp)
	if err != nil {
		return // MkdirTemp will say so
	}
	for _, e := range left {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), sqliteTemp) {
			continue
		}
		if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > sqliteStale {
			os.RemoveAll(filepath.Join(temp, e.Name()))
		}
	}
}

// sqliteError says what an error of SQLite, whichever driver it is from, means here.
func sqliteError(err error) error {
	switch s := err.Error(); {
	case errors.Is(err, ErrCorrupt):
		return err
	case strings.Contains(s, "malformed"):
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case strings.Contains(s, "not a database"):
		return fmt.Errorf("source: SQLite: it is encrypted, or another kind of file: %w", err)
	}
	return fmt.Errorf("source: SQLite: %w", err)
}

// checked says what the first row of quick_check means.
func checked(row string) error {
	if row == "ok" {
		return nil
	}
	return fmt.Errorf("%w: quick_check: %s", ErrCorrupt, strings.Join(strings.Fields(row), " "))
}

var errNothing = errors.New("nothing was copied")

// copied returns errNothing if the file at path is empty though the database has pages.
func copied(path string, pages int64) error {
	fi, err := os.Stat(path)
	if err == nil && fi.Size() == 0 && pages > 0 {
		err = errNothing
	}
	return err
}

// sqliteWait is how long a database may be locked, by a writer with a rollback journal or by a program that wants it for itself.
var sqliteWait = time.Minute

// A sqliteDB copies by means of a driver.
type sqliteDB struct {
	db     *sql.DB
	backup func(ctx context.Context, conn any, path string) error
}

func (c *sqliteDB) copy(ctx context.Context, to string, check bool) error {
	var conn *sql.Conn
	var file sql.NullString
	err := c.unlocked(ctx, func() (err error) {
		conn, err = c.db.Conn(ctx) // some drivers read when they connect
		if err != nil {
			return err
		}
		err = conn.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&file)
		if err != nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return sqliteError(err)
	}
	defer conn.Close()
	if file.String == "" {
		return errors.New("source: SQLite: the database is in memory, where each connection may have its own")
	}
	if err := c.copyOf(ctx, conn, to, check); err != nil {
		// Who knows what state it is in.
		conn.Raw(func(any) error { return driver.ErrBadConn })
		return sqliteError(err)
	}
	return nil
}

// copyOf copies the database of conn. If it fails, conn is not to be used again.
func (c *sqliteDB) copyOf(ctx context.Context, conn *sql.Conn, to string, check bool) (err error) {
	var pages int64
	if c.backup == nil {
		err = c.unlocked(ctx, func() error {
			_, err := conn.ExecContext(ctx, "VACUUM main INTO ?", to)
			return err
		})
		if err == nil {
			err = conn.QueryRowContext(ctx, "PRAGMA main.page_count").Scan(&pages)
		}
	} else {
		pages, err = c.pages(ctx, conn, to)
	}
	if err != nil {
		return err
	}
	if err := copied(to, pages); err != nil || !check {
		return err
	}
	return c.check(ctx, conn, to)
}

// pages copies with backup, and returns how many pages the database has.
func (c *sqliteDB) pages(ctx context.Context, conn *sql.Conn, to string) (pages int64, err error) {
	err = c.unlocked(ctx, func() error {
		if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
			return err
		}
		// BEGIN alone reads nothing.
		var n int64
		err := conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&n)
		if err != nil {
			conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	err = conn.QueryRowContext(ctx, "PRAGMA main.page_count").Scan(&pages)
	if err == nil {
		err = conn.Raw(func(dc any) error { return c.backup(ctx, dc, to) })
	}
	if err != nil {
		return 0, err
	}
	_, err = conn.ExecContext(ctx, "ROLLBACK")
	return pages, err
}

// check checks the copy, through the connection of the original, for no other way to open it is known.
func (c *sqliteDB) check(ctx context.Context, conn *sql.Conn, path string) error {
	if _, err := conn.ExecContext(ctx, "ATTACH ? AS varve_copy", path); err != nil {
		return err
	}
	var row string
	err := conn.QueryRowContext(ctx, "PRAGMA varve_copy.quick_check(1)").Scan(&row)
	if err == nil {
		err = checked(row)
	}
	if err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "DETACH varve_copy")
	return err
}

// unlocked calls f again while it says that the database is locked. A driver may have no busy timeout, or one that no context ends.
func (c *sqliteDB) unlocked(ctx context.Context, f func() error) error {
	for end := time.Now().Add(sqliteWait); ; {
		err := f()
		if err == nil || !strings.Contains(err.Error(), "is locked") || time.Now().After(end) {
			return err
		}
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// A sqliteFile copies by means of the sqlite3 program.
type sqliteFile struct {
	path    string
	err     error // of path
	program string
}

func (c *sqliteFile) copy(ctx context.Context, to string, check bool) error {
	if c.err != nil {
		return c.err
	}
	// No more than a look: the file is not opened here, for if this process had it open through SQLite too, closing it would drop the locks.
	fi, err := os.Stat(c.path)
	switch {
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("source: SQLite: %s is not a file", c.path)
	}
	// What a transaction has begun to read is what .backup copies; without one it begins anew whenever another process
	// writes, for ever. A copy that a crash can only cost again needs no fsync.
	out, err := c.run(ctx, filepath.Dir(to), "-readonly", c.path,
		fmt.Sprintf(".timeout %d", sqliteWait.Milliseconds()), "BEGIN", "SELECT count(*) FROM sqlite_master", "PRAGMA page_count", ".backup --async main "+filepath.Base(to))
	if err != nil {
		return err
	}
	var tables, pages int64
	if _, err := fmt.Sscan(out, &tables, &pages); err != nil {
		return fmt.Errorf("source: SQLite: the sqlite3 program says %q", out)
	}
	if err := copied(to, pages); err != nil || !check {
		return err
	}
	out, err = c.run(ctx, filepath.Dir(to), to, "PRAGMA quick_check(1)")
	if err != nil {
		return err
	}
	return checked(strings.TrimSpace(out))
}

// run runs the program in dir.
func (c *sqliteFile) run(ctx context.Context, dir string, args ...string) (string, error) {
	program := c.program
	if program == "" {
		program = "sqlite3"
	}
	// A person's ~/.sqliterc must not change what it does.
	cmd := exec.Command(program, append([]string{"-init", os.DevNull, "-batch", "-bail"}, args...)...)
	out, err := output(ctx, cmd, &CommandOptions{Dir: dir})
	if err == nil {
		return string(out), nil
	}
	ce, ok := errors.AsType[*CommandError](err)
	if !ok {
		return "", err
	}
	hinted := *ce
	switch s := ce.Stderr; {
	case errors.Is(err, exec.ErrNotFound):
		hinted.Hint = "install the sqlite3 program (Debian's package sqlite3), or hand source.SQLite a *sql.DB"
	case strings.Contains(s, "malformed"):
		return "", fmt.Errorf("%w: %w", ErrCorrupt, err)
	case strings.Contains(s, "not a database"):
		hinted.Hint = "it is encrypted, or another kind of file"
	case strings.Contains(s, "readonly database"):
		hinted.Hint = "it is in WAL mode, in a folder that can't be written to, or a program that wrote to it crashed: open it once as its owner"
	case strings.Contains(s, "unable to open"):
		hinted.Hint = "this user may not read it, or what lies beside it"
	case strings.Contains(s, "is locked"):
		hinted.Hint = "another program keeps it for itself"
	}
	return "", &hinted
}
