package repo_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

type simResult struct {
	hash       string
	steps      int
	broke, why string
	stats      map[string]int
	lines      []string
}

// simRun runs one seed.
func simRun(t *testing.T, seed uint64, cfg simConfig, rule string, verbose bool) (res simResult) {
	t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
		if rule != "" {
			breakRule(t, rule)
		}
		synctest.Test(t, func(t *testing.T) {
			s := newSim(t, seed, cfg)
			s.verbose = verbose
			s.play()
			if s.deltas != nil {
				s.stats["deltas"] = *s.deltas
			}
			res = simResult{fmt.Sprintf("%x", s.log.Sum(nil)[:8]), s.steps, s.broke, s.why, s.stats, s.lines}
		})
	})
	return res
}

// TestSim runs seeds: VARVE_SIM_SEEDS of them from VARVE_SIM_FROM on, or VARVE_SIM_SEED alone, with its log.
func TestSim(t *testing.T) {
	number := func(name string, n uint64) uint64 {
		if v := os.Getenv(name); v != "" {
			var err error
			if n, err = strconv.ParseUint(v, 10, 64); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		return n
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if one := number("VARVE_SIM_SEED", 0); one != 0 {
		res := simRun(t, one, simConfigOf(one), os.Getenv("VARVE_SIM_BREAK"), true)
		t.Logf("%+v\n%s\nhash %s, %d steps, %v", simConfigOf(one), strings.Join(res.lines, "\n"), res.hash, res.steps, res.stats)
		if res.broke != "" {
			t.Errorf("seed %d: %s: %s", one, res.broke, res.why)
		}
		return
	}
	seeds := uint64(100)
	if raceEnabled || testing.Short() {
		seeds = 12
	}
	seeds = number("VARVE_SIM_SEEDS", seeds)
	from := number("VARVE_SIM_FROM", 1)
	total := map[string]int{}
	bad := 0
	for seed := from; seed < from+seeds; seed++ {
		res := simRun(t, seed, simConfigOf(seed), os.Getenv("VARVE_SIM_BREAK"), false)
		for k, n := range res.stats {
			if k, _, _ = strings.Cut(k, " "); true {
				total[k] += n
			}
		}
		total["steps"] += res.steps
		if res.broke != "" {
			t.Errorf("seed %d: %s: %s", seed, res.broke, res.why)
			if bad++; bad == 10 {
				break
			}
		}
	}
	t.Logf("%d seeds: %v", seeds, total)
}

// TestSimReplay runs seeds twice: the log of all operations is the same.
func TestSimReplay(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	last := uint64(8)
	if raceEnabled {
		last = 3
	}
	for seed := uint64(1); seed <= last; seed++ {
		first, again := simRun(t, seed, simConfigOf(seed), "", true), simRun(t, seed, simConfigOf(seed), "", true)
		if first.hash == again.hash {
			continue
		}
		for i := range first.lines {
			if i >= len(again.lines) || first.lines[i] != again.lines[i] {
				t.Errorf("seed %d: line %d:\n%s\n%s", seed, i, first.lines[i], again.lines[min(i, len(again.lines)-1)])
				break
			}
		}
	}
}
