package varve_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// TestArrows holds the imports against the shape of the project: leaves import no sibling, stores know nothing of the engine, and nothing below imports
// what stands above it.
func TestArrows(t *testing.T) {
	const module = "github.com/varvebackup/varve/"
	// What a package, or all below a folder, may import of this module.
	allowed := []struct {
		pkg  string
		from []string
	}{
		{"chunk", nil},
		{"crypt", nil},
		{"pack", nil},
		{"backend", []string{"backend"}},
		{"repo/internal/target", nil},
		{"repo/internal/tree", []string{"pack"}},
		{"repo/internal/memory", nil},
		{"repo/internal/index", []string{"pack", "repo/internal/memory"}},
		{"repo/internal/walk", []string{"pack", "repo/internal/tree", "repo/internal/index"}},
		{"repo", []string{"chunk", "crypt", "pack", "backend", "repo/internal"}},
		{"source/bucket", []string{"repo", "backend/s3"}},
		{"source", []string{"repo"}},
		{"internal", []string{"internal"}},
		{"cmd", []string{"chunk", "crypt", "backend", "repo", "source", "cmd"}},
		{"examples", []string{"crypt", "backend", "repo", "source", "examples", "internal/minioserver"}},
	}
	below := func(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for dec.More() {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkg, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue // the root: it has no code
		}
		known := false
		for _, a := range allowed {
			if !below(pkg, a.pkg) {
				continue
			}
			known = true
			for _, i := range p.Imports {
				dep, ok := strings.CutPrefix(i, module)
				if !ok {
					continue
				}
				fits := false
				for _, f := range a.from {
					fits = fits || dep == f || below(dep, f) && f != "repo" && f != "backend" || (f == "backend" && below(dep, f) && !strings.HasSuffix(dep, "test"))
				}
				if !fits {
					t.Errorf("%s imports %s", pkg, dep)
				}
			}
			break
		}
		if !known {
			t.Errorf("%s: a folder that the shape of the project does not know", pkg)
		}
	}
}
