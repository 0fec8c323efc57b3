//go:build linux

package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

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
