package bucket_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/source/bucket"
)

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		key    string
		beside bool
		path   string
	}{
		{"a/b.jpg", false, "a/b.jpg"},
		{"a b/ö%20 +.jpg", false, "a b/ö%20 +.jpg"},
		{"100%", false, "100%"},
		{"dir/", false, "dir/%~."},
		{"a//b", false, "a/%~./b"},
		{"/x", false, "%~./x"},
		{"//", false, "%~./%~./%~."},
		{"", false, "%~."},
		{"", true, "%~="},
		{".", false, ".%~."},
		{"../x", false, "..%~./x"},
		{"x/..", true, "x/..%~="},
		{"...", false, "..."},
		{"a", true, "a%~="},
		{"50%~", false, "50%~~"},
		{"a%~=", false, "a%~~="},
		{"a%~.", true, "a%~~.%~="},
		{"nul\x00one\x01two\x02", false, "nul\x01\x01one\x01\x02two\x02"},
		{`back\slash`, false, `back\slash`},
	} {
		if got := bucket.Path(c.key, c.beside); got != c.path {
			t.Errorf("Path(%q, %v) = %q, not %q", c.key, c.beside, got, c.path)
		}
		if key, beside, err := bucket.Key(c.path); key != c.key || beside != c.beside || err != nil {
			t.Errorf("Key(%q) = %q, %v, %v", c.path, key, beside, err)
		}
	}
	for _, path := range []string{"", ".", "..", "a//b", "/a", "a/", "x%~", "x%~.", "x%~~%~.", "a%~=/b", "%~x", "\x01", "\x00", "a\x01\x03", "x%~=%~.", ".%~.%~."} {
		if key, _, err := bucket.Key(path); err == nil {
			t.Errorf("Key(%q) = %q", path, key)
		}
	}
}

// FuzzKey takes a string for a key, and for a path.
func FuzzKey(f *testing.F) {
	for _, s := range []string{"a/b.jpg", "dir/", "//", "../x", "50%~", "a%~=", "%~.", "%~~.%~=", "\x00\x01\x02", "\xff/.", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		paths := map[string]bool{}
		for _, beside := range []bool{false, true} {
			path := bucket.Path(s, beside)
			if key, b, err := bucket.Key(path); key != s || b != beside || err != nil {
				t.Errorf("Key(Path(%q, %v) = %q) = %q, %v, %v", s, beside, path, key, b, err)
			}
			if paths[path] {
				t.Errorf("%q twice", path)
			}
			paths[path] = true
			for _, name := range strings.Split(path, "/") {
				if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "\x00") {
					t.Errorf("%q: the name %q", path, name)
				}
				if len(name) > 2*len(s)+3 {
					t.Errorf("%q: a name of %d bytes", path, len(name))
				}
			}
			if utf8.ValidString(s) && !fs.ValidPath(path) {
				t.Errorf("%q: no path", path)
			}
		}
		if key, beside, err := bucket.Key(s); err == nil && bucket.Path(key, beside) != s {
			t.Errorf("Path(Key(%q) = %q, %v) = %q", s, key, beside, bucket.Path(key, beside))
		}
	})
}

func TestOrderOfNames(t *testing.T) {
	pieces := rapid.SliceOf(rapid.SampledFrom([]string{"%", "~", "%~", "\x00", "\x01", "\x02", ".", "=", "a", "-", "/", "0", "ö"}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := strings.Join(pieces.Draw(t, "a"), ""), strings.Join(pieces.Draw(t, "b"), "")
		if strings.Compare(a, b) != strings.Compare(bucket.Encode(a), bucket.Encode(b)) {
			t.Errorf("%q and %q", a, b)
		}
	})
}

// reference returns the paths of keys in the order of a walk, folders with a slash at the end.
func reference(prefix string, keys []string) (paths []string) {
	type node struct {
		name   string
		folder map[string]*node
	}
	var add func(n *node, key string, rest []string)
	add = func(n *node, key string, rest []string) {
		if len(rest) == 1 {
			beside := slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, key+"/") })
			p := bucket.Path(rest[0], beside)
			n.folder[p] = &node{name: p}
			return
		}
		p := bucket.Path(rest[0], false)
		if n.folder[p] == nil {
			n.folder[p] = &node{name: p, folder: map[string]*node{}}
		}
		add(n.folder[p], key, rest[1:])
	}
	root := &node{folder: map[string]*node{}}
	for _, k := range keys {
		if rel, ok := strings.CutPrefix(k, prefix); ok {
			add(root, k, strings.Split(rel, "/"))
		}
	}
	var walk func(n *node, at string)
	walk = func(n *node, at string) {
		var names []string
		for name := range n.folder {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if n.folder[name].folder != nil {
				paths = append(paths, at+name+"/")
				walk(n.folder[name], at+name+"/")
			} else {
				paths = append(paths, at+name)
			}
		}
	}
	walk(root, "")
	return paths
}

// Whatever keys there are, and wherever the pages of the listing end, a walk sees each once, in order.
func TestWalk(t *testing.T) {
	s := newService(t)
	segment := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a", "b", "-", ".", "!", "%", "~", "%~", "0", "\x01", "\x00", "ö", "\U0010FFFF"}), 0, 3), func(p []string) string { return strings.Join(p, "") })
	key := rapid.Map(rapid.SliceOfN(segment, 1, 4), func(p []string) string { return strings.Join(p, "/") })
	rapid.Check(t, func(t *rapid.T) {
		keys := slices.DeleteFunc(rapid.SliceOfDistinct(key, rapid.ID).Draw(t, "keys"), func(k string) bool { return k == "" })
		slices.Sort(keys)
		prefix := rapid.SampledFrom([]string{"", "", "a", "a/", "-"}).Draw(t, "prefix")
		s.mu.Lock()
		s.buckets["media"], s.sorted["media"] = map[string]*stored{}, nil
		s.mu.Unlock()
		for _, k := range keys {
			s.put("media", k, k)
		}
		f := s.open("media", &bucket.Options{Prefix: prefix})
		bucket.SetPage(f, rapid.IntRange(1, 6).Draw(t, "page"))
		want := reference(prefix, keys)
		var got []string
		var walk func(dir, at string)
		walk = func(dir, at string) {
			last := ""
			for d, err := range f.Entries(t.Context(), dir) {
				if err != nil {
					if prefix == "" || len(want) > 0 {
						t.Fatalf("%q: %v", dir, err)
					}
					return
				}
				if last != "" && d.Name() <= last {
					t.Errorf("%q: %q comes behind %q", dir, d.Name(), last)
				}
				last = d.Name()
				if d.IsDir() {
					got = append(got, at+d.Name()+"/")
					walk(at+d.Name(), at+d.Name()+"/")
				} else {
					got = append(got, at+d.Name())
				}
			}
		}
		walk(".", "")
		if !slices.Equal(got, want) {
			t.Errorf("keys %q below %q\n  walk %q\n  want %q", keys, prefix, got, want)
		}
	})
}
