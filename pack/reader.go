package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ReadDirectory reads what a pack of size bytes holds: two reads at its end. Errors: ErrDamaged, *VersionError, or what r returned.
func ReadDirectory(k DirectoryOpener, r io.ReaderAt, size int64) (*Directory, error) {
	if size < trailerSize || size > MaxSize {
		return nil, damaged("a pack of %d bytes", size)
	}
	repo, aead := k.Repository(), k.DirectoryAEAD()
	t, err := readAt(r, size-trailerSize, trailerSize)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, t[:nonceSize], t[nonceSize:], trailerAdditional(repo, size))
	if err != nil {
		return nil, damaged("the trailer does not authenticate")
	}
	le := binary.LittleEndian
	features, epoch := le.Uint32(plain[4:]), le.Uint32(plain[12:])
	switch v := plain[0]; {
	case v > version || v == version && (features != 0 || epoch != 0):
		return nil, &VersionError{Version: int(v), Features: features, Epoch: epoch}
	case v != version || !zero(plain[1:4]) || !zero(plain[20:]):
		return nil, damaged("a malformed trailer")
	}
	n := int64(le.Uint32(plain[16:]))
	end := size - trailerSize - n
	if n < nonceSize+16+headSize || end < 0 {
		return nil, damaged("a directory of %d bytes in a pack of %d", n, size)
	}
	b, err := readAt(r, end, n)
	if err != nil {
		return nil, err
	}
	if plain, err = aead.Open(b[nonceSize:nonceSize], b[:nonceSize], b[nonceSize:], append([]byte(directoryAD), repo[:]...)); err != nil {
		return nil, damaged("the directory does not authenticate")
	}
	return parseDirectory(plain, uint32(end))
}

func readAt(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.ReadAt(b, off); got < len(b) {
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, damaged("cut at byte %d", off+int64(got))
		}
		return nil, fmt.Errorf("pack: %w", err)
	}
	return b, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// parseDirectory takes apart a directory whose frames end at byte end of the pack.
func parseDirectory(b []byte, end uint32) (*Directory, error) {
	le := binary.LittleEndian
	if len(b) < headSize {
		return nil, damaged("a directory of %d bytes", len(b))
	}
	sections, frames := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
	blobs, bases := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	need := headSize + sections*sectionSize + frames*frameSize + blobs*blobSize + bases*idSize
	if sections > maxSections || need > uint64(len(b)) {
		return nil, damaged("a directory of %d bytes cannot hold what it counts", len(b))
	}
	if bare := int(end) + nonceSize + int(need) + 16 + trailerSize; padme(bare)-bare != len(b)-int(need) || !zero(b[need:]) {
		return nil, damaged("padding other than a writer's")
	}
	d := &Directory{Sections: make([]Section, sections), Frames: make([]Frame, frames)}
	sb := b[headSize:]
	fb := sb[sections*sectionSize:]
	bb := fb[frames*frameSize:]
	ib := bb[blobs*blobSize : need-headSize-sections*sectionSize-frames*frameSize]

	for i := range d.Sections {
		r := sb[i*sectionSize : (i+1)*sectionSize]
		d.Sections[i] = Section{Kind: r[0], AEAD: r[1], Key: append([]byte(nil), r[4:]...)}
		if r[2] != 0 || r[3] != 0 {
			return nil, damaged("reserved bytes of a section")
		}
		if r[0] < 1 || r[0] > MaxKind {
			return nil, damaged("a section of kind %d", r[0])
		}
	}
	allBlobs, allBases := make([]Blob, blobs), make([]ID, bases)
	for i := range allBlobs {
		r := bb[i*blobSize:]
		allBlobs[i].ID = ID(r[:idSize])
		allBlobs[i].Length = le.Uint32(r[idSize:])
	}
	for i := range allBases {
		allBases[i] = ID(ib[i*idSize:])
	}
	var offset uint32
	for i := range d.Frames {
		r := fb[i*frameSize : (i+1)*frameSize]
		f := &d.Frames[i]
		*f = Frame{Section: int(r[0]), Codec: r[1], Depth: r[2], Offset: le.Uint32(r[4:]), Stored: le.Uint32(r[8:]),
			Plain: le.Uint32(r[12:]), Counter: le.Uint64(r[16:])}
		nblobs, nbases := uint64(le.Uint32(r[24:])), uint64(le.Uint32(r[28:]))
		if nblobs > uint64(len(allBlobs)) || nbases > uint64(len(allBases)) {
			return nil, damaged("frame %d counts more blobs or bases than there are", i)
		}
		f.Blobs, allBlobs = allBlobs[:nblobs:nblobs], allBlobs[nblobs:]
		f.Bases, allBases = allBases[:nbases:nbases], allBases[nbases:]
		if nbases == 0 {
			f.Bases = nil
		}
		if f.Section >= len(d.Sections) || r[3] != 0 || f.Offset != offset || f.Stored > end-offset {
			return nil, damaged("frame %d does not follow the one before", i)
		}
		if err := f.Check(); err != nil {
			return nil, err
		}
		offset += f.Stored
	}
	if offset != end || len(allBlobs) != 0 || len(allBases) != 0 {
		return nil, damaged("frames that do not fill the pack")
	}
	return d, nil
}
