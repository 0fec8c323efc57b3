package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// both runs a test with each way to look a path up.
func both(t *testing.T, root string, test func(t *testing.T, d *source.Tree)) {
	t.Run("whole paths", func(t *testing.T) { test(t, newDir(t, root, nil)) })
	t.Run("step by step", func(t *testing.T) {
		d := newDir(t, root, nil)
		source.StepByStep(d)
		test(t, d)
	})
}

func TestDirFS(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "b/c", "b/d/e", "b/é", "empty/", "z/long "+strings.Repeat("x", 200))
	both(t, root, func(t *testing.T, d *source.Tree) {
		must(t, fstest.TestFS(d, "a", "b/c", "b/d/e", "b/é", "empty"))
	})
}

func TestDirRoot(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "real/a", "file", "link -> real", "dangling -> nowhere")
	d := newDir(t, filepath.Join(root, "link"), nil)
	equal(t, walk(t, d, "."), []string{"a"})
	must(t, os.Remove(filepath.Join(root, "link")))
	equal(t, walk(t, d, "."), []string{"a"})
	for name, want := range map[string]error{"missing": fs.ErrNotExist, "dangling": fs.ErrNotExist, "file": unix.ENOTDIR} {
		_, err := source.Dir(filepath.Join(root, name), nil)
		var pe *fs.PathError
		if !errors.Is(err, want) || !errors.As(err, &pe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDirPaths(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a/b", "\xff/\xfe\n")
	both(t, root, func(t *testing.T, d *source.Tree) {
		for _, path := range []string{"", "/", "/a", "a/", "a//b", "./a", "a/.", "..", "a/..", "../x", "a/../a", "a\x00", "a/b\x00c"} {
			_, err := d.Open(path)
			_, lerr := d.Lstat(path)
			_, rerr := d.ReadDir(path)
			for _, err := range []error{err, lerr, rerr} {
				if !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("%q: %v", path, err)
				}
			}
		}
		for path, want := range map[string]error{"x": fs.ErrNotExist, "x/y": fs.ErrNotExist, "a/x": fs.ErrNotExist, "a/b/c": unix.ENOTDIR} {
			_, err := d.Lstat(path)
			var pe *fs.PathError
			if !errors.As(err, &pe) || pe.Path != path || !errors.Is(err, want) {
				t.Errorf("%q: %v", path, err)
			}
		}
		got, err := fs.ReadFile(d, "\xff/\xfe\n")
		if err != nil || string(got) != "\xff/\xfe\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// Special files are described and not opened; nor does anything block.
func TestDirKinds(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "file", "dir/", "link -> file", "out -> /etc", "dangling -> \xffnowhere")
	must(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o640))
	sock, err := net.Listen("unix", filepath.Join(root, "sock"))
	must(t, err)
	defer sock.Close()
	must(t, os.Chmod(filepath.Join(root, "file"), 0o751|fs.ModeSetuid|fs.ModeSticky))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "hard")))
	kinds := map[string]fs.FileMode{
		"file": 0, "hard": 0, "dir": fs.ModeDir, "link": fs.ModeSymlink, "out": fs.ModeSymlink, "dangling": fs.ModeSymlink,
		"fifo": fs.ModeNamedPipe, "sock": fs.ModeSocket,
	}
	if os.Getuid() == 0 {
		if err := unix.Mknod(filepath.Join(root, "char"), unix.S_IFCHR|0o600, int(unix.Mkdev(259, 70000))); err == nil {
			must(t, unix.Mknod(filepath.Join(root, "block"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 3))))
			kinds["char"], kinds["block"] = fs.ModeDevice|fs.ModeCharDevice, fs.ModeDevice
		}
	}
	both(t, root, func(t *testing.T, d *source.Tree) {
		n := 0
		for e, err := range d.Entries(t.Context(), ".") {
			must(t, err)
			n++
			fi, err := e.Info()
			must(t, err)
			if want := kinds[e.Name()]; e.Type() != want || fi.Mode().Type() != want || e.IsDir() != (want == fs.ModeDir) {
				t.Errorf("%s: %v, %v", e.Name(), e.Type(), fi.Mode())
			}
			a := fi.Sys().(*repo.Attr)
			if !a.Owned || a.UID != uint32(os.Getuid()) || a.GID != uint32(os.Getgid()) || os.Getuid() == 0 && (a.User != "root" || a.Group != "root") {
				t.Errorf("%s: owner %+v", e.Name(), a)
			}
			if (len(a.Token) == 0) != e.IsDir() || a.Changed.IsZero() != e.IsDir() {
				t.Errorf("%s: token %x, %v", e.Name(), a.Token, a.Changed)
			}
			f, err := d.Open(e.Name())
			if opens := e.IsDir() || fi.Mode().IsRegular(); opens != (err == nil) {
				t.Errorf("%s: Open: %v", e.Name(), err)
			}
			if err == nil {
				f.Close()
			}
		}
		if n != len(kinds) {
			t.Errorf("%d entries of %d", n, len(kinds))
		}
		if _, ok := kinds["char"]; ok {
			_, c := lstat(t, d, "char")
			_, b := lstat(t, d, "block")
			if c.Major != 259 || c.Minor != 70000 || b.Major != 7 || b.Minor != 3 {
				t.Errorf("devices %d,%d and %d,%d", c.Major, c.Minor, b.Major, b.Minor)
			}
		}
		fi, a := lstat(t, d, "file")
		_, h := lstat(t, d, "hard")
		_, l := lstat(t, d, "link")
		if a.Link.Ino == 0 || a.Link != h.Link || l.Link.Ino != 0 || !bytes.Equal(a.Token, h.Token) {
			t.Errorf("links %v %v %v", a.Link, h.Link, l.Link)
		}
		if fi.Mode() != 0o751|fs.ModeSetuid|fs.ModeSticky {
			t.Errorf("mode %v", fi.Mode())
		}
		for name, want := range map[string]string{"link": "file", "out": "/etc", "dangling": "\xffnowhere"} {
			if got, err := d.ReadLink(name); err != nil || got != want {
				t.Errorf("%s -> %q, %v", name, got, err)
			}
			if fi, err := d.Stat(name); err != nil || fi.Mode().Type() != fs.ModeSymlink {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
		}
		if _, err := d.ReadLink("file"); err == nil {
			t.Error("ReadLink of a file")
		}
		for _, path := range []string{"out/passwd", "link/x"} {
			if _, err := d.Open(path); err == nil {
				t.Errorf("%s was opened", path)
			}
			if _, err := d.Lstat(path); err == nil {
				t.Errorf("%s was found", path)
			}
		}
		for _, err := range d.Entries(t.Context(), "out") {
			if err == nil {
				t.Error("out was listed")
			}
		}
	})
}

// Names of any bytes, each once, in the order of the bytes.
func TestDirRawNames(t *testing.T) {
	root := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	var want []string
	for len(want) < 1000 {
		prefix := []string{"", "same-prefix-", "\x01"}[r.IntN(3)]
		name := []byte(prefix + strings.Repeat("x", 1+r.IntN(250-len(prefix))))
		for i := len(prefix); i < len(name); i++ {
			name[i] = byte(1 + r.IntN(4)*r.IntN(64))
			if name[i] == '/' {
				name[i]--
			}
		}
		if s := string(name); s != "." && s != ".." && os.WriteFile(filepath.Join(root, s), []byte(s), 0o600) == nil {
			want = append(want, s)
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	both(t, root, func(t *testing.T, d *source.Tree) {
		equal(t, walk(t, d, "."), want)
		for i := 0; i < len(want); i += 31 {
			if got, err := fs.ReadFile(d, want[i]); err != nil || string(got) != want[i] {
				t.Errorf("%q: %q, %v", want[i], got, err)
			}
		}
	})
}

// plantDeep makes folders within each other, by handles, and a file in each tenth.
func plantDeep(t *testing.T, root, name string, depth int) (files []string) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	path := ""
	for i := range depth {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
		path += name + "/"
		if i%10 == 9 {
			f, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
			must(t, err)
			_, err = unix.Write(f, []byte(fmt.Sprint(i)))
			must(t, err)
			unix.Close(f)
			must(t, unix.Symlinkat("/etc", fd, "link"))
			files = append(files, path+"file")
		}
	}
	unix.Close(fd)
	return files
}

func TestDirDeep(t *testing.T) {
	for _, tt := range []struct {
		name  string
		elem  string
		depth int
	}{
		{"many", "d", 200},
		{"long", strings.Repeat("long", 60), 60},
		{"at the limit", strings.Repeat("limit67", 9), 70}, // 64 bytes a step: pieces of exactly PATH_MAX
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			files := plantDeep(t, root, tt.elem, tt.depth)
			both(t, root, func(t *testing.T, d *source.Tree) {
				// Infos at last, when the folders far up have been closed in between.
				var found []string
				deepest := 0
				var visit func(dir string)
				visit = func(dir string) {
					var all []fs.DirEntry
					for e, err := range d.Entries(t.Context(), dir) {
						must(t, err)
						all = append(all, e)
						if e.IsDir() {
							visit(strings.TrimPrefix(dir+"/"+e.Name(), "./"))
						}
						deepest = max(deepest, source.Kept(d))
						_, err = e.Info()
						must(t, err)
						if e.Name() == "file" {
							found = append(found, dir+"/file")
						}
					}
					for _, e := range all {
						_, err := e.Info()
						must(t, err)
					}
				}
				visit(".")
				slices.SortFunc(found, func(a, b string) int { return len(a) - len(b) })
				equal(t, found, files)
				if deepest > source.MaxKept || source.Kept(d) != 0 {
					t.Errorf("%d folders open, %d at the end", deepest, source.Kept(d))
				}
				for i, f := range files {
					if got, err := fs.ReadFile(d, f); err != nil || string(got) != fmt.Sprint(i*10+9) {
						t.Errorf("%q, %v", got, err)
					}
					if got, err := d.ReadLink(strings.TrimSuffix(f, "file") + "link"); err != nil || got != "/etc" {
						t.Errorf("%q, %v", got, err)
					}
					_, err := d.Xattrs(f)
					must(t, err)
				}
			})
		})
	}
}

func TestDirXattrs(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "file", "none", "dir/", "link -> file")
	big := bytes.Repeat([]byte("big"), 700)
	for _, name := range []string{"file", "dir"} {
		path := filepath.Join(root, name)
		if err := unix.Lsetxattr(path, "user.varve", []byte("a\x00b"), 0); err == unix.ENOTSUP {
			t.Skip("no extended attributes here")
		}
		must(t, unix.Lsetxattr(path, "user.empty", nil, 0))
		must(t, unix.Lsetxattr(path, "user.big", big, 0))
	}
	onLink := os.Getuid() == 0 && unix.Lsetxattr(filepath.Join(root, "link"), "trusted.varve", []byte("link"), 0) == nil
	both(t, root, func(t *testing.T, d *source.Tree) {
		for _, name := range []string{"file", "dir"} {
			x, err := d.Xattrs(name)
			if err != nil || len(x) != 3 || string(x["user.varve"]) != "a\x00b" || x["user.empty"] == nil || len(x["user.empty"]) != 0 || !bytes.Equal(x["user.big"], big) {
				t.Errorf("%s: %v, %v", name, x, err)
			}
		}
		for _, name := range []string{".", "none"} {
			if x, err := d.Xattrs(name); len(x) > 0 || err != nil {
				t.Errorf("%s: %v, %v", name, x, err)
			}
		}
		if x, err := d.Xattrs("link"); onLink && (err != nil || string(x["trusted.varve"]) != "link") || x["user.varve"] != nil {
			t.Errorf("link: %v, %v", x, err)
		}
		if _, err := d.Xattrs("missing"); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	if x, err := newDir(t, root, &source.DirOptions{NoXattrs: true}).Xattrs("file"); len(x) > 0 || err != nil {
		t.Error(x, err)
	}
}

func TestDirSparse(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "full", "empty")
	must(t, os.Truncate(filepath.Join(root, "empty"), 0))
	f, err := os.Create(filepath.Join(root, "sparse"))
	must(t, err)
	const mb = 1 << 20
	for _, off := range []int64{1 * mb, 5 * mb} {
		_, err := f.WriteAt(bytes.Repeat([]byte("data"), mb/8), off)
		must(t, err)
	}
	must(t, f.Truncate(9*mb))
	must(t, f.Close())
	plant(t, root, "hole")
	must(t, os.Truncate(filepath.Join(root, "hole"), 0))
	must(t, os.Truncate(filepath.Join(root, "hole"), 3*mb))

	d := newDir(t, root, nil)
	for name, want := range map[string][]repo.Extent{
		"full": nil, "empty": nil, "hole": {}, "sparse": {{Offset: 1 * mb, Length: mb / 2}, {Offset: 5 * mb, Length: mb / 2}},
	} {
		f, err := d.Open(name)
		must(t, err)
		defer f.Close()
		s := f.(interface {
			repo.SparseFile
			io.ReadSeeker
			io.ReaderAt
		})
		_, err = s.Seek(2, io.SeekStart)
		must(t, err)
		got, err := s.Extents()
		if err != nil || !slices.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
		if pos, err := s.Seek(0, io.SeekCurrent); pos != 2 || err != nil {
			t.Errorf("%s: at %d, %v", name, pos, err)
		}
	}
}

// Of a file with very many holes the longest are kept.
func TestDirManyExtents(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	const step = 32 << 10
	off := int64(0)
	var data []int64
	for i := range 200 {
		off += step
		if i%50 == 25 {
			off += 8 << 20
		}
		_, err := f.WriteAt([]byte("data"), off)
		must(t, err)
		data = append(data, off)
	}
	all, err := source.Extents(f, 1000)
	must(t, err)
	if len(all) != len(data) {
		t.Skipf("%d extents of %d: not a file system for this", len(all), len(data))
	}
	for _, most := range []int{199, 60, 5} {
		some, err := source.Extents(f, most)
		must(t, err)
		if len(some) > most || len(some) < 5 {
			t.Errorf("at most %d: %d", most, len(some))
		}
		i := 0
		end := int64(0)
		for _, x := range some {
			if x.Offset <= end || x.Length <= 0 {
				t.Errorf("at most %d: %v behind %d", most, x, end)
			}
			end = x.Offset + x.Length
			for i < len(data) && data[i] >= x.Offset && data[i]+4 <= end {
				i++
			}
		}
		if i != len(data) {
			t.Errorf("at most %d: %d of %d", most, i, len(data))
		}
	}
}

// What is opened is asked afresh, so that a change during reading shows.
func TestDirToken(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "f")
	plant(t, root, "f", "b/f")
	d := newDir(t, root, nil)
	fi, before := lstat(t, d, "f")
	f, err := d.Open("f")
	must(t, err)
	defer f.Close()
	token := func() string {
		fi, err := f.Stat()
		must(t, err)
		return string(fi.Sys().(*repo.Attr).Token)
	}
	if token() != string(before.Token) || len(before.Token) != 41 {
		t.Fatalf("%x, then %x", before.Token, token())
	}
	for name, change := range map[string]func(){
		"size":  func() { must(t, os.Truncate(path, fi.Size()+1)) },
		"mtime": func() { must(t, os.Chtimes(path, time.Time{}, time.Unix(1, 1))) },
		"same size, mtime set back": func() {
			must(t, os.WriteFile(path, []byte("F!"), 0o644))
			must(t, os.Chtimes(path, time.Time{}, time.Unix(1, 1)))
		},
		"chmod": func() { must(t, os.Chmod(path, 0o600)) },
	} {
		old := token()
		for start := time.Now(); token() == old; { // the file system's clock may not have ticked yet
			if change(); time.Since(start) > 5*time.Second {
				t.Fatalf("%s: not seen", name)
			}
		}
	}
	must(t, os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)))
	fi, a := lstat(t, d, "f")
	if !a.Changed.Equal(fi.ModTime()) {
		t.Errorf("changed %v, mtime %v", a.Changed, fi.ModTime())
	}
	must(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
	if _, a := lstat(t, d, "f"); time.Since(a.Changed).Abs() > time.Hour {
		t.Errorf("changed %v", a.Changed)
	}
}

// Attributes that were not looked for are not taken for none: what is kept by the token is another look's.
func TestDirTokenXattrs(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "f")
	tokens := func(o *source.DirOptions) string {
		d := newDir(t, root, o)
		_, a := lstat(t, d, "f")
		f, err := d.Open("f")
		must(t, err)
		defer f.Close()
		fi, err := f.Stat()
		must(t, err)
		list, err := d.ReadDir(".")
		must(t, err)
		li, err := list[0].Info()
		must(t, err)
		for _, fi := range []fs.FileInfo{fi, li} {
			if got := fi.Sys().(*repo.Attr).Token; !bytes.Equal(got, a.Token) {
				t.Errorf("%x and %x", got, a.Token)
			}
		}
		return string(a.Token)
	}
	without, with := tokens(&source.DirOptions{NoXattrs: true}), tokens(nil)
	if without == with || with != tokens(&source.DirOptions{}) {
		t.Errorf("%x without, %x with", without, with)
	}
	sights := map[byte]bool{}
	for _, no := range []bool{false, true} {
		for _, euid := range []int{0, 1000} {
			sights[source.SightOf(no, euid)] = true
		}
	}
	if len(sights) != 4 {
		t.Error(sights)
	}
}

func TestDirVanish(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "d/a", "d/b", "d/c", "e/x")
	both(t, root, func(t *testing.T, d *source.Tree) {
		plant(t, root, "d/b")
		var kept fs.DirEntry
		for e, err := range d.Entries(t.Context(), "d") {
			must(t, err)
			must(t, os.RemoveAll(filepath.Join(root, "d/b")))
			_, err = e.Info()
			if gone := e.Name() == "b"; gone != errors.Is(err, fs.ErrNotExist) || !gone && err != nil {
				t.Errorf("%s: %v", e.Name(), err)
			}
			var pe *fs.PathError
			if err != nil && (!errors.As(err, &pe) || pe.Path != "d/b") {
				t.Error(err)
			}
			kept = e
		}
		if _, err := kept.Info(); err != nil {
			t.Errorf("after the end: %v", err)
		}
		// Another folder of that name is none of the entry's.
		must(t, os.Rename(filepath.Join(root, "d"), filepath.Join(root, "old")))
		plant(t, root, "d/c")
		if _, err := kept.Info(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("in another folder: %v", err)
		}
		must(t, os.RemoveAll(filepath.Join(root, "d")))
		must(t, os.Rename(filepath.Join(root, "old"), filepath.Join(root, "d")))
	})
}

func TestDirCancel(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "b")
	d := newDir(t, root, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := 0
	for _, err := range d.Entries(ctx, ".") {
		if n++; n > 1 || !errors.Is(err, context.Canceled) {
			t.Error(n, err)
		}
	}
	for range d.Entries(t.Context(), ".") { // left early
		break
	}
	if source.Kept(d) != 0 {
		t.Error("a folder was left open")
	}
}

func TestDirClose(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "b/c")
	d, err := source.Dir(root, nil)
	must(t, err)
	f, err := d.Open("a")
	must(t, err)
	defer f.Close()
	dir, err := d.Open("b")
	must(t, err)
	for e, err := range d.Entries(t.Context(), ".") {
		if e == nil {
			t.Fatal(err)
		}
		must(t, d.Close())
		if _, err := e.Info(); !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	}
	must(t, d.Close())
	if got, err := io.ReadAll(f); string(got) != "a" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, oerr := d.Open("a")
	_, lerr := d.Lstat("b/c")
	_, rerr := d.ReadDir(".")
	_, derr := dir.Stat()
	for i, err := range []error{oerr, lerr, rerr, derr} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Error(i, err)
		}
	}
	must(t, dir.Close())
}

// A folder becomes a link to another place, and back, all the time: what is outside is never seen.
func TestDirSwap(t *testing.T) {
	base := t.TempDir()
	plant(t, base, "root/d/sub/f", "outside/sub/f", "outside/secret")
	must(t, os.WriteFile(filepath.Join(base, "root/d/sub/f"), []byte("inside"), 0o644))
	must(t, os.WriteFile(filepath.Join(base, "outside/sub/f"), []byte("outside"), 0o644))
	root := filepath.Join(base, "root")
	must(t, os.Symlink(filepath.Join(base, "outside"), filepath.Join(root, "link")))
	both(t, root, func(t *testing.T, d *source.Tree) {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					unix.Renameat2(unix.AT_FDCWD, root+"/d", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE)
				}
			}
		}()
		var seen, refused int
		for i := 0; i < 1_000_000 && (seen < 300 || refused < 300); i++ {
			check := func(what, got, want string, err error) {
				switch {
				case err != nil:
					refused++
				case got != want:
					t.Errorf("%s: %q", what, got)
				default:
					seen++
				}
			}
			got, err := fs.ReadFile(d, "d/sub/f")
			check("content", string(got), "inside", err)
			list, err := d.ReadDir("d")
			names := ""
			for _, e := range list {
				names += e.Name()
				if fi, err := e.Info(); err == nil && !fi.IsDir() {
					t.Error("secret found")
				}
			}
			check("listing", names, "sub", err)
			fi, err := d.Lstat("d/sub/f")
			size := ""
			if err == nil {
				size = fmt.Sprint(fi.Size())
			}
			check("size", size, "6", err)
			if fi, err := d.Lstat("d/secret"); err == nil {
				t.Error("secret found:", fi)
			}
			for e, err := range d.Entries(t.Context(), "d") {
				if err != nil {
					break
				}
				if fi, err := e.Info(); err == nil && e.Name() != "sub" {
					t.Error("found:", fi)
				}
				for e, err := range d.Entries(t.Context(), "d/"+e.Name()) {
					if err != nil {
						break
					}
					fi, err := e.Info()
					if err == nil && fi.Size() != 6 {
						t.Error("outside:", fi)
					}
				}
			}
		}
		close(stop)
		<-stopped
		if seen < 300 || refused < 300 {
			t.Logf("a race not tried enough: %d seen, %d refused", seen, refused)
		}
	})
}

// asNobody runs f without root's powers, in a thread that the process then loses.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		// setfsuid is the thread's own, and takes the file capabilities away.
		unix.Setfsgid(65534)
		unix.Setfsuid(65534)
		f()
	}()
	<-done
}

func TestDirUnreadable(t *testing.T) {
	root := t.TempDir()
	for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	plant(t, root, "file", "dir/x", "passage/x")
	must(t, os.Chmod(filepath.Join(root, "file"), 0))
	must(t, os.Chmod(filepath.Join(root, "dir"), 0))
	must(t, os.Chmod(filepath.Join(root, "passage"), 0o311))
	both(t, root, func(t *testing.T, d *source.Tree) {
		asNobody(t, func() {
			for e, err := range d.Entries(t.Context(), ".") {
				if err != nil {
					t.Error(err)
					break
				}
				if _, err := e.Info(); err != nil {
					t.Error(err)
				}
			}
			_, ferr := d.Open("file")
			_, derr := d.Open("dir")
			_, lerr := d.Lstat("dir/x")
			_, rerr := d.ReadDir("dir")
			_, perr := d.ReadDir("passage")
			for i, err := range []error{ferr, derr, lerr, rerr, perr} {
				var pe *fs.PathError
				if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &pe) {
					t.Error(i, err)
				}
			}
			if got, err := fs.ReadFile(d, "passage/x"); err != nil || string(got) != "passage/x" {
				t.Errorf("%q, %v", got, err)
			}
			if _, err := source.Dir(filepath.Join(root, "dir"), nil); !errors.Is(err, fs.ErrPermission) {
				t.Error(err)
			}
		})
	})
	must(t, os.Chmod(filepath.Join(root, "dir"), 0o755)) // so that it can be removed
	must(t, os.Chmod(filepath.Join(root, "passage"), 0o755))
}

func TestDirOneFileSystem(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "mnt/", "sub/f")
	mnt := filepath.Join(root, "mnt")
	if err := unix.Mount("varve", mnt, "tmpfs", 0, ""); err != nil {
		t.Skip("needs a mount: ", err)
	}
	defer unix.Unmount(mnt, unix.MNT_DETACH)
	plant(t, root, "mnt/x/y", "bound")
	must(t, unix.Mount(filepath.Join(mnt, "x/y"), filepath.Join(root, "bound"), "", unix.MS_BIND, ""))
	defer unix.Unmount(filepath.Join(root, "bound"), unix.MNT_DETACH)

	equal(t, walk(t, newDir(t, root, nil), "."), []string{"a", "bound", "mnt/", "mnt/x/", "mnt/x/y", "sub/", "sub/f"})
	d := newDir(t, root, &source.DirOptions{OneFileSystem: true})
	equal(t, walk(t, d, "."), []string{"a", "mnt/", "sub/", "sub/f"})
	if list, err := d.ReadDir("mnt"); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
	for _, path := range []string{"bound", "mnt/x", "mnt/x/y"} {
		_, oerr := d.Open(path)
		_, lerr := d.Lstat(path)
		_, rerr := d.ReadDir(path)
		_, xerr := d.Xattrs(path)
		for i, err := range []error{oerr, lerr, rerr, xerr} {
			if !errors.Is(err, fs.ErrNotExist) && (i != 2 || path == "mnt/x") {
				t.Error(path, i, err)
			}
		}
	}
}

// Many goroutines at once, with more folders open than are kept.
func TestDirConcurrent(t *testing.T) {
	root := t.TempDir()
	plantDeep(t, root, "d", 150)
	d := newDir(t, root, nil)
	want := walk(t, d, ".")
	done := make(chan []string)
	for range 6 {
		go func() {
			var got []string
			fs.WalkDir(d, ".", func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					t.Error(err)
				}
				if _, err := e.Info(); err != nil {
					t.Error(err)
				}
				if e.IsDir() {
					path += "/"
				}
				got = append(got, path)
				return nil
			})
			done <- got[1:]
		}()
	}
	for range 6 {
		equal(t, <-done, want)
	}
	if source.Kept(d) != 0 {
		t.Error(source.Kept(d), "folders left open")
	}
}
