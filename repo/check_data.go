package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// data reads the packs of this part.
func (c *checker) data(ctx context.Context) error {
	x := c.view.x
	// The copies of each pack, so that what is wrong with a frame is wrong with these.
	copies := map[pack.ID][]uint32{}
	var todo []pack.ID
	for id := range c.packs {
		if c.opts.Parts > 1 && int(binary.BigEndian.Uint32(id[:4])%uint32(c.opts.Parts)) != c.opts.Part-1 {
			continue
		}
		todo = append(todo, id)
		copies[id] = nil
	}
	slices.SortFunc(todo, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	for _, copy := range x.All() {
		id := x.Pack(x.Frame(copy.Frame).Pack).ID
		if l, ok := copies[id]; ok {
			copies[id] = append(l, copy.Ordinal)
		}
	}
	c.toRead = len(todo)
	progress := c.opts.Progress
	var stop func()
	if progress != nil {
		stop = ticker(func() {
			progress(CheckProgress{Packs: int(c.read.Load()), TotalPacks: c.toRead, Bytes: c.bytes.Load(), Elapsed: time.Since(c.begun)})
		})
		defer stop()
	}
	// Each worker holds a pack.
	workers := min(c.repo.opts.Workers+1, int(c.repo.opts.MaxMemory/(int64(sizes.pack)+4<<20)))
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range max(workers, 1) {
		g.Go(func() error {
			var buf []byte
			for {
				i := int(next.Add(1)) - 1
				if i >= len(todo) {
					return nil
				}
				var err error
				if buf, err = c.pack(gctx, todo[i], copies[todo[i]], buf[:0]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// pack reads one pack and checks the copies in it. buf is memory to use; it comes back.
func (c *checker) pack(ctx context.Context, id pack.ID, copies []uint32, buf []byte) ([]byte, error) {
	name := packName(id)
	data, err := c.repo.backend.Get(ctx, name, 0, -1, buf)
	if errors.Is(err, fs.ErrNotExist) {
		if len(copies) > 0 && c.view.maint.of(id) != index.Freed {
			c.find(name, fs.ErrNotExist)
			c.spoil(copies)
		}
		return buf, nil
	} else if errors.Is(err, crypt.ErrDamaged) {
		c.find(name, err).Harmless = len(copies) == 0
		c.spoil(copies)
		return buf, nil
	} else if err != nil {
		return buf, err
	}
	c.read.Add(1)
	c.bytes.Add(int64(len(data)))
	var rot error // of the pack as a whole
	whole := crypt.Verify(name, data) == nil
	if !whole {
		rot = errors.New("its bytes are not those that its name promises")
	} else if _, err := pack.ReadDirectory(c.repo.keys, bytes.NewReader(data), int64(len(data))); err != nil {
		if _, ok := errors.AsType[*pack.VersionError](err); ok {
			return data, fmt.Errorf("%s: %w", name, err)
		}
		rot = fmt.Errorf("its directory: %w", err)
	}
	if rot != nil {
		f := c.find(name, rot)
		f.Harmless = len(copies) == 0
	}
	// Whatever the pack as a whole is, each frame may be whole.
	var frame uint32 = noOrdinal
	var plain []byte
	x := c.view.x
	slices.SortFunc(copies, func(a, b uint32) int {
		_, p := x.At(a)
		_, q := x.At(b)
		return int(p.Frame) - int(q.Frame)
	})
	for _, o := range copies {
		blob, copy := x.At(o)
		if copy.Frame != frame {
			frame = copy.Frame
			plain, err = c.frame(ctx, frame, data)
			if errors.Is(err, ErrRole) {
				// The key may not read it: the pack's bytes have to do.
				if plain, err = nil, nil; !whole {
					err = rot
				}
			}
			if err != nil && ctx.Err() != nil {
				return data, err
			}
			if d, ok := errors.AsType[*DamageError](err); ok && d.Object != name {
				c.blaming(frame, d)
			} else if err != nil && err != rot {
				if derr := c.damage(name, err); derr != nil {
					return data, derr
				}
			}
		}
		if err != nil {
			c.spoil([]uint32{o})
			continue
		}
		if plain == nil {
			continue
		}
		if c.repo.id(x.Kind(frame), plain[copy.Offset:copy.Offset+copy.Length]) != blob {
			c.find(name, errors.New("a blob's bytes do not match its id"))
			c.spoil([]uint32{o})
		}
	}
	return data, nil
}

// frame opens a frame from the bytes of its pack.
func (c *checker) frame(ctx context.Context, n uint32, data []byte) ([]byte, error) {
	v := c.view
	f := v.x.Frame(n)
	if int(f.Offset)+int(f.Stored) > len(data) {
		return nil, v.damage(n, errors.New("it is cut short"))
	}
	if len(f.Bases) > 0 {
		return v.frame(ctx, n, &chain{})
	}
	key, err := v.key(n)
	if err != nil {
		return nil, err
	}
	d := v.decoder()
	defer v.putDecoder(d)
	plain, err := d.Decode(nil, key, &f.Frame, data[f.Offset:f.Offset+f.Stored], nil)
	if err != nil {
		return nil, v.damage(n, err)
	}
	return plain, nil
}

// blaming notes that a base is why a frame does not open.
func (c *checker) blaming(frame uint32, d *DamageError) {
	if errors.Is(d, errNotIndexed) {
		d = &DamageError{Object: noSegment, Err: errNowhere}
	} else {
		c.find(d.Object, d.Err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blame == nil {
		c.blame = map[uint32]*DamageError{}
	}
	c.blame[frame] = d
}

func (c *checker) spoil(ordinals []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range ordinals {
		c.bad.Set(o)
		c.any = true
	}
}
