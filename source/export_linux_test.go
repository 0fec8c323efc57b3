package source

// StepByStep makes t look paths up without the system call that takes whole ones.
func StepByStep(t *Tree) { t.root.dir.step = true }
