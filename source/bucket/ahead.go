package bucket

import (
	"context"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

const (
	maxShown   = 1024     // objects that were shown and may still be opened: more than a backup looks ahead
	aheadSize  = 1 << 20  // larger objects take long enough by themselves
	aheadBytes = 24 << 20 // of all objects that were read ahead
	aheadCount = 32       // of them, and of requests at a time
)

// A walk is what belongs to one backup: from the first entry of the root to the last object that is read. Nil is a good walk for who just looks at something.
//
// A backup reads one object after the other, and a small one takes hardly longer than its request. So while it reads each object that it was shown, as a first one does, those that
// follow in the listing are read ahead: as many as it has read in a row, up to a limit. As soon as it passes over one, which has not changed, nothing is
// read ahead any more, so that nothing is asked of those. It is shown some hundred objects before it reads the first of them.
type walk struct {
	fs    *FS
	pages *pages
	tags  tagger

	listed bool // the listing of the root is over; guarded by fs.mu

	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup
	slots  chan struct{}

	mu      sync.Mutex // guards what follows
	shown   []shown    // what comes behind the object that was opened last, oldest first
	opened  int64      // how many were
	run     int        // how many in a row, and up to now, were
	ahead   map[string]*early
	waiting int64 // bytes in ahead
}

// shown is an object that a backup was shown.
type shown struct {
	path   string
	object *object
}

// early is an object that is, or was, read ahead.
type early struct {
	etag    string
	size    int64
	since   int64 // opened, when it was begun
	cancel  context.CancelFunc
	done    chan struct{}
	content *content // these two are set when done is closed
	err     error
}

// begin returns the walk that the listing of a folder belongs to: that of the root begins one, if none is under way. end says that the listing is over, and whether all of it was
// seen: the last objects that it showed are opened only then, so the walk ends with ctx, with the next one, or with Close.
func (f *FS) begin(ctx context.Context, dir string) (w *walk, ps *pages, end func(all bool)) {
	f.mu.Lock()
	old := f.walk
	switch {
	case old != nil && !old.listed && dir != ".":
		f.mu.Unlock()
		return old, old.pages, func(bool) {}
	case old != nil && !old.listed || dir != ".":
		f.mu.Unlock()
		return nil, &pages{fs: f}, func(bool) {}
	}
	w = &walk{fs: f, pages: &pages{fs: f}, slots: make(chan struct{}, aheadCount), ahead: map[string]*early{}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	f.walk = w
	f.mu.Unlock()
	old.end()
	return w, w.pages, func(all bool) {
		f.mu.Lock()
		w.listed = true
		f.mu.Unlock()
		if !all || ctx.Done() == nil {
			w.end()
			return
		}
		context.AfterFunc(w.ctx, w.end)
	}
}

// end ends a walk, if there is one, and waits for what it reads ahead.
func (w *walk) end() {
	if w == nil {
		return
	}
	w.fs.mu.Lock()
	if w.fs.walk == w {
		w.fs.walk = nil
	}
	w.fs.mu.Unlock()
	w.mu.Lock() // nothing is begun behind this
	w.cancel()
	w.mu.Unlock()
	w.wait.Wait()
}

// current returns the walk that is under way, and its listing or, if that is over or there is no walk, a new one.
func (f *FS) current() (w *walk, ps *pages, listed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.walk != nil && !f.walk.listed {
		return f.walk, f.walk.pages, false
	}
	return f.walk, &pages{fs: f}, true
}

// pass notes that an object is shown.
func (w *walk) pass(path string, o *object) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.shown) == maxShown { // all of these were passed over
		w.passOver(1)
	}
	w.shown = append(w.shown, shown{path, o})
}

// passOver notes that the first n objects that were shown are not read. w.mu is held.
func (w *walk) passOver(n int) {
	clear(w.shown[:n])
	w.shown, w.run = w.shown[n:], 0
	for key := range w.ahead {
		w.drop(key)
	}
}

// passed returns an object that was shown and may still be opened, if there is one with that path.
func (w *walk) passed(path string) *object {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := w.find(path); i >= 0 {
		return w.shown[i].object
	}
	return nil
}

// find returns the place of a path in w.shown; negative: it is not there. w.mu is held.
func (w *walk) find(path string) int {
	return slices.IndexFunc(w.shown, func(s shown) bool { return s.path == path })
}

// open begins to read an object, and others ahead of it.
func (w *walk) open(ctx context.Context, f *FS, path string, o *object) (*content, error) {
	if w == nil {
		return f.get(ctx, o, nil)
	}
	w.mu.Lock()
	e := w.ahead[o.key]
	if e != nil {
		delete(w.ahead, o.key)
		w.waiting -= e.size
	}
	if i := w.find(path); i >= 0 {
		if i > 0 {
			w.passOver(i)
		}
		w.shown[0] = shown{}
		w.shown = w.shown[1:]
		w.opened++
		w.run++
		w.readAhead(path, o.key)
	}
	w.mu.Unlock()
	if e != nil {
		select {
		case <-e.done:
		case <-ctx.Done():
			e.cancel()
			return nil, ctx.Err()
		}
		e.cancel() // it is over
		if e.err == nil && e.etag == o.etag {
			e.content.ctx = ctx
			return e.content, nil
		}
		// It is tried again: this time the error counts.
	}
	return f.get(ctx, o, &w.tags)
}

// drop forgets an object that was read ahead. w.mu is held.
func (w *walk) drop(key string) {
	e := w.ahead[key]
	e.cancel()
	delete(w.ahead, key)
	w.waiting -= e.size
}

// readAhead begins to read what follows key, which has that path, in the listing. w.mu is held.
func (w *walk) readAhead(path, key string) {
	want := min(w.run-1, aheadCount)
	if want <= 0 || w.ctx.Err() != nil {
		return
	}
	for k, e := range w.ahead {
		// Folders are not walked quite in the order of keys: what was not asked for by now may be far away.
		if w.opened-e.since > 4*aheadCount {
			w.drop(k)
		}
	}
	next := w.pages.peek(key)
	for i := range next[:min(want, len(next))] {
		o := &next[i]
		// What comes behind it in the listing may come before it in the walk: "a/b" is over when "a-b" comes.
		if o.size > aheadSize || w.ahead[o.key] != nil || walkedBefore(Path(strings.TrimPrefix(o.key, w.fs.prefix), false), path) {
			continue
		}
		size := max(o.size, 4<<10) // there are metadata too
		if len(w.ahead) >= aheadCount || w.waiting+size > aheadBytes {
			return
		}
		e := &early{etag: o.etag, size: size, since: w.opened, done: make(chan struct{})}
		ctx, cancel := context.WithCancel(w.ctx)
		e.cancel = cancel
		w.ahead[o.key] = e
		w.waiting += size
		w.wait.Go(func() {
			defer close(e.done)
			select {
			case w.slots <- struct{}{}:
				defer func() { <-w.slots }()
			case <-ctx.Done():
				e.err = ctx.Err()
				return
			}
			if e.content, e.err = w.fs.get(ctx, o, &w.tags); e.err != nil {
				return
			}
			if e.content.info.size > aheadSize {
				e.content.Close()
				e.err = fs.ErrInvalid // it has grown
				return
			}
			e.err = e.content.keep()
		})
	}
}

// walkedBefore compares paths in the order of a walk: as strings, with the slash before all other bytes.
func walkedBefore(a, b string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/' || b[i] == '/':
			return a[i] == '/'
		default:
			return a[i] < b[i]
		}
	}
	return len(a) < len(b)
}

// peek returns what follows a key in a page that is there already.
func (ps *pages) peek(key string) []object {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.kept {
		if p.covers(key) {
			return p.behind(key)
		}
	}
	return nil
}
