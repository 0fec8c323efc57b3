//go:build cgo

package source_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/needs"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// mattn is SQLiteOptions.Backup for github.com/mattn/go-sqlite3.
func mattn(ctx context.Context, conn any, path string) (err error) {
	to, err := new(sqlite3.SQLiteDriver).Open(sqliteURL(path, "_synchronous=off&_journal_mode=off"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	b, err := to.(*sqlite3.SQLiteConn).Backup("main", conn.(*sqlite3.SQLiteConn), "main")
	if err != nil {
		return err
	}
	for done := false; !done && err == nil; {
		if err = ctx.Err(); err == nil {
			done, err = b.Step(1000)
		}
	}
	return errors.Join(err, b.Close())
}

func sqliteURL(path, query string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query}
	return u.String()
}

// openSQLite opens the database at path, whatever is in its name.
func openSQLite(t testing.TB, path, query string) *sql.DB {
	t.Helper()
	if !strings.Contains(query, "_synchronous") {
		query += "&_synchronous=off" // these die with the test
	}
	db, err := sql.Open("sqlite3", sqliteURL(path, query))
	must(t, err)
	t.Cleanup(func() { db.Close() })
	must(t, db.Ping())
	return db
}

func needProgram(t testing.TB) {
	t.Helper()
	needs.Program(t, "sqlite3", "sqlite3")
}

// sqliteWays are all ways to copy the database db at path.
var sqliteWays = []struct {
	name    string
	program bool
	make    func(db *sql.DB, path, temp string) fs.FS
}{
	{"vacuum", false, func(db *sql.DB, path, temp string) fs.FS {
		return source.SQLite(filepath.Base(path), db, &source.SQLiteOptions{TempDir: temp})
	}},
	{"backup", false, func(db *sql.DB, path, temp string) fs.FS {
		return source.SQLite(filepath.Base(path), db, &source.SQLiteOptions{TempDir: temp, Backup: mattn})
	}},
	{"program", true, func(db *sql.DB, path, temp string) fs.FS {
		return source.SQLiteFile(path, &source.SQLiteOptions{TempDir: temp})
	}},
}

func execSQL(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func queryInt(t testing.TB, db *sql.DB, query string) (n int64) {
	t.Helper()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func sqliteRepo(t testing.TB) *repo.Repo {
	t.Helper()
	key, err := crypt.NewKey()
	must(t, err)
	r, _, err := repo.Create(t.Context(), mem.New(nil), key, nil)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func isEmpty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

const (
	accounts = 1000
	balance  = 1000
)

// newBank makes a bank in which no money is made or lost: each transfer is in a log.
func newBank(t testing.TB, db *sql.DB, journal string) {
	t.Helper()
	var mode string
	must(t, db.QueryRow("PRAGMA journal_mode = "+journal).Scan(&mode))
	if mode != journal {
		t.Fatalf("the journal is %s", mode)
	}
	execSQL(t, db,
		"CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, moves INTEGER NOT NULL, note TEXT)",
		"CREATE TABLE log(id INTEGER PRIMARY KEY, giver INTEGER, taker INTEGER, amount INTEGER, note TEXT)",
		"CREATE INDEX log_giver ON log(giver)",
		fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d) INSERT INTO accounts SELECT i, %d, 0, hex(randomblob(200)) FROM n", accounts, balance),
	)
}

// transfer moves money at full speed until ctx is done. It returns how often it did, and the longest time that took.
func transfer(ctx context.Context, db *sql.DB, count *atomic.Int64) (longest time.Duration, err error) {
	for i := int64(1); ctx.Err() == nil; i++ {
		begin := time.Now()
		tx, err := db.Begin()
		if err != nil {
			return longest, err
		}
		giver, taker, amount := i*7919%accounts+1, i*104729%accounts+1, i%17
		for _, s := range []string{
			fmt.Sprintf("UPDATE accounts SET balance = balance - %d, moves = moves + 1 WHERE id = %d", amount, giver),
			fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", amount, taker),
			fmt.Sprintf("INSERT INTO log VALUES(NULL, %d, %d, %d, hex(randomblob(20)))", giver, taker, amount),
			"DELETE FROM log WHERE id <= (SELECT max(id) FROM log) - 2000",
		} {
			if _, err := tx.Exec(s); err != nil {
				tx.Rollback()
				return longest, err
			}
		}
		if err := tx.Commit(); err != nil {
			return longest, err
		}
		longest = max(longest, time.Since(begin))
		count.Add(1)
	}
	return longest, nil
}

// sound opens a restored bank, and returns how many transfers it knows.
func sound(t testing.TB, path string) int64 {
	t.Helper()
	db := openSQLite(t, path, "mode=rw")
	defer db.Close()
	var ok string
	must(t, db.QueryRow("PRAGMA integrity_check").Scan(&ok))
	if ok != "ok" {
		t.Fatalf("integrity_check: %s", ok)
	}
	if n := queryInt(t, db, "SELECT sum(balance) FROM accounts"); n != accounts*balance {
		t.Fatalf("there is %d of money, of %d", n, accounts*balance)
	}
	moves := queryInt(t, db, "SELECT sum(moves) FROM accounts")
	if n := queryInt(t, db, "SELECT coalesce(max(id), 0) FROM log"); n != moves {
		t.Fatalf("%d transfers in the log, %d in the accounts", n, moves)
	}
	return moves
}

// Twenty snapshots of a database that is being written to at full speed, each restored: each is one moment's, none
// older than the backup's begin.
func TestSQLiteWritten(t *testing.T) {
	needProgram(t)
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			path, temp := filepath.Join(t.TempDir(), "bank.db"), t.TempDir()
			writer := openSQLite(t, path, "_busy_timeout=60000&_synchronous=off&_txlock=immediate")
			newBank(t, writer, journal)
			reader := openSQLite(t, path, "_busy_timeout=100")
			r := sqliteRepo(t)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var wg sync.WaitGroup
			var count atomic.Int64
			var werr error
			wg.Go(func() { _, werr = transfer(ctx, writer, &count) })

			for i := range 20 {
				way := sqliteWays[i%len(sqliteWays)]
				before := count.Load()
				snap, err := r.Backup(t.Context(), "bank", source.Join{"app.db": way.make(reader, path, temp)}, nil)
				if err != nil {
					t.Fatalf("%s: %v", way.name, err)
				}
				to := t.TempDir()
				if _, err := r.Restore(t.Context(), snap, to, nil); err != nil {
					t.Fatal(err)
				}
				after := count.Load() + 1 // it may be committed and not counted yet
				if n := sound(t, filepath.Join(to, "app.db")); n < before || n > after {
					t.Errorf("%s: %d transfers, of %d before and %d after", way.name, n, before, after)
				}
			}
			cancel()
			wg.Wait()
			must(t, werr)
			t.Logf("%d transfers meanwhile", count.Load())
			isEmpty(t, temp)
		})
	}
}

// What can't be copied is an error, no snapshot, and no change.
func TestSQLiteFails(t *testing.T) {
	needProgram(t)
	source.SetSQLiteWait(t, 50*time.Millisecond)
	dir := t.TempDir()
	good := func(name, journal string) (string, *sql.DB) {
		path := filepath.Join(dir, name)
		db := openSQLite(t, path, "_busy_timeout=10")
		newBank(t, db, journal)
		return path, db
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}
	path, db := good("torn.db", "delete")
	must(t, db.Close())
	b, err := os.ReadFile(path)
	must(t, err)
	torn := write("torn.db", append(append(b[:len(b)/2:len(b)/2], make([]byte, 8192)...), b[len(b)/2+8192:]...))
	short := write("short.db", b[:len(b)/2])
	noise := write("noise.db", []byte(strings.Repeat("no database at all. ", 1000)))
	locked, holder := good("locked.db", "delete")
	conn, err := holder.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE")
	must(t, err)

	memory, err := sql.Open("sqlite3", "file::memory:?cache=shared")
	must(t, err)
	defer memory.Close()
	newBank(t, memory, "memory")

	for _, c := range []struct {
		name string
		path string
		is   error  // where all ways agree
		text string // of every way
		only string // way
	}{
		{"torn", torn, source.ErrCorrupt, "", ""},
		{"short", short, source.ErrCorrupt, "", ""},
		{"noise", noise, nil, "encrypted", ""},
		{"locked", locked, nil, "database is locked", ""},
		{"missing", filepath.Join(dir, "none.db"), fs.ErrNotExist, "none.db", "program"},
		{"folder", dir, nil, "is not a file", "program"},
		{"memory", "", nil, "in memory", "vacuum"},
		{"memory", "", nil, "in memory", "backup"},
	} {
		for _, way := range sqliteWays {
			if c.only != "" && c.only != way.name {
				continue
			}
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				db := memory
				if c.path != "" {
					var err error
					db, err = sql.Open("sqlite3", "file:"+c.path+"?mode=ro&_busy_timeout=10")
					must(t, err)
					defer db.Close()
				}
				temp, r := t.TempDir(), sqliteRepo(t)
				_, err := r.Backup(t.Context(), "s", source.Join{"app.db": way.make(db, c.path, temp)}, nil)
				if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("the error is %v", err)
				}
				t.Log(err)
				for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
					t.Errorf("a snapshot: %v, %v", s, err)
				}
				isEmpty(t, temp)
			})
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "none.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the missing database was created")
	}
	// Who wants a damaged one as it is gets it.
	f, err := source.SQLiteFile(torn, &source.SQLiteOptions{NoCheck: true}).Open("torn.db")
	must(t, err)
	got, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	if len(got) != len(b) {
		t.Errorf("%d bytes of %d", len(got), len(b))
	}
}

func TestSQLiteProgramMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	must(t, os.WriteFile(path, nil, 0o600))
	temp := t.TempDir()
	_, err := source.SQLiteFile(path, &source.SQLiteOptions{TempDir: temp, Program: "no-such-sqlite3"}).Open("a.db")
	if ce, ok := errors.AsType[*source.CommandError](err); !ok || !strings.Contains(ce.Hint, "sqlite3") {
		t.Error(err)
	}
	isEmpty(t, temp)
}

// Any path that the system takes is that of a database.
func TestSQLiteNames(t *testing.T) {
	needProgram(t)
	if runtime.GOOS == "windows" {
		t.Skip("such names are none there")
	}
	for _, name := range []string{"a?mode=memory", "a#b.db", "a%41.db", "-a 'b' \"c\".db", "file:x.db", "ä\n.db"} {
		path := filepath.Join(t.TempDir(), name)
		db := openSQLite(t, path, "")
		execSQL(t, db, "CREATE TABLE t(x)", "INSERT INTO t VALUES(42)")
		for _, way := range sqliteWays {
			temp := filepath.Join(t.TempDir(), name) // such a folder is no harm either
			must(t, os.Mkdir(temp, 0o755))
			fsys := way.make(db, path, temp)
			f, err := fsys.Open(name)
			if err != nil {
				t.Errorf("%s, %q: %v", way.name, name, err)
				continue
			}
			b, err := io.ReadAll(f)
			must(t, errors.Join(err, f.Close()))
			to := filepath.Join(t.TempDir(), "copy.db")
			must(t, os.WriteFile(to, b, 0o600))
			if n := queryInt(t, openSQLite(t, to, ""), "SELECT x FROM t"); n != 42 {
				t.Errorf("%s, %q: %d", way.name, name, n)
			}
			isEmpty(t, temp)
		}
	}
}

// The copy is private, made by Open alone, and gone whatever happens.
func TestSQLiteTemp(t *testing.T) {
	needProgram(t)
	path, temp := filepath.Join(t.TempDir(), "app.db"), t.TempDir()
	db := openSQLite(t, path, "")
	newBank(t, db, "wal")
	stale, fresh := filepath.Join(temp, "varve-sqlite-1"), filepath.Join(temp, "varve-sqlite-2")
	for _, dir := range []string{stale, fresh} {
		plant(t, dir, "copy.db")
	}
	must(t, os.Chtimes(stale, time.Time{}, time.Now().Add(-72*time.Hour)))

	copies := 0
	fsys := source.SQLite("app.db", db, &source.SQLiteOptions{TempDir: temp, Backup: func(ctx context.Context, conn any, to string) error {
		copies++
		for _, p := range []string{to, filepath.Dir(to)} {
			fi, err := os.Stat(p)
			must(t, err)
			if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is %v", p, fi.Mode())
			}
		}
		if filepath.Dir(filepath.Dir(to)) != temp {
			t.Errorf("the copy is %s", to)
		}
		return mattn(ctx, conn, to)
	}})
	fi, err := fs.Stat(fsys, "app.db")
	must(t, err)
	if a := fi.Sys().(*repo.Attr); !a.Stream || a.Block != 4096 || fi.Mode() != 0o600 {
		t.Errorf("%v, %+v", fi, a)
	}
	if _, err := fs.ReadDir(source.Join{"x.db": fsys}, "."); err != nil || copies > 0 {
		t.Errorf("%d copies, %v", copies, err)
	}
	for range 2 {
		f, err := fsys.Open("app.db")
		must(t, err)
		must(t, f.Close()) // early
	}
	if copies != 2 {
		t.Errorf("%d copies", copies)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what a killed process left is there")
	}
	must(t, os.RemoveAll(fresh)) // that of a running one is not touched
	isEmpty(t, temp)

	// The context ends a copy in the middle, a check, and a read.
	ctx, cancel := context.WithCancel(t.Context())
	blocked := source.SQLite("app.db", db, &source.SQLiteOptions{TempDir: temp, Backup: func(ctx context.Context, _ any, to string) error {
		must(t, os.WriteFile(to, []byte("half"), 0o600))
		cancel()
		<-ctx.Done()
		return errors.New("interrupted")
	}})
	if _, err := blocked.(repo.ContextFS).OpenContext(ctx, "app.db"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	isEmpty(t, temp)
	// A Backup that does nothing is no empty database.
	idle := source.SQLite("app.db", db, &source.SQLiteOptions{TempDir: temp, NoCheck: true, Backup: func(context.Context, any, string) error { return nil }})
	if _, err := idle.Open("app.db"); err == nil {
		t.Error("nothing was copied, and that was no error")
	}
	ctx, cancel = context.WithCancel(t.Context())
	f, err := fsys.(repo.ContextFS).OpenContext(ctx, "app.db")
	must(t, err)
	cancel()
	if _, err := f.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, f.Close())
	isEmpty(t, temp)
}

// The end of the context ends the wait for a lock, in the driver's way and in the program's.
func TestSQLiteCancel(t *testing.T) {
	needProgram(t)
	path, temp := filepath.Join(t.TempDir(), "app.db"), t.TempDir()
	db := openSQLite(t, path, "_busy_timeout=50")
	newBank(t, db, "delete")
	conn, err := db.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE")
	must(t, err)
	for _, way := range sqliteWays {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		quick(t, 10*time.Second, way.name, func() {
			_, err := way.make(db, path, temp).(repo.ContextFS).OpenContext(ctx, "app.db")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", way.name, err)
			}
		})
		cancel()
		isEmpty(t, temp)
	}
}

// A copy leaves the application's connections as they were, after a failure too.
func TestSQLitePool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	db := openSQLite(t, path, "")
	newBank(t, db, "wal")
	db.SetMaxOpenConns(1)
	execSQL(t, db, "PRAGMA user_version = 7", "PRAGMA application_id = 9")
	for _, o := range []*source.SQLiteOptions{nil, {Backup: mattn}, {Backup: func(context.Context, any, string) error { return errors.New("no") }}} {
		f, err := source.SQLite("app.db", db, o).Open("app.db")
		if failed := o != nil && o.TempDir == "" && err != nil; failed {
			if !strings.Contains(err.Error(), "no") {
				t.Error(err)
			}
		} else {
			to := filepath.Join(t.TempDir(), "copy.db")
			b, err := io.ReadAll(f)
			must(t, errors.Join(err, f.Close(), os.WriteFile(to, b, 0o600)))
			c := openSQLite(t, to, "")
			if v, id := queryInt(t, c, "PRAGMA user_version"), queryInt(t, c, "PRAGMA application_id"); v != 7 || id != 9 {
				t.Errorf("user_version %d, application_id %d", v, id)
			}
		}
		if n := queryInt(t, db, "SELECT count(*) FROM pragma_database_list"); n != 1 {
			t.Errorf("%d databases are attached", n)
		}
		execSQL(t, db, "BEGIN IMMEDIATE", "COMMIT")
	}
}

// A database without tables is one, too.
func TestSQLiteEmpty(t *testing.T) {
	needProgram(t)
	path := filepath.Join(t.TempDir(), "app.db")
	must(t, os.WriteFile(path, nil, 0o600))
	db := openSQLite(t, path, "")
	for _, way := range sqliteWays {
		f, err := way.make(db, path, t.TempDir()).Open("app.db")
		if err != nil {
			t.Errorf("%s: %v", way.name, err)
			continue
		}
		must(t, f.Close())
	}
}

// TestSQLiteLarge is TestSQLiteWritten with some hundred MB.
func TestSQLiteLarge(t *testing.T) {
	if os.Getenv("VARVE_TEST_LONG") == "" {
		t.Skip("VARVE_TEST_LONG=1 makes a database of 400 MB")
	}
	needProgram(t)
	path, temp := filepath.Join(t.TempDir(), "bank.db"), t.TempDir()
	writer := openSQLite(t, path, "_busy_timeout=60000&_synchronous=off&_txlock=immediate")
	newBank(t, writer, "wal")
	execSQL(t, writer, "CREATE TABLE photos(id INTEGER PRIMARY KEY, b BLOB)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<4000) INSERT INTO photos SELECT i, randomblob(100000) FROM n")
	r := sqliteRepo(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var count atomic.Int64
	var werr error
	wg.Go(func() { _, werr = transfer(ctx, writer, &count) })
	for _, way := range sqliteWays {
		begin := time.Now()
		snap, err := r.Backup(t.Context(), "bank", way.make(writer, path, temp), nil)
		must(t, err)
		t.Logf("%s: %.1f MB in %v", way.name, float64(snap.Stats.Bytes)/1e6, time.Since(begin))
		to := t.TempDir()
		_, err = r.Restore(t.Context(), snap, to, nil)
		must(t, err)
		sound(t, filepath.Join(to, "bank.db"))
		isEmpty(t, temp)
	}
	cancel()
	wg.Wait()
	must(t, werr)
}
