// Package index knows where blobs are: it writes and reads index segments (docs/FORMAT.md, section 5) and joins them into an
// [Index] that finds every stored copy of a blob.
package index

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/varvebackup/varve/pack"
)

// ErrDamaged says that a segment is not what a writer of this format wrote.
var ErrDamaged = errors.New("damaged index segment")

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}

const (
	sessionSize = 53
	headSize    = 76
	packSize    = 44
	sectionSize = 4 + pack.KeySize
	frameSize   = 36
	baseSize    = 32
	blobSize    = 44
)

// SessionSize is the length of the session id that a segment names.
const SessionSize = sessionSize

// Pack is one pack as a segment describes it. Births has an element a frame in a segment that maintenance rewrites, and is nil in a session's own.
type Pack struct {
	ID     pack.ID
	Size   uint32
	Dir    *pack.Directory
	Births []int64
}

// BlobCount returns the number of blobs in the pack.
func (p *Pack) BlobCount() (n int) {
	for i := range p.Dir.Frames {
		n += len(p.Dir.Frames[i].Blobs)
	}
	return n
}

// SegmentSize returns how many bytes the payload of a segment with these packs has.
func SegmentSize(packs []Pack) int {
	n := headSize
	for i := range packs {
		n += packSize + len(packs[i].Dir.Sections)*sectionSize + len(packs[i].Dir.Frames)*frameSize + packs[i].BlobCount()*blobSize
		for j := range packs[i].Dir.Frames {
			n += len(packs[i].Dir.Frames[j].Bases) * baseSize
		}
	}
	return n
}

// EncodeSegment returns the payload of a segment. It sorts packs by id.
func EncodeSegment(session string, packs []Pack) []byte {
	if len(session) != sessionSize {
		panic(fmt.Sprintf("index: the session id %q", session))
	}
	sort.Slice(packs, func(i, j int) bool { return bytes.Compare(packs[i].ID[:], packs[j].ID[:]) < 0 })
	le := binary.LittleEndian
	b := make([]byte, 0, SegmentSize(packs))
	b = append(append(b, session...), 0, 0, 0)
	counts := len(b)
	b = append(b, make([]byte, headSize-counts)...)
	for i := range packs {
		p := &packs[i]
		b = append(b, p.ID[:]...)
		b = le.AppendUint32(b, p.Size)
		b = le.AppendUint32(b, uint32(len(p.Dir.Sections)))
		b = le.AppendUint32(b, uint32(len(p.Dir.Frames)))
	}
	var sections, frames, bases uint32
	for i := range packs {
		for _, s := range packs[i].Dir.Sections {
			b = append(b, s.Kind, s.AEAD, 0, 0)
			b = append(b, s.Key...)
			sections++
		}
	}
	for i := range packs {
		for j := range packs[i].Dir.Frames {
			f := &packs[i].Dir.Frames[j]
			var birth int64
			if packs[i].Births != nil {
				birth = packs[i].Births[j]
			}
			b = append(b, uint8(f.Section), f.Codec, f.Depth, 0)
			b = le.AppendUint32(b, f.Offset)
			b = le.AppendUint32(b, f.Stored)
			b = le.AppendUint32(b, f.Plain)
			b = le.AppendUint64(b, f.Counter)
			b = le.AppendUint64(b, uint64(birth))
			b = le.AppendUint32(b, uint32(len(f.Bases)))
			frames++
		}
	}
	for i := range packs {
		for j := range packs[i].Dir.Frames {
			for _, id := range packs[i].Dir.Frames[j].Bases {
				b = append(b, id[:]...)
				bases++
			}
		}
	}
	var recs []rec
	frames = 0
	for i := range packs {
		for j := range packs[i].Dir.Frames {
			var off uint32
			for _, blob := range packs[i].Dir.Frames[j].Blobs {
				recs = append(recs, rec{id: blob.ID, frame: frames, off: off, len: blob.Length})
				off += blob.Length
			}
			frames++
		}
	}
	sortRecs(recs)
	for i := range recs {
		r := &recs[i]
		b = append(b, r.id[:]...)
		b = le.AppendUint32(b, r.frame)
		b = le.AppendUint32(b, r.off)
		b = le.AppendUint32(b, r.len)
	}
	for i, n := range []uint32{uint32(len(packs)), sections, frames, bases, uint32(len(recs))} {
		le.PutUint32(b[counts+4*i:], n)
	}
	return b
}

// segment is a payload taken apart; the tables are views of it.
type segment struct {
	session                               string
	packs, sections, frames, bases, blobs []byte
}

func count(table []byte, size int) int { return len(table) / size }

// parse takes a payload apart and checks it wholly: after this, every number in it is in range.
func parse(b []byte, rewritten bool) (*segment, error) {
	if len(b) < headSize {
		return nil, damaged("%d bytes", len(b))
	}
	le := binary.LittleEndian
	var n [5]uint64
	for i := range n {
		n[i] = uint64(le.Uint32(b[56+4*i:]))
	}
	sizes := [5]uint64{packSize, sectionSize, frameSize, baseSize, blobSize}
	need := uint64(headSize)
	for i := range n {
		need += n[i] * sizes[i]
	}
	if need != uint64(len(b)) || b[53]|b[54]|b[55] != 0 {
		return nil, damaged("%d bytes, its head says %d", len(b), need)
	}
	s := &segment{session: string(b[:sessionSize])}
	rest := b[headSize:]
	for i, t := range []*[]byte{&s.packs, &s.sections, &s.frames, &s.bases, &s.blobs} {
		*t, rest = rest[:n[i]*sizes[i]:n[i]*sizes[i]], rest[n[i]*sizes[i]:]
	}

	var sections, frames, bases uint64
	for i := range count(s.packs, packSize) {
		p := s.packs[i*packSize:]
		if i > 0 && bytes.Compare(s.packs[(i-1)*packSize:][:32], p[:32]) >= 0 {
			return nil, damaged("packs are not in order")
		}
		size, np, nf := uint64(le.Uint32(p[32:])), uint64(le.Uint32(p[36:])), uint64(le.Uint32(p[40:]))
		if size > pack.MaxSize || np > 255 || sections+np > n[1] || frames+nf > n[2] {
			return nil, damaged("pack %d", i)
		}
		var end uint64
		for j := frames; j < frames+nf; j++ {
			r := s.frames[j*frameSize:]
			f := pack.Frame{Section: int(r[0]), Codec: r[1], Depth: r[2], Offset: le.Uint32(r[4:]), Stored: le.Uint32(r[8:]), Plain: le.Uint32(r[12:])}
			nb := uint64(le.Uint32(r[32:]))
			if uint64(r[0]) >= np || r[3] != 0 || uint64(f.Offset) < end || uint64(f.Offset)+uint64(f.Stored) > size || bases+nb > n[3] ||
				(nb > 0) != (f.Codec == pack.ZstdDelta) || (f.Depth > 0) != (nb > 0) || f.Depth > pack.MaxDepth || f.Codec > pack.ZstdDelta ||
				f.Plain < 1 || f.Plain > pack.MaxPlain || f.Stored <= pack.Overhead || !rewritten && le.Uint64(r[24:]) != 0 {
				return nil, damaged("frame %d", j)
			}
			end = uint64(f.Offset) + uint64(f.Stored)
			bases += nb
		}
		sections += np
		frames += nf
	}
	if sections != n[1] || frames != n[2] || bases != n[3] {
		return nil, damaged("tables of other sizes than the packs say")
	}
	for i := range count(s.sections, sectionSize) {
		if r := s.sections[i*sectionSize:]; r[2]|r[3] != 0 || r[0] < 1 || r[0] > pack.MaxKind {
			return nil, damaged("section %d", i)
		}
	}
	var last rec
	for i := range count(s.blobs, blobSize) {
		r := recAt(s.blobs[i*blobSize:])
		if uint64(r.frame) >= n[2] || r.len == 0 || uint64(r.off)+uint64(r.len) > uint64(le.Uint32(s.frames[r.frame*frameSize+12:])) {
			return nil, damaged("blob %d", i)
		}
		if i > 0 && (last.compare(&r) >= 0 || last.id == r.id && last.frame == r.frame && last.off == r.off) {
			return nil, damaged("blobs are not in order")
		}
		last = r
	}
	return s, nil
}

// CheckSegment tells whether a payload is one that EncodeSegment could have made, and returns the session that it names.
func CheckSegment(payload []byte, rewritten bool) (session string, err error) {
	s, err := parse(payload, rewritten)
	if err != nil {
		return "", err
	}
	return s.session, nil
}

// rec is one copy of a blob. 44 bytes, without padding.
type rec struct {
	id              pack.ID
	frame, off, len uint32
}

func recAt(b []byte) rec {
	le := binary.LittleEndian
	return rec{id: pack.ID(b[:32]), frame: le.Uint32(b[32:]), off: le.Uint32(b[36:]), len: le.Uint32(b[40:])}
}

func (r *rec) compare(o *rec) int {
	if c := bytes.Compare(r.id[:], o.id[:]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(r.frame, o.frame), cmp.Compare(r.off, o.off), cmp.Compare(r.len, o.len))
}
