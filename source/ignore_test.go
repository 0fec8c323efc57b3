package source_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/source"
)

// excludes are patterns and what they leave of ignoreTree, according to git 2.39.5.
var ignoreTree = []string{
	"a", "b c", "build/keep.o", "build/x.o", "deep/a/b/x.o", "deep/x.o", "foo", "foobar/x/y", "logs/1.gz", "logs/old/2.gz",
	"logs/old/2.txt", "space ", "sub/build/z", "sub/foo/a", "#hash", "!bang", "back\\slash", "é",
}

var excludes = []struct {
	name     string
	patterns []string
	gone     []string // with what is below
}{
	{"none", []string{"", "# foo", "   ", "/", "!"}, nil},
	{"name", []string{"foo"}, []string{"foo", "sub/foo/"}},
	{"anchored", []string{"/foo"}, []string{"foo"}},
	{"anchored by a slash inside", []string{"sub/foo"}, []string{"sub/foo/"}},
	{"folders only", []string{"foo/"}, []string{"sub/foo/"}},
	{"suffix", []string{"*.o"}, []string{"build/keep.o", "build/x.o", "deep/a/b/x.o", "deep/x.o"}},
	{"one star is one element", []string{"deep/*/x.o"}, nil},
	{"two stars", []string{"deep/**/x.o"}, []string{"deep/a/b/x.o", "deep/x.o"}},
	{"two stars first", []string{"**/build"}, []string{"build/", "sub/build/"}},
	{"two stars last", []string{"logs/**"}, []string{"logs/1.gz", "logs/old/"}},
	{"two stars in a name", []string{"deep/**.o"}, []string{"deep/x.o"}},
	{"two stars behind a prefix, as git has it", []string{"foo**/y"}, []string{"foobar/x/y"}},
	{"negation", []string{"*.o", "!keep.o"}, []string{"build/x.o", "deep/a/b/x.o", "deep/x.o"}},
	{"the last one decides", []string{"!keep.o", "*.o"}, []string{"build/keep.o", "build/x.o", "deep/a/b/x.o", "deep/x.o"}},
	{"no way back into an excluded folder", []string{"/build/", "!/build/keep.o"}, []string{"build/"}},
	{"a way back by a star", []string{"/build/*", "!/build/keep.o"}, []string{"build/x.o"}},
	{"class", []string{"/[a-c]*"}, []string{"a", "b c", "back\\slash", "build/"}},
	{"negated class", []string{"/[!a-z]*", "!é"}, []string{"!bang", "#hash"}},
	{"named class", []string{"/logs/[[:digit:]].*"}, []string{"logs/1.gz"}},
	{"malformed class", []string{"[a"}, nil},
	{"escapes", []string{`\#hash`, `\!bang`, `back\\slash`}, []string{"!bang", "#hash", "back\\slash"}},
	{"trailing spaces", []string{"foo  "}, []string{"foo", "sub/foo/"}},
	{"escaped space", []string{`space\ `}, []string{"space "}},
	{"a question mark is one byte", []string{"/?", "/sub/?"}, []string{"a"}},
}

func TestExclude(t *testing.T) {
	root := t.TempDir()
	plant(t, root, ignoreTree...)
	all := walk(t, newDir(t, root, nil), ".")
	for _, tt := range excludes {
		t.Run(tt.name, func(t *testing.T) {
			want := slices.DeleteFunc(slices.Clone(all), func(p string) bool {
				return slices.ContainsFunc(tt.gone, func(g string) bool {
					return p == g || strings.HasSuffix(g, "/") && strings.HasPrefix(p, g)
				})
			})
			d := newDir(t, root, &source.DirOptions{Exclude: tt.patterns})
			equal(t, walk(t, d, "."), want)
			// What isn't listed can't be reached otherwise.
			for _, p := range all {
				name := strings.TrimSuffix(p, "/")
				var errs [4]error
				_, errs[0] = d.Lstat(name)
				_, errs[1] = d.Xattrs(name)
				if _, errs[2] = fs.ReadFile(d, name); name != p {
					_, errs[2] = d.ReadDir(name)
				}
				f, err := d.Open(name)
				if errs[3] = err; err == nil {
					f.Close()
				}
				for i, err := range errs {
					if slices.Contains(want, p) && err != nil || !slices.Contains(want, p) && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s, %d: %v", p, i, err)
					}
				}
			}
			if ignored := gitIgnored(t, root, tt.patterns, all); ignored != nil {
				for _, p := range all {
					if slices.Contains(want, p) == ignored[strings.TrimSuffix(p, "/")] {
						t.Errorf("git says otherwise: %q", p)
					}
				}
			}
		})
	}
}

// gitIgnored asks git which paths the patterns exclude in the tree at root; nil if there is no git.
func gitIgnored(t interface{ Fatal(...any) }, root string, patterns, paths []string) map[string]bool {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil
	}
	repo := root + ".git"
	run := func(in string, args ...string) []byte {
		cmd := exec.Command(git, append([]string{"--git-dir=" + repo, "--work-tree=" + root}, args...)...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) { // 1: none is ignored
			t.Fatal(err, string(exit.Stderr))
		}
		return out
	}
	if _, err := os.Stat(repo); err != nil {
		run("", "init", "-q")
	}
	if err := os.WriteFile(filepath.Join(repo, "info/exclude"), []byte(strings.Join(patterns, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var in strings.Builder
	for _, p := range paths {
		in.WriteString(strings.TrimSuffix(p, "/") + "\x00")
	}
	ignored := map[string]bool{}
	for _, p := range bytes.Split(run(in.String(), "check-ignore", "--no-index", "-z", "--stdin"), []byte{0}) {
		ignored[string(p)] = true
	}
	return ignored
}

// Whatever the patterns are, git and Dir agree.
func TestExcludeLikeGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git")
	}
	root := filepath.Join(t.TempDir(), "tree")
	names := []string{"a", "b", "ab", "foo", "foo.o", ".x", "b c", "a[b]", "\xe9a", "a7", "é", "-", "B\\", "\x7f", "\t", "~"}
	var files []string
	for i, x := range names { // each folder has some of the names
		for j, y := range names {
			switch (i*5 + j*3) % 4 {
			case 0:
				files = append(files, x+"/"+y)
			case 1:
				for k := 0; k < len(names); k += 4 {
					files = append(files, x+"/"+y+"/"+names[(i+j+k)%len(names)])
				}
			}
		}
		files = append(files, "t"+x)
	}
	plant(t, root, files...)
	all := walk(t, newDir(t, root, nil), ".")
	piece := rapid.SampledFrom([]string{
		"a", "b", "c", "foo", ".o", "x", "*", "**", "?", "/", "/**/", "**/", "/**", "[ab]", "[!a]", "[a-c]", "\\", "!", " ", "#",
		"[[:digit:]]", "[^[:alnum:]]", "[]a]", "[!]]", "[a", "[[:nope:]]", "[[:a]", "[a-", "[\\]a-c]", "[[:punct:][:space:]]", "[![:cntrl:][:upper:]]", "[[:print:]]", "[^[:xdigit:][:blank:]]", "[[:graph:][:lower:]]", "é", "\xe9", "***", "\\*", "\\/", "t*",
	})
	name := rapid.SampledFrom([]string{"a", "b", "ab", "foo", "*", "**", "*.o", "a*", "?", "[ab]", "B\\\\", "t?"})
	pattern := rapid.OneOf(
		rapid.Map(rapid.SliceOfN(piece, 1, 6), func(p []string) string { return strings.Join(p, "") }),
		rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"", "", "!", "/", "!/"}).Draw(t, "before") +
				strings.Join(rapid.SliceOfN(name, 1, 4).Draw(t, "names"), "/") + rapid.SampledFrom([]string{"", "", "/"}).Draw(t, "after")
		}))
	rapid.Check(t, func(t *rapid.T) {
		patterns := rapid.SliceOfN(pattern, 1, 4).Draw(t, "patterns")
		ignored := gitIgnored(t, root, patterns, all)
		var want []string
		for _, p := range all {
			if !ignored[strings.TrimSuffix(p, "/")] {
				want = append(want, p)
			}
		}
		d, err := source.Dir(root, &source.DirOptions{Exclude: patterns})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var got []string
		if err := fs.WalkDir(d, ".", func(path string, e fs.DirEntry, err error) error {
			if e.IsDir() {
				path += "/"
			}
			got = append(got, path)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		got = got[1:]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			for _, p := range all {
				if slices.Contains(got, p) != slices.Contains(want, p) {
					t.Fatalf("patterns %q: %q, git: %v", patterns, p, ignored[strings.TrimSuffix(p, "/")])
				}
			}
		}
	})
}
