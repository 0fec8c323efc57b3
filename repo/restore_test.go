//go:build linux

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

func treeFile(name, content string, sec int64) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFREG | 0o644, uid: os.Geteuid(), gid: os.Getegid(), sec: sec, size: int64(len(content)), runs: []treeRun{{0, []byte(content)}}}
}

func treeFolder(name string, kids ...*treeNode) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFDIR | 0o755, uid: os.Geteuid(), gid: os.Getegid(), sec: 1, kids: kids}
}

func treeLink(name, target string) *treeNode {
	return &treeNode{name: name, mode: unix.S_IFLNK | 0o777, uid: os.Geteuid(), gid: os.Getegid(), sec: 1, target: target}
}

// treeSnap backs a tree up.
func treeSnap(t *testing.T, n *treeNode) (*repo.Repo, *repo.Snapshot, string) {
	t.Helper()
	in := filepath.Join(t.TempDir(), "in")
	treeMust(t, n.make(in))
	r, _ := treeRepo(t, nil)
	d := treeDir(t, in)
	defer d.Close()
	return r, treeBackup(t, r, d), in
}

// treeLines describes a folder, one line an entry.
func treeLines(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	for path, s := range treeScan(t, dir) {
		switch s.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path += "/"
		case unix.S_IFLNK:
			path += " -> " + s.target
		case unix.S_IFREG:
			path += "=" + s.content
		}
		if path != "./" {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

func TestRestoreOverwrite(t *testing.T) {
	snap := treeFolder("",
		treeFile("same", "new content", 100), treeFile("older", "new content", 200), treeFile("longer", "new content", 100),
		treeFile("islink", "new content", 100), treeFile("isempty", "new content", 100), treeFile("isfull", "new content", 100), treeLink("link", "to"),
		treeLink("isfile", "to"), treeFolder("dir", treeFile("f", "new content", 100)), treeFolder("dirisfile", treeFile("f", "x", 1)), treeFile("absent", "new content", 1))
	there := treeFolder("",
		treeFile("same", "old content", 100), treeFile("older", "old content", 100), treeFile("longer", "old content, longer", 100),
		treeLink("islink", "dir"), treeFolder("isempty"), treeFolder("isfull", treeFile("f", "mine", 1)), treeLink("link", "other"),
		treeFile("isfile", "mine", 1), treeFolder("dir", treeFile("f", "old content", 50), treeFile("mine", "mine", 1)), treeFile("dirisfile", "mine", 1), treeFile("other", "mine", 1))
	always := []string{"absent=new content", "dir/", "dir/f=new content", "dir/mine=mine", "dirisfile/", "dirisfile/f=x", "isempty=new content", "isfile -> to", "isfull/",
		"isfull/f=mine", "islink=new content", "link -> to", "longer=new content", "older=new content", "other=mine", "same=new content"}
	different := slices.Clone(always)
	different[slices.Index(different, "same=new content")] = "same=old content"
	different[slices.Index(different, "isempty=new content")] = "isempty/"
	r, s, _ := treeSnap(t, snap)
	for _, tt := range []struct {
		over          repo.Overwrite
		failed, lines []string
		skipped       int64
	}{
		{repo.OverwriteNever, []string{"dirisfile"}, []string{"absent=new content", "dir/", "dir/f=old content", "dir/mine=mine", "dirisfile=mine", "isempty/", "isfile=mine",
			"isfull/", "isfull/f=mine", "islink -> dir", "link -> other", "longer=old content, longer", "older=old content", "other=mine", "same=old content"}, 9},
		{repo.OverwriteIfDifferent, []string{"isempty", "isfull"}, different, 1},
		{repo.OverwriteAlways, []string{"isfull"}, always, 0},
	} {
		out := filepath.Join(t.TempDir(), "out")
		treeMust(t, there.make(out))
		rep, err := r.Restore(context.Background(), s, out, &repo.RestoreOptions{Overwrite: tt.over})
		if got := treeFailures(t, err); !slices.Equal(got, tt.failed) || tt.over != repo.OverwriteIfDifferent && !errors.Is(err, fs.ErrExist) {
			t.Errorf("%v: %v", tt.over, err)
		}
		if got := treeLines(t, out); !slices.Equal(got, tt.lines) {
			t.Errorf("%v:\n%s\nwant\n%s", tt.over, strings.Join(got, "\n"), strings.Join(tt.lines, "\n"))
		}
		if rep.Skipped != tt.skipped {
			t.Errorf("%v: %+v", tt.over, rep)
		}
	}
}

// A file that OverwriteNever keeps is not taken for what the snapshot's other names of it hold.
func TestRestoreLinkToKept(t *testing.T) {
	r, s, in := treeSnap(t, treeFolder("", treeFile("a", "snapshot", 7), &treeNode{name: "b", again: true}, &treeNode{name: "c", again: true}))
	for _, over := range []repo.Overwrite{repo.OverwriteNever, repo.OverwriteIfDifferent} {
		out := t.TempDir()
		treeMust(t, treeFile("", "my own!!", map[repo.Overwrite]int64{repo.OverwriteNever: 1, repo.OverwriteIfDifferent: 9}[over]).make(out+"/a"))
		treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: over})
		if over == repo.OverwriteIfDifferent {
			treeSame(t, in, out, treeExcept{rootTime: true})
			continue
		}
		if got := treeLines(t, out); !slices.Equal(got, []string{"a=my own!!", "b=snapshot", "c=snapshot"}) {
			t.Error(got)
		}
		if scan := treeScan(t, out); scan["c"].group != "b" || scan["a"].group != "" {
			t.Error("b and c are not one file, or a is")
		}
	}
}

func TestRestorePaths(t *testing.T) {
	ctx := context.Background()
	r, s, _ := treeSnap(t, treeFolder("",
		treeFile("f", "1", 1), treeFolder("a", treeFile("x", "2", 2), treeFolder("b", treeFile("y", "3", 3), treeFolder("c", treeFile("z", "4", 4)), treeFile("w", "5", 5))),
		treeFolder("\xff\\", treeFile("é\xc3", "6", 6)), treeLink("l", "a")))
	all := []string{"\xff\\/", "\xff\\/é\xc3=6", "a/", "a/b/", "a/b/c/", "a/b/c/z=4", "a/b/w=5", "a/b/y=3", "a/x=2", "f=1", "l -> a"}
	slices.Sort(all)
	for _, tt := range []struct {
		base  string
		paths []string
		want  []string
	}{
		{"", nil, all},
		{".", []string{}, all},
		{"", []string{"."}, all},
		{"", []string{"f", ".", "a/b"}, all},
		{"a/b", nil, []string{"c/", "c/z=4", "w=5", "y=3"}},
		{"a/b", []string{"."}, []string{"c/", "c/z=4", "w=5", "y=3"}},
		{"a/b", []string{"c/z"}, []string{"c/", "c/z=4"}},
		{"f", nil, []string{"f=1"}},
		{"a/b/w", nil, []string{"w=5"}},
		{"l", nil, []string{"l -> a"}},
		{`\xff\\/é\xc3`, nil, []string{"é\xc3=6"}},
		{"", []string{`\xff\\/é\xc3`, "f"}, []string{"f=1", "\xff\\/", "\xff\\/é\xc3=6"}},
		{"", []string{"a/b/c"}, []string{"a/", "a/b/", "a/b/c/", "a/b/c/z=4"}},
		{"", []string{"a/b/c", "a/b"}, []string{"a/", "a/b/", "a/b/c/", "a/b/c/z=4", "a/b/w=5", "a/b/y=3"}},
		{"", []string{"a/b", "a/b/c", "a/b/c/z"}, []string{"a/", "a/b/", "a/b/c/", "a/b/c/z=4", "a/b/w=5", "a/b/y=3"}},
		{"a", []string{"x", "b/w"}, []string{"b/", "b/w=5", "x=2"}},
	} {
		out := filepath.Join(t.TempDir(), "new/out")
		treeRestore(t, r, s, out, &repo.RestoreOptions{Base: tt.base, Paths: tt.paths, Verify: true})
		if got := treeLines(t, out); !slices.Equal(got, tt.want) {
			t.Errorf("%q %q: %q, want %q", tt.base, tt.paths, got, tt.want)
		}
		for path, st := range treeScan(t, out) {
			if st.mode&unix.S_IFMT == unix.S_IFDIR && st.sec != 1 && !(path == "." && slices.Contains([]string{"f", "l", "w"}, filepath.Base(tt.base))) &&
				!strings.Contains(tt.base, "xff") {
				t.Errorf("%q %q: the time of %s is %d", tt.base, tt.paths, path, st.sec)
			}
		}
	}
	for _, tt := range []struct {
		base  string
		paths []string
		want  error
	}{
		{"nothing", nil, fs.ErrNotExist}, {"f/x", nil, fs.ErrNotExist}, {"l/x", nil, fs.ErrNotExist}, {"a", []string{"x", "f"}, fs.ErrNotExist}, {"f", []string{"f"}, fs.ErrNotExist},
		{"", []string{".", "nothing"}, fs.ErrNotExist}, {"", []string{"f", "a/b/c/zz"}, fs.ErrNotExist}, {"\xff\\", nil, fs.ErrInvalid}, {"/a", nil, fs.ErrInvalid},
		{"", []string{"../f"}, fs.ErrInvalid}, {"", []string{""}, fs.ErrInvalid}, {"a", []string{"../f"}, fs.ErrInvalid}, {"", []string{"a/"}, fs.ErrInvalid},
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := r.Restore(ctx, s, out, &repo.RestoreOptions{Base: tt.base, Paths: tt.paths})
		if pe, ok := errors.AsType[*fs.PathError](err); !errors.Is(err, tt.want) || !ok || pe.Path == "" && tt.paths == nil {
			t.Errorf("%q %q: %v", tt.base, tt.paths, err)
		}
		if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q %q: something was written", tt.base, tt.paths)
		}
	}
}

func TestRestoreVerify(t *testing.T) {
	sparse := treeFile("sparse", "", 9)
	sparse.size, sparse.runs = 1<<20, []treeRun{{512 << 10, treeBytes(1, 64<<10)}}
	big := treeFile("big", "", 9)
	big.size, big.runs = 3<<20, []treeRun{{0, treeBytes(2, 3<<20)}}
	r, s, in := treeSnap(t, treeFolder("", treeFile("good", "abc", 9), treeFile("bad", "abc", 9), sparse, big, treeFolder("d", treeFile("bad", "def", 9))))
	out := filepath.Join(t.TempDir(), "out")
	treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
	treeSame(t, in, out, treeExcept{})
	// Other bytes under the same size and time: what is kept is read as well.
	for path, off := range map[string]int64{"bad": 1, "sparse": 100_000, "big": 3<<20 - 1, "d/bad": 0} {
		f, err := os.OpenFile(out+"/"+path, os.O_WRONLY, 0)
		treeMust(t, err)
		_, err = f.WriteAt([]byte{1}, off)
		treeMust(t, errors.Join(err, f.Close(), os.Chtimes(out+"/"+path, time.Unix(9, 0), time.Unix(9, 0))))
	}
	rep, err := r.Restore(context.Background(), s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent, Verify: true})
	if got := treeFailures(t, err); !slices.Equal(got, []string{"bad", "big", "d/bad", "sparse"}) || rep.Files != 0 {
		t.Errorf("%v, %+v", err, rep)
	}
	// What OverwriteNever keeps may be anything.
	treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
	treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteAlways, Verify: true})
	treeSame(t, in, out, treeExcept{})
}

// Nothing outside the target is written, whatever is in it.
func TestRestorePlanted(t *testing.T) {
	r, s, _ := treeSnap(t, treeFolder("", treeFile("file", "new", 5), treeFile("hard", "new", 5), treeFile("fifo", "new", 5),
		treeFolder("dir", treeFile("f", "new", 5), treeFolder("sub", treeFile("f", "new", 5))), treeLink("link", "x")))
	for _, over := range []repo.Overwrite{repo.OverwriteNever, repo.OverwriteIfDifferent, repo.OverwriteAlways} {
		base := t.TempDir()
		out, outside := base+"/out", base+"/outside"
		treeMust(t, treeFolder("", treeFile("file", "old", 5), treeFolder("sub")).make(outside))
		want := treeScan(t, outside)
		treeMust(t, treeFolder("", treeLink("file", "../outside/file"), treeLink("dir", "../outside"), treeLink("link", "../outside/file"),
			&treeNode{name: "fifo", mode: unix.S_IFIFO | 0o666}).make(out))
		treeMust(t, os.Link(outside+"/file", out+"/hard"))
		want["file"].group = "" // one of its names is outside of the scan
		_, err := r.Restore(context.Background(), s, out, &repo.RestoreOptions{Overwrite: over})
		if over == repo.OverwriteNever {
			if got := treeFailures(t, err); !slices.Equal(got, []string{"dir"}) {
				t.Errorf("%v", err)
			}
		} else if err != nil {
			t.Errorf("%v: %v", over, err)
		}
		got := treeScan(t, outside)
		got["file"].group = ""
		if d := treeCompare(want, got, treeExcept{}); len(d) > 0 {
			t.Errorf("%v: outside: %s", over, treePrint(d))
		}
		if lines := treeLines(t, out); over != repo.OverwriteNever && !slices.Equal(lines, []string{"dir/", "dir/f=new", "dir/sub/", "dir/sub/f=new", "fifo=new", "file=new",
			map[repo.Overwrite]string{repo.OverwriteAlways: "hard=new", repo.OverwriteIfDifferent: "hard=old"}[over], "link -> x"}) {
			t.Errorf("%v: %q", over, lines)
		}
	}
}

// treeForest is a source of many files, some of them with the content of others, and the frames and bytes that they are in.
func treeForest(k int) fstest.MapFS {
	m := fstest.MapFS{}
	smalls, larges := 150*k, 2*k
	for i := range smalls {
		m[fmt.Sprintf("small/%d/%d", i%20, i)] = &fstest.MapFile{Data: treeBytes(uint64(i), 100+i), Mode: 0o644, ModTime: time.Unix(int64(i), 0)}
	}
	for i := range larges {
		m[fmt.Sprintf("large/%d", i)] = &fstest.MapFile{Data: treeBytes(uint64(i), 2<<20+i), Mode: 0o644, ModTime: time.Unix(int64(i), 0)}
	}
	for i := range smalls / 2 { // out of order
		j := i * 7 % smalls
		m[fmt.Sprintf("twice/%d", i)] = &fstest.MapFile{Data: treeBytes(uint64(j), 100+j), Mode: 0o644}
	}
	for i := range larges / 2 { // parts of others
		j := larges - 1 - i
		m[fmt.Sprintf("zlarge/%d", i)] = &fstest.MapFile{Data: slices.Concat(treeBytes(uint64(j), 2<<20+j), treeBytes(uint64(i), 2<<20+i)), Mode: 0o644}
	}
	return m
}

// treeEqual checks that dir holds all of m but what is missing.
func treeEqual(t *testing.T, m fstest.MapFS, dir string, missing map[string]bool) {
	t.Helper()
	n := 0
	treeMust(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		name, _ := filepath.Rel(dir, path)
		got, err := os.ReadFile(path)
		if m[name] == nil || missing[name] || !bytes.Equal(got, m[name].Data) {
			t.Errorf("%s: %d bytes that are wrong", name, len(got))
		}
		return err
	}))
	if n != len(m)-len(missing) {
		t.Errorf("%d files, want %d", n, len(m)-len(missing))
	}
}

// Each frame is fetched once, also when files share content, and those that are kept cost nothing.
func TestRestoreFetches(t *testing.T) {
	ctx := context.Background()
	r, store, key := treeRepoKey(t, nil)
	m := treeForest(6)
	s := treeBackup(t, r, m)
	var mu sync.Mutex
	ranges := map[string]int{}
	store.Corrupt = func(name string, off int64, p []byte) {
		if strings.HasPrefix(name, "packs/") {
			mu.Lock()
			defer mu.Unlock()
			ranges[fmt.Sprintf("%s %d", name, off)]++
		}
	}
	r, err := repo.Open(ctx, store, key, nil)
	treeMust(t, err)
	out := treeTemp(t)
	rep := treeRestore(t, r, s, out, nil)
	treeEqual(t, m, out, nil)
	for what, n := range ranges {
		if n > 1 {
			t.Errorf("%s was fetched %d times", what, n)
		}
	}
	// 512 KiB a frame, and what trees take.
	if frames := s.Stats.New/(512<<10) + 10; int64(len(ranges)) > frames+frames/4 || rep.Fetched > s.Stats.New+s.Stats.New/10 || rep.Bytes != s.Stats.Bytes {
		t.Errorf("%d frames for %d bytes, %+v", len(ranges), s.Stats.New, rep)
	}
	t.Logf("%d frames, %d bytes fetched, %d new, %d written", len(ranges), rep.Fetched, s.Stats.New, rep.Bytes)

	// One byte of difference: one frame.
	treeMust(t, os.Remove(out+"/large/1"))
	rep = treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent, Paths: []string{"large", "small"}})
	if rep.Files != 1 || rep.Fetched > 4<<20 || rep.Bytes != int64(len(m["large/1"].Data)) {
		t.Errorf("%+v", rep)
	}
	treeEqual(t, m, out, nil)
}

// A restore that was cut off at any moment leaves nothing that the next one would take for whole.
func TestRestoreInterrupted(t *testing.T) {
	r, store, key := treeRepoKey(t, nil)
	m := treeForest(6)
	for name, f := range m { // a time each: without one a file is never taken for the same
		f.ModTime = time.Unix(int64(len(name)), 1)
	}
	s := treeBackup(t, r, m)
	out := treeTemp(t)
	for _, n := range []int64{1, 7, 15, 25} {
		ctx, cancel := context.WithCancelCause(context.Background())
		stop := errors.New("enough")
		gets := int64(0)
		var mu sync.Mutex
		store.Before = func(_ context.Context, op backendtest.Op, name string) error {
			if op == backendtest.Get && strings.HasPrefix(name, "packs/") {
				mu.Lock()
				defer mu.Unlock()
				if gets++; gets == n {
					cancel(stop)
				}
			}
			return nil
		}
		r, err := repo.Open(context.Background(), store, key, nil)
		treeMust(t, err)
		fds := treeOpenFiles(t)
		rep, err := r.Restore(ctx, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if now := treeOpenFiles(t); now > fds {
			t.Errorf("%d files are open, %d before", now, fds)
		}
		// What is there is whole.
		missing := map[string]bool{}
		for name := range m {
			if _, err := os.Lstat(filepath.Join(out, name)); err != nil {
				missing[name] = true
			}
		}
		treeEqual(t, m, out, missing)
		t.Logf("%d gets: %+v, %d missing", n, rep, len(missing))
		store.Before = nil
	}
	rep := treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
	if rep.Fetched > s.Stats.New+1<<20 || rep.Skipped == 0 { // and some of the trees
		t.Errorf("%+v", rep)
	}
	treeEqual(t, m, out, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Restore(ctx, s, treeTemp(t), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func treeOpenFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	treeMust(t, err)
	return len(list)
}

// What is damaged is listed and not there; all else is, and no wrong byte is written.
func TestRestoreDamage(t *testing.T) {
	ctx := context.Background()
	r, store, key := treeRepoKey(t, nil)
	m := treeForest(1)
	treeBackup(t, r, fstest.MapFS{"large/0": m["large/0"], "small/0/0": m["small/0/0"]}) // in packs of its own
	s := treeBackup(t, r, m)
	var packs []string
	for info, err := range store.List(ctx, "packs/") {
		treeMust(t, err)
		packs = append(packs, info.Name)
	}
	if len(packs) < 2 {
		t.Fatal(packs)
	}
	flip := func(pack string, at int64) func(string, int64, []byte) {
		return func(name string, off int64, p []byte) {
			if name == pack && off <= at && at < off+int64(len(p)) {
				p[at-off] ^= 4
			}
		}
	}
	for _, name := range packs {
		info, err := store.Stat(ctx, name)
		treeMust(t, err)
		for _, at := range []int64{0, rand.Int64N(info.Size), -1} {
			store.Corrupt, store.Before = nil, nil
			if at >= 0 {
				store.Corrupt = flip(name, at)
			} else {
				store.Before = func(_ context.Context, op backendtest.Op, n string) error {
					if op == backendtest.Get && n == name {
						return fs.ErrNotExist
					}
					return nil
				}
			}
			r, err := repo.Open(ctx, store, key, nil)
			treeMust(t, err)
			// FS says what is hurt.
			hurt := map[string]bool{}
			f, ferr := r.FS(ctx, s)
			if ferr == nil {
				for name := range m {
					if _, err := fs.ReadFile(f, name); err != nil {
						if _, ok := errors.AsType[*repo.DamageError](err); !ok {
							t.Fatal(err)
						}
						hurt[name] = true
					}
				}
			}
			r, err = repo.Open(ctx, store, key, nil)
			treeMust(t, err)
			store.Reset()
			out := treeTemp(t)
			_, rerr := r.Restore(ctx, s, out, &repo.RestoreOptions{Verify: true})
			if ferr != nil { // the root itself is gone
				if d, ok := errors.AsType[*repo.DamageError](rerr); !ok || d.Object != name {
					t.Errorf("%s at %d: %v", name, at, rerr)
				}
				continue
			}
			if len(hurt) == 0 {
				treeMust(t, rerr)
			} else {
				// Each is listed, or a folder above it whose own node is hurt; and nothing else is.
				listed := map[string]bool{}
				for _, path := range treeFailures(t, rerr) {
					listed[path] = true
					if !slices.ContainsFunc(slices.Collect(maps.Keys(hurt)), func(p string) bool { return path == "." || p == path || strings.HasPrefix(p, path+"/") }) {
						t.Errorf("%s at %d: %s is not hurt", name, at, path)
					}
				}
				for path := range hurt {
					for p := path; !listed[p]; p = filepath.Dir(p) {
						if p == "." {
							t.Errorf("%s at %d: %s is not listed", name, at, path)
							break
						}
					}
				}
				if d, ok := errors.AsType[*repo.DamageError](rerr); !ok || d.Object != name {
					t.Errorf("%s at %d: %v", name, at, rerr)
				}
			}
			treeEqual(t, m, out, hurt)
			if c := store.Counts(); c.Gets+c.Lists > 4*s.Stats.Bytes/(512<<10)+50 {
				t.Errorf("%s at %d: %d hurt, %+v", name, at, len(hurt), c)
			}
			t.Logf("%s at %d: %d hurt, %+v", name, at, len(hurt), store.Counts())
		}
	}
}

func TestRestoreNoOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := treeFile("f", "x", 1)
	file.uid, file.gid = 12, 34
	suid := treeFile("suid", "x", 1)
	suid.uid, suid.mode = 12, unix.S_IFREG|0o4755
	d := treeFolder("d", file, suid)
	d.uid = 56
	r, s, in := treeSnap(t, treeFolder("", d))
	out := t.TempDir()
	_, err := r.Restore(context.Background(), s, out, &repo.RestoreOptions{NoOwner: true})
	if got := treeFailures(t, err); !slices.Equal(got, []string{"d/suid"}) { // another's program would run as root
		t.Error(err)
	}
	for path, st := range treeScan(t, out) {
		if st.uid != 0 || st.gid != 0 || st.mode&0o7000 != 0 {
			t.Error(path, st)
		}
	}
	treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent})
	treeSame(t, in, out, treeExcept{})
}

func TestRestoreDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("varve", dir, "tmpfs", 0, "size=2m,nr_inodes=200"); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	small := fstest.MapFS{}
	for i := range 300 {
		small[fmt.Sprint("f", i)] = &fstest.MapFile{Data: []byte("x")}
	}
	links := fstest.MapFS{}
	for i := range 300 {
		links[fmt.Sprint("f", i)] = &fstest.MapFile{Data: []byte("x"), Mode: fs.ModeSymlink}
	}
	for name, m := range map[string]fstest.MapFS{"f": {"folder/file": {Data: treeBytes(1, 5<<20)}}, "small": small, "links": links} {
		r, _ := treeRepo(t, nil)
		s := treeBackup(t, r, m)
		fds := treeOpenFiles(t)
		_, err := r.Restore(context.Background(), s, dir+"/"+name, nil)
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), s.ID) {
			t.Errorf("%s: %v", name, err)
		}
		if pe, ok := errors.AsType[*fs.PathError](err); !ok || m[pe.Path] == nil {
			t.Errorf("%s: no path in %v", name, err)
		}
		treeMust(t, os.RemoveAll(dir+"/"+name))
		if now := treeOpenFiles(t); now > fds {
			t.Errorf("%d files are open, %d before", now, fds)
		}
	}
}

// An attribute that the file system has no room for is a matter of that entry alone.
func TestRestoreLargeXattr(t *testing.T) {
	dir := t.TempDir()
	treeMust(t, os.WriteFile(dir+"/probe", nil, 0o600))
	large := bytes.Repeat([]byte{1}, 60_000)
	err := unix.Setxattr(dir+"/probe", "user.x", large, 0)
	if !errors.Is(err, unix.ENOSPC) {
		t.Skip("large attributes: ", err)
	}
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, fstest.MapFS{"a": {Data: []byte("a"), Sys: &repo.Attr{Xattrs: map[string][]byte{"user.x": large, "user.y": {1}}}}, "b": {Data: []byte("b")}})
	_, err = r.Restore(context.Background(), s, dir+"/out", nil)
	if got := treeFailures(t, err); !slices.Equal(got, []string{"a"}) || !strings.Contains(err.Error(), "user.x") {
		t.Error(err)
	}
	if got := treeLines(t, dir+"/out"); !slices.Equal(got, []string{"a=a", "b=b"}) || len(treeXattrs(t, dir+"/out/a")) != 1 {
		t.Error(got)
	}
}

func TestRestoreProgress(t *testing.T) {
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, treeForest(2))
	out := filepath.Join(treeTemp(t), "out")
	for range 2 { // the second keeps all
		over, calls := false, 0
		var last repo.Progress
		treeRestore(t, r, s, out, &repo.RestoreOptions{Overwrite: repo.OverwriteIfDifferent, Progress: func(p repo.Progress) {
			if over || p.Bytes < last.Bytes || p.Bytes > p.Total {
				t.Errorf("%+v after %+v", p, last)
			}
			calls, last = calls+1, p
		}})
		over = true
		if last.Total != s.Stats.Bytes || last.Bytes != last.Total || calls == 0 {
			t.Errorf("%d calls, the last %+v", calls, last)
		}
	}
}

// Who may not read content gets ErrRole, not a list of all files.
func TestRestoreRole(t *testing.T) {
	ctx := context.Background()
	r, store, _ := treeRepoKey(t, nil)
	s := treeBackup(t, r, fstest.MapFS{"a": {Data: []byte("a")}, "b": {Data: []byte("b")}})
	for _, role := range []crypt.Role{crypt.Writer, crypt.Maintainer} {
		key, err := crypt.NewKey()
		treeMust(t, err)
		_, err = r.AddSlot(ctx, role, key, "other")
		treeMust(t, err)
		other, err := repo.Open(ctx, store, key, nil)
		treeMust(t, err)
		if _, err := other.Restore(ctx, s, t.TempDir(), nil); !errors.Is(err, repo.ErrRole) {
			t.Errorf("%v: %v", role, err)
		}
	}
}

func TestRestoreInto(t *testing.T) {
	r, s, _ := treeSnap(t, treeFolder("", treeFile("f", "1", 1)))
	file := filepath.Join(t.TempDir(), "file")
	treeMust(t, os.WriteFile(file, []byte("mine"), 0o600))
	if _, err := r.Restore(context.Background(), s, file, &repo.RestoreOptions{Overwrite: repo.OverwriteAlways}); err == nil || !strings.Contains(err.Error(), file) {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Error(string(b), err)
	}
}

// A file of 5 GB that is nearly all holes is neither read nor written in full.
func TestRestoreSparse(t *testing.T) {
	sparse := treeFile("sparse", "", 1)
	sparse.size, sparse.runs = 5<<30+1, []treeRun{{3 << 30, []byte("in the middle")}, {5 << 30, []byte("e")}}
	in := filepath.Join(t.TempDir(), "in")
	treeMust(t, treeFolder("", sparse).make(in))
	r, _ := treeRepo(t, nil)
	d := treeDir(t, in)
	defer d.Close()
	s := treeBackup(t, r, d)
	out := filepath.Join(t.TempDir(), "out")
	treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
	var a, b unix.Stat_t
	treeMust(t, errors.Join(unix.Stat(in+"/sparse", &a), unix.Stat(out+"/sparse", &b)))
	if a.Size != b.Size || a.Mtim != b.Mtim || b.Blocks > a.Blocks+32 || s.Stats.Read > 1<<20 {
		t.Errorf("%+v %+v %+v", a, b, s.Stats)
	}
	f, err := os.Open(out + "/sparse")
	treeMust(t, err)
	defer f.Close()
	p := make([]byte, 15)
	for off, want := range map[int64]string{3<<30 - 1: "\x00in the middle\x00", 5<<30 - 14: strings.Repeat("\x00", 14) + "e"} {
		if _, err := f.ReadAt(p, off); err != nil || string(p) != want {
			t.Errorf("%d: %q, %v", off, p, err)
		}
	}
}

// 23,000 files with many hard links and sharers, in windows of the memory that there is.
func TestRestoreMany(t *testing.T) {
	treeLong(t)
	m := treeForest(100)
	r, store := treeRepo(t, nil)
	s := treeBackup(t, r, m)
	store.Reset()
	out := treeTemp(t)
	rep := treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
	treeEqual(t, m, out, nil)
	t.Logf("%+v, %+v, %+v", s.Stats, rep, store.Counts())
	if rep.Fetched > s.Stats.New+s.Stats.New/4 {
		t.Error("too much was fetched")
	}
}

// What is there stays until what replaces it is whole.
func TestRestoreKeepsUntilWhole(t *testing.T) {
	m := fstest.MapFS{"large": {Data: treeBytes(1, 3<<20), ModTime: time.Unix(1, 0)}, "link": {Data: treeBytes(2, 2<<20), ModTime: time.Unix(1, 0)},
		"small": {Data: []byte("new"), ModTime: time.Unix(1, 0)}}
	for _, how := range []string{"damage", "cancel"} {
		r, store, key := treeRepoKey(t, nil)
		s := treeBackup(t, r, m)
		r, err := repo.Open(context.Background(), store, key, nil)
		treeMust(t, err)
		out := t.TempDir()
		treeMust(t, treeFolder("", treeFile("large", "old large", 9), treeFile("small", "old small", 9), treeLink("link", "old link"), treeFile("other", "other", 9)).make(out+"/x"))
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		frames := 0
		store.Corrupt = func(name string, _ int64, p []byte) {
			mu.Lock()
			defer mu.Unlock()
			if frames++; len(p) < 100<<10 || frames < 4 {
				return
			}
			if how == "cancel" {
				cancel()
			} else {
				p[99] ^= 1
			}
		}
		_, err = r.Restore(ctx, s, out+"/x", &repo.RestoreOptions{Overwrite: repo.OverwriteAlways})
		cancel()
		if err == nil {
			t.Error(how, "no error")
		}
		left := map[string]int{}
		for _, line := range treeLines(t, out+"/x") {
			name, _, _ := strings.Cut(line, "=")
			if f := m[name]; f == nil || line != name+"="+string(f.Data) {
				left[line]++
			}
		}
		delete(left, "small=old small") // or it was restored
		if !maps.Equal(left, map[string]int{"large=old large": 1, "link -> old link": 1, "other=other": 1}) {
			t.Errorf("%s: %.300s", how, fmt.Sprintf("%q", slices.Sorted(maps.Keys(left))))
		}
	}
}
