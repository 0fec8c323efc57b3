//go:build unix

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/needs"
)

// A recipe is docs/RCLONE.md at work: its commands, in a folder that stands for the machine and its disks.
type recipe struct {
	t      *testing.T
	root   string
	env    []string
	blocks map[string][]string // by the heading that they stand below
}

func newRecipe(t *testing.T) *recipe {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "RCLONE.md"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypt.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{t: t, root: t.TempDir(), blocks: map[string][]string{}}
	heading, block, in := "", "", false
	for line := range strings.Lines(string(page)) {
		switch {
		case in && strings.HasPrefix(line, "```"):
			r.blocks[heading] = append(r.blocks[heading], block)
			in = false
		case in:
			block += line
		case strings.HasPrefix(line, "```sh"):
			block, in = "", true
		case strings.HasPrefix(line, "## "):
			heading = strings.TrimSpace(line[3:])
		}
	}
	for heading, n := range map[string]int{"The remote": 2, "Sending": 1, "When something differs": 4, "Getting back": 2} {
		if len(r.blocks[heading]) != n {
			t.Fatalf("RCLONE.md has %d blocks of commands below %q, and %d are tested", len(r.blocks[heading]), heading, n)
		}
	}
	r.env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "RCLONE_") || strings.HasPrefix(e, "VARVE_") }),
		"VARVE_KEY="+key.Text(), "VARVE_REPO="+r.path("var/backups/shop"))
	for _, dir := range []string{"etc/varve", "mnt/nas", "srv", "var/backups"} {
		if err := os.MkdirAll(r.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.write("etc/varve/rclone-password", []byte("one secret"))
	r.write("etc/varve/rclone-salt", []byte("another"))
	r.machine("first")
	return r
}

func (r *recipe) path(name string) string { return filepath.Join(r.root, filepath.FromSlash(name)) }

func (r *recipe) write(name string, data []byte) {
	r.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.path(name)), 0o700), os.WriteFile(r.path(name), data, 0o600)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *recipe) read(file string) []byte {
	r.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

// machine makes what follows happen on a machine of which nobody has seen anything yet.
func (r *recipe) machine(name string) {
	home := filepath.Join(r.root, name)
	r.env = append(r.env, "HOME="+home, "VARVE_CACHE="+filepath.Join(home, "cache"), "RCLONE_CONFIG="+filepath.Join(home, "rclone.conf"))
}

var absolute = regexp.MustCompile(`/(srv|mnt|etc)/`)

// command is one block of the page as a shell runs it, its absolute paths below root.
func (r *recipe) command(script string) *exec.Cmd {
	cmd := exec.Command("sh", "-euc", absolute.ReplaceAllStringFunc(script, func(p string) string { return r.root + p }))
	cmd.Env = r.env
	return cmd
}

// run runs commands and returns what they say, and whether they end with 0.
func (r *recipe) run(script string) (string, bool) {
	r.t.Helper()
	out, err := r.command(script).CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		r.t.Fatal(err)
	}
	return string(out), err == nil
}

func (r *recipe) must(script string) string {
	r.t.Helper()
	out, ok := r.run(script)
	if !ok {
		r.t.Fatalf("%s\n%s", script, out)
	}
	return out
}

// files returns the times and sizes of what is below a folder, by path.
func (r *recipe) files(dir string) map[string]fs.FileInfo {
	r.t.Helper()
	all := map[string]fs.FileInfo{}
	err := filepath.WalkDir(r.path(dir), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(r.path(dir), file)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(name)], err = d.Info()
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// objects returns the names of the objects of the replica.
func (r *recipe) objects() []string {
	r.t.Helper()
	names := slices.Sorted(maps.Keys(r.files("srv/replica")))
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") })
}

// same asks whether the remote has the objects of the replica and nothing else.
func (r *recipe) same() {
	r.t.Helper()
	got := strings.Fields(r.must("rclone lsf -R --files-only offsite:"))
	slices.Sort(got)
	if want := r.objects(); !slices.Equal(got, want) {
		r.t.Fatalf("at the remote are %q, and should be %q", got, want)
	}
}

// largest returns the path of the largest file below a folder.
func (r *recipe) largest(dir string) string {
	r.t.Helper()
	var path string
	size := int64(-1)
	for name, info := range r.files(dir) {
		if info.Size() > size {
			path, size = filepath.Join(r.path(dir), filepath.FromSlash(name)), info.Size()
		}
	}
	return path
}

// TestRclone does what docs/RCLONE.md says.
func TestRclone(t *testing.T) {
	needs.Program(t, "rclone", "rclone")
	t.Run("plain", func(t *testing.T) { testRclone(t, false) })
	t.Run("crypt", func(t *testing.T) { testRclone(t, true) })
}

func testRclone(t *testing.T, sealed bool) {
	r := newRecipe(t)
	remote := r.blocks["The remote"][0]
	if sealed {
		remote += r.blocks["The remote"][1]
	}
	send, differs := r.blocks["Sending"][0], r.blocks["When something differs"]
	back, checkBack := r.blocks["Getting back"][0], r.blocks["Getting back"][1]
	compare, check, mendRemote, mendReplica := differs[0], differs[1], differs[2], differs[3]
	noise := func(seed byte, n int) []byte {
		b := make([]byte, n)
		rand.NewChaCha8([32]byte{seed}).Read(b)
		return b
	}
	// restored gets all back on an empty machine and holds the last snapshot against files.
	restored := func(machine string, want map[string][]byte, sound bool) {
		t.Helper()
		env := r.env
		defer func() { r.env = env }()
		r.machine(machine)
		r.must(remote)
		fetch, rest, _ := strings.Cut(back, "\n")
		// What is half there cannot be decrypted, and rclone fetches all else.
		half := regexp.MustCompile(`unexpected EOF|too short to be encrypted`)
		if out, ok := r.run(fetch); !ok && (sound || !sealed || !half.MatchString(out)) {
			t.Fatal(out)
		}
		r.must(rest)
		if sound {
			r.must(checkBack)
		}
		got := r.files("srv/restored")
		if len(got) != len(want) {
			t.Errorf("%d files came back of %d", len(got), len(want))
		}
		for name, data := range want {
			if !bytes.Equal(r.read(filepath.Join(r.path("srv/restored"), name)), data) {
				t.Errorf("%s came back with other bytes", name)
			}
		}
		if err := errors.Join(os.RemoveAll(r.path("srv/restored")), os.RemoveAll(r.path("srv/back"))); err != nil {
			t.Fatal(err)
		}
	}

	// The first day.
	content := map[string][]byte{"dump.sql": bytes.Repeat([]byte("a row of the shop\n"), 10_000), "picture.jpeg": noise(1, 3<<20)}
	backup := func() {
		t.Helper()
		for name, data := range content {
			r.write("srv/shop/"+name, data)
		}
		r.must("varve backup shop /srv/shop")
	}
	r.must(remote)
	r.must("varve init")
	backup()
	r.must(send)
	r.same()

	// The next day: what is there already is not sent again.
	before := r.files("mnt/nas")
	content["new.jpeg"] = noise(2, 1<<20)
	backup()
	r.must(send)
	r.same()
	after := r.files("mnt/nas")
	for name, was := range before {
		if is := after[name]; is == nil || !os.SameFile(was, is) || !is.ModTime().Equal(was.ModTime()) || is.Size() != was.Size() {
			t.Errorf("%s at the remote was touched", name)
		}
	}
	if len(after) <= len(before) {
		t.Error("nothing was sent")
	}
	out := r.must("RCLONE_VERBOSE=1; export RCLONE_VERBOSE\n" + send)
	if regexp.MustCompile(`(packs|index|snapshots)/.*Copied`).MatchString(out) { // replicate leaves the marks of a session
		t.Errorf("nothing is new, and rclone says\n%s", out)
	}
	r.names()
	yesterday := maps.Clone(content)

	// The third day's is killed amid a pack.
	content["large.jpeg"] = noise(3, 20<<20)
	backup()
	before = r.files("mnt/nas")
	r.kill(send, func() bool { return len(r.files("mnt/nas")) > len(before) })
	restored("after the kill", yesterday, false)
	if out, ok := r.run(send); !ok {
		if !strings.Contains(out, "immutable file modified") {
			t.Fatal(out)
		}
		r.must(check)
		r.must(mendRemote)
		r.must(send)
	}
	r.must("rclone delete --include '*.partial' offsite:") // of other versions of rclone
	r.same()
	restored("after the third day", content, true)

	// A file at the remote is cut. It stays so until a person has looked.
	victim := r.largest("mnt/nas")
	whole := r.read(victim)
	if err := os.Truncate(victim, int64(len(whole)/2)); err != nil {
		t.Fatal(err)
	}
	if out, ok := r.run(send); ok || !strings.Contains(out, "immutable file modified") {
		t.Errorf("a file was cut at the remote, and rclone says\n%s", out)
	}
	if n := int64(len(r.read(victim))); n != int64(len(whole)/2) {
		t.Errorf("--immutable wrote the file at the remote: %d bytes", n)
	}
	if out, ok := r.run(compare); ok || !strings.Contains(out, "packs/") {
		t.Errorf("a file was cut at the remote, and rclone check says\n%s", out)
	}
	r.must(check)
	r.must(mendRemote)
	r.must(compare)
	r.must(send)
	restored("after the remote was mended", content, true)

	// A file of the replica is changed, and there is a new snapshot.
	victim = r.largest("srv/replica")
	whole = r.read(victim)
	hurt := slices.Clone(whole)
	hurt[len(hurt)/2] ^= 1
	if err := errors.Join(os.Chmod(victim, 0o600), os.WriteFile(victim, hurt, 0o600), os.Chtimes(victim, time.Time{}, time.Now().Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	yesterday = maps.Clone(content)
	content["newer.jpeg"] = noise(4, 1<<20)
	backup()
	if out, ok := r.run(send); ok || !strings.Contains(out, "immutable file modified") {
		t.Errorf("a file of the replica was changed, and rclone says\n%s", out)
	}
	restored("beside the changed replica", yesterday, true) // the new snapshot was not sent
	if out, ok := r.run(check); ok || !strings.Contains(out, filepath.Base(victim)) {
		t.Errorf("a file of the replica was changed, and varve check says\n%s", out)
	}
	r.must(mendReplica)
	if !bytes.Equal(r.read(victim), whole) {
		t.Error("the file of the replica is not what it was")
	}
	r.must(check)
	r.must(send)
	r.same()
	restored("after the replica was mended", content, true)
}

// names asks whether every remote can hold the names.
func (r *recipe) names() {
	r.t.Helper()
	folded := map[string]string{}
	plain := regexp.MustCompile(`^[0-9a-z./TZ-]+$`)
	for _, name := range r.objects() {
		if !plain.MatchString(name) {
			r.t.Errorf("there is an object %q", name)
		}
		if was, ok := folded[strings.ToLower(name)]; ok {
			r.t.Errorf("%s and %s differ in case only", was, name)
		}
		folded[strings.ToLower(name)] = name
		for part := range strings.SplitSeq(name, "/") {
			if len(part) > 143 || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".") {
				r.t.Errorf("%s has a part that not every remote takes", name)
			}
		}
	}
}

// kill runs commands, slowly, and ends all of them as kill -9 does as soon as something is so.
func (r *recipe) kill(script string, now func() bool) {
	r.t.Helper()
	cmd := r.command(script)
	cmd.Env = append(cmd.Env, "RCLONE_BWLIMIT=512k", "RCLONE_TRANSFERS=1")
	end := ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !now() {
		select {
		case err := <-ended:
			r.t.Fatalf("it ended before it could be killed: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	end()
	<-ended
}

// ownGroup gives a command a process group, and returns what kills that.
func ownGroup(cmd *exec.Cmd) (kill func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
