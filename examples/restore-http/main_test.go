package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	folder := t.TempDir()
	store, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := repo.Create(ctx, store, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, "%07d\n", i)
	}
	if _, err := r.Backup(ctx, "shop", fstest.MapFS{"db.sql": {Data: []byte(text.String()), Mode: 0o600}}, nil); err != nil {
		t.Fatal(err)
	}

	t.Setenv("TEST_KEY", key.Text())
	said, say := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"-repo", folder, "-key-env", "TEST_KEY", "-snapshot", "shop@latest", "-addr", "127.0.0.1:0"}, say)
		say.CloseWithError(err)
		ended <- err
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, url, _ := strings.Cut(strings.TrimSpace(line), " at ")

	for _, c := range []struct {
		path, ranges string
		status       int
		want         string
	}{
		{"db.sql", "bytes=1200000-1200015", http.StatusPartialContent, "0150000\n0150001\n"},
		{"db.sql", "bytes=-8", http.StatusPartialContent, "0199999\n"},
		{"db.sql", "", http.StatusOK, text.String()},
		{"", "", http.StatusOK, "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n<a href=\"db.sql\">db.sql</a>\n</pre>\n"},
		{"nothing", "", http.StatusNotFound, "404 page not found\n"},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.ranges != "" {
			req.Header.Set("Range", c.ranges)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(got) != c.want {
			t.Errorf("%q %s: status %d, %d bytes, %v", c.path, c.ranges, resp.StatusCode, len(got), err)
		}
	}

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
}

func TestMisuse(t *testing.T) {
	t.Setenv("TEST_KEY", "varve-key-that-is-none")
	for _, args := range [][]string{
		nil,
		{"-repo", t.TempDir(), "-snapshot", "shop@latest", "-key-env", "NO_SUCH_KEY"},
		{"-repo", t.TempDir(), "-snapshot", "shop@latest", "-key-env", "TEST_KEY"}, // no repository there
		{"-no-such-flag"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
