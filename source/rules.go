package source

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

const (
	maxIgnoreFile = 1 << 20 // bytes that count
	maxRules      = 512     // folders whose rules are remembered

	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

// rules are what a folder itself says of its entries.
type rules struct {
	ignore ignore // of its ignore files, for all below it
	tagged bool   // it is a cache
}

// A level is a folder on the way to an entry, or the entry's own, that has something to say.
type level struct {
	*rules
	prefix int // the length of what stands before the path that its patterns are about
}

// rulesCache remembers the rules of folders, by their paths. A listing reads them again.
type rulesCache struct {
	mu    sync.Mutex // guards known
	known map[string]*rules
}

func (t *Tree) ownRules() bool { return len(t.o.IgnoreFiles) > 0 || t.o.ExcludeCaches }

// selects reports whether anything but its file system may hide an entry.
func (t *Tree) selects() bool { return len(t.ignore) > 0 || t.ownRules() }

// hides reports whether an entry is hidden, levels being those of the folders above it that are not. Those are the caller's
// to look at: nothing below a hidden folder can be seen.
func (t *Tree) hides(levels []level, path []byte, folder bool) bool {
	if n := len(levels); n > 0 && levels[n-1].tagged {
		if base := path[bytes.LastIndexByte(path, '/')+1:]; levels[n-1].prefix == len(path)-len(base) && string(base) != cacheTag {
			return true
		}
	}
	if excluded, decided := t.ignore.decide(path, folder); decided {
		return excluded
	}
	for i := len(levels) - 1; i >= 0; i-- {
		if excluded, decided := levels[i].ignore.decide(path[levels[i].prefix:], folder); decided {
			return excluded
		}
	}
	return false
}

// hidden reports whether the entry at path is, given that the folder that it is in can be seen.
func (t *Tree) hidden(path string, folder bool) bool {
	if path == "." || !t.selects() {
		return false
	}
	dir := "."
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir = path[:i]
	}
	return t.hides(t.levels(dir, nil), []byte(path), folder)
}

// levels returns those of the folder at path. at is that folder, whose rules are then read again; nil: those that are known will do.
func (t *Tree) levels(path string, at *sysDir) []level {
	if !t.ownRules() {
		return nil
	}
	var found []level
	add := func(dir string, prefix int, at *sysDir) {
		if r := t.rulesOf(dir, at); r.tagged || len(r.ignore) > 0 {
			found = append(found, level{r, prefix})
		}
	}
	if path == "." {
		add(".", 0, at)
		return found
	}
	add(".", 0, nil)
	for i := range len(path) {
		if path[i] == '/' {
			add(path[:i], i+1, nil)
		}
	}
	add(path, len(path)+1, at)
	return found
}

// passage returns the levels of the folder at path; not ok: it is hidden, or one above it is.
func (t *Tree) passage(path string) (found []level, ok bool) {
	raw := []byte(path)
	if t.ownRules() {
		if r := t.rulesOf(".", nil); len(r.ignore) > 0 {
			found = append(found, level{r, 0})
		}
	}
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if t.hides(found, raw[:i], true) {
			return nil, false
		}
		if t.ownRules() {
			if r := t.rulesOf(path[:i], nil); r.tagged || len(r.ignore) > 0 {
				found = append(found, level{r, i + 1})
			}
		}
	}
	return found, true
}

// rulesOf returns the rules of the folder at path, read from at if that is not nil.
func (t *Tree) rulesOf(path string, at *sysDir) *rules {
	c := &t.rules
	if at == nil {
		c.mu.Lock()
		r := c.known[path]
		c.mu.Unlock()
		if r != nil {
			return r
		}
		dir, err := t.resolve(path, false)
		if err != nil {
			return &rules{} // whoever goes there will hear of it
		}
		defer dir.close()
		at = &dir
	}
	r := t.readRules(*at, path == ".")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxRules {
		c.known = map[string]*rules{}
	}
	c.known[path] = r
	return r
}

func (t *Tree) readRules(dir sysDir, root bool) *rules {
	r := &rules{}
	for _, name := range t.o.IgnoreFiles {
		if text := t.readSmall(dir, name, maxIgnoreFile); text != "" {
			r.ignore = append(r.ignore, parseIgnore(strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n"))...)
		}
	}
	if t.o.ExcludeCaches && !root {
		r.tagged = t.readSmall(dir, cacheTag, len(cacheSignature)) == cacheSignature
	}
	return r
}

// readSmall returns the first bytes of a regular file; none if it is not one, or can't be read.
func (t *Tree) readSmall(dir sysDir, name string, most int) string {
	fi, err := dir.lstat(name, &t.owners)
	if err != nil || !fi.mode.IsRegular() {
		return ""
	}
	f, err := dir.openFile(name, name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)))
	if err != nil {
		return ""
	}
	return string(b)
}
