package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/pgtest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// A keeper backs up into a repository of its own.
type keeper struct {
	t testing.TB
	r *repo.Repo
}

func newKeeper(t testing.TB) *keeper {
	t.Helper()
	key, err := crypt.NewKey()
	must(t, err)
	r, _, err := repo.Create(t.Context(), mem.New(nil), key, nil)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return &keeper{t, r}
}

func (k *keeper) backup(fsys fs.FS) (*repo.Snapshot, fs.FS) {
	k.t.Helper()
	s, err := k.r.Backup(k.t.Context(), "shop", source.Join{"db": fsys}, nil)
	must(k.t, err)
	snap, err := k.r.FS(k.t.Context(), s)
	must(k.t, err)
	sub, err := fs.Sub(snap, "db")
	must(k.t, err)
	return s, sub
}

// refuse backs up what has to fail and leave no snapshot.
func (k *keeper) refuse(fsys fs.FS) error {
	k.t.Helper()
	s, err := k.r.Backup(k.t.Context(), "refused", source.Join{"db": fsys}, nil)
	if s != nil || err == nil || errors.Is(err, repo.ErrIncomplete) {
		k.t.Fatalf("a snapshot, %v", err)
	}
	for s, err := range k.r.Snapshots(k.t.Context(), repo.Filter{Series: "refused"}) {
		k.t.Fatalf("a backup that failed left %v, %v", s, err)
	}
	return err
}

// restrict makes dumps of equal content equal: since August 2025 there are random words in them otherwise.
func restrict(pg *pgtest.Server) []string {
	if argv := pg.Dump("x"); strings.HasPrefix(argv[len(argv)-1], "--restrict-key") {
		return argv[len(argv)-1:]
	}
	return nil
}

// hard is what dumps find hard.
const hard = `
create table "Größen & 'Maße'" ("Id" bigint generated always as identity, "naïve ☃" text, primary key ("Id"));
insert into "Größen & 'Maße'" ("naïve ☃") values ('größer'), (E'tab\there'), (E'back\\slash'), (null), (''), (E'line\nbreak'), ('日本語'), ('🐘');
create table bytes (id serial primary key, b bytea, a int[], m text[][], j jsonb, f float8, n numeric, ts timestamptz, r int4range);
insert into bytes (b, a, m, j, f, n, ts, r) select decode(repeat(md5(i::text), 100), 'hex') || '\x000a0d5c27'::bytea, array[i, null, -i], array[array['a"b', 'c,d'], array['{', null]],
	jsonb_build_object('k', i, 'ü', '\u0001'), i / 3.0, 1e30 / i, '2024-03-31 02:30+01'::timestamptz + i * interval '1 hour', int4range(i, i + 3) from generate_series(1, 500) i;
insert into bytes (f, n) values ('NaN', 'NaN'), ('-Infinity', 0), (0.1 + 0.2, 1e-30);
create table part (id int, at date, v text) partition by range (at);
create table part_23 partition of part for values from ('2023-01-01') to ('2024-01-01');
create table part_24 partition of part for values from ('2024-01-01') to ('2025-01-01') partition by hash (id);
create table part_24a partition of part_24 for values with (modulus 2, remainder 0);
create table part_24b partition of part_24 for values with (modulus 2, remainder 1);
create table part_rest partition of part default;
insert into part select i, '2023-06-01'::date + i, 'row ' || i from generate_series(1, 1000) i;
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create table moods (m mood, p positive);
insert into moods values ('happy', 1), ('sad', 2);
create function touch() returns trigger language plpgsql as $$ begin new.v := new.v || '!'; return new; end $$;
create trigger touched before update on part_23 for each row execute function touch();
create materialized view totals as select at, count(*) from part group by at;
create schema "other schema"; create table "other schema".t as select 1 as one;
create unlogged table fleeting (x int); insert into fleeting values (1);
select lo_from_bytea(4711, decode(repeat('00ff27', 100000), 'hex'));
select lo_from_bytea(4712, '');
comment on table moods is 'it''s a comment -- with -- dashes';
`

// counts tells how many rows each table has, and what the large objects are.
func counts(pg *pgtest.Server, db string) string {
	return pg.Query(db, `select table_schema, table_name, (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %I.%I', table_schema, table_name), false, true, '')))[1]
		from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema') order by 1, 2;
		select oid, md5(lo_get(oid)) from pg_largeobject_metadata order by 1`)
}

func TestPostgresRoundTrip(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	pg.Query("shop", hard)
	pg.Create("empty")
	pg.Create("globals")
	pg.Create(`a/b: "ü" %`)
	pg.Query("globals", "create table g as select 7 as seven")
	pg.Query("postgres", "create role clerk login password 'top secret'; create database closed allow_connections false")
	k := newKeeper(t)

	for _, custom := range []bool{false, true} {
		suffix := map[bool]string{false: ".sql", true: ".dump"}[custom]
		args := restrict(pg)
		if custom {
			args = nil // pg_restore adds those words
		}
		src := source.Postgres(pg.URL(""), &source.PostgresOptions{All: true, Custom: custom, Args: args})
		_, snap := k.backup(src)
		var names []string
		entries, err := fs.ReadDir(snap, ".")
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		want := []string{"%67lobals" + suffix, `a%2Fb%3A %22ü%22 %25` + suffix, "empty" + suffix, "globals.sql", "postgres" + suffix, "shop" + suffix}
		slices.Sort(want)
		equal(t, names, want)
		globals, err := fs.ReadFile(snap, "globals.sql")
		must(t, err)
		if !bytes.Contains(globals, []byte("clerk")) || !bytes.Contains(globals, []byte("SCRAM-SHA-256$")) {
			t.Errorf("globals:\n%s", globals)
		}

		for _, db := range []string{"shop", "empty", "globals", `a/b: "ü" %`} {
			file := map[string]string{"globals": "%67lobals", `a/b: "ü" %`: `a%2Fb%3A %22ü%22 %25`}[db]
			if file == "" {
				file = db
			}
			dump, err := fs.ReadFile(snap, file+suffix)
			must(t, err)
			again := fmt.Sprintf("%s again %v", db, custom)
			if custom {
				pg.Create(again)
				cmd := exec.Command(pg.Program("pg_restore"), "--exit-on-error", "--dbname="+pg.URL(again))
				cmd.Stdin = bytes.NewReader(dump)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("pg_restore: %v\n%s", err, out)
				}
			} else {
				pg.Load(again, bytes.NewReader(dump))
			}
			if got, want := counts(pg, again), counts(pg, db); got != want {
				t.Errorf("%s has\n%s\nwant\n%s", again, got, want)
			}
			second := read(t, source.Postgres(pg.URL(again), &source.PostgresOptions{Args: restrict(pg)}), strings.NewReplacer("%67", "g").Replace(escaped(again))+".sql")
			first := read(t, source.Postgres(pg.URL(db), &source.PostgresOptions{Args: restrict(pg)}), file+".sql")
			if !bytes.Equal(first, second) {
				t.Errorf("%s dumps otherwise than %s", again, db)
			}
			pg.Query("postgres", fmt.Sprintf(`drop database "%s"`, strings.ReplaceAll(again, `"`, `""`)))
		}
	}
}

func escaped(db string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", ":", "%3A", `"`, "%22").Replace(db)
}

func read(t testing.TB, fsys fs.FS, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(fsys, name)
	must(t, err)
	return b
}

func TestPostgresChoice(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	pg.Query("shop", hard)
	list := func(o *source.PostgresOptions, url string) (names []string) {
		t.Helper()
		entries, err := fs.ReadDir(source.Postgres(url, o), ".")
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	equal(t, list(nil, pg.URL("shop")), []string{"globals.sql", "shop.sql"})
	equal(t, list(&source.PostgresOptions{NoGlobals: true}, `host=/nowhere dbname='it\'s'`), []string{"it's.sql"})
	equal(t, list(&source.PostgresOptions{NoGlobals: true, Custom: true, Databases: []string{"b", "a", "b"}}, ""), []string{"a.dump", "b.dump"})

	tables := func(o *source.PostgresOptions) string {
		t.Helper()
		var found []string
		for _, m := range regexp.MustCompile(`(?m)^COPY (\S+|".*?"\S*) \(`).FindAllSubmatch(read(t, source.Postgres(pg.URL("shop"), o), "shop.sql"), -1) {
			found = append(found, string(m[1]))
		}
		return strings.Join(found, " ")
	}
	if got := tables(&source.PostgresOptions{Schemas: []string{"other schema"}}); got != `"other schema".t` {
		t.Errorf("schema: %s", got)
	}
	if got := tables(&source.PostgresOptions{Tables: []string{"moods", "bytes"}}); got != "public.bytes public.moods" {
		t.Errorf("tables: %s", got)
	}
	if got := tables(&source.PostgresOptions{Tables: []string{"moods", "bytes"}, Args: []string{"--exclude-table-data=bytes"}}); got != "public.moods" {
		t.Errorf("arguments: %s", got)
	}

	// A name is never taken for a connection string.
	for _, db := range []string{"a=b", "host=/nowhere", "postgresql://x", "it's\n/\\"} {
		pg.Query("postgres", `create database "`+db+`"`)
		if got := read(t, source.Postgres(pg.URL(db), nil), "globals.sql"); !bytes.Contains(got, []byte("CREATE ROLE")) {
			t.Errorf("globals by way of %q:\n%s", db, got)
		}
	}

	// What there is can be asked without a server and without the programs, unless all is to be dumped.
	t.Run("lazy", func(t *testing.T) {
		src := source.Postgres("postgres://nobody@/shop?host=/nowhere", &source.PostgresOptions{Bin: "/nowhere"})
		fi, err := fs.Stat(src, "shop.sql")
		must(t, err)
		if a := fi.Sys().(*repo.Attr); !a.Stream || fi.Mode() != 0o600 {
			t.Errorf("%v", fi)
		}
		for _, name := range []string{"other.sql", "shop.sql/x", "globals.dump"} {
			if _, err := src.Open(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := fs.ReadDir(src, "shop.sql"); err == nil {
			t.Error("a file was listed")
		}
	})
}

// TestPostgresConsistent dumps while clerks move money from account to account.
func TestPostgresConsistent(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("bank")
	bench := func(args ...string) *exec.Cmd {
		cmd := exec.Command(pg.Program("pgbench"), append(args, "bank")...)
		cmd.Env = append(os.Environ(), pg.Env...)
		return cmd
	}
	if out, err := bench("-i", "-s", "4", "-q").CombinedOutput(); err != nil {
		t.Fatalf("pgbench: %v\n%s", err, out)
	}
	busy := bench("-c", "4", "-T", "600", "-n")
	must(t, busy.Start())
	defer func() {
		busy.Process.Kill()
		busy.Wait()
	}()
	k := newKeeper(t)
	for _, custom := range []bool{false, true} {
		// Not before something happens: history then is never empty.
		for pg.Query("bank", "select count(*) > 0 from pgbench_history") != "t\n" {
		}
		_, snap := k.backup(source.Postgres(pg.URL("bank"), &source.PostgresOptions{Custom: custom}))
		again := fmt.Sprintf("again%v", custom)
		if custom {
			pg.Create(again)
			cmd := exec.Command(pg.Program("pg_restore"), "--exit-on-error", "--dbname="+pg.URL(again))
			cmd.Stdin = bytes.NewReader(read(t, snap, "bank.dump"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("pg_restore: %v\n%s", err, out)
			}
		} else {
			pg.Load(again, bytes.NewReader(read(t, snap, "bank.sql")))
		}
		got := pg.Query(again, `select (select sum(abalance) from pgbench_accounts) = d and (select sum(bbalance) from pgbench_branches) = d and (select sum(tbalance) from pgbench_tellers) = d,
			n > 0, (select count(*) from pgbench_accounts) from (select sum(delta) as d, count(*) as n from pgbench_history) h`)
		if got != "t|t|400000\n" {
			t.Errorf("the balances do not agree: %s", got)
		}
	}
}

// fakePrograms makes a folder with the three programs; each is a shell script.
func fakePrograms(t testing.TB, version, dump, psql string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range map[string]string{
		"pg_dump":    `case "$1" in --version) echo "pg_dump (PostgreSQL) ` + version + `"; exit;; esac` + "\n" + dump,
		"pg_dumpall": "exit 1",
		"psql":       psql,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	return dir
}

func TestPostgresRefuses(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	pg.Query("shop", hard)
	pg.Query("shop", `create role clerk login password 'p@ss: w/rd%'; grant select on all tables in schema public to clerk;
		create role limited login; grant select on all tables in schema public to limited; grant select on all sequences in schema public to limited;
		create function full_disk(i int) returns bool language plpgsql as $$ begin if i = 400 then raise exception 'could not write to file "base/pgsql_tmp/pgsql_tmp1.0": No space left on device' using errcode = 'disk_full'; end if; return true; end $$;
		create policy p on bytes using (full_disk(id)); alter table bytes enable row level security`)
	pg.AskPassword("clerk")
	psql := `exec "` + pg.Program("psql") + `" "$@"`
	real, _ := exec.Command(pg.Program("psql"), "--version").Output()
	serverVersion := regexp.MustCompile(`\d+\.\d+`).FindString(string(real))
	k := newKeeper(t)
	for _, tt := range []struct {
		name string
		url  string
		o    source.PostgresOptions
		want []string
	}{
		{"no server", "postgres://varve:secret@/shop?host=/nowhere", source.PostgresOptions{}, []string{"psql", "/nowhere", "No such file or directory"}},
		{"no server, all", "postgres://varve:secret@/shop?host=/nowhere", source.PostgresOptions{All: true}, []string{"psql", "/nowhere", "No such file or directory"}},
		{"wrong password", pg.URLAs("clerk:secret", "shop"), source.PostgresOptions{}, []string{`password authentication failed for user "clerk"`}},
		{"no password", pg.URLAs("clerk", "shop"), source.PostgresOptions{}, []string{"no password supplied"}},
		{"no database", pg.URL("other"), source.PostgresOptions{}, []string{`database "other" does not exist`}},
		{"no table", pg.URL("shop"), source.PostgresOptions{Tables: []string{"moods", "nothing"}}, []string{`no matching tables were found for pattern "nothing"`}},
		{"not allowed", pg.URLAs("limited", "shop"), source.PostgresOptions{}, []string{"pg_dump", "permission denied"}},
		{"half way", pg.URLAs("limited", "shop"), source.PostgresOptions{NoGlobals: true, Tables: []string{"bytes"}}, []string{"pg_dump", "row-level security"}},
		{"the server's disk is full", pg.URLAs("limited", "shop"), source.PostgresOptions{NoGlobals: true, Tables: []string{"bytes"}, Args: []string{"--enable-row-security"}}, []string{"pg_dump", "No space left on device"}},
		{"no programs", pg.URL("shop"), source.PostgresOptions{Bin: "/nowhere"}, []string{"pg_dump", "not found", "/nowhere", "postgresql-client"}},
		{"pg_dump too old", pg.URL("shop"), source.PostgresOptions{Bin: fakePrograms(t, "11.22 (Debian 11.22-1)", "", psql)}, []string{"too old", "11.22", serverVersion}},
		{"a pg_dump that is none", pg.URL("shop"), source.PostgresOptions{Bin: fakePrograms(t, "", "", psql)}, []string{"it says that it is"}},
		{"killed", pg.URL("shop"), source.PostgresOptions{NoGlobals: true, Bin: fakePrograms(t, "99.1", "echo half; kill -9 $$", psql)}, []string{"pg_dump", "signal: killed"}},
		{"conflict", pg.URL("shop"), source.PostgresOptions{NoGlobals: true, Bin: fakePrograms(t, "99.1", "echo half; echo 'pg_dump: error: ERROR:  canceling statement due to conflict with recovery' >&2; exit 1", psql)}, []string{"hot_standby_feedback", "max_standby_streaming_delay"}},
		{"no name", "host=/nowhere", source.PostgresOptions{}, []string{"no database is named"}},
		{"no connection string", "shop secret", source.PostgresOptions{}, []string{"neither a URL nor a connection string"}},
		{"bad escape", "postgres://varve:secret%zz@host/shop", source.PostgresOptions{}, []string{"neither a URL nor a connection string"}},
		{"sslpassword", "postgres://varve@host/shop?sslpassword=secret", source.PostgresOptions{}, []string{"service"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &keeper{t, k.r}
			err := k.refuse(source.Postgres(tt.url, &tt.o))
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwants %q", err, want)
				}
			}
			if strings.Contains(strings.ReplaceAll(err.Error(), "top secret", ""), "secret") {
				t.Errorf("a password in: %v", err)
			}
		})
	}
	// The right password, with all that a URL must escape; and roles without their passwords, which this user may not see.
	_, snap := k.backup(source.Postgres(pg.URLAs("clerk:p%40ss%3A w%2Frd%25", "shop"), &source.PostgresOptions{Tables: []string{"moods"}}))
	if globals := read(t, snap, "globals.sql"); !bytes.Contains(globals, []byte("CREATE ROLE clerk")) || bytes.Contains(globals, []byte("SCRAM")) {
		t.Errorf("globals:\n%s", globals)
	}
}

// TestPostgresSecrets looks at what a program is given: a password is in its environment and nowhere else.
func TestPostgresSecrets(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	show := fmt.Sprintf("echo \"$0 $*\" >>%s/args; echo \"$PGPASSWORD\" >>%s/password\n", out, out)
	bin := fakePrograms(t, "17.2", show+"echo dump", show+`printf '17.2\000170002\000f\000f\000'`)
	for _, conn := range []string{"postgres://u:s3cret@h:1,h2:2/shop?sslmode=require", "postgres://u@h/shop?password=s3cret", `host=h user=u password = 's3cret' dbname=shop`} {
		if got := read(t, source.Postgres(conn, &source.PostgresOptions{Bin: bin, Args: []string{"--x"}}), "shop.sql"); string(got) != "dump\n" {
			t.Errorf("%q", got)
		}
	}
	args := string(read(t, os.DirFS(out), "args"))
	if strings.Contains(args, "s3cret") || !strings.Contains(args, "host='h,h2' port='1,2' sslmode='require' user='u' dbname='shop' --x\n") {
		t.Errorf("arguments:\n%s", args)
	}
	if got := string(read(t, os.DirFS(out), "password")); got != strings.Repeat("s3cret\n", 6) {
		t.Errorf("passwords: %q", got)
	}
}

func TestPostgresEnds(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	pg.Query("shop", "create table big as select i, repeat(md5(i::text), 20) from generate_series(1, 100000) i")
	src := source.Postgres(pg.URL("shop"), &source.PostgresOptions{MaxLag: time.Minute}).(repo.ContextFS)

	// Closed early: the dump and its session end.
	f, err := src.OpenContext(t.Context(), "shop.sql")
	must(t, err)
	_, err = io.ReadFull(f, make([]byte, 100_000))
	must(t, err)
	must(t, f.Close())
	// Cancelled.
	ctx, cancel := context.WithCancel(t.Context())
	f, err = src.OpenContext(ctx, "shop.sql")
	must(t, err)
	_, err = io.ReadFull(f, make([]byte, 100_000))
	must(t, err)
	cancel()
	if _, err := io.Copy(io.Discard, f); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f.Close()
	if _, err := src.OpenContext(ctx, "shop.sql"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for pg.Query("postgres", "select count(*) from pg_stat_activity where application_name = 'pg_dump'") != "0\n" {
		time.Sleep(10 * time.Millisecond)
	}
	// The server goes away half way.
	k := newKeeper(t)
	err = k.refuse(stopping{src, "shop.sql", pg.Stop})
	var ce *source.CommandError
	if !errors.As(err, &ce) || ce.Name != "pg_dump" || !strings.Contains(ce.Stderr, "terminating connection") && !strings.Contains(ce.Stderr, "server closed the connection") {
		t.Error(err)
	}
}

// stopping calls stop when the file of that name has been read a little.
type stopping struct {
	repo.ContextFS
	name string
	stop func()
}

func (s stopping) OpenContext(ctx context.Context, name string) (fs.File, error) {
	f, err := s.ContextFS.OpenContext(ctx, name)
	if err == nil && name == s.name {
		f = stoppingFile{f, s.stop}
	}
	return f, err
}

type stoppingFile struct {
	fs.File
	stop func()
}

func (s stoppingFile) Read(p []byte) (int, error) {
	n, err := s.File.Read(p)
	if n > 0 {
		s.stop()
	}
	return n, err
}

func TestPostgresStandby(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	pg.Query("shop", hard)
	standby := pg.Standby()
	k := newKeeper(t)
	follow := func() {
		t.Helper()
		at := pg.Query("shop", "select pg_current_wal_insert_lsn()")
		for standby.Query("postgres", "select coalesce(pg_last_wal_receive_lsn(), '0/0') >= '"+strings.TrimSpace(at)+"'") != "t\n" {
			time.Sleep(10 * time.Millisecond)
		}
	}
	pg.Query("shop", "insert into moods values ('ok', 3)")
	follow()
	// However long ago the last transaction was: a standby that has all lags nothing.
	src := source.Postgres(standby.URL("shop"), &source.PostgresOptions{MaxLag: time.Nanosecond, Args: restrict(pg)})
	wait := func() error {
		for {
			b, err := fs.ReadFile(src, "shop.sql")
			if err != nil && errors.Is(err, source.ErrLag) {
				continue // it replays that yet
			}
			if err == nil && !bytes.Contains(b, []byte("ok\t3\n")) {
				t.Errorf("an old row is missing")
			}
			return err
		}
	}
	must(t, wait())
	_, snap := k.backup(source.Postgres(standby.URL("shop"), &source.PostgresOptions{MaxLag: time.Minute, Args: restrict(pg)}))
	pg.Load("again", bytes.NewReader(read(t, snap, "shop.sql")))
	pg.Query("shop", "truncate fleeting") // unlogged: not on the standby
	if got, want := counts(pg, "again"), counts(pg, "shop"); got != want {
		t.Errorf("from the standby\n%s\nwant\n%s", got, want)
	}
	lag := func(fsys fs.FS, name string) string {
		t.Helper()
		fi, err := fs.Stat(fsys, name)
		must(t, err)
		return fi.Sys().(*repo.Attr).Meta["lag"]
	}
	if _, err := time.ParseDuration(lag(snap, "shop.sql")); err != nil {
		t.Errorf("the lag that was recorded: %v", err)
	}
	_, snap = k.backup(source.Postgres(pg.URL("shop"), &source.PostgresOptions{MaxLag: time.Nanosecond}))
	if got := lag(snap, "shop.sql"); got != "" {
		t.Errorf("a primary lags %q", got)
	}

	standby.Query("postgres", "select pg_wal_replay_pause()")
	for standby.Query("postgres", "select pg_get_wal_replay_pause_state()") != "paused\n" {
	}
	pg.Query("shop", "insert into moods values ('ok', 4)")
	follow()
	if err := k.refuse(src); !errors.Is(err, source.ErrLag) {
		t.Error(err)
	}
	_, snap = k.backup(source.Postgres(standby.URL("shop"), nil)) // nobody asked for less
	if d, err := time.ParseDuration(lag(snap, "shop.sql")); err != nil || d <= 0 {
		t.Errorf("the lag that was recorded: %v, %v", d, err)
	}
	standby.Query("postgres", "select pg_wal_replay_resume()")
	must(t, wait())

	// What is dumped vanishes on the primary, and the standby may not wait.
	standby.Query("postgres", "alter system set max_standby_streaming_delay = 0")
	standby.Query("postgres", "select pg_reload_conf()")
	pg.Query("shop", "create table big as select i, repeat(md5(i::text), 20) from generate_series(1, 100000) i")
	follow()
	for standby.Query("postgres", "select pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()") != "t\n" {
	}
	meanwhile := sync.OnceFunc(func() {
		pg.Query("shop", "delete from big where i < 1000; vacuum big")
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if standby.Query("postgres", "select exists (select from pg_stat_activity where backend_type = 'startup' and wait_event like 'RecoveryConflict%') or exists (select from pg_stat_database_conflicts where confl_snapshot > 0)") == "t\n" {
				return
			}
		}
	})
	big := source.Postgres(standby.URL("shop"), &source.PostgresOptions{NoGlobals: true, Tables: []string{"big"}}).(repo.ContextFS)
	if err := k.refuse(stopping{big, "shop.sql", meanwhile}); !strings.Contains(err.Error(), "due to conflict with recovery") || !strings.Contains(err.Error(), "hot_standby_feedback") {
		t.Error(err)
	}

	// Who has lost its primary can't know.
	pg.Stop()
	for standby.Query("postgres", "select count(*) from pg_stat_wal_receiver") != "0\n" {
		time.Sleep(10 * time.Millisecond)
	}
	if err := k.refuse(src); !errors.Is(err, source.ErrLag) {
		t.Error(err)
	}
}
