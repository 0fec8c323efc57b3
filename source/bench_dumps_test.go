package source_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/mariatest"
	"github.com/varvebackup/varve/internal/pgtest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// shopMySQL is the schema of pgtest's shop in MariaDB's words.
const shopMySQL = `
create table customers (id bigint primary key, email varchar(200) not null unique, name text not null, street text not null, city text not null, created_at varchar(40) not null, seen_at varchar(40) not null, settings json not null, note text);
create table products (id bigint primary key, sku text not null, name text not null, description text not null, price numeric(10, 2) not null, stock int not null, updated_at varchar(40) not null);
create table orders (id bigint primary key, customer_id bigint not null, status text not null, total numeric(10, 2) not null, ship_to text not null, placed_at varchar(40) not null, changed_at varchar(40) not null, key (customer_id));
create table order_lines (order_id bigint not null, line int not null, product_id bigint not null, quantity int not null, price numeric(10, 2) not null, primary key (order_id, line));
create table events (id bigint primary key, at varchar(40) not null, customer_id bigint, kind text not null, session binary(16) not null, message text not null, key (at));
`

// copyShop makes a MariaDB database of what a shop in PostgreSQL has now.
func copyShop(b *testing.B, pg *pgtest.Server, db *mariatest.Server) {
	db.Query("", "drop database if exists shop; create database shop")
	db.Query("shop", shopMySQL)
	for _, table := range []string{"customers", "products", "orders", "order_lines", "events"} {
		path := filepath.Join(b.TempDir(), table)
		cmd := exec.Command(pg.Program("psql"), "--no-psqlrc", "--dbname="+pg.URL("shop"), `--command=\copy `+table+` to '`+path+`'`)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("psql: %v\n%s", err, out)
		}
		columns := ""
		if table == "events" {
			columns = " (id, at, customer_id, kind, @s, message) set session = unhex(replace(@s, '-', ''))"
		}
		db.Query("shop", "set unique_checks = 0; load data local infile '"+path+"' into table "+table+" character set utf8mb4"+columns)
	}
}

// BenchmarkDailyCost stores a shop's database as it is on two days, in each form that the dump programs offer, and tells what the
// second day cost. VARVE_TEST_LONG=1: a dump of 350 MB.
func BenchmarkDailyCost(b *testing.B) {
	pg, my := pgtest.Start(b), mariatest.Start(b)
	pg.Shop("shop", pgtest.Orders())
	copyShop(b, pg, my)
	postgres := func(custom bool, args ...string) *source.PostgresOptions {
		return &source.PostgresOptions{NoGlobals: true, Custom: custom, Args: args}
	}
	type variant struct {
		name string
		pg   *source.PostgresOptions
		my   []string
		r    *repo.Repo
		days [2]repo.Stats
		took [2]time.Duration
	}
	variants := []*variant{
		{name: "PostgreSQL: plain", pg: postgres(false)},
		{name: "PostgreSQL: plain, fixed --restrict-key", pg: postgres(false, restrict(pg)...)},
		{name: "PostgreSQL: custom, -Z0", pg: postgres(true)},
		{name: "PostgreSQL: custom, as usual (gzip)", pg: postgres(true, "--compress=6")},
		{name: "MariaDB: statements of 4 MB", my: []string{}},
		{name: "MariaDB: statements of 16 MiB", my: []string{"--net-buffer-length=16M"}},
		{name: "MariaDB: statements of 1 MiB, as usual", my: []string{"--net-buffer-length=1046528"}},
		{name: "MariaDB: statements of 16 KiB", my: []string{"--net-buffer-length=16384"}},
		{name: "MariaDB: a statement for each row", my: []string{"--skip-extended-insert"}},
		{name: "MariaDB: binary columns as they are", my: []string{"--skip-hex-blob"}},
		{name: "MariaDB: --order-by-primary", my: []string{"--order-by-primary"}},
	}
	for _, v := range variants {
		key, err := crypt.NewKey()
		must(b, err)
		store, err := dir.Create(filepath.Join(b.TempDir(), "repository"))
		must(b, err)
		v.r, _, err = repo.Create(b.Context(), store, key, nil)
		must(b, err)
		defer v.r.Close()
	}
	for b.Loop() {
		for day := range 2 {
			if day > 0 {
				pg.Day("shop", day)
				copyShop(b, pg, my)
			}
			for _, v := range variants {
				fsys := source.MySQL(my.URL("shop"), &source.MySQLOptions{Args: v.my})
				if v.pg != nil {
					fsys = source.Postgres(pg.URL("shop"), v.pg)
				}
				start := time.Now()
				s, err := v.r.Backup(b.Context(), "shop", fsys, nil)
				must(b, err)
				v.days[day], v.took[day] = s.Stats, time.Since(start)
			}
		}
	}
	var table bytes.Buffer
	fmt.Fprintf(&table, "| dump | size, MB | stored on day 1 | on day 2 | seconds |\n| --- | --- | --- | --- | --- |\n")
	for _, v := range variants {
		mb := func(n int64) string { return fmt.Sprintf("%.2f", float64(n)/1e6) }
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %.1f, %.1f |\n", v.name, mb(v.days[0].Bytes), mb(v.days[0].Stored), mb(v.days[1].Stored), v.took[0].Seconds(), v.took[1].Seconds())
		name := strings.NewReplacer(" ", "-", ":", "", ",", "").Replace(v.name)
		b.ReportMetric(float64(v.days[1].Stored)/1e6, "MB-"+name)
	}
	b.Log("\n" + table.String())
}
