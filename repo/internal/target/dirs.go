//go:build (linux || darwin) && !osroot

package target

import (
	"container/list"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxDirs is how many folders stay open that nobody uses.
const maxDirs = 128

// dirs keeps handles of folders, so that a path is walked from its nearest open ancestor and may be of any length.
type dirs struct {
	mu   sync.Mutex // guards all below, and the fields of each dir; not held in system calls that may block
	open map[string]*dir
	lru  list.List // of *dir, the latest used in front; without the root
}

// A dir is the handle of a folder. fd is valid as long as uses > 0 or the dir is in dirs.open.
type dir struct {
	path string
	fd   int
	uses int
	elem *list.Element // nil: the root, or no longer in dirs.open
}

func (c *dirs) init(root int) {
	c.open = map[string]*dir{".": {path: ".", fd: root, uses: 1}}
}

// get returns the folder at path, to be given back with put.
func (c *dirs) get(path string) (*dir, error) {
	c.mu.Lock()
	p := path
	for c.open[p] == nil {
		if p == "." {
			panic("target: use after Close")
		}
		p, _ = split(p)
	}
	d := c.open[p]
	c.use(d)
	c.mu.Unlock()

	for d.path != path {
		rest := path
		child := 0
		if d.path != "." {
			child = len(d.path) + 1
			rest = path[child:]
		}
		name, _, _ := strings.Cut(rest, "/")
		child += len(name)
		fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		c.put(d)
		if err != nil {
			return nil, fmt.Errorf("folder %q: %w", path[:child], err)
		}
		d = c.add(path[:child], fd)
	}
	return d, nil
}

// add takes fd over and returns a dir that is in use.
func (c *dirs) add(path string, fd int) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.open[path]; d != nil { // somebody was faster
		unix.Close(fd)
		c.use(d)
		return d
	}
	d := &dir{path: path, fd: fd, uses: 1}
	c.open[path] = d
	d.elem = c.lru.PushFront(d)
	for e := c.lru.Back(); e != nil && c.lru.Len() > maxDirs; {
		old := e.Value.(*dir)
		e = e.Prev()
		if old.uses == 0 {
			c.drop(old)
		}
	}
	return d
}

func (c *dirs) use(d *dir) {
	d.uses++
	if d.elem != nil {
		c.lru.MoveToFront(d.elem)
	}
}

func (c *dirs) put(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.uses--
	if d.uses == 0 && d.elem == nil {
		unix.Close(d.fd)
	}
}

// drop forgets d, and closes it unless it is in use.
func (c *dirs) drop(d *dir) {
	delete(c.open, d.path)
	c.lru.Remove(d.elem)
	d.elem = nil
	if d.uses == 0 {
		unix.Close(d.fd)
	}
}

// forget drops what is open at path and below, for something else is there now.
func (c *dirs) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.lru.Front(); e != nil; {
		d := e.Value.(*dir)
		e = e.Next()
		if rest, ok := strings.CutPrefix(d.path, path); ok && (rest == "" || rest[0] == '/') {
			c.drop(d)
		}
	}
}

func (c *dirs) closeAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.lru.Front(); e != nil; e = c.lru.Front() {
		c.drop(e.Value.(*dir))
	}
	root := c.open["."]
	if root == nil {
		return nil
	}
	delete(c.open, ".")
	return unix.Close(root.fd)
}

func openat(at int, name string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC|unix.O_NOCTTY, perm)
		return err
	})
	return fd, err
}

// retry calls f again for as long as a signal interrupts it, as network file systems allow.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
