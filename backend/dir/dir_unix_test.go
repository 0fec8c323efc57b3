//go:build unix

package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
)

func nlink(fi fs.FileInfo) uint64 { return uint64(fi.Sys().(*syscall.Stat_t).Nlink) }

// The test binary, started again, is one of several processes.
const (
	roleEnv = "VARVE_TEST_ROLE"
	rootEnv = "VARVE_TEST_ROOT"
	idEnv   = "VARVE_TEST_ID"
	names   = 25
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	d, err := dir.Open(os.Getenv(rootEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	switch role {
	case "race":
		os.Stdin.Read(make([]byte, 1)) // until all are started
		for i := range names {
			name := fmt.Sprintf("race/%02d", i)
			err := backend.PutBytes(bg, d, name, []byte(strings.Repeat(os.Getenv(idEnv), 10_000)), ifAbsent)
			switch {
			case err == nil:
				fmt.Println(name)
			case !errors.Is(err, fs.ErrExist):
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	case "endless":
		data := pattern(3 << 20)
		for i := 0; ; i++ {
			name := fmt.Sprintf("k/%s-%d", os.Getenv(idEnv), i%4)
			var o *backend.PutOptions
			if i%2 == 0 {
				name, o = fmt.Sprintf("k/%s-%d", os.Getenv(idEnv), i+4), ifAbsent
			}
			if err := backend.PutBytes(bg, d, name, data, o); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(name)
		}
	}
	os.Exit(0)
}

// pattern returns n bytes that depend on where they are.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

func process(t *testing.T, role, root string, id int) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, rootEnv+"="+root, fmt.Sprintf("%s=%d", idEnv, id))
	return cmd
}

func TestProcesses(t *testing.T) {
	d, root := create(t)
	const n = 8
	gateRead, gate, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gateRead.Close()
	var outs, errs [n]bytes.Buffer
	var cmds [n]*exec.Cmd
	for i := range cmds {
		cmds[i] = process(t, "race", root, i)
		cmds[i].Stdin, cmds[i].Stdout, cmds[i].Stderr = gateRead, &outs[i], &errs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	gate.Close()
	winner := make(map[string]int)
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, &errs[i])
		}
		for _, name := range strings.Fields(outs[i].String()) {
			if other, ok := winner[name]; ok {
				t.Errorf("%s: both %d and %d were first", name, other, i)
			}
			winner[name] = i
		}
	}
	if len(winner) != names {
		t.Errorf("%d of %d names have a winner", len(winner), names)
	}
	for name, i := range winner {
		got, err := d.Get(t.Context(), name, 0, -1, nil)
		if err != nil || string(got) != strings.Repeat(fmt.Sprint(i), 10_000) {
			t.Errorf("%s: %v; not what process %d put", name, err, i)
		}
	}
	wantNoTemp(t, root)
}

// Processes die amid puts: no part of an object is seen, and what was reported
// is there.
func TestKill(t *testing.T) {
	d, root := create(t)
	want := pattern(3 << 20)
	for i := range 8 {
		cmd := process(t, "endless", root, i)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed once it has reported a put, somewhere in one of the next.
		buf := make([]byte, 4096)
		k, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		cmd.Process.Kill()
		rest := new(bytes.Buffer)
		rest.Write(buf[:k])
		rest.ReadFrom(out)
		cmd.Wait()
		reported := strings.Fields(rest.String())
		if !strings.HasSuffix(rest.String(), "\n") {
			reported = reported[:len(reported)-1]
		}
		for _, name := range reported {
			if _, err := d.Stat(t.Context(), name); err != nil {
				t.Errorf("%s was reported: %v", name, err)
			}
		}
	}
	var buf []byte
	for _, name := range list(t, d) {
		var err error
		if buf, err = d.Get(t.Context(), name, 0, -1, buf[:0]); err != nil || !bytes.Equal(buf, want) {
			t.Errorf("%s: %d bytes, %v; not the whole object", name, len(buf), err)
		}
	}
	// What the dead left is no obstacle.
	left, _ := filepath.Glob(filepath.Join(root, ".tmp", "*"))
	t.Logf("%d temporary files were left", len(left))
	put(t, d, "k/after", "x")
}

func TestFIFO(t *testing.T) {
	d, root := create(t)
	put(t, d, "x", "")
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Skip("no FIFO:", err)
	}
	if _, err := d.Get(t.Context(), "fifo", 0, -1, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a FIFO: %v", err)
	}
	if names := list(t, d); len(names) != 1 {
		t.Errorf("list: %q", names)
	}
}

// tmpfs returns a small file system.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("a file system of its own needs Linux and root")
	}
	root := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", root).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", root).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return root
}

func TestFullDisk(t *testing.T) {
	root := tmpfs(t, "size=2m")
	d, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "old", "old")
	for _, o := range []*backend.PutOptions{nil, ifAbsent} {
		for range 3 { // what a failed put took is free again
			err := backend.PutBytes(t.Context(), d, "packs/large", make([]byte, 3<<20), o)
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "packs/large") || !strings.Contains(err.Error(), root) {
				t.Errorf("put on a full disk: %v; want ENOSPC, object and path", err)
			}
			wantNoTemp(t, root)
		}
	}
	if err := backend.PutBytes(t.Context(), d, "old", make([]byte, 3<<20), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("replace on a full disk: %v", err)
	}
	if names := list(t, d); len(names) != 1 || names[0] != "old" {
		t.Errorf("list: %q", names)
	}
	if got, err := d.Get(t.Context(), "old", 0, -1, nil); err != nil || string(got) != "old" {
		t.Errorf("get: %q, %v", got, err)
	}
	if err := backend.PutBytes(t.Context(), d, "packs/fits", make([]byte, 1<<20), ifAbsent); err != nil {
		t.Errorf("put what fits: %v", err)
	}
}

// A disk that is unmounted leaves an empty folder, which is not the store.
func TestUnmounted(t *testing.T) {
	below := tmpfs(t, "size=1m")
	root := filepath.Join(below, "mnt")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "tmpfs", root).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	d, err := dir.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "packs/x", "x")
	if out, err := exec.Command("umount", root).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	if _, err := d.Stat(t.Context(), "packs/x"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
	for _, name := range []string{"packs/y", "new/y"} {
		if err := backend.PutBytes(t.Context(), d, name, nil, ifAbsent); err == nil {
			t.Errorf("put %s: no error", name)
		}
	}
	for info, err := range d.List(t.Context(), "") {
		if err == nil {
			t.Errorf("listed %s", info.Name)
		}
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("something was put into the mount point: %v", left)
	}
}
