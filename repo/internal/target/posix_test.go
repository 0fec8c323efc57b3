//go:build (linux || darwin) && !osroot

package target_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo/internal/target"
)

func TestModesAndTimes(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	self := func(mode fs.FileMode, mtime time.Time) *target.Meta {
		return &target.Meta{Mode: mode, ModTime: mtime, Owned: true, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	}
	times := []time.Time{
		time.Unix(0, 0), time.Unix(-1, 1000), time.Unix(1e9, 123456000), time.Unix(1<<32, 999999000),
		time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC),
	}
	for i, mode := range []fs.FileMode{
		0, 0o400, 0o644, 0o755, 0o777, 0o755 | fs.ModeSetuid, 0o755 | fs.ModeSetgid,
		0o700 | fs.ModeSetuid | fs.ModeSetgid, 0o777 | fs.ModeSticky,
	} {
		mtime := times[i%len(times)]
		f, l, p, d := fmt.Sprint("f", i), fmt.Sprint("l", i), fmt.Sprint("p", i), fmt.Sprint("d", i)
		must(t, write(tg, f, "x", self(mode, mtime)))
		must(t, tg.Symlink(l, "nowhere", self(fs.ModeSymlink|0o777, mtime)))
		must(t, tg.Special(p, self(mode|fs.ModeNamedPipe, mtime)))
		must(t, tg.Mkdir(d))
		must(t, write(tg, d+"/x", "x", self(0o600, mtime)))
		must(t, tg.FinishDir(d, self(mode|fs.ModeDir, mtime)))
		for name, want := range map[string]fs.FileMode{
			f: mode, l: fs.ModeSymlink | 0o777, p: mode | fs.ModeNamedPipe, d: mode | fs.ModeDir,
		} {
			fi, err := os.Lstat(filepath.Join(dir, name))
			must(t, err)
			if fi.Mode() != want && want&fs.ModeSymlink == 0 || fi.Mode().Type() != want.Type() {
				t.Errorf("%s: mode %v, want %v", name, fi.Mode(), want)
			}
			if !fi.ModTime().Equal(mtime) {
				t.Errorf("%s: time %v, want %v", name, fi.ModTime(), mtime)
			}
		}
		os.Chmod(filepath.Join(dir, d), 0o700) // for the clean-up
	}

	must(t, write(tg, "untimed", "x", &target.Meta{Mode: 0o600}))
	if fi, err := os.Lstat(filepath.Join(dir, "untimed")); err != nil || time.Since(fi.ModTime()) > time.Hour {
		t.Error(err, fi.ModTime())
	}
}

// A setuid bit needs the recorded owner: else it would give away the powers of whoever restores.
func TestPrivilegeNeedsOwner(t *testing.T) {
	dir := t.TempDir()
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	for i, c := range []struct {
		o    target.Options
		m    target.Meta
		keep bool
	}{
		{target.Options{}, target.Meta{Owned: true, UID: uid, GID: gid}, true},
		{target.Options{NoOwner: true}, target.Meta{Owned: true, UID: uid, GID: gid}, true},
		{target.Options{NoOwner: true}, target.Meta{Owned: true, UID: uid + 1, GID: gid}, false},
		{target.Options{NoOwner: true}, target.Meta{Owned: true, UID: uid, GID: gid + 1}, false},
		{target.Options{}, target.Meta{}, false},
		{target.Options{}, target.Meta{Owned: true, UID: 1<<32 - 1, GID: gid}, false},
	} {
		name := fmt.Sprint("f", i)
		c.m.Mode, c.m.ModTime = 0o755|fs.ModeSetuid, stamp
		err := write(open(t, dir, &c.o), name, "x", &c.m)
		fi, statErr := os.Lstat(filepath.Join(dir, name))
		must(t, statErr)
		want := c.m.Mode
		if !c.keep {
			want &^= fs.ModeSetuid
			if _, ok := errors.AsType[*target.MetaError](err); !ok {
				t.Errorf("%d: %v", i, err)
			}
		} else if err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if fi.Mode() != want || !fi.ModTime().Equal(stamp) {
			t.Errorf("%d: %v", i, fi.Mode())
		}
	}
}

func TestIfDifferent(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "p")
	tg := open(t, dir, &target.Options{Overwrite: target.IfDifferent})
	ino := func() uint64 {
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		return st.Ino
	}
	for _, c := range []struct {
		name    string
		restore func() error
		spoil   func() error
		renewed bool // else it is repaired
	}{
		{"file: mode", func() error { return write(tg, "p", "x", meta(0o640)) }, func() error { return os.Chmod(p, 0o777) }, false},
		{"file: mode, second name", func() error { return write(tg, "p", "x", meta(0o640)) }, func() error {
			return errors.Join(os.Chmod(p, 0o777), os.Link(p, p+".2"))
		}, true},
		{"link: text", func() error { return tg.Symlink("p", "here", meta(0o777)) }, func() error {
			return errors.Join(os.Remove(p), os.Symlink("hereto", p))
		}, true},
		{"fifo: mode", func() error { return tg.Special("p", meta(0o640|fs.ModeNamedPipe)) }, func() error { return os.Chmod(p, 0o777) }, true},
		{"socket: type", func() error { return tg.Special("p", meta(0o640|fs.ModeSocket)) }, func() error {
			return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o640))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(p)
			must(t, c.restore())
			before := ino()
			if err := c.restore(); err != target.ErrSkipped || ino() != before {
				t.Error("not kept:", err)
			}
			must(t, c.spoil())
			before = ino()
			if err := c.restore(); c.renewed != (err == nil) || c.renewed != (ino() != before) {
				t.Error(err, ino(), before)
			}
			if err := c.restore(); err != target.ErrSkipped {
				t.Error("not what it should be:", err)
			}
			if fi, err := os.Lstat(p); err != nil || fi.Mode()&fs.ModeSymlink == 0 && fi.Mode().Perm() != 0o640 {
				t.Error(fi.Mode(), err)
			}
		})
	}
}

func TestSpecialRefused(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, &target.Options{Overwrite: target.Always})
	for _, typ := range []fs.FileMode{0, fs.ModeDir, fs.ModeSymlink, fs.ModeIrregular} {
		if err := tg.Special("x", meta(0o600|typ)); !errors.Is(err, errors.ErrUnsupported) {
			t.Error(typ, err)
		}
	}
	// What can't be made doesn't cost what is there.
	must(t, write(tg, "f", "x", meta(0o600)))
	for _, link := range []string{"", strings.Repeat("x/", 5000), "a\x00b"} {
		if err := tg.Symlink("f", link, meta(0o777)); err == nil || !strings.Contains(err.Error(), "symlink f:") {
			t.Error(err)
		}
	}
	if read(t, filepath.Join(dir, "f")) != "x" {
		t.Error("lost")
	}
}

func TestFIFODoesNotBlock(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "p")
	must(t, unix.Mkfifo(p, 0o600))
	tg := open(t, dir, &target.Options{Overwrite: target.IfDifferent})
	if _, err := tg.Open("p"); err == nil {
		t.Error("opened a FIFO")
	}
	if err := write(tg, "p/x", "x", meta(0o600)); err == nil {
		t.Error("wrote below a FIFO")
	}
	must(t, write(tg, "p", "x", meta(0o600)))
	if read(t, p) != "x" {
		t.Error("not replaced")
	}
}

// TestDeep has paths longer than the system takes, with more levels than handles are kept.
func TestDeep(t *testing.T) {
	for _, c := range []struct {
		levels int
		name   string
	}{{300, "d"}, {60, strings.Repeat("n", 200)}} {
		dir := t.TempDir()
		tg := open(t, dir, &target.Options{Overwrite: target.Always})
		path := c.name
		for i := 0; ; i++ {
			must(t, tg.Mkdir(path))
			must(t, write(tg, path+"/f", "x", meta(0o600)))
			must(t, tg.Symlink(path+"/l", "f", meta(0o777)))
			if i == c.levels-1 {
				break
			}
			path += "/" + c.name
		}
		// From the root, with nothing in the cache.
		tg2 := open(t, dir, &target.Options{Overwrite: target.Always})
		must(t, write(tg2, path+"/g", "x", meta(0o600)))
		must(t, tg2.Link("g", path+"/g"))
		f, err := tg2.Open(path + "/f")
		must(t, err)
		f.Close()
		for p := path; p != "."; p = filepath.Dir(p) {
			must(t, tg2.FinishDir(p, meta(0o700|fs.ModeDir)))
		}
		if err := tg2.Mkdir(path + "/" + strings.Repeat("n", 256)); !errors.Is(err, unix.ENAMETOOLONG) {
			t.Error(err)
		}
		must(t, os.RemoveAll(dir))
	}
}

// A folder that is made anew is not mistaken for the one that was there before.
func TestStaleHandle(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	for range 2 {
		must(t, tg.Mkdir("a"))
		must(t, tg.Mkdir("a/b"))
		must(t, write(tg, "a/b/x", "x", meta(0o600)))
		must(t, os.RemoveAll(filepath.Join(dir, "a")))
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, nil)
	must(t, tg.Mkdir("d"))
	const folders, files = 300, 4
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < folders; i += 8 {
				d := fmt.Sprint("d/", i)
				if err := tg.Mkdir(d); err != nil {
					t.Error(err)
				}
				for j := range files {
					m := meta(0o600)
					f, err := tg.Create(fmt.Sprint(d, "/", j), m, 8)
					if err != nil {
						t.Error(err)
						return
					}
					var pieces sync.WaitGroup
					for k := range 8 {
						pieces.Go(func() {
							if _, err := f.WriteAt([]byte{'a' + byte(k)}, int64(k)); err != nil {
								t.Error(err)
							}
						})
					}
					pieces.Wait()
					if err := f.Finish(); err != nil {
						t.Error(err)
					}
				}
				if err := tg.FinishDir(d, meta(0o755)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range folders {
		for j := range files {
			if got := read(t, filepath.Join(dir, "d", fmt.Sprint(i), fmt.Sprint(j))); got != "abcdefgh" {
				t.Fatal(i, j, got)
			}
		}
	}
}

// BenchmarkFiles writes small files, 1,000 in a folder four levels down; floor does it with package os and no care.
func BenchmarkFiles(b *testing.B) {
	const dir = "a/b/c/d"
	content := []byte(strings.Repeat("x", 4096))
	name := func(i int) string { return fmt.Sprint(dir, "/", i%1000) }
	b.Run("target", func(b *testing.B) {
		tg := open(b, b.TempDir(), &target.Options{Overwrite: target.Always})
		for _, d := range []string{"a", "a/b", "a/b/c", dir} {
			must(b, tg.Mkdir(d))
		}
		m := meta(0o644)
		b.SetBytes(int64(len(content)))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			f, err := tg.Create(name(i), m, int64(len(content)))
			must(b, err)
			_, err = f.WriteAt(content, 0)
			must(b, err)
			must(b, f.Finish())
		}
	})
	b.Run("floor", func(b *testing.B) {
		root := b.TempDir()
		must(b, os.MkdirAll(filepath.Join(root, dir), 0o700))
		b.SetBytes(int64(len(content)))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			p := filepath.Join(root, name(i))
			os.Remove(p)
			must(b, os.WriteFile(p, content, 0o644))
			must(b, os.Chtimes(p, stamp, stamp))
		}
	})
}
