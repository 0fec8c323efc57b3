package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/pack"
)

// CopyOptions are for Replicate and Heal. Nil and the zero value are good.
type CopyOptions struct {
	// Workers is how many objects are on their way at once. 0: 4.
	Workers int
	// MaxMemory bounds the bytes of objects on their way; one that is larger goes alone. 0: 64 MiB.
	MaxMemory int64
	// Quick lets Heal believe that what has the right size is whole. Replicate always does.
	Quick bool
	// Replace lets Heal take the source's word against the destination's: of an object that is whole at both and not the same, the source's replaces the other, and records of collections
	// are healed as well. It is for a source that is the destination's own past (backend.AsOf), after somebody overwrote what is there. It costs reading the source's small objects.
	Replace bool
	// Lock locks what is put. The zero Lock: nothing is.
	Lock Lock
	// Progress is called at most five times a second and once at the end, from one goroutine, never after the call has returned.
	Progress func(CopyProgress)
}

// CopyProgress is how far a Replicate or Heal has come.
type CopyProgress struct {
	Copied, Repaired, Present int   // objects, as in CopyReport
	Bytes, BytesChecked       int64 // likewise
	Elapsed                   time.Duration
}

// CopyReport is what Replicate or Heal did and found.
type CopyReport struct {
	Copied       int   // objects that the destination lacked and has now
	Repaired     int   // objects that the destination had in another form, and that are whole now
	Present      int   // objects that the destination had
	Bytes        int64 // of what was copied and repaired
	BytesChecked int64 // read at the destination, and compared with their names

	// Source are objects of which the source has no copy that is what its name promises: they were not copied. Destination are those that are damaged there, and stayed
	// so. Of each at most 1,000; SourceMore and DestinationMore count the others.
	Source, Destination         []*DamageError
	SourceMore, DestinationMore int
}

// Damaged returns how many objects are damaged at the source, and at the destination.
func (r *CopyReport) Damaged() (source, destination int) {
	return len(r.Source) + r.SourceMore, len(r.Destination) + r.DestinationMore
}

// err is what the report says is wrong.
func (r *CopyReport) err() error {
	s, d := r.Damaged()
	count := func(n int) string {
		if n == 1 {
			return "1 object is damaged"
		}
		return fmt.Sprintf("%d objects are damaged", n)
	}
	switch {
	case s > 0 && d > 0:
		return fmt.Errorf("%s at the source and %d at the destination, all else was copied; the first: %w", count(s), d, r.Source[0])
	case s > 0:
		return fmt.Errorf("%s at the source, all else was copied; the first: %w", count(s), r.Source[0])
	case d > 0:
		return fmt.Errorf("%s at the destination, all else was copied; the first: %w", count(d), r.Destination[0])
	}
	return nil
}

// note adds a damaged object to one of the report's lists.
func note(list *[]*DamageError, more *int, name string, why error) {
	if len(*list) == maxPaths {
		*more++
		return
	}
	*list = append(*list, &DamageError{Object: name, Err: why})
}

// A copier brings objects from one backend to another. It needs no keys: an object's name tells whether its bytes are right.
type copier struct {
	src, dst backend.Backend
	opts     CopyOptions
	heal     bool
	room     *semaphore.Weighted // bytes of objects on their way

	mu       sync.Mutex // guards what follows
	rep      CopyReport
	packs    map[pack.ID]held
	others   map[string]held
	vanished error // what the source listed last and had not any more
}

// held is what is known of an object at the destination.
type held struct {
	size    uint32
	settled bool // nothing is left to be done, whatever came of it
}

// sizeOf fits a size into 32 bits. All that do not fit are larger than any object.
func sizeOf(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// runCopy is what Replicate and Heal have in common: once both sides are known to be of one repository, a session at the destination, in which round is tried until nothing
// vanishes under its hands.
func runCopy(ctx context.Context, dst, src backend.Backend, o *CopyOptions, heal bool) (*CopyReport, error) {
	c := &copier{src: src, dst: lacking{dst}, heal: heal, packs: map[pack.ID]held{}, others: map[string]held{}}
	if o != nil {
		c.opts = *o
	}
	if c.opts.Workers <= 0 {
		c.opts.Workers = 4
	}
	if c.opts.MaxMemory <= 0 {
		c.opts.MaxMemory = 64 << 20
	}
	c.room = semaphore.NewWeighted(c.opts.MaxMemory)
	err := c.run(ctx)
	rep := c.rep
	if err == nil {
		err = rep.err()
	} else if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return &rep, err
}

func (c *copier) run(ctx context.Context) error {
	if err := sameRepository(ctx, c.dst, c.src, c.heal, c.opts.Replace); err != nil {
		return err
	}
	if c.opts.Progress != nil {
		begun := time.Now()
		defer ticker(func() {
			c.mu.Lock()
			p := CopyProgress{c.rep.Copied, c.rep.Repaired, c.rep.Present, c.rep.Bytes, c.rep.BytesChecked, time.Since(begun)}
			c.mu.Unlock()
			c.opts.Progress(p)
		})()
	}
	// The marker, then the lists: what a collection at the destination may free is decided after this session's end.
	m, err := beginMarker(ctx, c.dst, sessionID(time.Now(), copyingSeries), slog.New(slog.DiscardHandler))
	if err != nil {
		return atDestination(err)
	}
	defer m.end(ctx, false)
	if err := c.listDestination(ctx); err != nil {
		return err
	}
	const tries = 10
	for try := 1; ; try++ {
		before := c.rep.Copied + c.rep.Repaired
		c.vanished = nil
		if err := c.round(ctx); !errors.Is(err, errVanished) {
			return err
		}
		if c.rep.Copied+c.rep.Repaired > before {
			try = 0 // it is getting somewhere
		}
		if try == tries {
			return atSource(fmt.Errorf("it changes while it is copied, %d times in a row: %w", tries, c.vanished))
		}
	}
}

func atSource(err error) error      { return fmt.Errorf("source: %w", err) }
func atDestination(err error) error { return fmt.Errorf("destination: %w", err) }

// travels tells whether objects of this name are copied.
func (c *copier) travels(name string) bool {
	switch prefixOf(name) {
	case "", sessionsPrefix:
		return false
	case gcPrefix:
		return !c.heal
	}
	return true
}

func (c *copier) listDestination(ctx context.Context) error {
	for info, err := range c.dst.List(ctx, "") {
		if err != nil {
			return atDestination(err)
		}
		if c.travels(info.Name) {
			c.set(info.Name, held{size: sizeOf(info.Size)})
		}
	}
	return nil
}

// at returns what is known of an object at the destination. The caller holds mu, or is alone.
func (c *copier) at(name string) (held, bool) {
	if id, ok := parsePackName(name); ok {
		h, ok := c.packs[id]
		return h, ok
	}
	h, ok := c.others[name]
	return h, ok
}

func (c *copier) set(name string, h held) {
	if id, ok := parsePackName(name); ok {
		c.packs[id] = h
	} else {
		c.others[name] = h
	}
}

// settle notes that an object needs no more work, and changes the report.
func (c *copier) settle(name string, change func(*CopyReport)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, _ := c.at(name)
	h.settled = true
	c.set(name, h)
	change(&c.rep)
}

func present(r *CopyReport) { r.Present++ }

// due tells whether there is something to do for an object that the source lists.
func (c *copier) due(info backend.Info) bool {
	c.mu.Lock()
	h, ok := c.at(info.Name)
	c.mu.Unlock()
	switch {
	case h.settled:
		return false
	case ok && h.size == sizeOf(info.Size) && (!c.heal || c.opts.Quick):
		c.settle(info.Name, present)
		return false
	}
	return true
}

// copyList copies listed objects, and errVanished says that one of them was not there any more.
func (c *copier) copyList(ctx context.Context, infos []backend.Info) error {
	return c.copyAll(ctx, func(context.Context) iter.Seq2[backend.Info, error] {
		return func(yield func(backend.Info, error) bool) {
			for _, info := range infos {
				if !yield(info, nil) {
					return
				}
			}
		}
	})
}

// copyPrefix copies what the source lists, while it lists.
func (c *copier) copyPrefix(ctx context.Context, prefix string) error {
	return c.copyAll(ctx, func(ctx context.Context) iter.Seq2[backend.Info, error] {
		return func(yield func(backend.Info, error) bool) {
			for info, err := range c.src.List(ctx, prefix) {
				if err != nil {
					yield(info, atSource(err))
					return
				}
				if c.travels(info.Name) && !yield(info, nil) {
					return
				}
			}
		}
	})
}

func (c *copier) copyAll(ctx context.Context, infos func(context.Context) iter.Seq2[backend.Info, error]) error {
	if err := c.each(ctx, infos, c.copyOne); err != nil {
		return err
	}
	if c.vanished != nil {
		return errVanished
	}
	return nil
}

// each calls f for each object, several at a time, as memory allows.
func (c *copier) each(ctx context.Context, infos func(context.Context) iter.Seq2[backend.Info, error], f func(context.Context, backend.Info) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opts.Workers + 1)
	g.Go(func() error {
		for info, err := range infos(gctx) {
			if err != nil {
				return err
			}
			if !c.due(info) {
				continue
			}
			c.mu.Lock()
			h, _ := c.at(info.Name)
			c.mu.Unlock()
			n := min(max(info.Size, int64(h.size), 1), c.opts.MaxMemory)
			if err := c.room.Acquire(gctx, n); err != nil {
				return err
			}
			g.Go(func() error {
				defer c.room.Release(n)
				return f(gctx, info)
			})
		}
		return gctx.Err()
	})
	return g.Wait()
}

// listed returns the objects of the source below prefix that are a repository's.
func (c *copier) listed(ctx context.Context, prefix string) ([]backend.Info, error) {
	var infos []backend.Info
	for info, err := range c.src.List(ctx, prefix) {
		if err != nil {
			return nil, atSource(err)
		}
		if c.travels(info.Name) {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// prefixOf returns which kind of object has this name, "" if none has.
func prefixOf(name string) string {
	prefix, rest, _ := strings.Cut(name, "/")
	prefix += "/"
	ok := false
	switch prefix {
	case configPrefix:
		_, ok = number(rest)
	case keysPrefix:
		ok = len(rest) == 32 && isHex(rest)
	case packsPrefix:
		_, ok = parsePackName(name)
	case indexPrefix:
		ok = len(rest) == 64 && isHex(rest)
	case snapshotsPrefix:
		_, session, _ := strings.Cut(rest, "/")
		ok = validSession(session) && snapshotName(session) == name
	case sessionsPrefix:
		_, ok = sessionOfMarker(rest)
		ok = ok || isProbe(name)
	case gcPrefix:
		_, _, ok = gcKind(name)
	case forgottenPrefix:
		_, _, ok = parseForgotten(name)
	}
	if !ok {
		return ""
	}
	return prefix
}

// lacking is a store of which nobody knows yet whether it has put-if-absent. Where it has not, it looks, and then puts.
type lacking struct{ backend.Backend }

func (l lacking) Unwrap() backend.Backend { return l.Backend }

func (l lacking) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	err := l.Backend.Put(ctx, name, r, size, o)
	if o == nil || !o.IfAbsent || !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	switch _, err := l.Backend.Stat(ctx, name); {
	case err == nil:
		return fmt.Errorf("put %s: %w", name, fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	plain := *o
	plain.IfAbsent = false
	return l.Backend.Put(ctx, name, r, size, &plain)
}
