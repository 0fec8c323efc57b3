package source_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/varvebackup/varve/internal/mariatest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

const hardMySQL = "create table `Größen & ''Maße''` (`Id` bigint auto_increment primary key, `naïve ☃` text) engine=innodb;\n" +
	"insert into `Größen & ''Maße''` (`naïve ☃`) values ('größer'), ('tab\\there'), ('back\\\\slash'), (null), (''), ('line\\nbreak'), ('日本語'), ('🐘'), ('-- Dump completed');\n" + `
create table bytes (id int auto_increment primary key, b longblob, v varbinary(20), bits bit(12), f double, n decimal(40, 20), ts timestamp(6) null, j json, e enum('a', 'ü'), s set('x', 'y'), g point, z int as (length(v) * 2) stored);
insert into bytes (b, v, bits, f, n, ts, j, e, s, g) select unhex(repeat(md5(seq), 100)), unhex('00270a0d5c22'), seq, seq / 3, 1e19 / seq, '2024-03-31 01:30:00' + interval seq hour, json_object('k', seq), 'ü', 'x,y', point(seq, -seq) from seq_1_to_500;
insert into bytes (b, v) values (null, null), ('', '');
create table part (id int, y int, v varchar(20), primary key (id, y)) partition by range (y) (partition p23 values less than (2024), partition p24 values less than (2025), partition rest values less than maxvalue);
insert into part select seq, 2022 + seq mod 5, concat('row ', seq) from seq_1_to_1000;
create table parent (id int primary key); create table child (id int primary key, p int not null, constraint c foreign key (p) references parent (id));
insert into parent values (1), (2); insert into child values (1, 2);
create view both_of as select child.id, parent.id as p from child join parent on parent.id = child.p;
delimiter //
create function twice(x int) returns int deterministic begin return x * 2; end //
create procedure add_parent(in x int) begin insert into parent values (x); end //
create trigger touched before insert on parent for each row begin set new.id = new.id + 0; end //
create event nightly on schedule every 1 day do begin delete from child where id < 0; end //
delimiter ;
create sequence numbers start with 5;
`

// mysqlCounts tells how many rows each table has, and what else there is.
func mysqlCounts(db *mariatest.Server, name string) string {
	quoted := strings.ReplaceAll(name, "'", "''")
	var b strings.Builder
	for table := range strings.Lines(db.Query("", "select table_name from information_schema.tables where table_schema = '"+quoted+"' and table_type = 'BASE TABLE' order by 1")) {
		table = strings.TrimSpace(table)
		fmt.Fprintf(&b, "%s %s", table, db.Query(name, "select count(*) from `"+table+"`"))
	}
	for _, q := range []string{"routine_name from information_schema.routines where routine_schema", "trigger_name from information_schema.triggers where trigger_schema",
		"event_name from information_schema.events where event_schema", "table_name from information_schema.views where table_schema"} {
		b.WriteString(db.Query("", "select "+q+" = '"+quoted+"' order by 1"))
	}
	return b.String()
}

func TestMySQLRoundTrip(t *testing.T) {
	t.Parallel()
	db := mariatest.Start(t)
	names := map[string]string{"shop": "shop.sql", "empty": "empty.sql", "a/b: 'ü' %": "a%2Fb%3A 'ü' %25.sql", "-x": "-x.sql"}
	for name := range names {
		db.Query("", "create database `"+name+"`")
	}
	db.Query("shop", hardMySQL)
	k := newKeeper(t)
	_, snap := k.backup(source.MySQL(db.URL(""), &source.MySQLOptions{All: true}))
	entries, err := fs.ReadDir(snap, ".")
	must(t, err)
	if len(entries) != len(names) {
		t.Errorf("%v", entries)
	}
	i := 0
	for name, file := range names {
		dump := read(t, snap, file)
		again := fmt.Sprintf("again%d", i)
		i++
		db.Load(again, bytes.NewReader(dump))
		got, want := mysqlCounts(db, again), mysqlCounts(db, name)
		if got != want || name == "shop" && (!strings.Contains(want, "nightly") || !strings.Contains(want, "both_of") || !strings.Contains(want, "touched")) {
			t.Errorf("%s has\n%s\nwant\n%s", again, got, want)
		}
		first, second := read(t, source.MySQL(db.URL(name), nil), file), read(t, source.MySQL(db.URL(again), nil), again+".sql")
		if !bytes.Equal(first, dump) {
			t.Errorf("%s dumps otherwise the second time", name)
		}
		// They differ in the database's name, in comments.
		if !bytes.Equal(bytes.ReplaceAll(first, []byte("Database: "+name+"\n"), nil), bytes.ReplaceAll(second, []byte("Database: "+again+"\n"), nil)) &&
			!bytes.Equal(uncommented(first, name), uncommented(second, again)) {
			t.Errorf("%s dumps otherwise than %s", again, name)
		}
		if name == "shop" && !bytes.Contains(dump, []byte("🐘")) {
			t.Error("no elephant")
		}
	}
	some := read(t, source.MySQL(db.URL("shop"), &source.MySQLOptions{Tables: []string{"part"}, Args: []string{"--no-create-info"}}), "shop.sql")
	if !bytes.Contains(some, []byte("INSERT INTO `part`")) || bytes.Contains(some, []byte("INSERT INTO `bytes`")) || bytes.Contains(some, []byte("CREATE TABLE")) {
		t.Errorf("some: %.2000s", some)
	}
}

// uncommented returns a dump without its comments and without the name of its database.
func uncommented(dump []byte, name string) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(dump) {
		if !bytes.HasPrefix(line, []byte("-- ")) {
			b.Write(bytes.ReplaceAll(line, []byte("`"+name+"`"), []byte("``")))
		}
	}
	return b.Bytes()
}

// TestMySQLConsistent dumps while a clerk moves money from account to account.
func TestMySQLConsistent(t *testing.T) {
	t.Parallel()
	db := mariatest.Start(t)
	db.Query("", "create database bank")
	db.Query("bank", `create table accounts (id int primary key, balance bigint, filler text); insert into accounts select seq, 0, repeat(md5(seq), 8) from seq_1_to_20000;
		create table branches (id int primary key, balance bigint); insert into branches values (1, 0);
		create table history (id int auto_increment primary key, amount bigint);
		delimiter //
		create procedure work() begin declare a int; loop set a = 1 + floor(rand() * 1000); start transaction; update accounts set balance = balance + a where id = 1 + floor(rand(a) * 20000) limit 1;
			update branches set balance = (select sum(balance) from accounts); insert into history (amount) select balance from branches; commit; end loop; end //`)
	busy := exec.Command("mariadb", "--no-defaults", "--socket="+db.Socket, "--user=root", "--execute=call work()", "bank")
	must(t, busy.Start())
	defer func() {
		busy.Process.Kill()
		busy.Wait()
	}()
	for db.Query("bank", "select count(*) > 3 from history") != "1\n" {
	}
	_, snap := newKeeper(t).backup(source.MySQL(db.URL("bank"), nil))
	db.Load("again", bytes.NewReader(read(t, snap, "bank.sql")))
	if got := db.Query("again", "select (select sum(balance) from accounts) = (select balance from branches), (select amount from history order by id desc limit 1) = (select balance from branches), (select count(*) from accounts)"); got != "1\t1\t20000\n" {
		t.Errorf("the balances do not agree: %s", got)
	}
}

func TestMySQLRefuses(t *testing.T) {
	t.Parallel()
	db := mariatest.Start(t)
	db.Query("", "create database shop; create user clerk@localhost identified by 'p@ss \"w''rd\\\\ #1'; grant all on shop.* to clerk@localhost; create user limited@localhost")
	db.Query("shop", hardMySQL)
	db.Query("shop", "grant select (id) on shop.part to limited@localhost; grant select on shop.child to limited@localhost")
	fake := func(script string) string {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"mariadb-dump": `case "$*" in *--version) echo mariadb-dump from 10.11-MariaDB; exit;; esac` + "\n" + script,
			"mariadb":      `exec mariadb "$@"`,
		} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
		}
		return dir
	}
	k := newKeeper(t)
	for _, tt := range []struct {
		name string
		url  string
		o    source.MySQLOptions
		want []string
	}{
		{"no server", "mysql://root:secret@localhost/shop?socket=/nowhere", source.MySQLOptions{}, []string{"mariadb", "/nowhere"}},
		{"no server, all", "mysql://root:secret@localhost/?socket=/nowhere", source.MySQLOptions{All: true}, []string{"mariadb", "/nowhere"}},
		{"wrong password", db.URLAs("clerk:secret", "shop"), source.MySQLOptions{}, []string{"Access denied for user 'clerk'"}},
		{"no database", db.URL("other"), source.MySQLOptions{}, []string{"mariadb-dump", "Unknown database 'other'"}},
		{"no table", db.URL("shop"), source.MySQLOptions{Tables: []string{"part", "nothing"}}, []string{"mariadb-dump", "nothing"}},
		{"not allowed", db.URLAs("limited", "shop"), source.MySQLOptions{}, []string{"mariadb-dump", "denied"}},
		{"no programs", db.URL("shop"), source.MySQLOptions{Bin: "/nowhere"}, []string{"mariadb", "not found", "/nowhere", "mariadb-client"}},
		{"killed", db.URL("shop"), source.MySQLOptions{Bin: fake("echo half; kill -9 $$")}, []string{"mariadb-dump", "signal: killed"}},
		{"cut short", db.URL("shop"), source.MySQLOptions{Bin: fake("echo '-- Dump completed'; head -c 1000 /dev/zero; echo but >&2")}, []string{"mariadb-dump", `cut short`, "unexpected EOF", "but"}},
		{"empty", db.URL("shop"), source.MySQLOptions{Bin: fake("exit 0")}, []string{"mariadb-dump", `cut short`}},
		{"no name", "mysql://root:secret@localhost", source.MySQLOptions{}, []string{"no database is named"}},
		{"no URL", "mysql://root:secret%zz@localhost/shop", source.MySQLOptions{}, []string{"not a URL"}},
		{"tables of two", db.URL(""), source.MySQLOptions{Databases: []string{"a", "b"}, Tables: []string{"t"}}, []string{"in one only"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &keeper{t, k.r}
			err := k.refuse(source.MySQL(tt.url, &tt.o))
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwants %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("a password in: %v", err)
			}
		})
	}
	if err := k.refuse(source.MySQL(db.URL("shop"), &source.MySQLOptions{Bin: fake("echo half; echo 'mariadb-dump: Error: No space left on device' >&2; exit 3")})); !strings.Contains(err.Error(), "No space left") {
		t.Error(err)
	}

	clerk := db.URLAs("clerk:p%40ss%20%22w%27rd%5C%20%231", "shop")
	if err := k.refuse(source.MySQL(clerk, nil)); !strings.Contains(err.Error(), "grant select on mysql.proc") {
		t.Error(err)
	}
	db.Query("", "grant select on mysql.proc to clerk@localhost")
	// The right password, with all that is hard in an option file.
	_, snap := k.backup(source.MySQL(clerk, nil))
	if !bytes.Contains(read(t, snap, "shop.sql"), []byte("`naïve ☃`")) {
		t.Error("what was dumped?")
	}

	// The server goes away half way.
	db.Query("shop", "create table big as select seq, repeat(md5(seq), 20) as v from seq_1_to_100000")
	// In a table: between two of them mariadb-dump may fail without a word.
	err := k.refuse(stopping{source.MySQL(db.URL("shop"), &source.MySQLOptions{Tables: []string{"big"}}).(repo.ContextFS), "shop.sql", db.Stop})
	var ce *source.CommandError
	if !errors.As(err, &ce) || ce.Name != "mariadb-dump" || !strings.Contains(ce.Stderr, "erver") && !strings.Contains(ce.Stderr, "onnection") {
		t.Error(err)
	}
}

// TestMySQLSecrets looks at what a program is given: a password is in a file that only this user can read, and that goes.
func TestMySQLSecrets(t *testing.T) {
	out, tmp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := t.TempDir()
	show := fmt.Sprintf("#!/bin/sh\necho \"$0 $*\" >>%s/args\ncase \"$1\" in --defaults-file=*) stat -L -c %%a \"${1#*=}\" >>%[1]s/mode; cat \"${1#*=}\" >>%[1]s/file; ls -A %[2]s >>%[1]s/disk;; esac\n", out, tmp)
	must(t, os.WriteFile(filepath.Join(dir, "mariadb"), []byte(show+"echo 10.11-MariaDB\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "mysqldump"), []byte(show+"echo 'mysqldump Ver 8.0.36'; echo '-- Dump completed'\n"), 0o755))
	read(t, source.MySQL("mysql://u:s3cret@h:3307/shop?ssl-ca=/ca&ssl-passphrase=s3cret2&compress", &source.MySQLOptions{Bin: dir, Args: []string{"--x"}}), "shop.sql")
	args := string(read(t, os.DirFS(out), "args"))
	if strings.Contains(args, "s3cret") || !strings.Contains(args, "--compress --host=h --port=3307 --ssl-ca=/ca --user=u") || !strings.Contains(args, "--loose-column-statistics=0 --x -- shop\n") {
		t.Errorf("arguments:\n%s", args)
	}
	if got := string(read(t, os.DirFS(out), "mode")); got != "600\n600\n" {
		t.Errorf("modes: %q", got)
	}
	if got := string(read(t, os.DirFS(out), "file")); !strings.Contains(got, "[client]\n") || !strings.Contains(got, "password=\"s3cret\"\n") || !strings.Contains(got, "ssl-passphrase=\"s3cret2\"\n") {
		t.Errorf("option file: %q", got)
	}
	// Nor is it on a disk meanwhile, where it would stay if this process were killed.
	if got := string(read(t, os.DirFS(out), "disk")); runtime.GOOS == "linux" && got != "" {
		t.Errorf("on disk: %q", got)
	}
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}
