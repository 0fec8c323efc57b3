//go:build race

package repo_test

// raceEnabled says that the race detector is on, which multiplies time and memory.
const raceEnabled = true
