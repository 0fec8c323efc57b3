package miniotest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/internal/needs"
)

// namespaceEnv names the test that the process runs in a namespace.
const namespaceEnv = "VARVE_TEST_NAMESPACE"

// inNamespace tells whether the process is the one that runs this test in a network namespace of its own. Otherwise it starts that one, waits for its end,
// and makes its result the test's.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		return true
	}
	steps := strings.Split(t.Name(), "/")
	for i, s := range steps {
		steps[i] = "^" + regexp.QuoteMeta(s) + "$"
	}
	timeout := time.Duration(0) // for ever
	if d, ok := t.Deadline(); ok {
		timeout = time.Until(d)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(steps, "/"), "-test.count=1", "-test.v", "-test.timeout="+timeout.String())
	// What it leaves behind if it is killed goes with the folder.
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name(), "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// It is the first process of its process namespace, so all that it starts end with it.
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 10*time.Second
	if err := cmd.Start(); err != nil {
		needs.Skip(t, fmt.Sprintf("no network namespace of its own: %v", err))
	}
	err := cmd.Wait()
	t.Logf("in a network namespace:\n%s", &out)
	switch {
	case err != nil:
		t.Errorf("in a network namespace: %v", err)
	case !strings.Contains(out.String(), "--- PASS: "+t.Name()+" ("):
		needs.Skip(t, "skipped in a network namespace")
	}
	return false
}

// address returns that of a node.
func address(node int) netip.Addr { return netip.AddrFrom4([4]byte{10, 83, 0, byte(1 + node)}) }

// addresses gives the namespace, which has no device but a loopback that is down, the addresses of n nodes.
func addresses(n int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("miniotest: %w", os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("miniotest: %w", err)
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		return fmt.Errorf("miniotest: lo up: %w", os.NewSyscallError("ioctl", err))
	}
	for i := range n {
		alias, err := unix.NewIfreq(fmt.Sprintf("lo:%d", 1+i))
		if err != nil {
			return fmt.Errorf("miniotest: %w", err)
		}
		ip := address(i).As4()
		if err := alias.SetInet4Addr(ip[:]); err != nil {
			return fmt.Errorf("miniotest: %w", err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
			return fmt.Errorf("miniotest: %s for lo: %w", address(i), os.NewSyscallError("ioctl", err))
		}
	}
	return nil
}
