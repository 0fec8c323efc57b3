package varve_test

import (
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/varvebackup/varve/crypt"
)

// againstRestic returns the two programs, and two folders to back up: so many random bytes, 64 MiB at most with -short, and the Go distribution. Skipped where
// there is no restic.
func againstRestic(b *testing.B, size int64) (restic, varve, input, other string) {
	b.Helper()
	restic, err := exec.LookPath("restic")
	if err != nil {
		b.Skip("no restic in the path (Debian: restic)")
	}
	if testing.Short() {
		size = min(size, 64<<20)
	}
	tmp := b.TempDir()
	input = filepath.Join(tmp, "input")
	if err := os.Mkdir(input, 0o700); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(input, "random"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	varve = filepath.Join(tmp, "varve")
	if out, err := exec.Command("go", "build", "-o", varve, "./cmd/varve").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return restic, varve, input, strings.TrimSpace(string(goroot))
}

// BenchmarkRestic runs the first backup of 1 GiB of random bytes and the Go distribution by varve and by restic, whole processes in turns, each into a fresh
// repository on the same disk with the input in the page cache, and reports the medians, their ratio and, where GNU time is installed, each one's peak memory: a process that this one starts
// itself would be charged with this one's. Skipped where there is no restic. -benchtime 5x gives five rounds.
func BenchmarkRestic(b *testing.B) {
	restic, varve, input, other := againstRestic(b, 1<<30)
	tmp := b.TempDir()
	key, err := crypt.NewKey()
	if err != nil {
		b.Fatal(err)
	}

	gnu, _ := exec.LookPath("time") // without it there are no figures for memory
	// run returns seconds and peak memory in MiB of the backup; making the repository is not counted.
	run := func(program string, env, initialize, backup []string) (float64, float64) {
		repository := filepath.Join(tmp, "repository")
		defer os.RemoveAll(repository)
		var took float64
		var peak float64
		for _, args := range [][]string{initialize, backup} {
			words, usage := append([]string{program}, args...), filepath.Join(tmp, "usage")
			if gnu != "" {
				words = append([]string{gnu, "-o", usage, "-f", "%M"}, words...)
			}
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Env = append(os.Environ(), append(env, "HOME="+repository+"/home")...)
			begun := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%s %v: %v\n%s", program, args, err, out)
			}
			took = time.Since(begun).Seconds()
			if gnu != "" {
				text, err := os.ReadFile(usage)
				if err != nil {
					b.Fatal(err)
				}
				kib, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
				if err != nil {
					b.Fatal(err)
				}
				peak = kib / 1024
			}
		}
		return took, peak
	}
	repository := filepath.Join(tmp, "repository", "r")
	ours := func() (float64, float64) {
		cache := filepath.Join(tmp, "repository", "c")
		return run(varve, []string{"VARVE_KEY=" + key.Text(), "VARVE_REPO=" + repository, "VARVE_CACHE=" + cache}, []string{"init"},
			[]string{"backup", "bench", "input=" + input, "go=" + other})
	}
	theirs := func() (float64, float64) {
		return run(restic, []string{"RESTIC_PASSWORD=secret", "RESTIC_REPOSITORY=" + repository}, []string{"init"}, []string{"backup", "-q", input, other})
	}
	var a, r, ratios, am, rm []float64
	for b.Loop() {
		s, m := ours()
		t, n := theirs()
		a, r, ratios, am, rm = append(a, s), append(r, t), append(ratios, t/s), append(am, m), append(rm, n)
	}
	b.ReportMetric(median(a), "varve-s")
	b.ReportMetric(median(r), "restic-s")
	b.ReportMetric(median(ratios), "restic/varve")
	if gnu != "" {
		b.ReportMetric(slices.Max(am), "varve-MiB")
		b.ReportMetric(slices.Max(rm), "restic-MiB")
	}
}
