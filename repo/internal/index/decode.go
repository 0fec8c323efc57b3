package index

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/varvebackup/varve/pack"
)

// DecodeSegment returns the packs that a segment describes, in order of ids, with Births: for a session's own segment these are stored, in Unix seconds, when the store dates
// it. Blobs of a frame are in the order of its plaintext. The error is ErrDamaged.
//
// A segment may say of a frame what no pack does: blobs that overlap, or leave gaps. Such a frame has a gap that no blob describes in its place, so its pack is returned in
// odd, as an id alone.
func DecodeSegment(payload []byte, stored int64, rewritten bool) (packs []Pack, odd []pack.ID, err error) {
	s, err := parse(payload, rewritten)
	if err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	n := count(s.blobs, blobSize)
	recs := make([]rec, n)
	for i := range recs {
		recs[i] = recAt(s.blobs[i*blobSize:])
	}
	slices.SortFunc(recs, func(a, b rec) int {
		if a.frame != b.frame {
			return int(a.frame) - int(b.frame)
		}
		return int(a.off) - int(b.off)
	})
	blobs := make([]pack.Blob, n)
	for i := range recs {
		blobs[i] = pack.Blob{ID: recs[i].id, Length: recs[i].len}
	}
	section, frame, base, rest := 0, 0, 0, 0
	for i := range count(s.packs, packSize) {
		r := s.packs[i*packSize:]
		p := Pack{ID: pack.ID(r[:32]), Size: le.Uint32(r[32:]), Dir: &pack.Directory{}}
		for range le.Uint32(r[36:]) {
			r := s.sections[section*sectionSize:][:sectionSize]
			p.Dir.Sections = append(p.Dir.Sections, pack.Section{Kind: r[0], AEAD: r[1], Key: bytes.Clone(r[4:])})
			section++
		}
		whole := true
		for range le.Uint32(r[40:]) {
			r := s.frames[frame*frameSize:]
			f := pack.Frame{Section: int(r[0]), Codec: r[1], Depth: r[2], Offset: le.Uint32(r[4:]), Stored: le.Uint32(r[8:]), Plain: le.Uint32(r[12:]), Counter: le.Uint64(r[16:])}
			for range le.Uint32(r[32:]) {
				f.Bases = append(f.Bases, pack.ID(s.bases[base*baseSize:]))
				base++
			}
			first, end := rest, uint32(0)
			for ; rest < n && recs[rest].frame == uint32(frame); rest++ {
				whole = whole && recs[rest].off == end
				end = recs[rest].off + recs[rest].len
			}
			f.Blobs = blobs[first:rest:rest]
			whole = whole && end == f.Plain
			birth := stored
			if rewritten {
				birth = int64(le.Uint64(r[24:]))
			}
			p.Births = append(p.Births, birth)
			p.Dir.Frames = append(p.Dir.Frames, f)
			frame++
		}
		if !whole {
			odd = append(odd, p.ID)
			continue
		}
		packs = append(packs, p)
	}
	return packs, odd, nil
}
