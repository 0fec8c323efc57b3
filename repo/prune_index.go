package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
)

// deadSegment is the share of a segment's packs above which, when they are freed, it is rewritten.
const deadSegment = 0.25

// putRewritten puts a segment that maintenance signs, with the births of frames.
func (p *pruner) putRewritten(ctx context.Context, packs []index.Pack) error {
	if len(packs) == 0 {
		return nil
	}
	r := p.repo
	payload := index.EncodeSegment(p.own, packs)
	object, err := r.keys.Seal(crypt.KindRewritten, "", payload)
	if err != nil {
		return err
	}
	if len(object) > backend.MaxSize {
		return fmt.Errorf("an index segment of %d bytes", len(object))
	}
	id := hashHex(object)
	if err := putOnce(ctx, r.backend, indexName(id), object); err != nil {
		return err
	}
	r.remember("index", id, []byte{byte(crypt.KindRewritten)}, payload)
	p.rep.SegmentsWritten++
	p.latest = indexName(id)
	return nil
}

// segments rewrites those of which much is freed, and joins small ones; then it removes what it read and replaced. Every entry whose pack no verdict names is carried over,
// whoever's it was.
func (p *pruner) segments(ctx context.Context, s *survey) error {
	x := s.view.x
	all, dead := make([]int, len(s.view.segments)), make([]int, len(s.view.segments))
	for i := range x.Packs() {
		// By packs, for copies that several segments name stand in one of them only.
		info := x.Pack(uint32(i))
		if int(info.Segment) >= len(all) {
			continue
		}
		all[info.Segment]++
		if s.view.maint.of(info.ID) == index.Freed {
			dead[info.Segment]++
		}
	}
	var replace []backend.Info
	tiers := map[int][]backend.Info{}
	for i, segment := range s.view.segments {
		if float64(dead[i]) > deadSegment*float64(all[i]) || all[i] == 0 {
			replace = append(replace, segment)
			continue
		}
		if segment.Size >= segmentMax/2 {
			continue
		}
		tier := 0
		for n := segment.Size; n > 16<<10; n /= 4 {
			tier++
		}
		tiers[tier] = append(tiers[tier], segment)
	}
	for _, t := range tiers {
		if len(t) >= sizes.joinSegments {
			replace = append(replace, t...)
		}
	}
	// One that is locked would stay, and be read and replaced again by every collection.
	var err error
	if (p.repo.backend.lock != Lock{}) {
		replace = slices.DeleteFunc(replace, func(segment backend.Info) bool {
			is, rerr := backend.RetentionOf(ctx, p.repo.backend.Backend, segment.Name, "")
			if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = rerr
			}
			return is.Until.After(p.now)
		})
	}
	if len(replace) == 0 || err != nil {
		return err
	}
	if broken.removeUnread {
		replace = slices.Clone(s.view.segments)
	}
	slices.SortFunc(replace, func(a, b backend.Info) int { return strings.Compare(a.Name, b.Name) })
	p.step("indexing", int64(len(replace)))

	var packs []saidPack
	var read []string
	size := 0
	flush := func() error {
		if len(read) == 0 {
			return nil
		}
		one, stay, err := p.agree(ctx, packs)
		for ; len(stay) > 0 && err == nil; one, stay, err = p.agree(ctx, packs) {
			read = slices.DeleteFunc(read, func(name string) bool { return stay[name] })
			packs = slices.DeleteFunc(packs, func(d saidPack) bool { return stay[d.segment] })
		}
		if err != nil {
			return err
		}
		gone := read
		if broken.dropUnneeded && s.kept != nil {
			one = slices.DeleteFunc(one, func(n index.Pack) bool {
				return !slices.ContainsFunc(s.stats, func(st collect.Pack) bool { return st.ID == n.ID && len(st.Frames) > 0 })
			})
		}
		if broken.removeFirst {
			for _, name := range gone {
				if err := p.repo.backend.Delete(ctx, name); err != nil {
					return err
				}
			}
		}
		for len(one) > 0 {
			n, bytes := 0, 0
			for n == 0 || n < len(one) && bytes < segmentMax {
				bytes += index.SegmentSize(one[n : n+1])
				n++
			}
			if err := p.putRewritten(ctx, one[:n]); err != nil {
				return err
			}
			one = one[n:]
		}
		if broken.removeUnread {
			if gone, err = listNames(ctx, p.repo.backend, indexPrefix); err != nil {
				return err
			}
			gone = slices.DeleteFunc(gone, func(name string) bool { return name == p.latest })
		}
		for _, name := range gone {
			err := p.repo.backend.Delete(ctx, name)
			switch {
			case errors.Is(err, backend.ErrRetained):
				p.mu.Lock()
				p.rep.Retained++
				p.mu.Unlock()
			case err != nil:
				return err
			default:
				p.rep.SegmentsGone++
			}
		}
		packs, read, size = nil, nil, 0
		return nil
	}
replacing:
	for _, segment := range replace {
		name, stored := segment.Name, segment.Modified.Unix()
		o, err := p.repo.openSegment(ctx, name)
		if errors.Is(err, errVanished) {
			continue // somebody else replaced it
		} else if err != nil {
			return err
		}
		if o.damage != nil {
			return &blockedError{o.damage}
		}
		list, odd, err := index.DecodeSegment(o.payload, stored, o.rewritten)
		if err != nil {
			return &blockedError{&DamageError{Object: name, Err: err}}
		}
		for _, id := range odd {
			if s.view.maint.of(id) == index.Freed {
				continue
			}
			// No writer describes a pack so. The pack itself says what is right.
			if own, err := p.ownWord(ctx, id, stored); errors.Is(err, errUntold) {
				continue replacing
			} else if err != nil {
				return err
			} else if own != nil {
				list = append(list, *own)
			}
		}
		for i := range list {
			if s.view.maint.of(list[i].ID) != index.Freed {
				packs = append(packs, saidPack{list[i], name})
				size += index.SegmentSize(list[i : i+1])
			}
		}
		read = append(read, name)
		p.done.Add(1)
		if size >= segmentMax {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// errUntold says of a pack that it does not tell which of the things is right that segments say of it: its bytes are not those that its name promises. Which of them harm nobody knows
// then, so those segments stay as they are, until the pack is healed or freed.
var errUntold = errors.New("a pack does not tell what is in it")

// saidPack is what a segment says of a pack.
type saidPack struct {
	index.Pack
	segment string
}

// agree returns each pack once. Where segments say different things of one, the pack itself decides; if it cannot, these segments are in stay.
func (p *pruner) agree(ctx context.Context, packs []saidPack) (out []index.Pack, stay map[string]bool, err error) {
	slices.SortStableFunc(packs, func(a, b saidPack) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	stay = map[string]bool{}
	for i := 0; i < len(packs); {
		j := i + 1
		same := true
		for ; j < len(packs) && packs[j].ID == packs[i].ID; j++ {
			same = same && sameFrames(&packs[i].Pack, &packs[j].Pack)
		}
		one := packs[i].Pack
		if !same {
			own, err := p.ownWord(ctx, one.ID, 0)
			if errors.Is(err, errUntold) {
				for ; i < j; i++ {
					stay[packs[i].segment] = true
				}
				continue
			} else if err != nil {
				return nil, nil, err
			}
			if own == nil {
				i = j
				continue
			}
			// A birth counts when what was said of the pack is so.
			for k := i; k < j; k++ {
				if sameFrames(own, &packs[k].Pack) {
					oldestBirths(own, &packs[k].Pack)
				}
			}
			for f := range own.Births {
				if own.Births[f] == 0 {
					own.Births[f] = p.now.Unix()
				}
			}
			one = *own
		} else {
			for k := i + 1; k < j; k++ {
				oldestBirths(&one, &packs[k].Pack)
			}
		}
		out = append(out, one)
		i = j
	}
	return out, stay, nil
}

// sameFrames tells whether two descriptions of a pack differ in births at most.
func sameFrames(a, b *index.Pack) bool {
	return a.Size == b.Size && slices.EqualFunc(a.Dir.Frames, b.Dir.Frames, func(f, g pack.Frame) bool {
		s, t := &a.Dir.Sections[f.Section], &b.Dir.Sections[g.Section]
		return f.Codec == g.Codec && f.Depth == g.Depth && f.Offset == g.Offset && f.Stored == g.Stored && f.Plain == g.Plain && f.Counter == g.Counter &&
			slices.Equal(f.Blobs, g.Blobs) && slices.Equal(f.Bases, g.Bases) && s.Kind == t.Kind && s.AEAD == t.AEAD && bytes.Equal(s.Key, t.Key)
	})
}

// oldestBirths gives a the births of b that are older. b may be a whose births are none yet.
func oldestBirths(a, b *index.Pack) {
	for i := range a.Births {
		if a.Births[i] == 0 || b.Births[i] < a.Births[i] {
			a.Births[i] = b.Births[i]
		}
	}
}

// ownWord returns what a pack says of itself, with one birth for all frames; nil if it is gone or says nothing; errUntold if that is not known.
func (p *pruner) ownWord(ctx context.Context, id pack.ID, birth int64) (*index.Pack, error) {
	name := packName(id)
	object, err := p.repo.backend.Get(ctx, name, 0, -1, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil && !errors.Is(err, crypt.ErrDamaged) {
		return nil, err
	}
	if err != nil || crypt.Verify(name, object) != nil {
		return nil, errUntold
	}
	dir, err := pack.ReadDirectory(p.repo.keys, bytes.NewReader(object), int64(len(object)))
	if errors.Is(err, pack.ErrDamaged) {
		return nil, nil // it never was a pack
	} else if err != nil {
		return nil, err
	}
	own := &index.Pack{ID: id, Size: uint32(len(object)), Dir: dir}
	for range dir.Frames {
		own.Births = append(own.Births, birth)
	}
	return own, nil
}
