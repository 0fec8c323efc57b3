package repo

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/crypt"
)

// A cache is a repository's part of the cache folder: files that can be made again. Each ends in a keyed hash, so a file that is cut, rotten
// or another's is as good as none. Nil: no cache.
//
//	<folder>/slots                 names of slots that opened, one a line
//	<folder>/<repository>/index/   opened segments
//	<folder>/<repository>/objects/ small sealed objects as stored: manifests and maintenance's records
//	<folder>/<repository>/tokens/  see tokens.go
type cache struct {
	dir string
	key [32]byte
}

func openCache(dir string, keys *crypt.Keys) (*cache, error) {
	if dir == "" {
		return nil, nil
	}
	c := &cache{dir: filepath.Join(dir, repositoryID(keys)), key: keys.CacheKey()}
	for _, sub := range []string{"index", "objects", "tokens"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		c.sweep(sub)
	}
	return c, nil
}

// leftOver is for how long nobody has written to a new file that nobody will finish.
const leftOver = 24 * time.Hour

// sweep removes what processes that died have left.
func (c *cache) sweep(sub string) {
	names, _ := filepath.Glob(filepath.Join(c.dir, sub, ".new-*"))
	for _, name := range names {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > leftOver {
			os.Remove(name)
		}
	}
}

func (c *cache) sum(sub, name string, data ...[]byte) []byte {
	h, err := blake3.NewKeyed(c.key[:])
	if err != nil {
		panic("repo: " + err.Error()) // the key has 32 bytes
	}
	h.WriteString(sub + "/" + name + "\x00")
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(nil)
}

// get returns what was put under a name; nil when that is not there as it was.
func (c *cache) get(sub, name string) []byte {
	if c == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(c.dir, sub, name))
	if err != nil || len(b) < 32 {
		return nil
	}
	data := b[:len(b)-32]
	if !bytes.Equal(c.sum(sub, name, data), b[len(data):]) {
		return nil
	}
	return data
}

// remember keeps data, joined, in the cache. A cache that cannot be written costs time and nothing else, so no backup fails for it.
func (r *Repo) remember(sub, name string, data ...[]byte) {
	if err := r.cache.put(sub, name, data...); err != nil {
		r.opts.Logger.Warn("the cache cannot be written", "error", err)
	}
}

func (c *cache) put(sub, name string, data ...[]byte) error {
	if c == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Join(c.dir, sub), ".new-*")
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	for _, d := range append(data[:len(data):len(data)], c.sum(sub, name, data...)) {
		if err == nil {
			_, err = f.Write(d)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(c.dir, sub, name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// keep removes all files of a part that are not named.
func (c *cache) keep(sub string, names map[string]bool) {
	if c == nil {
		return
	}
	entries, err := os.ReadDir(filepath.Join(c.dir, sub))
	if err != nil {
		return
	}
	for _, e := range entries {
		if !names[e.Name()] && e.Name()[0] != '.' {
			os.Remove(filepath.Join(c.dir, sub, e.Name()))
		}
	}
}

// preferSlot moves the slots that opened last time to the front: each passphrase that is tried costs its time.
func preferSlot(dir string, names []string) []string {
	if dir == "" {
		return names
	}
	b, err := os.ReadFile(filepath.Join(dir, "slots"))
	if err != nil {
		return names
	}
	known := bytes.Fields(b)
	slices.SortStableFunc(names, func(a, b string) int {
		rank := func(s string) int {
			if slices.ContainsFunc(known, func(k []byte) bool { return string(k) == s }) {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	return names
}

// rememberSlot notes that a slot opened. That it fails is of no consequence.
func rememberSlot(dir, name string) {
	if dir == "" {
		return
	}
	path := filepath.Join(dir, "slots")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if slices.ContainsFunc(bytes.Fields(b), func(k []byte) bool { return string(k) == name }) {
		return
	}
	if len(b) > 64<<10 {
		b = nil
	}
	os.WriteFile(path, append(b, name+"\n"...), 0o600)
}
