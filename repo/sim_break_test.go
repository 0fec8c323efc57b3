package repo_test

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/varvebackup/varve/repo"
)

func breakRule(t testing.TB, rule string) { repo.Break(t, rule) }

// TestSimBroken switches each rule of the protocol off in turn: within some seeds the simulation has to notice.
func TestSimBroken(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	budget, _ := strconv.Atoi(os.Getenv("VARVE_SIM_BROKEN"))
	only := strings.Fields(os.Getenv("VARVE_SIM_RULES"))
	from, _ := strconv.ParseUint(os.Getenv("VARVE_SIM_FROM"), 10, 64)
	for _, rule := range repo.Rules() {
		if len(only) > 0 && !slices.Contains(only, rule) {
			continue
		}
		found := false
		for n := range max(budget, 1) {
			res := simRun(t, from+uint64(n)+1, simConfigOf(from+uint64(n)+1), rule, false)
			if res.broke != "" {
				t.Logf("%-18s seed %d (%d tried): %s: %.150s", rule, from+uint64(n)+1, n+1, res.broke, res.why)
				found = true
				break
			}
		}
		if !found {
			t.Logf("%-18s not found", rule)
		}
	}
}
