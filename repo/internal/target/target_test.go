package target_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/varvebackup/varve/repo/internal/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var stamp = time.Date(2019, 5, 4, 3, 2, 1, 0, time.UTC)

func meta(mode fs.FileMode) *target.Meta { return &target.Meta{Mode: mode, ModTime: stamp} }

func open(t testing.TB, dir string, o *target.Options) *target.Target {
	t.Helper()
	tg, err := target.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	})
	return tg
}

func write(tg *target.Target, path, content string, m *target.Meta) error {
	f, err := tg.Create(path, m, int64(len(content)))
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return f.Finish()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func Example() {
	dir, err := os.MkdirTemp("", "target")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	t, err := target.Open(filepath.Join(dir, "new"), nil)
	if err != nil {
		panic(err)
	}
	defer t.Close()

	m := &target.Meta{Mode: 0o644, ModTime: time.Unix(1e9, 0)}
	fmt.Println(t.Mkdir("a"))
	f, err := t.Create("a/b", m, 5)
	if err != nil {
		panic(err)
	}
	f.WriteAt([]byte("lo"), 3) // in any order
	f.WriteAt([]byte("hel"), 0)
	fmt.Println(f.Finish())
	fmt.Println(t.FinishDir("a", &target.Meta{Mode: 0o755 | fs.ModeDir, ModTime: time.Unix(1e9, 0)}))

	_, err = t.Create("a/b", m, 5)
	fmt.Println(err)
	_, err = t.Create("a/../../b", m, 5)
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
	// <nil>
	// target: kept what is there
	// target: create a/../../b: name not allowed
}

func TestNames(t *testing.T) {
	tg := open(t, filepath.Join(t.TempDir(), "in"), &target.Options{Overwrite: target.Always})
	must(t, tg.Mkdir("a"))
	must(t, write(tg, "f", "x", meta(0o600)))
	for _, name := range []string{
		"", "..", "../x", "a/..", "a/../x", "a/../../x", "/x", "//x", "/", "a//x", "a/", "./x", "a/./x", "x\x00", "a/\x00x",
	} {
		_, errCreate := tg.Create(name, meta(0o600), 0)
		_, errOpen := tg.Open(name)
		for what, err := range map[string]error{
			"Mkdir":     tg.Mkdir(name),
			"FinishDir": tg.FinishDir(name, meta(0o700)),
			"Create":    errCreate,
			"Symlink":   tg.Symlink(name, "x", meta(0o777)),
			"Link":      tg.Link(name, "f"),
			"Link from": tg.Link("x", name),
			"Special":   tg.Special(name, meta(0o600|fs.ModeNamedPipe)),
			"Open":      errOpen,
		} {
			if !errors.Is(err, target.ErrName) {
				t.Errorf("%s(%q) = %v", what, name, err)
			}
			if !strings.Contains(fmt.Sprint(err), name) {
				t.Errorf("%s(%q): %v does not name the path", what, name, err)
			}
		}
	}
	if _, err := tg.Create(".", meta(0o600), 0); !errors.Is(err, target.ErrName) {
		t.Error(err)
	}
}

func TestRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x", "y")
	tg := open(t, dir, nil)
	must(t, tg.Mkdir(".")) // Open made it, so it is ours to finish
	must(t, tg.FinishDir(".", meta(0o755|fs.ModeDir)))
	fi, err := os.Stat(dir)
	must(t, err)
	if !fi.ModTime().Equal(stamp) {
		t.Error(fi.ModTime())
	}
	if err := open(t, dir, nil).Mkdir("."); err != target.ErrSkipped {
		t.Error(err)
	}
	must(t, open(t, dir, &target.Options{Overwrite: target.IfDifferent}).Mkdir("."))
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	for _, name := range []string{"f", "f/x"} {
		if _, err := target.Open(filepath.Join(dir, name), nil); err == nil {
			t.Errorf("Open(%s) works", name)
		}
	}
	if _, err := target.Open("", nil); err == nil {
		t.Error(`Open("") works`)
	}
}

// TestOverwrite restores file "p", content "new!", where something is already.
func TestOverwrite(t *testing.T) {
	const kept, replaced, refused = "kept", "replaced", "refused"
	file := func(content string, mtime time.Time) func(string) error {
		return func(p string) error {
			if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
				return err
			}
			return os.Chtimes(p, mtime, mtime)
		}
	}
	for _, c := range []struct {
		name  string
		plant func(p string) error
		want  [3]string // Never, IfDifferent, Always
	}{
		{"nothing", func(string) error { return nil }, [3]string{replaced, replaced, replaced}},
		{"the same by its looks", file("old!", stamp), [3]string{kept, kept, replaced}},
		{"another size", file("old", stamp), [3]string{kept, replaced, replaced}},
		{"another time", file("old!", stamp.Add(time.Second)), [3]string{kept, replaced, replaced}},
		{"empty folder", func(p string) error { return os.Mkdir(p, 0o700) }, [3]string{kept, refused, replaced}},
		{"folder", func(p string) error { return os.MkdirAll(filepath.Join(p, "x"), 0o700) }, [3]string{kept, refused, refused}},
		{"link to a file", func(p string) error {
			if err := file("old!", stamp)(p + ".to"); err != nil {
				return err
			}
			return os.Symlink(filepath.Base(p)+".to", p)
		}, [3]string{kept, replaced, replaced}},
	} {
		for o, want := range c.want {
			t.Run(fmt.Sprintf("%s/%d", c.name, o), func(t *testing.T) {
				dir := t.TempDir()
				p := filepath.Join(dir, "p")
				must(t, c.plant(p))
				before, _ := os.Lstat(p)
				err := write(open(t, dir, &target.Options{Overwrite: target.Overwrite(o)}), "p", "new!", meta(0o600))
				after, _ := os.Lstat(p)
				switch want {
				case kept:
					if err != target.ErrSkipped || !os.SameFile(before, after) {
						t.Error(err, after)
					}
				case refused:
					if !errors.Is(err, fs.ErrExist) || !os.SameFile(before, after) {
						t.Error(err, after)
					}
				case replaced:
					if err != nil || !after.Mode().IsRegular() || read(t, p) != "new!" || !after.ModTime().Equal(stamp) {
						t.Error(err, after)
					}
				}
				if b, err := os.ReadFile(p + ".to"); err == nil && string(b) != "old!" {
					t.Errorf("wrote through the link: %q", b)
				}
				if left, _ := filepath.Glob(filepath.Join(dir, ".varve*")); left != nil {
					t.Error("left behind:", left)
				}
			})
		}
	}
}

func TestMkdirOverwrite(t *testing.T) {
	for o := target.Never; o <= target.Always; o++ {
		dir := t.TempDir()
		tg := open(t, dir, &target.Options{Overwrite: o})
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
		must(t, tg.Mkdir("new"))
		dErr, fErr := tg.Mkdir("d"), tg.Mkdir("f")
		if o == target.Never {
			if dErr != target.ErrSkipped || !errors.Is(fErr, fs.ErrExist) {
				t.Error(o, dErr, fErr)
			}
		} else if dErr != nil || fErr != nil {
			t.Error(o, dErr, fErr)
		}
		must(t, write(tg, "d/x", "x", meta(0o600))) // in any case the restore goes on below
		if fErr == nil {
			must(t, write(tg, "f/x", "x", meta(0o600)))
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	tg := open(t, dir, &target.Options{Overwrite: target.IfDifferent})

	t.Run("a crash leaves what is done again", func(t *testing.T) {
		f, err := tg.Create("crash", meta(0o600), 3)
		must(t, err)
		f.WriteAt([]byte("abc"), 0)
		must(t, write(tg, "crash", "abc", meta(0o600)))
		f.Abort() // must not remove the other one
		if read(t, filepath.Join(dir, "crash")) != "abc" {
			t.Error("lost")
		}
		if err := write(tg, "crash", "abc", meta(0o600)); err != target.ErrSkipped {
			t.Error(err)
		}
	})
	t.Run("abort removes", func(t *testing.T) {
		f, err := tg.Create("abort", meta(0o600), 3)
		must(t, err)
		f.Abort()
		f.Abort()
		if _, err := os.Lstat(filepath.Join(dir, "abort")); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("never beyond the size", func(t *testing.T) {
		for _, off := range []int64{-1, 2, 4, 1 << 62} {
			f, err := tg.Create("beyond", meta(0o600), 3)
			must(t, err)
			if _, err := f.WriteAt([]byte("ab"), off); err == nil {
				t.Error("no error at", off)
			}
			if err := f.Finish(); err == nil || !strings.Contains(err.Error(), "beyond") {
				t.Error("the error doesn't stick:", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "beyond")); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	t.Run("impossible size", func(t *testing.T) {
		for _, size := range []int64{-1, 1<<63 - 1} {
			if _, err := tg.Create("huge", meta(0o600), size); err == nil || !strings.Contains(err.Error(), "huge") {
				t.Error(err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "huge")); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	t.Run("no parent", func(t *testing.T) {
		err := write(tg, "no/parent/here", "x", meta(0o600))
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no/parent/here") {
			t.Error(err)
		}
		if err := write(tg, "crash/x", "x", meta(0o600)); err == nil {
			t.Error("wrote below a file")
		}
	})
	t.Run("read", func(t *testing.T) {
		f, err := tg.Open("crash")
		must(t, err)
		defer f.Close()
		if b, err := io.ReadAll(f); err != nil || string(b) != "abc" {
			t.Error(string(b), err)
		}
		if _, err := tg.Open("."); err == nil {
			t.Error("opened a folder")
		}
	})
	t.Run("second name", func(t *testing.T) {
		must(t, tg.Link("second", "crash"))
		for _, name := range []string{"second", "crash"} { // are that already
			if err := tg.Link(name, "crash"); err != target.ErrSkipped {
				t.Error(name, err)
			}
		}
		a, _ := os.Lstat(filepath.Join(dir, "crash"))
		b, err := os.Lstat(filepath.Join(dir, "second"))
		if err != nil || !os.SameFile(a, b) {
			t.Error(err)
		}
		must(t, write(tg, "other", "x", meta(0o600)))
		must(t, tg.Link("other", "crash"))
		if read(t, filepath.Join(dir, "other")) != "abc" {
			t.Error("not replaced")
		}
		if err := tg.Link("other", "missing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "missing") {
			t.Error(err)
		}
		if read(t, filepath.Join(dir, "other")) != "abc" {
			t.Error("a link that can't be made took away what was there")
		}
	})
}

// A file is replaced when its new content is complete, and not before.
func TestReplace(t *testing.T) {
	plants := map[string]func(t *testing.T, p string){
		"file":    func(t *testing.T, p string) { must(t, os.WriteFile(p, []byte("old"), 0o640)) },
		"symlink": func(t *testing.T, p string) { must(t, os.Symlink("other", p)) },
		"hard link": func(t *testing.T, p string) {
			must(t, os.Link(filepath.Join(filepath.Dir(p), "other"), p))
		},
	}
	for name, plant := range plants {
		for _, o := range []target.Overwrite{target.IfDifferent, target.Always} {
			for _, path := range []string{"p", "d/p"} {
				// half makes a File of which half is written.
				half := func(t *testing.T) (p string, before fs.FileInfo, f *target.File) {
					dir := t.TempDir()
					must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
					p = filepath.Join(dir, filepath.FromSlash(path))
					other := filepath.Join(filepath.Dir(p), "other")
					must(t, os.WriteFile(other, []byte("old"), 0o640))
					must(t, os.Chtimes(other, stamp.Add(time.Hour), stamp.Add(time.Hour)))
					plant(t, p)
					before, err := os.Lstat(p)
					must(t, err)
					f, err = open(t, dir, &target.Options{Overwrite: o}).Create(path, meta(0o600), 4)
					must(t, err)
					_, err = f.WriteAt([]byte("ne"), 0)
					must(t, err)
					return p, before, f
				}
				left := func(t *testing.T, p string, want int) {
					t.Helper()
					if names, _ := filepath.Glob(filepath.Join(filepath.Dir(p), ".varve-*")); len(names) != want {
						t.Errorf("want %d temporary files, have %q", want, names)
					}
				}
				// old checks that what was there still is, and that nobody wrote through it.
				old := func(t *testing.T, p string, before fs.FileInfo) {
					t.Helper()
					now, err := os.Lstat(p)
					if err != nil || !os.SameFile(before, now) || now.Mode() != before.Mode() || !now.ModTime().Equal(before.ModTime()) {
						t.Error("lost what was there:", now, err)
						return
					}
					if got := read(t, p); got != "old" {
						t.Errorf("have %q", got)
					}
				}
				untouched := func(t *testing.T, p string) {
					t.Helper()
					other := filepath.Join(filepath.Dir(p), "other")
					fi, err := os.Lstat(other)
					must(t, err)
					if read(t, other) != "old" || !fi.ModTime().Equal(stamp.Add(time.Hour)) {
						t.Error("wrote through the link:", fi)
					}
				}
				sub := fmt.Sprintf("%s/%d/%s/", name, o, strings.ReplaceAll(path, "/", "_"))

				t.Run(sub+"abort", func(t *testing.T) {
					p, before, f := half(t)
					old(t, p, before)
					left(t, p, 1)
					f.Abort()
					old(t, p, before)
					left(t, p, 0)
					untouched(t, p)
				})
				t.Run(sub+"failed", func(t *testing.T) {
					p, before, f := half(t)
					f.WriteAt([]byte("new"), 3)
					if err := f.Finish(); err == nil {
						t.Error("no error")
					}
					old(t, p, before)
					left(t, p, 0)
					untouched(t, p)
				})
				finished := func(t *testing.T, p string, f *target.File) {
					t.Helper()
					_, err := f.WriteAt([]byte("w!"), 2)
					must(t, err)
					must(t, f.Finish())
					f.Abort()
					fi, err := os.Lstat(p)
					if err != nil || !fi.Mode().IsRegular() || read(t, p) != "new!" || !fi.ModTime().Equal(stamp) {
						t.Error(fi, err)
					}
					left(t, p, 0)
					untouched(t, p)
				}
				t.Run(sub+"finish", func(t *testing.T) {
					p, before, f := half(t)
					old(t, p, before)
					finished(t, p, f)
				})
				t.Run(sub+"gone meanwhile", func(t *testing.T) {
					p, _, f := half(t)
					must(t, os.Remove(p))
					finished(t, p, f)
				})
				t.Run(sub+"read-only", func(t *testing.T) {
					if name != "file" {
						t.Skip("the same file as other")
					}
					p, _, f := half(t)
					must(t, os.Chmod(p, 0o400))
					finished(t, p, f)
				})
				t.Run(sub+"folder meanwhile", func(t *testing.T) {
					p, _, f := half(t)
					must(t, os.Remove(p))
					must(t, os.Mkdir(p, 0o700))
					if err := f.Finish(); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "finish "+path+": ") {
						t.Error(err)
					}
					if fi, err := os.Lstat(p); err != nil || !fi.IsDir() {
						t.Error(fi, err)
					}
					left(t, p, 0)
					untouched(t, p)
				})
				t.Run(sub+"can't be that big", func(t *testing.T) {
					p, before, f := half(t)
					f.Abort()
					tg := open(t, filepath.Dir(p), &target.Options{Overwrite: o})
					if f, err := tg.Create("p", meta(0o600), 1<<63-1); err == nil {
						f.Abort()
					}
					old(t, p, before)
					left(t, p, 0)
				})
			}
		}
	}
}
