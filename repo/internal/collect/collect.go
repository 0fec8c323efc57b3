// Package collect decides what of a repository stays: of each blob that is needed one copy, and what that copy needs to be read.
//
// Which copy is not a matter of taste. Whoever may write can put a pack and a segment that claim any blob; only the store dates them. So the copy with the oldest birth
// stays, and a claim that came later never displaces it. Sets are bitmaps over the index, so memory does not grow with what is kept.
package collect

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// Kept is what stays.
type Kept struct {
	Copies walk.Bitmap // ordinals
	Frames walk.Bitmap // with a copy that is kept
	// Lost are needed blobs of which no copy can be kept: whoever deletes must not when there are any. Hints are never among them.
	Lost []pack.ID
}

// Keep chooses for each blob in reached (see walk.Result) the copy that stays: of those in usable packs whose bases can be had as well, the oldest birth, on a tie one that
// is not condemned. usable says of a pack's number in the index whether what the index says of it can be relied upon. Bases of what is kept are kept likewise, from frames
// that lie less deep.
func Keep(x *index.Index, reached walk.Bitmap, usable func(pack uint32) bool) *Kept {
	k := &keeper{x: x, usable: usable, sound: walk.NewBitmap(x.Frames()), broken: walk.NewBitmap(x.Frames()),
		kept: &Kept{Copies: walk.NewBitmap(x.Len()), Frames: walk.NewBitmap(x.Frames())}}
	for o := range reached.All() {
		id, c := x.At(o)
		if best, ok := k.best(id, x.Kind(c.Frame), c.Length, pack.MaxDepth+1); ok {
			k.keep(best)
		} else if x.Kind(c.Frame) != walk.Hint {
			k.kept.Lost = append(k.kept.Lost, id)
		}
	}
	return k.kept
}

type keeper struct {
	x      *index.Index
	usable func(uint32) bool
	kept   *Kept
	// Of frames with bases: whether these can be had.
	sound, broken walk.Bitmap
}

// best returns the copy of a blob that stays, from a frame of less than the given depth. A length of 0 is any.
func (k *keeper) best(id pack.ID, kind uint8, length uint32, depth uint8) (index.Copy, bool) {
	var room [4]index.Copy
	copies := k.x.Find(room[:0], id, kind)
	var best index.Copy
	found := false
	for _, c := range copies {
		if length != 0 && c.Length != length || k.x.Frame(c.Frame).Depth >= depth {
			continue
		}
		if found && k.compare(best, c) <= 0 || !k.readable(c.Frame) {
			continue
		}
		best, found = c, true
	}
	return best, found
}

// compare orders copies of one blob, the one that stays first. It depends on what they are alone.
func (k *keeper) compare(a, b index.Copy) int {
	f, g := k.x.Frame(a.Frame), k.x.Frame(b.Frame)
	p, q := k.x.Pack(f.Pack), k.x.Pack(g.Pack)
	return cmp.Or(cmp.Compare(f.Birth, g.Birth), cmp.Compare(p.State, q.State), bytes.Compare(p.ID[:], q.ID[:]), cmp.Compare(f.Offset, g.Offset),
		cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Frame, b.Frame))
}

// readable tells whether a frame can be read: its pack is usable, and each of its bases has such a copy less deep. Depth falls with each step, so it ends.
func (k *keeper) readable(n uint32) bool {
	f := k.x.Frame(n)
	if !k.usable(f.Pack) {
		return false
	}
	if len(f.Bases) == 0 || k.sound.Has(n) {
		return true
	}
	if k.broken.Has(n) {
		return false
	}
	for _, id := range f.Bases {
		if _, ok := k.best(id, k.x.Kind(n), 0, f.Depth); !ok {
			k.broken.Set(n)
			return false
		}
	}
	k.sound.Set(n)
	return true
}

// keep marks a copy and the bases of its frame.
func (k *keeper) keep(c index.Copy) {
	if !k.kept.Copies.Set(c.Ordinal) || !k.kept.Frames.Set(c.Frame) {
		return
	}
	f := k.x.Frame(c.Frame)
	for _, id := range f.Bases {
		if b, ok := k.best(id, k.x.Kind(c.Frame), 0, f.Depth); ok {
			k.keep(b)
		}
	}
}

// Pack is what of one stored pack stays.
type Pack struct {
	ID      pack.ID
	Numbers []uint32 // in the index: one for each segment that describes it
	Frames  []uint32 // with something that is kept, in the order of their offsets; each once
	Stored  int64    // bytes of those frames
	All     int64    // bytes of all of its frames, as the segment says that tells of most
	Live    int64    // bytes of them that what is kept takes, by its share of the plaintext
}

// Packs returns for each pack of the index what of it stays, in order of ids.
func (k *Kept) Packs(x *index.Index) []Pack {
	live := make([]uint32, x.Frames()) // bytes of plaintext
	for o := range k.Copies.All() {
		_, c := x.At(o)
		live[c.Frame] += c.Length // blobs of a frame don't overlap, in what an honest writer put
	}
	stored := make([]int64, x.Packs()) // bytes of frames, by number
	at := make(map[pack.ID]int, x.Packs())
	var packs []Pack
	for i := range x.Packs() {
		id := x.Pack(uint32(i)).ID
		j, ok := at[id]
		if !ok {
			j = len(packs)
			at[id] = j
			packs = append(packs, Pack{ID: id})
		}
		packs[j].Numbers = append(packs[j].Numbers, uint32(i))
	}
	for n, plain := range live {
		f := x.Frame(uint32(n))
		p := &packs[at[x.Pack(f.Pack).ID]]
		stored[f.Pack] += int64(f.Stored)
		p.All = max(p.All, stored[f.Pack])
		if plain == 0 {
			continue
		}
		p.Frames = append(p.Frames, uint32(n))
		p.Stored += int64(f.Stored)
		p.Live += int64(float64(f.Stored) * min(1, float64(plain)/float64(f.Plain)))
	}
	for i := range packs {
		slices.SortFunc(packs[i].Frames, func(a, b uint32) int {
			return cmp.Or(cmp.Compare(x.Frame(a).Offset, x.Frame(b).Offset), cmp.Compare(a, b))
		})
	}
	slices.SortFunc(packs, func(a, b Pack) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return packs
}
