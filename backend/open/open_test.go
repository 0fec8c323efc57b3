package open_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/open"
)

func TestContract(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		b, err := open.URL(t.Context(), t.TempDir(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func TestURL(t *testing.T) {
	root := filepath.ToSlash(t.TempDir())
	t.Chdir(root)
	if !strings.HasPrefix(root, "/") {
		root = "/" + root // C:/x in a URL
	}
	for _, c := range []struct{ url, folder string }{
		{"plain", "plain"}, {"./dot/and/below", "dot/and/below"}, {"./a:b", "a:b"},
		{"file://" + root + "/url", "url"}, {"FILE:" + root + "/short", "short"}, {"file://localhost" + root + "/host", "host"},
		{"file://" + root + "/a%20b%3Fc", "a b?c"}, {"sp ace", "sp ace"}, {"c", "c"},
	} {
		if os.PathSeparator == '\\' && strings.ContainsAny(c.folder, ":?") {
			continue
		}
		if b, err := open.URL(t.Context(), c.url, nil); !errors.Is(err, fs.ErrNotExist) || b != nil {
			t.Errorf("%s, which is missing: %v, %v", c.url, b, err)
		}
		if _, err := os.Stat(c.folder); err == nil {
			t.Errorf("%s is made without Create", c.url)
		}
		for range 2 {
			if _, err := open.URL(t.Context(), c.url, &open.Options{Create: true}); err != nil {
				t.Errorf("%s: %v", c.url, err)
			}
		}
		if fi, err := os.Stat(c.folder); err != nil || !fi.IsDir() {
			t.Errorf("%s: no folder %s: %v", c.url, c.folder, err)
		}
	}
	for _, bad := range []string{"s3://key:secret@bucket/x", "s4:bucket", "sftp://host/x", "http://host/"} {
		_, err := open.URL(t.Context(), bad, &open.Options{Create: true})
		if !errors.Is(err, open.ErrScheme) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "file:", "file:rel", "file://host/x", "file:///x?y", "file:///x#y", "file:///%zz", "file://u@/x"} {
		if b, err := open.URL(t.Context(), bad, nil); err == nil || b != nil {
			t.Errorf("%q: %v, %v; want an error", bad, b, err)
		}
	}
}

func ExampleURL() {
	_, err := open.URL(context.Background(), "gopher://host/backup", nil)
	fmt.Println(err)
	// Output: backend/open: gopher: no such kind of store (there are: a path, file:///path)
}
