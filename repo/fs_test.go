package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// treeMap is a source with a bit of everything that a map can hold.
func treeMap() fstest.MapFS {
	m := fstest.MapFS{
		"a/b.txt":     {Data: []byte("hello")},
		"a/c/d":       {Data: treeBytes(1, 600_017)},
		"a/empty":     {Mode: 0o600},
		"empty":       {Mode: fs.ModeDir | 0o700},
		"é/日本":        {Data: []byte("utf-8"), Mode: 0o4755},
		"link":        {Data: []byte("a/b.txt"), Mode: fs.ModeSymlink | 0o777},
		"dangling":    {Data: []byte("/nowhere"), Mode: fs.ModeSymlink | 0o777},
		"pipe":        {Mode: fs.ModeNamedPipe | 0o600},
		"twin/b.copy": {Data: treeBytes(1, 600_017)},
	}
	for i := range 300 {
		m[fmt.Sprintf("many/%d", i*7919)] = &fstest.MapFile{Data: fmt.Append(nil, i), Mode: 0o644}
	}
	return m
}

func treeStream(data []byte) fs.FS {
	return source.Stream("dump", func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
}

func TestFS(t *testing.T) {
	regular := treeMap()
	delete(regular, "pipe") // TestFS reads all but folders and links
	tests := map[string]struct {
		fsys  fs.FS
		names []string
	}{
		"tree":   {regular, []string{"a/b.txt", "a/c/d", "a/empty", "empty", "é/日本", "link", "many/0", "many/7919"}},
		"empty":  {fstest.MapFS{}, nil},
		"stream": {source.Join{"db": treeStream(treeBytes(2, 100_000)), "a": fstest.MapFS{"b/c": {}}}, []string{"db", "a/b/c"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, _ := treeRepo(t, nil)
			s := treeBackup(t, r, tt.fsys)
			f := treeFS(t, r, s)
			if err := fstest.TestFS(f, tt.names...); err != nil {
				t.Fatal(err)
			}
			if a, b := treeNames(t, tt.fsys), treeNames(t, f); !slices.Equal(a, b) {
				t.Fatalf("%s\n%s", treePrint(a), treePrint(b))
			}
		})
	}
}

func TestFSErrors(t *testing.T) {
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, treeMap())
	f := treeFS(t, r, s)
	for path, want := range map[string]error{
		"nothing": fs.ErrNotExist, "a/b.txt/x": fs.ErrNotExist, "a/b": fs.ErrNotExist, "a/b.txtt": fs.ErrNotExist, "many/1": fs.ErrNotExist, "link/x": fs.ErrNotExist,
		`a\x2fb.txt`: fs.ErrNotExist, `\`: fs.ErrNotExist, `\x61`: fs.ErrNotExist,
		"": fs.ErrInvalid, "/a": fs.ErrInvalid, "a/": fs.ErrInvalid, "a/../a": fs.ErrInvalid, "./a": fs.ErrInvalid, "\xff": fs.ErrInvalid,
	} {
		_, operr := f.Open(path)
		_, sterr := fs.Stat(f, path)
		_, rderr := fs.ReadDir(f, path)
		_, rferr := fs.ReadFile(f, path)
		_, lserr := fs.Lstat(f, path)
		_, rlerr := fs.ReadLink(f, path)
		for _, err := range []error{operr, sterr, rderr, rferr, lserr, rlerr} {
			pe, ok := errors.AsType[*fs.PathError](err)
			if !errors.Is(err, want) || !ok || pe.Path != path {
				t.Errorf("%q: %v, want %v", path, err, want)
			}
		}
	}
	for path, op := range map[string]func(string) error{
		"a":        func(p string) error { _, err := fs.ReadFile(f, p); return err },
		"a/b.txt":  func(p string) error { _, err := fs.ReadDir(f, p); return err },
		"a/c/d":    func(p string) error { _, err := fs.ReadLink(f, p); return err },
		"link":     func(p string) error { _, err := fs.ReadFile(f, p); return err },
		"pipe":     func(p string) error { _, err := fs.ReadFile(f, p); return err },
		"dangling": func(p string) error { _, err := fs.ReadDir(f, p); return err },
	} {
		if pe, ok := errors.AsType[*fs.PathError](op(path)); !ok || pe.Path != path {
			t.Errorf("%s: %v", path, pe)
		}
	}
	if target, err := fs.ReadLink(f, "dangling"); err != nil || target != "/nowhere" {
		t.Error(target, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f, err := r.FS(ctx, s)
	treeMust(t, err)
	file, err := f.Open("a/c/d")
	treeMust(t, err)
	cancel()
	if _, err := file.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFSReaders(t *testing.T) {
	data := treeBytes(3, 5<<20+3)
	copy(data[1<<20:], make([]byte, 1<<20))
	r, _ := treeRepo(t, nil)
	f := treeFS(t, r, treeBackup(t, r, source.Join{"db": treeStream(data), "dump": treeStream(data[1<<20-70_000:][:200_000]), "t": fstest.MapFS{"f": {Data: data}, "g": {Data: data[:100]}}}))
	for path, data := range map[string][]byte{"dump": data[1<<20-70_000:][:200_000], "t/g": data[:100]} {
		file, err := f.Open(path)
		treeMust(t, err)
		if err := iotest.TestReader(file, data); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"db", "t/f"} {
		open := func() fs.File {
			file, err := f.Open(path)
			treeMust(t, err)
			return file
		}
		if got, err := fs.ReadFile(f, path); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: ReadFile: %d bytes, %v", path, len(got), err)
		}
		var buf bytes.Buffer
		if n, err := io.Copy(&buf, open()); err != nil || n != int64(len(data)) || !bytes.Equal(buf.Bytes(), data) {
			t.Errorf("%s: WriteTo: %d bytes, %v", path, n, err)
		}

		file := open().(io.ReadSeeker)
		for _, off := range []int64{0, 1, 1 << 20, 5 << 20, int64(len(data)) - 1, int64(len(data)), int64(len(data)) + 9} {
			_, err := file.Seek(off, io.SeekStart)
			treeMust(t, err)
			buf.Reset()
			want := data[min(off, int64(len(data))):]
			if n, err := file.(io.WriterTo).WriteTo(&buf); err != nil || n != int64(len(want)) || !bytes.Equal(buf.Bytes(), want) {
				t.Errorf("%s: WriteTo from %d: %d bytes, %v", path, off, n, err)
			}
			if pos, _ := file.Seek(0, io.SeekCurrent); pos != max(off, int64(len(data))) {
				t.Errorf("%s: at %d after WriteTo from %d", path, pos, off)
			}
		}
		for _, bad := range []struct {
			off    int64
			whence int
		}{{-1, io.SeekStart}, {-int64(len(data)) - 1, io.SeekEnd}, {0, 3}, {0, -1}} {
			if _, err := file.Seek(bad.off, bad.whence); err == nil {
				t.Errorf("seek to %v", bad)
			}
		}
		// A writer's error comes back as it is, and the position is behind what was written.
		_, err := file.Seek(0, io.SeekStart)
		treeMust(t, err)
		var few treeFewWriter
		if n, err := file.(io.WriterTo).WriteTo(&few); err != io.ErrShortBuffer || n != 7 {
			t.Error(n, err)
		}
		if pos, _ := file.Seek(0, io.SeekCurrent); pos != 7 {
			t.Error(pos)
		}

		// Many readers of one file, and of many.
		var wg sync.WaitGroup
		shared := open().(io.ReaderAt)
		for i := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(i)))
				at := shared
				if i%2 == 0 {
					at = open().(io.ReaderAt)
				}
				for range 30 {
					off := rng.IntN(len(data))
					p := make([]byte, rng.IntN(400_000))
					n, err := at.ReadAt(p, int64(off))
					want := data[off:min(off+len(p), len(data))]
					if !bytes.Equal(p[:n], want) || err != nil && (err != io.EOF || n == len(p)) || err == nil && n < len(p) {
						t.Errorf("%s: ReadAt(%d bytes, %d) = %d, %v", path, len(p), off, n, err)
					}
				}
			})
		}
		wg.Wait()
		if n, err := shared.ReadAt(make([]byte, 1), -1); n != 0 || err == nil || err == io.EOF {
			t.Error(n, err)
		}
	}
}

type treeFewWriter struct{}

func (w *treeFewWriter) Write(p []byte) (int, error) { return 7, io.ErrShortBuffer }

func TestFSHTTP(t *testing.T) {
	data := treeBytes(4, 2<<20)
	r, _ := treeRepo(t, nil)
	f := treeFS(t, r, treeBackup(t, r, fstest.MapFS{"dump.sql": {Data: data}, "d/x": {Data: []byte("x")}}))
	srv := httptest.NewServer(http.FileServerFS(f))
	defer srv.Close()
	get := func(path, ranges string) *http.Response {
		req, err := http.NewRequest("GET", srv.URL+path, nil)
		treeMust(t, err)
		if ranges != "" {
			req.Header.Set("Range", "bytes="+ranges)
		}
		res, err := http.DefaultClient.Do(req)
		treeMust(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	body := func(res *http.Response) []byte {
		b, err := io.ReadAll(res.Body)
		treeMust(t, err)
		return b
	}
	if res := get("/dump.sql", ""); !bytes.Equal(body(res), data) || res.ContentLength != int64(len(data)) {
		t.Error("the whole file differs")
	}
	for ranges, want := range map[string][]byte{
		"0-0": data[:1], "1000000-1099999": data[1_000_000:1_100_000], "-17": data[len(data)-17:], "2000000-": data[2_000_000:], "5-99999999": data[5:],
	} {
		if res := get("/dump.sql", ranges); res.StatusCode != http.StatusPartialContent || !bytes.Equal(body(res), want) {
			t.Errorf("%s: %s", ranges, res.Status)
		}
	}
	if res := get("/dump.sql", "99999999-"); res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Error(res.Status)
	}
	res := get("/dump.sql", "0-9,1500000-1500099,-5")
	typ, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/byteranges" {
		t.Fatal(typ, err)
	}
	parts := multipart.NewReader(res.Body, params["boundary"])
	for _, want := range [][]byte{data[:10], data[1_500_000:1_500_100], data[len(data)-5:]} {
		p, err := parts.NextPart()
		treeMust(t, err)
		if b, err := io.ReadAll(p); err != nil || !bytes.Equal(b, want) {
			t.Errorf("part %s: %d bytes, %v", p.Header.Get("Content-Range"), len(b), err)
		}
	}
	if res := get("/nothing", ""); res.StatusCode != http.StatusNotFound {
		t.Error(res.Status)
	}
	if b := body(get("/d/", "")); !bytes.Contains(b, []byte(`href="x"`)) {
		t.Errorf("%s", b)
	}
}

// A small range of a large file costs few gets and bytes, whatever else the file holds.
func TestFSRangeCost(t *testing.T) {
	ctx := context.Background()
	size := 24 << 20
	r, store, key := treeRepoKey(t, nil)
	data := treeBytes(5, size)
	s := treeBackup(t, r, source.Join{"db": treeStream(data), "tree": fstest.MapFS{"f": {Data: data}}})
	for _, path := range []string{"db", "tree/f"} {
		r, err := repo.Open(ctx, store, key, nil)
		treeMust(t, err)
		f := treeFS(t, r, s) // reads the index
		store.Reset()
		file, err := f.Open(path)
		treeMust(t, err)
		p := make([]byte, 1024)
		if _, err := file.(io.ReaderAt).ReadAt(p, int64(size)-12345); err != nil || !bytes.Equal(p, data[size-12345:][:1024]) {
			t.Error(path, err)
		}
		if c := store.Counts(); c.Gets > 4 || c.BytesRead > 2<<20 {
			t.Errorf("%s: 1 KiB cost %+v", path, c)
		}
		store.Reset()
		if _, err := file.(io.ReaderAt).ReadAt(p, int64(size)-12345); err != nil || store.Counts().Gets != 0 {
			t.Errorf("%s: the same again cost %+v, %v", path, store.Counts(), err)
		}
		treeMust(t, r.Close())
	}
}

// No wrong byte comes out of FS.
func TestFSDamage(t *testing.T) {
	ctx := context.Background()
	r, store, key := treeRepoKey(t, nil)
	data := treeBytes(6, 4<<20)
	s := treeBackup(t, r, fstest.MapFS{"f": {Data: data}})
	var at int
	store.Corrupt = func(name string, off int64, p []byte) {
		if strings.HasPrefix(name, "packs/") && len(p) > 100<<10 {
			p[at%len(p)] ^= 1
		}
	}
	for range 30 {
		at = rand.IntN(1 << 20)
		r, err := repo.Open(ctx, store, key, nil)
		treeMust(t, err)
		f, err := r.FS(ctx, s)
		treeMust(t, err)
		b, err := fs.ReadFile(f, "f")
		if d, ok := errors.AsType[*repo.DamageError](err); !ok || !strings.HasPrefix(d.Object, "packs/") {
			t.Fatalf("byte %d: %v", at, err)
		}
		if !bytes.HasPrefix(data, b) {
			t.Fatal("wrong bytes")
		}
		r.Close()
	}
}

// The attributes of a snapshot's files change when its files do, also if only extended attributes did.
func TestFSToken(t *testing.T) {
	ctx := context.Background()
	r, _ := treeRepo(t, nil)
	var snaps []*repo.Snapshot
	for _, x := range []string{"1", "1", "2"} {
		m := fstest.MapFS{"f": {Data: []byte("same"), Sys: &repo.Attr{Xattrs: map[string][]byte{"user.x": []byte(x)}}}}
		snaps = append(snaps, treeBackup(t, r, m))
	}
	again, _ := treeRepo(t, &repo.Options{Cache: t.TempDir()})
	for i, s := range snaps {
		got := treeBackup(t, again, treeFS(t, r, s))
		if (i == 1) != (got.Stats.Read == 0) {
			t.Errorf("backup %d read %d bytes", i, got.Stats.Read)
		}
		f, err := again.FS(ctx, got)
		treeMust(t, err)
		info, err := fs.Stat(f, "f")
		treeMust(t, err)
		if x := string(info.Sys().(*repo.Attr).Xattrs["user.x"]); x != []string{"1", "1", "2"}[i] {
			t.Errorf("backup %d has xattr %s", i, x)
		}
	}
}

// All that a source says of an entry comes back, and goes into the next backup.
func TestFSAttr(t *testing.T) {
	attr := &repo.Attr{Owned: true, UID: 12, GID: 1 << 31, User: "ann", Group: "grüße", ContentType: "text/css",
		Meta: map[string]string{"b": "2", "a": "1"}, Xattrs: map[string][]byte{"user.\xff": {0, 1}, "user.a": {}}}
	dev := &repo.Attr{Major: 4095, Minor: 1 << 19}
	m := fstest.MapFS{"f": {Data: []byte("x"), Sys: attr}, "dev": {Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, Sys: dev}}
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, source.Join{"t": m, "dump": treeStream(treeBytes(9, 1<<20))})
	again := treeBackup(t, r, treeFS(t, r, s))
	if d := treeDiffs(t, r, s, again); len(d) > 0 || again.Stats.New != 0 {
		t.Errorf("%d new bytes and %s", again.Stats.New, treePrint(d))
	}
	f := treeFS(t, r, again)
	info, err := fs.Stat(f, "t/f")
	treeMust(t, err)
	got := *info.Sys().(*repo.Attr)
	got.Token, got.Name = nil, nil
	if !reflect.DeepEqual(&got, attr) {
		t.Errorf("%+v, want %+v", got, attr)
	}
	info, err = fs.Stat(f, "t/dev")
	treeMust(t, err)
	if a := info.Sys().(*repo.Attr); a.Major != dev.Major || a.Minor != dev.Minor || info.Mode() != fs.ModeDevice|fs.ModeCharDevice|0o666 {
		t.Errorf("%v %+v", info.Mode(), a)
	}
}

func TestEscape(t *testing.T) {
	for raw, want := range map[string]string{
		"": "", "a/b": "a/b", "é日": "é日", `\`: `\\`, "\xff": `\xff`, "a\xed\xa0\x80b": `a\xed\xa0\x80b`, "\xc3": `\xc3`, "�": "�", `\x41`: `\\x41`, "\x00\n": "\x00\n",
	} {
		if got := repo.Escape(raw); got != want {
			t.Errorf("Escape(%q) = %q, want %q", raw, got, want)
		}
	}
	for _, bad := range []string{`\`, `a\`, `\x`, `\x4`, `\x41`, `\xFF`, `\xfF`, `\n`, `\xc3\xa9`, `\x2f`, `\x5c`, "\xff", `a\\\`} {
		if raw, err := repo.Unescape(bad); err == nil {
			t.Errorf("Unescape(%q) = %q", bad, raw)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		checkEscape(t, string(rapid.SliceOf(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte(`\x4f`+"\xc3\xa9")))).Draw(t, "raw")))
	})
}

func checkEscape(t treeT, s string) {
	t.Helper()
	name := repo.Escape(s)
	if !utf8.ValidString(name) {
		t.Fatalf("Escape(%q) = %q is not valid UTF-8", s, name)
	}
	if raw, err := repo.Unescape(name); err != nil || raw != s {
		t.Fatalf("Unescape(%q) = %q, %v, want %q", name, raw, err, s)
	}
	if strings.Count(name, "/") != strings.Count(s, "/") {
		t.Fatalf("Escape(%q) = %q: other elements", s, name)
	}
	// What Unescape takes is what Escape wrote.
	if raw, err := repo.Unescape(s); err == nil && repo.Escape(raw) != s {
		t.Fatalf("Unescape(%q) = %q, which is written %q", s, raw, repo.Escape(raw))
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{`\`, `\xff`, "\xff", `a\\b`, "é", `\xc3\xa9`, "a/\xc3/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkEscape(t, s) })
}
