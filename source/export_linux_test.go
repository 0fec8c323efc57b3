package source

import (
	"os"

	"github.com/varvebackup/varve/repo"
)

// StepByStep makes t look paths up without the system call that takes whole ones.
func StepByStep(t *Tree) { t.root.dir.step = true }

// Extents returns the data of f in at most so many pieces.
func Extents(f *os.File, most int) ([]repo.Extent, error) { return seekExtents(int(f.Fd()), most) }
