package repo_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// crashJob is what a child process does: a backup.
type crashJob struct {
	Repo, Key, Cache, Series string        // Repo: a path or URL
	Dir                      string        // back this up,
	Shared, Own              uint64        // or these seeds,
	SharedSize, OwnSize      int           //
	Stream                   int64         // or a stream of so many bytes
	Blocks                   []uint64      // or a folder of blocks, one of each seed
	Prune                    bool          // no backup but a prune
	Segment                  time.Duration // see repo.Times
	Times                    repo.Times    // all of them
	Start                    string        // a file to wait for
	Memory                   bool          // measure it
}

type crashResult struct {
	ID       string
	Stats    repo.Stats
	Idle     int64 // RssAnon
	Peak     int64
	Duration time.Duration
	Void     bool // ErrVoid
	Report   *repo.PruneReport
}

// crashRss returns how many bytes of this process's memory are no file's; 0 where the system does not tell.
func crashRss() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// crashWatch samples the memory until stop, and writes the most that it saw to peak.
func crashWatch(peak *int64) (idle int64, stop func()) {
	runtime.GC()
	debug.FreeOSMemory()
	idle = crashRss()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			*peak = max(*peak, crashRss())
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return idle, func() { close(done); wg.Wait() }
}

const crashEnv = "VARVE_TEST_CHILD"

// TestChild is no test: it is what the child processes of the others run.
func TestChild(t *testing.T) {
	spec := os.Getenv(crashEnv)
	if spec == "" {
		t.Skip("only as a child of another test")
	}
	var j crashJob
	crashMust(t, json.Unmarshal([]byte(spec), &j))
	repo.SetTimes(t, j.Times)
	repo.SetTimes(t, repo.Times{Segment: j.Segment})
	key, err := crypt.ParseKey(j.Key)
	crashMust(t, err)
	var src fs.FS
	switch {
	case j.Dir != "":
		d, err := source.Dir(j.Dir, nil)
		crashMust(t, err)
		defer d.Close()
		src = d
	case j.Stream > 0:
		src = source.Stream("dump.sql", func(ctx context.Context) (io.ReadCloser, error) { return newCrashStream(ctx, j.Own, j.Stream), nil })
	case len(j.Blocks) > 0:
		src = crashBlocks(j.Blocks)
	default:
		src = crashShared(j.Shared, j.SharedSize, j.Own, j.OwnSize)
	}
	var res crashResult
	stop := func() {}
	if j.Memory {
		res.Idle, stop = crashWatch(&res.Peak)
	}
	for j.Start != "" {
		if _, err := os.Stat(j.Start); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	begun := time.Now()
	fmt.Println("READY")
	b, err := open.URL(t.Context(), j.Repo, nil)
	crashMust(t, err)
	r := crashOpen(t, b, key, &repo.Options{Cache: j.Cache})
	s := &repo.Snapshot{}
	if j.Prune {
		res.Report, err = r.Prune(t.Context(), nil)
	} else {
		s, err = r.Backup(t.Context(), j.Series, src, nil)
	}
	res.Void = errors.Is(err, repo.ErrVoid)
	if !res.Void {
		crashMust(t, err)
	} else {
		s = &repo.Snapshot{}
	}
	stop()
	res.ID, res.Stats, res.Duration = s.ID, s.Stats, time.Since(begun)
	out, err := json.Marshal(&res)
	crashMust(t, err)
	fmt.Printf("RESULT %s\n", out)
}

// crashStart runs a child; ready is closed when it begins. wait returns its result, an error if it did not come so far.
func crashStart(t testing.TB, j crashJob) (cmd *exec.Cmd, ready <-chan struct{}, wait func() (*crashResult, error)) {
	t.Helper()
	spec, err := json.Marshal(&j)
	crashMust(t, err)
	cmd = exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v", "-test.timeout=60m")
	cmd.Env = append(os.Environ(), crashEnv+"="+string(spec))
	var all, complaints bytes.Buffer
	cmd.Stderr = &complaints
	if os.Getenv("VARVE_TEST_STDERR") != "" {
		cmd.Stderr = os.Stderr
	}
	out, err := cmd.StdoutPipe()
	crashMust(t, err)
	crashMust(t, cmd.Start())
	begun, done := make(chan struct{}), make(chan struct{})
	var res *crashResult
	go func() {
		defer close(done)
		begin := sync.OnceFunc(func() { close(begun) })
		defer begin()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			line := lines.Text()
			if line == "READY" {
				begin()
			}
			if text, ok := strings.CutPrefix(line, "RESULT "); ok {
				res = &crashResult{}
				if err := json.Unmarshal([]byte(text), res); err != nil {
					res = nil
				}
			}
			fmt.Fprintln(&all, line)
		}
	}()
	return cmd, begun, func() (*crashResult, error) {
		<-done
		err := cmd.Wait()
		if res == nil {
			return nil, errors.Join(fmt.Errorf("the child failed: %s%s", all.String(), complaints.String()), err)
		}
		return res, nil
	}
}
