package source

// Kept returns how many folders t holds open, at most MaxKept.
func Kept(t *Tree) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.kept)
}

const MaxKept = maxKept
