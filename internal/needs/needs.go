// Package needs is for tests of what is not installed everywhere. Where it is missing they are skipped, but not with VARVE_TEST_REQUIRE=1, with which CI says that
// nothing may be.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Required tells whether nothing may be skipped.
func Required() bool { return os.Getenv("VARVE_TEST_REQUIRE") == "1" }

// Skip ends a test that needs what is not there.
func Skip(t testing.TB, why string) {
	t.Helper()
	if Required() {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Program ends a test that needs a program which is not in the path. debian is the package that has it.
func Program(t testing.TB, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Skip(t, "there is no "+program+": install the package "+debian)
	}
}
