package source

import (
	"io/fs"
	"slices"
)

// maxKept bounds how many folders a Tree keeps open between uses.
const maxKept = 128

// A handle is a folder that is open while it is in use, and between uses while it is live: during its listing, or
// until a folder that was opened is closed. When too many are open, the one that was opened first, the farthest up in a
// deep walk, is closed and opened again when it is needed. All its state is guarded by t.mu; dir may be used without that
// between acquire and release.
type handle struct {
	t    *Tree
	path string
	id   fileID

	dir  sysDir
	open bool
	refs int
	live bool
}

// newHandle takes over dir, the open folder at path.
func (t *Tree) newHandle(path string, dir sysDir) (*handle, error) {
	id, err := dir.id()
	if err != nil {
		dir.close()
		return nil, err
	}
	return &handle{t: t, path: path, id: id, dir: dir, open: true, live: true}, nil
}

// keep counts h, which was not in use yet, among the folders kept open.
func (h *handle) keep() {
	t := h.t
	t.mu.Lock()
	var idle sysDir
	var n bool
	if t.closed {
		idle, n, h.open = h.dir, true, false
	} else {
		idle, n = t.keep(h)
	}
	t.mu.Unlock()
	if n {
		idle.close()
	}
}

// keep adds h to t.kept, and takes out what is to be closed for that. t.mu is held.
func (t *Tree) keep(h *handle) (idle sysDir, ok bool) {
	t.kept = append(t.kept, h)
	if len(t.kept) <= maxKept {
		return sysDir{}, false
	}
	for i, old := range t.kept {
		if old.refs == 0 && old != h {
			t.kept = slices.Delete(t.kept, i, i+1)
			old.open = false
			return old.dir, true
		}
	}
	return sysDir{}, false
}

// acquire makes h.dir usable until release. If the folder was closed meanwhile, it is looked up again, and is
// fs.ErrNotExist if another one has taken its place.
func (h *handle) acquire() error {
	t := h.t
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return fs.ErrClosed
	}
	if h.open {
		h.refs++
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()

	dir, err := t.resolve(h.path, false)
	if err != nil {
		return err
	}
	id, err := dir.id()
	if err == nil && id != h.id {
		err = fs.ErrNotExist
	}
	if err != nil {
		dir.close()
		return err
	}
	t.mu.Lock()
	h.refs++
	idle, n := dir, true // somebody else was faster
	if !h.open {
		h.dir, h.open, n = dir, true, false
		if h.live && !t.closed {
			idle, n = t.keep(h)
		}
	}
	t.mu.Unlock()
	if n {
		idle.close()
	}
	return nil
}

// release ends what acquire began.
func (h *handle) release() {
	h.t.mu.Lock()
	h.refs--
	h.drop()
}

// finish ends h's life; it may still be acquired.
func (h *handle) finish() {
	h.t.mu.Lock()
	h.live = false
	h.drop()
}

// drop closes h if nothing needs it open any more, and unlocks t.mu.
func (h *handle) drop() {
	t := h.t
	if h.refs > 0 || !h.open || h.live && !t.closed {
		t.mu.Unlock()
		return
	}
	h.open = false
	dir := h.dir
	for i := len(t.kept) - 1; i >= 0; i-- { // the latest, mostly
		if t.kept[i] == h {
			t.kept = slices.Delete(t.kept, i, i+1)
			break
		}
	}
	t.mu.Unlock()
	dir.close()
}
