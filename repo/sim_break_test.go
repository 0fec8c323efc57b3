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

// TestSimRules wants a scene for each rule that can be switched off. The scenes show that it is missed.
func TestSimRules(t *testing.T) {
	var shown []string
	for _, scene := range simScenes() {
		shown = append(shown, scene.rules...)
	}
	for _, rule := range repo.Rules() {
		if !slices.Contains(shown, rule) {
			t.Errorf("no scene shows that %s is missed", rule)
		}
	}
	for _, rule := range shown {
		if !slices.Contains(repo.Rules(), rule) {
			t.Errorf("there is no rule %s", rule)
		}
	}
}

// TestSimBroken switches each rule off in turn, or those in VARVE_SIM_RULES, and tells how many of VARVE_SIM_BROKEN seeds it takes until chance finds it out, and by which invariant.
func TestSimBroken(t *testing.T) {
	budget, err := strconv.Atoi(os.Getenv("VARVE_SIM_BROKEN"))
	if err != nil {
		t.Skip("VARVE_SIM_BROKEN is not set: how many seeds a rule may take")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	only := strings.Fields(os.Getenv("VARVE_SIM_RULES"))
	for _, rule := range repo.Rules() {
		if len(only) > 0 && !slices.Contains(only, rule) {
			continue
		}
		broke, seed := "", 0
		for broke == "" && seed < budget {
			seed++
			broke = simRun(t, uint64(seed), simConfigOf(uint64(seed)), rule, false).broke
		}
		t.Logf("%-18s %3d seeds: %s", rule, seed, broke)
	}
}
