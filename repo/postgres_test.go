package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/pgtest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// dumpOf runs pg_dump without the help of what is tested.
func dumpOf(t *testing.T, pg *pgtest.Server, db string) []byte {
	t.Helper()
	argv := pg.Dump(db)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), pg.Env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rowCounts counts the rows of each table.
func rowCounts(pg *pgtest.Server, db string) string {
	return pg.Query(db, `select table_name, (xpath('/row/n/text()', query_to_xml('select count(*) as n from ' || quote_ident(table_name), false, true, '')))[1]
		from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE' order by 1`)
}

// A day is a shop's state of which there should be a snapshot.
type shopDay struct {
	content shopContent
	sum     [sha256.Size]byte // of its dump
}

type shopContent struct {
	rows string            // how many, by table
	size int               // of the dump
	sum  [sha256.Size]byte // of its lines, sorted: where in a table PostgreSQL puts a row that it loads is its own affair
}

func dayOf(t *testing.T, pg *pgtest.Server, db string) shopDay {
	t.Helper()
	dump := dumpOf(t, pg, db)
	day := shopDay{shopContent{rows: rowCounts(pg, db), size: len(dump)}, sha256.Sum256(dump)}
	lines := slices.Collect(bytes.Lines(dump))
	slices.SortFunc(lines, bytes.Compare)
	hash := sha256.New()
	for _, line := range lines {
		hash.Write(line)
	}
	hash.Sum(day.content.sum[:0])
	return day
}

// checkLoad restores a dump into a new database and compares.
func checkLoad(t *testing.T, pg *pgtest.Server, name string, dump io.Reader, want shopDay) {
	t.Helper()
	hash := sha256.New()
	pg.Load(name, io.TeeReader(dump, hash))
	if _, err := io.Copy(hash, dump); err != nil { // what psql left after the last statement
		t.Fatal(err)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != want.sum {
		t.Errorf("%s: the dump in the snapshot is not the dump of that day", name)
	}
	if got := dayOf(t, pg, name).content; got != want.content {
		t.Errorf("%s: restored as\n%+v, want\n%+v", name, got, want.content)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	ctx := t.Context()
	pg.Shop("shop", pgtest.Orders())

	store, err := dir.Create(filepath.Join(t.TempDir(), "repository"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := repo.Create(ctx, store, key, &repo.Options{Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	env := &source.CommandOptions{Env: pg.Env}
	backup := func(src fs.FS) *repo.Snapshot {
		t.Helper()
		s, err := r.Backup(ctx, "shop", source.Join{"db.sql": src}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	days := []shopDay{dayOf(t, pg, "shop")}
	snaps := []*repo.Snapshot{backup(source.Command("db.sql", pg.Dump("shop"), env))}
	pg.Day("shop", 1)
	days = append(days, dayOf(t, pg, "shop"))
	snaps = append(snaps, backup(source.Shell("db.sql", shellLine(pg.Dump("shop")), env)))

	if days[0].content.rows == days[1].content.rows {
		t.Fatal("nothing happened in the shop on the second day")
	}
	var size int64
	if _, err := fmt.Sscan(pg.Query("shop", "select pg_database_size('shop')"), &size); err != nil {
		t.Fatal(err)
	}
	if want := int64(300e6); os.Getenv("VARVE_TEST_LONG") == "1" && (size < want || int64(days[0].content.size) < want) {
		t.Errorf("a database of %d bytes with a dump of %d is smaller than it should be", size, days[0].content.size)
	}
	for i, s := range snaps {
		t.Logf("day %d: a database of %d bytes at the end, a dump of %d bytes, %d new, %d stored", i+1, size, days[i].content.size, s.Stats.New, s.Stats.Stored)
		if s.Stats.Read != int64(days[i].content.size) || s.Stats.Bytes != s.Stats.Read {
			t.Errorf("day %d: %+v", i+1, s.Stats)
		}
	}
	// Loose: how much exactly is what a benchmark tells.
	if one, two := snaps[0].Stats.Stored, snaps[1].Stats.Stored; two*3 > one {
		t.Errorf("the second day cost %d bytes, the first %d", two, one)
	}

	for i, s := range snaps {
		fsys, err := r.FS(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fsys.Open("db.sql")
		if err != nil {
			t.Fatal(err)
		}
		checkLoad(t, pg, fmt.Sprintf("day%d", i+1), f, days[i])
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}

	// pg_dump reads table after table, as a clerk who may see all but some rows of the last one.
	pg.Query("shop", `create role clerk login; grant select on all tables in schema public to clerk;
		create policy mine on products using (price < 100); alter table products enable row level security`)
	_, err = r.Backup(ctx, "shop", source.Join{"db.sql": source.Command("db.sql", pg.Dump("shop"), &source.CommandOptions{Env: append(pg.Env[:len(pg.Env):len(pg.Env)], "PGUSER=clerk")})}, nil)
	if ce := (*source.CommandError)(nil); !errors.As(err, &ce) || !strings.Contains(ce.Stderr, "row-level security") {
		t.Errorf("a dump that fails half way gives %v", err)
	}
	_, err = r.Backup(ctx, "shop", source.Join{"db.sql": source.Shell("db.sql", shellLine(pg.Dump("shop"))+" | head -c 5000000; exit 7", env)}, nil)
	if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || ee.ExitCode() != 7 {
		t.Errorf("a dump that ends with status 7 gives %v", err)
	}
	if last, err := r.Lookup(ctx, "shop@latest"); err != nil || last.ID != snaps[1].ID {
		t.Errorf("after dumps that failed the newest snapshot is %v, %v", last, err)
	}
	report, err := r.Check(ctx, &repo.CheckOptions{ReadData: true})
	if err != nil || len(report.Findings) != 0 && !report.Sound() {
		t.Errorf("check: %+v, %v", report, err)
	}
}

func shellLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// The same by the program: a dump in a pipe, and a dump that it runs itself.
func TestPostgresProgram(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	tmp := t.TempDir()
	varve := filepath.Join(tmp, "varve")
	if out, err := exec.Command("go", "build", "-o", varve, "../cmd/varve").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), pg.Env...)
	env = append(env, "VARVE_REPO="+filepath.Join(tmp, "repository"), "VARVE_CACHE="+filepath.Join(tmp, "cache"), "VARVE_KEY="+key.Text(),
		"VARVE_KEY_FILE=", "VARVE_PASSPHRASE=", "VARVE_PASSPHRASE_FILE=", "VARVE="+varve)
	command := func(argv ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = env
		return cmd
	}
	mustRun := func(argv ...string) {
		t.Helper()
		if out, err := command(argv...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	mustRun(varve, "init")

	pg.Shop("shop", pgtest.Orders())
	dump := shellLine(pg.Dump("shop"))
	days := []shopDay{dayOf(t, pg, "shop")}
	mustRun("sh", "-c", dump+` | "$VARVE" backup pipe db.sql=-`)
	mustRun(varve, "backup", "exec", "db.sql=exec:"+dump)
	pg.Day("shop", 1)
	days = append(days, dayOf(t, pg, "shop"))
	mustRun("sh", "-c", dump+` | "$VARVE" backup pipe db.sql=-`)
	mustRun(varve, "backup", "exec", "db.sql=exec:"+dump)

	for _, series := range []string{"pipe", "exec"} {
		ids := snapshotIDs(t, varve, env, series)
		if len(ids) != len(days) {
			t.Fatalf("series %s has the snapshots %q", series, ids)
		}
		for i, id := range ids {
			cat := command(varve, "cat", id+":db.sql")
			var stderr bytes.Buffer
			cat.Stderr = &stderr
			out, err := cat.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cat.Start(); err != nil {
				t.Fatal(err)
			}
			checkLoad(t, pg, fmt.Sprintf("%s%d", series, i+1), out, days[i])
			if err := cat.Wait(); err != nil {
				t.Errorf("cat: %v\n%s", err, &stderr)
			}
		}
	}

	out, err := command(varve, "backup", "exec", "db.sql=exec:"+dump+" | head -c 5000000; exit 7").CombinedOutput()
	if ee := (*exec.ExitError)(nil); !errors.As(err, &ee) || ee.ExitCode() != 1 {
		t.Errorf("a dump that ends with status 7: %v\n%s", err, out)
	}
	if ids := snapshotIDs(t, varve, env, "exec"); len(ids) != len(days) {
		t.Errorf("a dump that failed left a snapshot: %q", ids)
	}
	mustRun(varve, "check", "--read-data")
}

// snapshotIDs opens the repository beside the program and lists a series.
func snapshotIDs(t *testing.T, varve string, env []string, series string) []string {
	t.Helper()
	var root, secret string
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "VARVE_REPO="); ok {
			root = p
		}
		if k, ok := strings.CutPrefix(v, "VARVE_KEY="); ok {
			secret = k
		}
	}
	key, err := crypt.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	store, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	r, err := repo.Open(ctx, store, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var ids []string
	for s, err := range r.Snapshots(ctx, repo.Filter{Series: series}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.ID)
	}
	return ids
}
