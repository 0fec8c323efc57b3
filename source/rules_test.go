package source_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/varvebackup/varve/source"
)

// hides checks that what is to be seen of d is want, by its listing and by the paths of all that is there.
func hides(t *testing.T, d *source.Tree, root string, want []string) {
	t.Helper()
	equal(t, walk(t, d, "."), want)
	seen := map[string]bool{".": true}
	for _, p := range want {
		seen[filepath.Clean(p)] = true
	}
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		rel, err := filepath.Rel(root, path)
		must(t, err)
		_, lerr := d.Lstat(rel)
		f, oerr := d.Open(rel)
		if oerr == nil {
			f.Close()
		} else if seen[rel] && e.Type() == fs.ModeSymlink {
			oerr = nil
		}
		_, xerr := d.Xattrs(rel)
		for _, err := range []error{lerr, oerr, xerr} {
			if seen[rel] && err != nil || !seen[rel] && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s (%v): %v", rel, seen[rel], err)
			}
		}
		return nil
	}))
}

func TestDirIgnoreFiles(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a.tmp", "keep.tmp", "b", "build/x", "sub/a.tmp", "sub/deep/a.log", "sub/deep/b.log", "sub/build/x", "sub/only/a", "sub/only/b",
		"other/a.log", "other/a.tmp", "forced.txt", "sub/ignored/x", "none/.ignore/x", "none/y")
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644)) }
	write(".ignore", "\ufeff# comment\r\n*.tmp\r\n!keep.tmp\n/build/\nforced.txt\n")
	write("sub/.ignore", "*.log\n!a.tmp\n/ignored\n")
	write("sub/deep/.ignore", "!b.log\n")
	write("sub/only/.ignore2", "/*\n")
	o := &source.DirOptions{IgnoreFiles: []string{".ignore", ".ignore2"}, Exclude: []string{"!forced.txt", "/other/a.log"}}
	want := []string{".ignore", "b", "forced.txt", "keep.tmp", "none/", "none/.ignore/", "none/.ignore/x", "none/y", "other/", "sub/", "sub/.ignore", "sub/a.tmp", "sub/build/", "sub/build/x",
		"sub/deep/", "sub/deep/.ignore", "sub/deep/b.log", "sub/only/"}
	// By paths alone, with nothing listed before.
	t.Run("paths", func(t *testing.T) {
		d := newDir(t, root, o)
		for path, want := range map[string]error{"sub/deep/b.log": nil, "sub/deep/a.log": fs.ErrNotExist, "sub/ignored/x": fs.ErrNotExist, "sub/only/.ignore2": fs.ErrNotExist} {
			if _, err := d.Lstat(path); !errors.Is(err, want) {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	// A later walk reads the files again; one that is not to be read, and no file, hide nothing.
	d := newDir(t, root, o)
	hides(t, d, root, want)
	must(t, os.Remove(filepath.Join(root, "sub/.ignore")))
	must(t, os.Symlink("../.ignore", filepath.Join(root, "sub/.ignore")))
	write("sub/deep/.ignore", "b.log")
	must(t, os.RemoveAll(filepath.Join(root, "build")))
	must(t, os.RemoveAll(filepath.Join(root, "none")))
	equal(t, walk(t, d, "sub"), []string{"sub/.ignore", "sub/build/", "sub/build/x", "sub/deep/", "sub/deep/.ignore", "sub/deep/a.log", "sub/ignored/", "sub/ignored/x", "sub/only/"})
	hides(t, d, root, []string{".ignore", "b", "forced.txt", "keep.tmp", "other/", "sub/", "sub/.ignore", "sub/build/", "sub/build/x",
		"sub/deep/", "sub/deep/.ignore", "sub/deep/a.log", "sub/ignored/", "sub/ignored/x", "sub/only/"})
}

func TestDirExcludeCaches(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "a", "CACHEDIR.TAG", "cache/x", "cache/sub/y", "sub/cache/x", "sub/CACHEDIR.TAG/x", "fake/x", "short/x", "link/x")
	const tag = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n"
	for name, text := range map[string]string{"": tag, "cache": tag, "sub/cache": tag, "fake": "Signature: 8a477f597d28d172789f06886806bc56\n", "short": tag[:20]} {
		must(t, os.WriteFile(filepath.Join(root, name, "CACHEDIR.TAG"), []byte(text), 0o644))
	}
	must(t, os.Symlink("../cache/CACHEDIR.TAG", filepath.Join(root, "link/CACHEDIR.TAG")))
	d := newDir(t, root, &source.DirOptions{ExcludeCaches: true})
	want := []string{"CACHEDIR.TAG", "a", "cache/", "cache/CACHEDIR.TAG", "fake/", "fake/CACHEDIR.TAG", "fake/x", "link/", "link/CACHEDIR.TAG", "link/x",
		"short/", "short/CACHEDIR.TAG", "short/x", "sub/", "sub/CACHEDIR.TAG/", "sub/CACHEDIR.TAG/x", "sub/cache/", "sub/cache/CACHEDIR.TAG"}
	equal(t, walk(t, d, "."), want)
	must(t, os.Remove(filepath.Join(root, "link/CACHEDIR.TAG")))
	hides(t, d, root, []string{"CACHEDIR.TAG", "a", "cache/", "cache/CACHEDIR.TAG", "fake/", "fake/CACHEDIR.TAG", "fake/x", "link/", "link/x",
		"short/", "short/CACHEDIR.TAG", "short/x", "sub/", "sub/CACHEDIR.TAG/", "sub/CACHEDIR.TAG/x", "sub/cache/", "sub/cache/CACHEDIR.TAG"})
	if got := walk(t, newDir(t, root, nil), "cache"); len(got) != 4 {
		t.Errorf("without the option: %q", got)
	}
}
