package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
)

// sparse is the share of a frame's plaintext below which a key that can open it takes the frame apart.
const sparse = 1 - wasteful

// maxSections bounds the sections of a pack that is copied together, of 255.
const maxSections = 200

// repack copies what is needed in packs to new ones and names these in signed segments, with the births of the frames. It returns the ids of the packs that were copied whole; one whose
// bytes are not what its name promises is left alone and reported.
//
// One goroutine fetches packs, one copies frames, one puts what is full: the store is what it waits for.
func (p *pruner) repack(ctx context.Context, s *survey, sources []*collect.Pack) ([]pack.ID, error) {
	if len(sources) == 0 {
		return nil, nil
	}
	p.step("copying", p.rep.RepackedBytes)
	s.view.shed()
	type fetched struct {
		st     *collect.Pack
		object []byte
	}
	type finished struct {
		pack index.Pack
		data []byte
	}
	g, gctx := errgroup.WithContext(ctx)
	in, out := make(chan fetched), make(chan finished)
	free := make(chan []byte, 2) // memory of packs that were put
	read := make(chan []byte, 2) // memory of packs that were copied
	g.Go(func() error {
		defer close(in)
		for _, st := range sources {
			name := packName(st.ID)
			var buf []byte
			select {
			case buf = <-read:
			default:
			}
			object, err := p.repo.backend.Get(gctx, name, 0, -1, buf)
			if err == nil {
				err = crypt.Verify(name, object)
			}
			if errors.Is(err, crypt.ErrDamaged) {
				p.rotten(name, err)
				continue
			}
			if errors.Is(err, fs.ErrNotExist) {
				continue // another collection freed it since it was listed; if nobody did, the next mark says what is missing
			}
			if err != nil {
				return err
			}
			if err := give(gctx, in, fetched{st, object}); err != nil {
				return err
			}
		}
		return nil
	})
	var copied []pack.ID
	g.Go(func() error {
		defer close(out)
		c := &repacker{p: p, s: s, free: free, encoder: pack.NewEncoder(), plain: make([]byte, 0, sizes.contentFrame), put: func(n index.Pack, data []byte) error { return give(gctx, out, finished{n, data}) }}
		for {
			f, ok, err := take(gctx, in)
			if err != nil {
				return err
			}
			if !ok {
				return c.flush()
			}
			whole, err := c.pack(gctx, f.st, f.object)
			if err != nil {
				return err
			}
			if whole {
				copied = append(copied, f.st.ID)
			}
			p.done.Add(int64(len(f.object)))
			select {
			case read <- f.object[:0]:
			default:
			}
		}
	})
	g.Go(func() error {
		var named []index.Pack
		blobs := 0
		flush := func() error {
			if broken.condemnFirst {
				p.unnamed, named = append(p.unnamed, named...), nil
			}
			err := p.putRewritten(gctx, named)
			named, blobs = nil, 0
			return err
		}
		for {
			f, ok, err := take(gctx, out)
			if err != nil {
				return err
			}
			if !ok {
				return flush()
			}
			if err := putOnce(gctx, p.repo.backend, packName(f.pack.ID), f.data); err != nil {
				return err
			}
			p.rep.CopiedBytes += int64(len(f.data))
			select {
			case free <- f.data[:0]:
			default:
			}
			named = append(named, f.pack)
			if blobs += f.pack.BlobCount(); blobs*44 > segmentMax {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	})
	// Only when every copy is named may what was copied be condemned.
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return copied, nil
}

func (p *pruner) rotten(name string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rep.Rotten = append(p.rep.Rotten, &DamageError{Object: name, Err: err})
}

// A repacker fills new packs with frames from old ones.
type repacker struct {
	p       *pruner
	s       *survey
	free    chan []byte
	put     func(index.Pack, []byte) error
	encoder *pack.Encoder

	w        *pack.Writer
	births   []int64
	sections map[string]bool

	plain []byte        // room for a frame
	loose [3]looseBlobs // of frames that were taken apart, by kind
	keys  [3]*pack.SectionKey
}

// looseBlobs are blobs on their way into a new frame.
type looseBlobs struct {
	data  []byte
	blobs []pack.Blob
	birth int64
}

// pack copies what is needed in one pack. whole is false if it has to stay.
func (c *repacker) pack(ctx context.Context, st *collect.Pack, object []byte) (whole bool, err error) {
	x := c.s.view.x
	name := packName(st.ID)
	// The directory is the pack's own word, and its bytes were verified: what segments say is used only to find it.
	dir, err := pack.ReadDirectory(c.p.repo.keys, bytes.NewReader(object), int64(len(object)))
	if errors.Is(err, pack.ErrDamaged) {
		c.p.rotten(name, err)
		return false, nil
	} else if err != nil {
		return false, err
	}
	at := map[uint32]*pack.Frame{}
	for i := range dir.Frames {
		at[dir.Frames[i].Offset] = &dir.Frames[i]
	}
	for _, n := range st.Frames {
		f := x.Frame(n)
		own := at[f.Offset]
		if own == nil || own.Stored != f.Stored || own.Plain != f.Plain || own.Counter != f.Counter {
			c.p.rotten(name, errors.New("a segment says something else of a frame than the pack"))
			return false, nil
		}
	}
	for _, n := range st.Frames {
		f := x.Frame(n)
		own := *at[f.Offset]
		section := dir.Sections[own.Section]
		sealed := object[own.Offset : own.Offset+own.Stored]
		if c.p.apart(c.s, n, section.Kind) {
			ok, err := c.takeApart(ctx, n, f.Birth, section, &own)
			if err != nil {
				return false, err
			}
			if ok {
				continue
			}
		}
		if err := c.add(section, own, sealed, f.Birth); err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
	}
	return true, nil
}

// apart tells whether frame n is to be opened, and its blobs put into another one: little of it is needed, and this key can.
func (p *pruner) apart(s *survey, n uint32, kind uint8) bool {
	role := p.repo.keys.Role()
	if role != crypt.Owner && (role != crypt.Maintainer || kind == crypt.SectionContent) {
		return false
	}
	return s.share(n) < sparse
}

// share returns the share of a frame's plaintext that is kept.
func (s *survey) share(n uint32) float64 {
	x := s.view.x
	if s.live == nil {
		s.live = make([]uint32, x.Frames())
		for o := range s.kept.Copies.All() {
			_, copy := x.At(o)
			s.live[copy.Frame] += copy.Length
		}
	}
	return float64(s.live[n]) / float64(x.Frame(n).Plain)
}

// takeApart moves the needed blobs of a frame to a loose one. ok is false if the frame is not what it should be, which a copy does not make worse.
func (c *repacker) takeApart(ctx context.Context, n uint32, birth int64, section pack.Section, own *pack.Frame) (ok bool, err error) {
	v, r := c.s.view, c.p.repo
	plain, err := v.frameOnce(ctx, n, c.plain)
	if _, damaged := errors.AsType[*DamageError](err); damaged {
		return false, nil
	} else if err != nil {
		return false, err
	}
	kept := map[pack.ID]bool{}
	for _, b := range own.Blobs {
		var room [4]index.Copy
		for _, copy := range v.x.Find(room[:0], b.ID, section.Kind) {
			if copy.Frame == n && c.s.kept.Copies.Has(copy.Ordinal) {
				kept[b.ID] = true
			}
		}
	}
	type piece struct {
		blob pack.Blob
		data []byte
	}
	var pieces []piece
	off := uint32(0)
	for _, b := range own.Blobs {
		data := plain[off : off+b.Length]
		off += b.Length
		if !kept[b.ID] {
			continue
		}
		if r.id(section.Kind, data) != b.ID {
			return false, nil
		}
		pieces = append(pieces, piece{b, data})
		delete(kept, b.ID) // once is enough
	}
	l := &c.loose[section.Kind-crypt.SectionContent]
	for _, pc := range pieces {
		if len(l.blobs) > 0 && (len(l.data)+len(pc.data) > sizes.contentFrame || len(l.blobs) >= frameBlobs) {
			if err := c.encode(section.Kind); err != nil {
				return false, err
			}
		}
		// Each blob was just compared with its id, so the oldest of their births claims nothing that is not so.
		if len(l.blobs) == 0 || birth < l.birth {
			l.birth = birth
		}
		l.data = append(l.data, pc.data...)
		l.blobs = append(l.blobs, pc.blob)
	}
	return true, nil
}

// encode makes a frame of the loose blobs of a kind.
func (c *repacker) encode(kind uint8) error {
	i := kind - crypt.SectionContent
	l := &c.loose[i]
	if len(l.blobs) == 0 {
		return nil
	}
	if c.keys[i] == nil {
		key, err := pack.NewSectionKey(c.p.repo.keys, kind)
		if err != nil {
			return err
		}
		c.keys[i] = key
	}
	f, sealed := c.encoder.Encode(nil, c.keys[i], l.data)
	f.Blobs = append([]pack.Blob(nil), l.blobs...)
	l.data, l.blobs = l.data[:0], l.blobs[:0]
	return c.add(c.keys[i].Section, f, sealed, l.birth)
}

// add puts a frame into the pack that is filled.
func (c *repacker) add(section pack.Section, f pack.Frame, sealed []byte, birth int64) error {
	if c.w != nil && (c.w.SizeWith(&f) > sizes.pack || len(c.sections) >= maxSections) {
		if err := c.close(); err != nil {
			return err
		}
	}
	if c.w == nil {
		var buf []byte
		select {
		case buf = <-c.free:
		default:
			buf = make([]byte, 0, sizes.packBuffer())
		}
		c.w, c.births, c.sections = pack.NewWriter(c.p.repo.keys, buf), nil, map[string]bool{}
	}
	if err := c.w.Add(section, f, sealed); err != nil {
		return err
	}
	c.births = append(c.births, birth)
	c.sections[string(section.Key)] = true
	return nil
}

func (c *repacker) close() error {
	id, data, dir, err := c.w.Close()
	if err != nil {
		return err
	}
	births := c.births
	c.w, c.births = nil, nil
	if broken.youngBirths {
		for i := range births {
			births[i] = c.p.now.Unix()
		}
	}
	return c.put(index.Pack{ID: id, Size: uint32(len(data)), Dir: dir, Births: births}, data)
}

// flush ends the last pack.
func (c *repacker) flush() error {
	for _, kind := range []uint8{crypt.SectionContent, crypt.SectionTree, crypt.SectionHint} {
		if err := c.encode(kind); err != nil {
			return err
		}
	}
	if c.w == nil {
		return nil
	}
	return c.close()
}
