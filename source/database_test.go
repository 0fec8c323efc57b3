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
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/internal/mariatest"
	"github.com/varvebackup/varve/internal/needs"
	"github.com/varvebackup/varve/internal/pgtest"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

func TestDatabase(t *testing.T) {
	for _, tt := range []struct {
		url   string
		names string // of its files
		err   string
	}{
		{"postgres://u@h/shop", "globals.sql shop.sql", ""},
		{"postgresql://u:secret@h:1,h2:2/shop?sslmode=require#no-globals&format=custom&max-lag=90s", "shop.dump", ""},
		{"postgres://u:secret@h#database=b&database=a&table=x&schema=y&arg=--no-owner&bin=/b", "a.sql b.sql globals.sql", ""},
		{"mysql://u:secret@h/shop", "shop.sql", ""},
		{"mariadb://h#database=b&database=a", "a.sql b.sql", ""},
		{"mongodb://u:secret@h1:1,h2:2/?replicaSet=x", "mongo.archive", ""},
		{"mongodb+srv://u:secret@h/", "mongo.archive", ""},
		{"redis://:secret@h:1/0", "redis.rdb", ""},
		{"rediss://h#arg=--insecure", "redis.rdb", ""},
		{"postgres://u:secret@h/shop#max-lag=secretly", "", "a time looks like"},
		{"postgres://u:secret@h/shop#max-lag=1s&max-lag=2s", "", "stands there 2 times"},
		{"postgres://u:secret@h/shop#format=tar", "", "plain and custom"},
		{"postgres://u:secret@h/shop#all=1", "", "has no value"},
		{"postgres://u:secret@h/shop#colour=red", "", `no option "colour"`},
		{"postgres://u:secret%zz@h/shop", "", "neither a URL"},
		{"mysql://u:secret@h/shop#schema=x", "", `no option "schema"`},
		{"mysql://u:secret%zz@h/shop", "", "not a URL"},
		{"redis://u:secret%zz@h", "", "not a URL"},
		{"redis://u:secret@h#all", "", `no option "all"`},
		{"oracle://u:secret@h", "", "no database is known by oracle://"},
		{"u:secret@h", "", "no URL"},
		{"mysql://h/shop#%zz", "", "can't be read"},
		{"mysql://u:my#:secret@h/shop", "", "can't be read"},
	} {
		fsys, err := source.Database(tt.url)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), ":secret") {
				t.Errorf("%s: %v", tt.url, err)
			}
			continue
		}
		must(t, err)
		entries, err := fs.ReadDir(fsys, ".")
		must(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != tt.names {
			t.Errorf("%s has %s", tt.url, got)
		}
	}
}

// database opens a URL's source.
func database(t testing.TB, url string) fs.FS {
	t.Helper()
	fsys, err := source.Database(url)
	must(t, err)
	return fsys
}

// startRedis starts a server on a socket and returns that.
func startRedis(t testing.TB, dir string, args ...string) (socket string, stop func()) {
	t.Helper()
	needs.Program(t, "redis-server", "redis-server")
	socket = filepath.Join(dir, "socket")
	cmd := exec.Command("redis-server", append([]string{"--port", "0", "--unixsocket", socket, "--dir", dir, "--save", ""}, args...)...)
	must(t, cmd.Start())
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(stop)
	for range 1000 {
		if exec.Command("redis-cli", "-s", socket, "ping").Run() == nil {
			return socket, stop
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("redis-server does not answer")
	return "", nil
}

func redis(t testing.TB, socket, password, script string) string {
	t.Helper()
	cmd := exec.Command("redis-cli", "-s", socket)
	cmd.Stdin = strings.NewReader(script)
	if password != "" {
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+password)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli: %v\n%s", err, out)
	}
	return string(out)
}

func TestRedis(t *testing.T) {
	dir, err := os.MkdirTemp("", "redis")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, stop := startRedis(t, dir, "--requirepass", "p@ss w/rd", "--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0")
	redis(t, socket, "p@ss w/rd", "set greeting 'grüße 🐘'\nhset cart:1 apple 2 pear 3\nzadd top 1.5 a 2.5 b\ndebug populate 10000\nacl setuser clerk on >other ~* &* +@all")
	k := newKeeper(t)
	url := func(user string) string { return "redis://" + user + "@/?socket=" + socket }
	for _, user := range []string{":p%40ss%20w%2Frd", "clerk:other"} {
		s, err := k.r.Backup(t.Context(), "shop", source.Join{"cache.rdb": database(t, url(user))}, nil)
		must(t, err)
		snap, err := k.r.FS(t.Context(), s)
		must(t, err)
		again, err := os.MkdirTemp("", "redis")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(again) })
		must(t, os.WriteFile(filepath.Join(again, "dump.rdb"), read(t, snap, "cache.rdb"), 0o644))
		restored, stop := startRedis(t, again)
		ask := "dbsize\nget greeting\nhgetall cart:1\nzrange top 0 -1 withscores\n"
		if got, want := redis(t, restored, "", ask), redis(t, socket, "p@ss w/rd", ask); got != want || !strings.HasPrefix(got, "10003\n") {
			t.Errorf("restored:\n%s\nwant\n%s", got, want)
		}
		stop()
	}
	for _, user := range []string{":wrong", "nobody:wrong", ""} {
		err := k.refuse(database(t, strings.Replace(url(user), "//@", "//", 1)))
		if !strings.Contains(err.Error(), "redis-cli") || !strings.Contains(err.Error(), "WRONGPASS") && !strings.Contains(err.Error(), "NOAUTH") || strings.Contains(err.Error(), ":wrong") {
			t.Errorf("%q: %v", user, err)
		}
	}
	// The server goes away half way.
	redis(t, socket, "p@ss w/rd", "debug populate 500000 x 100")
	src := database(t, url(":p%40ss%20w%2Frd")).(repo.ContextFS)
	err = k.refuse(stopping{src, "redis.rdb", stop})
	if ce := (*source.CommandError)(nil); !errors.As(err, &ce) || ce.Name != "redis-cli" {
		t.Error(err)
	}
	if err := k.refuse(src); !strings.Contains(err.Error(), "Could not connect") {
		t.Error(err)
	}
}

// There is no package of mongodump to test with: this one is a script.
func TestMongoFake(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the fake mongodump is a shell script")
	}
	bin, tmp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	fake := func(script string) {
		must(t, os.WriteFile(filepath.Join(bin, "mongodump"), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	conn := `mongodb://u:s3cret@h1:1,h2:2/?authSource=admin#arg=--oplog&bin=` + bin
	fake(fmt.Sprintf(`echo "$*" >%s/args; stat -L -c %%a "${1#--config=}"; cat "${1#--config=}"`, bin))
	if got := string(read(t, database(t, conn), "mongo.archive")); got != "600\nuri: \"mongodb://u:s3cret@h1:1,h2:2/?authSource=admin\"\n" {
		t.Errorf("its option file: %q", got)
	}
	if args := string(read(t, os.DirFS(bin), "args")); strings.Contains(args, "s3cret") || !strings.HasSuffix(args, "--archive --oplog\n") {
		t.Errorf("its arguments: %q", args)
	}
	// With --quiet it says nothing at all, not even why it fails.
	fake(`echo half; case "$*" in *--quiet*) ;; *) echo Failed: no reachable servers >&2;; esac; exit 1`)
	k := newKeeper(t)
	if err := k.refuse(database(t, conn)); !strings.Contains(err.Error(), "no reachable servers") {
		t.Error(err)
	}
	must(t, os.Remove(filepath.Join(bin, "mongodump")))
	if err := k.refuse(database(t, conn)); !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "mongodb-database-tools") {
		t.Error(err)
	}
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestWarn(t *testing.T) {
	text := func(s string) fs.FS {
		return source.Stream("x", func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader(s[:min(3, len(s))]), strings.NewReader(s[min(3, len(s)):]))), nil
		})
	}
	var got []string
	warn := func(path, text string) { got = append(got, path+": "+text) }
	custom := func(minor, method, rest string) string {
		return "PGDMP\x01" + minor + "\x00\x04\x08\x01" + method + rest + strings.Repeat("\x00", 20)
	}
	source.Warn(nil, warn)
	src := source.Warn(source.Join{
		"a-gzip":   text("\x1f\x8b\x08\x00 and more than a few bytes"),
		"b-zstd":   text("\x28\xb5\x2f\xfd"),
		"c-xz":     text("\xfd7zXZ\x00\x00\x04"),
		"d-bzip2":  text("BZh91AY&SY....."),
		"e-pg14":   text(custom("\x0e", "\x01\x01", "\x00\x00\x00")), // -1: the default
		"f-pg14":   text(custom("\x0e", "\x00\x05", "\x00\x00\x00")),
		"g-pg14z0": text(custom("\x0e", "\x00\x00", "\x00\x00\x00")),
		"h-pg16":   text(custom("\x10", "\x03", "")),
		"i-pg16z0": text(custom("\x10", "\x00", "\x07")),
		"j-plain":  text("--\n-- PostgreSQL database dump\n--\n"),
		"k-BZh":    text("BZhaus is no compression"),
		"l-empty":  text(""),
		"m":        source.Join{"shell": source.Shell("x", `printf '\037\213\010more'; exit 0`, nil)},
	}, warn)
	want := []string{"a-gzip", "b-zstd", "c-xz", "d-bzip2", "e-pg14", "f-pg14", "h-pg16", "m/shell"}
	for range 2 {
		got = nil
		_, err := newKeeper(t).r.Backup(t.Context(), "s", src, nil)
		must(t, err)
		var paths []string
		for _, w := range got {
			path, _, _ := strings.Cut(w, ": ")
			paths = append(paths, path)
			if !strings.Contains(w, "the dump is compressed (") || strings.Contains(w, "-pg") && !strings.Contains(w, "-Z0") {
				t.Error(w)
			}
		}
		equal(t, paths, want)
	}
}

// TestWarnPostgres holds what Warn says against real archives.
func TestWarnPostgres(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t)
	pg.Create("shop")
	for _, tt := range []struct {
		args string
		want int
	}{{"-Fc", 1}, {"-Fc -Z0", 0}, {"-Fc -Z1", 1}, {"-Fp -Z1", 1}, {"-Fp", 0}} {
		n := 0
		o := &source.PostgresOptions{Args: strings.Fields(tt.args)}
		read(t, source.Warn(source.Postgres(pg.URL("shop"), o), func(path, _ string) {
			if n++; path != "shop.sql" {
				t.Errorf("a warning about %s", path)
			}
		}), "shop.sql")
		if n != tt.want {
			t.Errorf("%s: %d warnings", tt.args, n)
		}
	}
}

// TestDatabaseServers backs up all by URLs, as a program would.
func TestDatabaseServers(t *testing.T) {
	t.Parallel()
	pg, my := pgtest.Start(t), mariatest.Start(t)
	pg.Create("shop")
	pg.Query("shop", hard)
	my.Query("", "create database shop")
	my.Query("shop", hardMySQL)
	k := newKeeper(t)
	_, snap := k.backup(source.Join{
		"pg": database(t, pg.URL("shop")+"#format=custom&max-lag=1m&arg=--no-owner"),
		"my": database(t, my.URL("")+"#all"),
	})
	if b := read(t, snap, "pg/shop.dump"); !bytes.HasPrefix(b, []byte("PGDMP")) {
		t.Errorf("%.20q", b)
	}
	my.Load("again", bytes.NewReader(read(t, snap, "my/shop.sql")))
}
