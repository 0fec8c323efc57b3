package varve_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// sqliteShop makes a shop of about 100 MB, sqliteDay what happens to it in a day: 1 % of orders, lines and events are new, the
// oldest events are gone; 1 % of orders, most of them recent, 0.5 % of customers and 2 % of products have changed.
const (
	sqliteShop = `PRAGMA journal_mode = wal; PRAGMA synchronous = off;
BEGIN;
CREATE TABLE customers(id INTEGER PRIMARY KEY, email TEXT UNIQUE NOT NULL, name TEXT, address TEXT, points INTEGER, seen TEXT);
CREATE TABLE products(id INTEGER PRIMARY KEY, sku TEXT UNIQUE, title TEXT, description TEXT, price INTEGER, stock INTEGER);
CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customers, status TEXT, placed TEXT, total INTEGER, note TEXT);
CREATE TABLE lines(id INTEGER PRIMARY KEY, "order" INTEGER, product INTEGER, n INTEGER, price INTEGER);
CREATE TABLE events(id INTEGER PRIMARY KEY, at TEXT, customer INTEGER, kind TEXT, payload TEXT);
CREATE INDEX orders_customer ON orders(customer);
CREATE INDEX orders_status ON orders(status, placed);
CREATE INDEX lines_order ON lines("order");
CREATE INDEX events_customer ON events(customer, at);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 75000)
INSERT INTO customers SELECT i, lower(hex(randomblob(4)))||i||'@example.org', 'Customer '||hex(randomblob(6)), hex(randomblob(10))||' Street '||(abs(random())%200)||', '||(10000+abs(random())%80000)||' Town', abs(random())%1000, datetime(1700000000+i*300, 'unixepoch') FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 6000)
INSERT INTO products SELECT i, 'SKU-'||(100000+i*7), 'Product '||hex(randomblob(8)), replace(hex(randomblob(150)), '0', ' wool '), abs(random())%20000, abs(random())%500 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 250000)
INSERT INTO orders SELECT i, 1+abs(random())%75000, CASE abs(random())%10 WHEN 0 THEN 'returned' ELSE 'shipped' END, datetime(1700000000+i*120, 'unixepoch'), abs(random())%50000, CASE abs(random())%5 WHEN 0 THEN 'please leave it at the door of number '||abs(random())%100 END FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 625000)
INSERT INTO lines SELECT i, 1+i*2/5, 1+abs(random())%6000, 1+abs(random())%4, abs(random())%20000 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 500000)
INSERT INTO events SELECT i, datetime(1700000000+i*60, 'unixepoch'), 1+abs(random())%75000, CASE abs(random())%3 WHEN 0 THEN 'view' WHEN 1 THEN 'cart' ELSE 'login' END, '{"ip":"10.'||abs(random())%256||'.'||abs(random())%256||'.7","agent":"Mozilla/5.0 ('||hex(randomblob(8))||')","path":"/p/'||abs(random())%6000||'"}' FROM n;
COMMIT;`

	sqliteDay = `PRAGMA synchronous = off;
BEGIN;
INSERT INTO orders SELECT (SELECT max(id) FROM orders)+id, 1+abs(random())%75000, 'new', datetime(1730000000+id*40, 'unixepoch'), abs(random())%50000, NULL FROM orders WHERE id <= 2500;
INSERT INTO lines SELECT (SELECT max(id) FROM lines)+id, (SELECT max(id) FROM orders)-2500+id*2/5, 1+abs(random())%6000, 1+abs(random())%4, abs(random())%20000 FROM lines WHERE id <= 6250;
INSERT INTO events SELECT (SELECT max(id) FROM events)+id-5000, datetime(1730000000+id*20, 'unixepoch'), 1+abs(random())%75000, kind, '{"agent":"'||hex(randomblob(8))||'"}' FROM events WHERE id BETWEEN 5001 AND 10000;
DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 5000);
UPDATE orders SET status = 'shipped', note = 'sent with parcel '||id WHERE id IN (SELECT id FROM orders WHERE id > (SELECT max(id)*9/10 FROM orders) ORDER BY random() LIMIT 2000);
UPDATE orders SET status = 'returned' WHERE id IN (SELECT id FROM orders ORDER BY random() LIMIT 500);
UPDATE customers SET points = points+7, seen = datetime('now') WHERE id IN (SELECT id FROM customers ORDER BY random() LIMIT 375);
INSERT INTO customers SELECT NULL, hex(randomblob(6))||'@example.net', 'New '||id, address, 0, seen FROM customers WHERE id <= 200;
UPDATE products SET stock = stock-1 WHERE id IN (SELECT id FROM products ORDER BY random() LIMIT 120);
COMMIT;`
)

// BenchmarkSQLiteDay2 logs a table of what a repository stores of a database of SQLite, and of that of the day after, by the way in which it is copied and by where it is
// cut: everything counts that is put into the backend. It needs the sqlite3 program (Debian's package sqlite3). To see the table:
//
//	go test -run - -bench SQLiteDay2 -benchtime 1x -v .
func BenchmarkSQLiteDay2(b *testing.B) {
	program, err := exec.LookPath("sqlite3")
	if err != nil {
		b.Skip("no sqlite3 program (Debian's package sqlite3)")
	}
	dir := b.TempDir()
	db := filepath.Join(dir, "shop.db")
	run := func(out io.Writer, args ...string) {
		cmd := exec.Command(program, append([]string{"-init", os.DevNull, "-batch", "-bail"}, args...)...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, os.Stderr
		must(cmd.Run())
	}
	ways := []struct {
		name string
		file string
		copy func(to string)
	}{
		{"page by page", "pages.db", func(to string) {
			run(io.Discard, "-readonly", db, "BEGIN", "SELECT count(*) FROM sqlite_master", ".backup "+to)
		}},
		{"VACUUM INTO", "vacuum.db", func(to string) { run(io.Discard, "-readonly", db, "VACUUM INTO '"+to+"'") }},
		{".dump", "shop.sql", func(to string) {
			f := try(os.Create(filepath.Join(dir, to)))
			run(f, "-readonly", db, ".dump")
			must(f.Close())
		}},
	}
	cuts := []struct {
		name string
		fs   func(path string) fs.FS
	}{
		{"pages of 4 KiB", func(path string) fs.FS { return source.SQLiteFile(path, &source.SQLiteOptions{NoCheck: true}) }},
		{"Fine", func(path string) fs.FS {
			return source.Stream("file", func(context.Context) (io.ReadCloser, error) { return os.Open(path) })
		}},
		{"Coarse", func(path string) fs.FS { return os.DirFS(filepath.Dir(path)) }},
	}
	var table strings.Builder
	table.WriteString("\n| copied by | in | cut | MB | day 1 | day 2 |\n|---|---|---|---|---|---|\n")
	for b.Loop() {
		run(io.Discard, db, sqliteShop)
		var paths [2][]string
		var took [2][]time.Duration
		for day := range 2 {
			if day == 1 {
				run(io.Discard, db, sqliteDay)
			}
			for _, way := range ways {
				sub := fmt.Sprintf("%s-%d", way.file, day)
				must(os.Mkdir(filepath.Join(dir, sub), 0o700))
				begin := time.Now()
				way.copy(filepath.Join(sub, way.file))
				took[day] = append(took[day], time.Since(begin))
				paths[day] = append(paths[day], filepath.Join(dir, sub, way.file))
			}
		}
		for i, way := range ways {
			for j, cut := range cuts {
				if j == 0 && filepath.Ext(way.file) != ".db" {
					continue
				}
				r, _, err := repo.Create(b.Context(), mem.New(nil), try(crypt.NewKey()), nil)
				must(err)
				one := try(r.Backup(b.Context(), "s", cut.fs(paths[0][i]), nil))
				two := try(r.Backup(b.Context(), "s", cut.fs(paths[1][i]), nil))
				must(r.Close())
				fmt.Fprintf(&table, "| %s | %.2f s | %s | %.1f | %.1f | %.2f |\n", way.name, took[1][i].Seconds(), cut.name, float64(one.Stats.Bytes)/1e6, float64(one.Stats.Stored)/1e6, float64(two.Stats.Stored)/1e6)
				if i+j == 0 {
					b.ReportMetric(float64(two.Stats.Stored), "stored-B")
				}
			}
			if patch, _, ok := zstdPatch(b, try(os.ReadFile(paths[0][i])), try(os.ReadFile(paths[1][i]))); ok {
				fmt.Fprintf(&table, "| %s | | zstd --patch-from | | | %.2f |\n", way.name, mb(patch))
			}
			must(os.RemoveAll(filepath.Dir(paths[0][i])))
			must(os.RemoveAll(filepath.Dir(paths[1][i])))
		}
		must(os.Remove(db))
	}
	b.ReportMetric(0, "ns/op")
	b.Log(table.String())
}
