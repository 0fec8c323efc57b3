//go:build (linux || darwin) && !osroot

package target_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/varvebackup/varve/repo/internal/target"
)

// ramDir is a temporary folder in memory if there is such a file system: races are won more often there.
func ramDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "target")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// outside makes a folder that nobody may touch, with b/c in it, so that paths through a planted link lead somewhere.
func outside(t testing.TB, dir string) string {
	must(t, os.MkdirAll(filepath.Join(dir, "b", "c"), 0o755))
	for _, name := range []string{"secret", "b/secret", "b/c/secret"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o640))
		must(t, os.Chtimes(filepath.Join(dir, name), stamp, stamp))
	}
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	return dir
}

// fingerprint is all of a folder that its owner may rely on; not the change time and number of links, which whoever plants
// a hard link changes.
func fingerprint(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		content := ""
		if e.Type().IsRegular() {
			c, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = string(c)
		}
		xattrs := make([]byte, 1000)
		n, _ := unix.Llistxattr(p, xattrs)
		fmt.Fprintf(&b, "%s ino %d mode %o owner %d %d mtime %v xattrs %q %q\n",
			p, st.Ino, st.Mode, st.Uid, st.Gid, st.Mtim, xattrs[:max(n, 0)], content)
		return nil
	}))
	return b.String()
}

// everything tries each method on path, with metadata that would leave traces.
func everything(tg *target.Target, path string) {
	m := func(typ fs.FileMode) *target.Meta {
		return &target.Meta{
			Mode: fs.ModePerm | typ, ModTime: stamp.Add(time.Hour), Owned: true, UID: 12345, GID: 54321,
			Xattrs: map[string][]byte{"user.x": []byte("x"), "trusted.x": []byte("x")},
		}
	}
	f, err := tg.Open(path)
	if err == nil {
		f.Close()
	}
	tg.FinishDir(path, m(fs.ModeDir))
	tg.Mkdir(path)
	tg.FinishDir(path, m(fs.ModeDir))
	write(tg, path, "written", m(0))
	// Size and time of what outside makes: only mode and owner differ.
	write(tg, path, "secret", &target.Meta{Mode: 0o606, ModTime: stamp, Owned: true, UID: 1, GID: 1})
	tg.Symlink(path, "/", m(fs.ModeSymlink))
	tg.Special(path, m(fs.ModeNamedPipe))
	tg.Special(path, m(fs.ModeSocket))
	tg.Link(path, path)
	tg.Link(path+".2", path)
	write(tg, path+".2", "written", m(0))
	if f, err := tg.Create(path+".3", m(0), 10); err == nil {
		f.Abort()
	}
}

func TestEscape(t *testing.T) {
	plants := map[string]func(at, out string) error{
		"link to folder":  func(at, out string) error { return os.Symlink(out, at) },
		"relative link":   func(at, out string) error { return os.Symlink(strings.Repeat("../", 40)+out[1:], at) },
		"link to file":    func(at, out string) error { return os.Symlink(filepath.Join(out, "secret"), at) },
		"dangling link":   func(at, out string) error { return os.Symlink(filepath.Join(out, "new"), at) },
		"hard link":       func(at, out string) error { return os.Link(filepath.Join(out, "secret"), at) },
		"hard fifo":       func(at, out string) error { return os.Link(filepath.Join(out, "fifo"), at) },
		"fifo":            func(at, out string) error { return unix.Mkfifo(at, 0o600) },
		"link to oneself": func(at, out string) error { return os.Symlink(filepath.Base(at), at) },
	}
	if os.Geteuid() == 0 {
		plants["device"] = func(at, out string) error { return unix.Mknod(at, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }
	}
	for name, plant := range plants {
		for pos, at := range []string{"a", "a/b", "a/b/c", "a/b/c/secret"} {
			for o := target.Never; o <= target.Always; o++ {
				t.Run(fmt.Sprintf("%s/%d/%d", name, pos, o), func(t *testing.T) {
					tmp := ramDir(t)
					out := outside(t, filepath.Join(tmp, "out"))
					in := filepath.Join(tmp, "in")
					must(t, os.MkdirAll(filepath.Join(in, filepath.Dir(at)), 0o700))
					must(t, plant(filepath.Join(in, at), out))
					want := fingerprint(t, out)
					top, _ := os.ReadDir(tmp)

					tg := open(t, in, &target.Options{Overwrite: o})
					for _, path := range []string{"a/b/c/secret", "a/b/c/new", "a/b/c", "a/b/secret", "a/b", "a/secret"} {
						everything(tg, path)
					}
					for _, dir := range []string{"a", "a/b", "a/b/c"} { // as a restore does
						tg.Mkdir(dir)
					}
					everything(tg, "a/b/c/secret")
					everything(tg, "a/b/c/new")
					everything(tg, "a")

					if got := fingerprint(t, out); got != want {
						t.Errorf("outside has changed:\n%s\nwas\n%s", got, want)
					}
					if now, _ := os.ReadDir(tmp); len(now) != len(top) {
						t.Error("something new beside the target:", now)
					}
				})
			}
		}
	}
}

// TestEscapeBySnapshot has links that the snapshot itself brings.
func TestEscapeBySnapshot(t *testing.T) {
	tmp := ramDir(t)
	out := outside(t, filepath.Join(tmp, "out"))
	want := fingerprint(t, out)
	in := filepath.Join(tmp, "in")
	tg := open(t, in, &target.Options{Overwrite: target.Always})

	must(t, tg.Symlink("s", out, meta(0o777)))
	for _, path := range []string{"s/new", "s/secret", "s/b/secret"} {
		if err := write(tg, path, "x", meta(0o600)); err == nil || !strings.Contains(err.Error(), path) {
			t.Error(path, err)
		}
		if _, err := tg.Open(path); err == nil {
			t.Error("read", path)
		}
	}
	if err := tg.Link("x", "s/secret"); err == nil {
		t.Error("linked to a file outside")
	}
	if err := tg.FinishDir("s", meta(0o777)); err == nil {
		t.Error("finished a link")
	}

	// A second name of a link is a link.
	must(t, tg.Symlink("f", filepath.Join(out, "secret"), meta(0o777)))
	must(t, tg.Link("g", "f"))
	if _, err := tg.Open("g"); err == nil {
		t.Error("read through a link")
	}
	must(t, write(tg, "g", "written", meta(0o600)))
	must(t, write(tg, "f", "written", meta(0o600)))

	// A folder that is in the cache makes room for a link.
	must(t, tg.Mkdir("d"))
	must(t, tg.Mkdir("d/e"))
	f, err := tg.Create("d/e/x", meta(0o600), 1)
	must(t, err)
	if err := tg.Symlink("d", out, meta(0o777)); !errors.Is(err, fs.ErrExist) {
		t.Error("replaced a folder that is not empty:", err)
	}
	f.Abort()
	must(t, tg.Symlink("d/e", out, meta(0o777)))
	if err := write(tg, "d/e/x", "x", meta(0o600)); err == nil {
		t.Error("wrote into a folder that is a link now")
	}
	// And back: the link is replaced by a folder.
	must(t, tg.Mkdir("d/e"))
	must(t, write(tg, "d/e/x", "x", meta(0o600)))
	if read(t, filepath.Join(in, "d/e/x")) != "x" {
		t.Error("not there")
	}

	if got := fingerprint(t, out); got != want {
		t.Errorf("outside has changed:\n%s\nwas\n%s", got, want)
	}
}

// A file that has another name is neither written nor has its metadata set, even if that is all that differs.
func TestHardLinkedOutside(t *testing.T) {
	for _, typ := range []string{"file", "fifo"} {
		tmp := ramDir(t)
		out := outside(t, filepath.Join(tmp, "out"))
		in := filepath.Join(tmp, "in")
		must(t, os.Mkdir(in, 0o700))
		tg := open(t, in, &target.Options{Overwrite: target.IfDifferent})
		want := fingerprint(t, out)
		p := filepath.Join(in, "p")
		switch typ {
		case "file":
			must(t, os.Link(filepath.Join(out, "secret"), p))
			must(t, write(tg, "p", "secret", meta(0o604)))
		case "fifo":
			must(t, os.Link(filepath.Join(out, "fifo"), p))
			must(t, tg.Special("p", meta(0o604|fs.ModeNamedPipe)))
		}
		fi, err := os.Lstat(p)
		if err != nil || fi.Mode().Perm() != 0o604 {
			t.Error(fi.Mode(), err)
		}
		if got := fingerprint(t, out); got != want {
			t.Errorf("outside has changed:\n%s\nwas\n%s", got, want)
		}
	}
}

func TestRandomEscape(t *testing.T) {
	tmp := ramDir(t)
	out := outside(t, filepath.Join(tmp, "out"))
	want := fingerprint(t, out)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		in := filepath.Join(tmp, fmt.Sprint("in", n))
		defer os.RemoveAll(in)
		tg, err := target.Open(in, &target.Options{Overwrite: target.Overwrite(rapid.IntRange(0, 2).Draw(r, "overwrite"))})
		if err != nil {
			r.Fatal(err)
		}
		defer tg.Close()
		path := rapid.Custom(func(r *rapid.T) string {
			names := []string{"a", "b", "c", "secret"}
			if rapid.IntRange(0, 9).Draw(r, "bad") == 0 {
				names = []string{"a", "..", ".", "", "\x00"}
			}
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(names), 1, 4).Draw(r, "names"), "/")
		})
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			p := path.Draw(r, "path")
			switch rapid.IntRange(0, 7).Draw(r, "step") {
			case 0, 1:
				tg.Mkdir(p)
			case 2:
				write(tg, p, "secret", meta(0o666))
			case 3:
				texts := []string{out, filepath.Join(out, "secret"), "../out", "/", "a", ".."}
				tg.Symlink(p, rapid.SampledFrom(texts).Draw(r, "text"), meta(0o777))
			case 4:
				tg.Link(p, path.Draw(r, "existing"))
			case 5:
				tg.Special(p, meta(0o666|fs.ModeNamedPipe))
			case 6:
				tg.FinishDir(p, meta(0o777))
			case 7: // somebody else
				if strings.Contains(p, "..") {
					continue // not that far
				}
				names := strings.Split(p, "/")
				last := names[len(names)-1]
				at, err := walk(in, strings.Join(names[:len(names)-1], "/"))
				if err == nil {
					unix.Unlinkat(at, last, 0)
					unix.Symlinkat(out, at, last)
					unix.Close(at)
				}
			}
		}
		if got := fingerprint(t, out); got != want {
			r.Fatalf("outside has changed:\n%s\nwas\n%s", got, want)
		}
	})
}

// TestRace has somebody swap folders and files for links to the outside while many write.
func TestRace(t *testing.T) {
	tmp := ramDir(t)
	out := outside(t, filepath.Join(tmp, "out"))
	in := filepath.Join(tmp, "in")
	for _, dir := range []string{"a/b/c", "d/b/c"} {
		must(t, os.MkdirAll(filepath.Join(in, dir), 0o700))
	}
	want := fingerprint(t, out)

	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	var left atomic.Int64
	const workers = 4
	left.Store(workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			defer left.Add(-1)
			for i := range rounds {
				// A new Target each time, or the folders would stay open and never be walked to again.
				tg, err := target.Open(in, &target.Options{Overwrite: target.Overwrite(1 + i%2)})
				if err != nil {
					t.Error(err)
					return
				}
				dir := []string{"a", "a/b", "a/b/c", "d", "d/b/c"}[(w+i)%5]
				for _, d := range []string{"a", "a/b", "a/b/c", "d", "d/b", "d/b/c"} {
					tg.Mkdir(d)
				}
				everything(tg, dir+"/secret")
				everything(tg, dir+"/fifo")
				tg.FinishDir(dir, meta(0o755))
				tg.Close()
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for left.Load() > 0 {
				swap(in, out)
			}
		})
	}
	wg.Wait()
	if got := fingerprint(t, out); got != want {
		t.Errorf("outside has changed:\n%s\nwas\n%s", got, want)
	}
}

// TestRaceMeta has somebody put hard links in place of what was made, before it gets its metadata.
func TestRaceMeta(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there, metadata of what is no file or folder is set by name")
	}
	for name, typ := range map[string]fs.FileMode{"fifo": fs.ModeNamedPipe, "secret": fs.ModeNamedPipe, "link": fs.ModeSymlink} {
		t.Run(fmt.Sprint(name, typ), func(t *testing.T) {
			tmp := ramDir(t)
			out := outside(t, filepath.Join(tmp, "out"))
			want := fingerprint(t, out)
			in := filepath.Join(tmp, "in")
			tg := open(t, in, &target.Options{Overwrite: target.Always})
			var done atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				at, err := walk(in, "")
				must(t, err)
				defer unix.Close(at)
				for i := 0; !done.Load(); i++ {
					spare := fmt.Sprint("x", i)
					unix.Linkat(unix.AT_FDCWD, filepath.Join(out, name), at, spare, 0)
					for j := 0; j < 20 && !done.Load(); j++ { // at once, over what is there
						var st unix.Stat_t
						if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink == 1 {
							break
						}
					}
					unix.Renameat(at, spare, at, name)
					unix.Unlinkat(at, spare, 0) // rename leaves it if both are the same
				}
			})
			var swapped int
			for i := 0; i < 3000 && swapped < 5; i++ {
				m := meta(0o606 | typ)
				m.Owned, m.UID, m.GID = true, uint32(os.Getuid()+1), uint32(os.Getgid()+1)
				var err error
				if typ == fs.ModeSymlink {
					err = tg.Symlink(name, "x", m)
				} else {
					err = tg.Special(name, m)
				}
				if err != nil && strings.Contains(err.Error(), "took its place") {
					swapped++
				}
			}
			done.Store(true)
			wg.Wait()
			t.Log("swapped in time:", swapped)
			if got := fingerprint(t, out); got != want {
				t.Errorf("outside has changed:\n%s\nwas\n%s", got, want)
			}
		})
	}
}

// TestRaceOpen has somebody swap a file that is to be read for a link to the outside, and for a FIFO.
func TestRaceOpen(t *testing.T) {
	tmp := ramDir(t)
	out := outside(t, filepath.Join(tmp, "out"))
	in := filepath.Join(tmp, "in")
	tg := open(t, in, nil)
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; !done.Load(); i++ {
			p := filepath.Join(in, "f")
			switch i % 4 {
			case 0, 2:
				os.WriteFile(p+".new", []byte("inside"), 0o600)
			case 1:
				os.Symlink(filepath.Join(out, "secret"), p+".new")
			case 3:
				unix.Mkfifo(p+".new", 0o600)
			}
			os.Rename(p+".new", p)
		}
	})
	opened := 0
	for i := 0; i < 30000 && opened < 3000; i++ {
		f, err := tg.Open("f")
		if err != nil {
			continue
		}
		opened++
		if b, err := io.ReadAll(f); err != nil || string(b) != "inside" {
			t.Errorf("read %q, %v", b, err)
		}
		f.Close()
	}
	done.Store(true)
	wg.Wait()
	t.Log("opened", opened)
}

// swap puts a link in place of a folder for a moment, and a link or hard link in place of a file. It works with handles,
// lest it does itself what it is there to provoke.
func swap(in, out string) {
	dir := []string{"a", "a/b", "a/b/c", "d", "d/b"}[rand.IntN(5)]
	if at, err := walk(in, dir); err == nil {
		for _, name := range []string{"secret", "fifo", "secret.2", "secret.3"} {
			unix.Unlinkat(at, name, 0)
			from, _, _ := strings.Cut(name, ".")
			from = filepath.Join(out, from)
			if rand.IntN(2) == 0 {
				unix.Symlinkat(from, at, name)
			} else {
				unix.Linkat(unix.AT_FDCWD, from, at, name, 0)
			}
		}
		unix.Close(at)
	}
	parent, name := filepath.Split(dir)
	at, err := walk(in, strings.TrimSuffix(parent, "/"))
	if err != nil {
		return
	}
	defer unix.Close(at)
	aside := fmt.Sprintf("%s.%d", name, rand.Int())
	unix.Renameat(at, name, at, aside)
	unix.Symlinkat(filepath.Join(out, []string{".", "b", "b/c"}[strings.Count(dir, "/")]), at, name)
	runtime.Gosched()
	unix.Unlinkat(at, name, 0)
	unix.Renameat(at, aside, at, name)
}

func walk(in, dir string) (int, error) {
	fd, err := unix.Open(in, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for name := range strings.SplitSeq(dir, "/") {
		if err != nil || name == "" {
			break
		}
		up := fd
		fd, err = unix.Openat(up, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(up)
	}
	return fd, err
}
