package source

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

const (
	// namesRun is how much memory a listing takes before it goes to disk as a sorted run: some 50,000 names. Once the listings that
	// are under way in a Tree hold namesAll together, those that begin make do with namesLow.
	namesRun = 2 << 20
	namesAll = 8 << 20
	namesLow = 128 << 10

	namesBlock = 32 << 10 // of a run; one for each run is in memory while runs are merged
)

// names is the listing of a folder, sorted in bounded memory: what is more than that goes to a file without a name, in
// sorted runs that are merged as they are read (Knuth 5.4.1).
type names struct {
	limit int    // of bytes in memory; 0: none
	temp  string // folder for the file; "" is the system's

	chunks []string  // records of packName, one after another; a name in use keeps only its chunk alive
	count  int       // of the records; after sort, of the names
	bytes  int       // that they take
	refs   []nameRef // sorted, after sort

	file *os.File // of the runs
	runs []int64  // where each ends in file
}

type nameRef struct {
	key        uint64 // the name's first bytes behind the prefix that all names share
	chunk, off uint32
}

// packName appends a record: a byte for the kind, two for the length, the name.
func packName(dst []byte, kind byte, name []byte) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(name)))
	return append(dst, name...)
}

func unpackName(chunk string, off uint32) (kind byte, name string) {
	n := uint32(chunk[off+1])<<8 | uint32(chunk[off+2])
	return chunk[off], chunk[off+3 : off+3+n]
}

// add takes over count records; it copies chunk.
func (l *names) add(chunk []byte, count int) error {
	if count == 0 {
		return nil
	}
	l.chunks = append(l.chunks, string(chunk))
	l.count += count
	l.bytes += len(chunk) + 16*count
	if l.limit > 0 && l.bytes > l.limit {
		return l.spill()
	}
	return nil
}

// spill writes what is in memory to the file, as a run: blocks of records, each behind its length.
func (l *names) spill() (err error) {
	if l.file == nil {
		if l.file, err = tempFile(l.temp); err != nil {
			return l.noRoom(err)
		}
	}
	l.sort()
	end := int64(0)
	if n := len(l.runs); n > 0 {
		end = l.runs[n-1]
	}
	block := make([]byte, 4, namesBlock)
	flush := func() {
		binary.LittleEndian.PutUint32(block, uint32(len(block)-4))
		if _, werr := l.file.WriteAt(block, end); err == nil {
			err = werr
		}
		end += int64(len(block))
		block = block[:4]
	}
	for i := range l.count {
		kind, name := l.at(i)
		if len(block)+3+len(name) > namesBlock && len(block) > 4 {
			flush()
		}
		block = append(append(block, kind, byte(len(name)>>8), byte(len(name))), name...)
	}
	flush()
	l.runs = append(l.runs, end)
	clear(l.chunks)
	l.chunks, l.refs, l.count, l.bytes = l.chunks[:0], l.refs[:0], 0, 0
	if err != nil {
		return l.noRoom(err)
	}
	return nil
}

// noRoom says of an error that it is about the temporary file. It is no fs.ErrNotExist and the like, which would be said of the folder that is listed.
func (l *names) noRoom(err error) error {
	temp := l.temp
	if temp == "" {
		temp = os.TempDir()
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("a listing of so many names needs a temporary file in %s: %v", temp, err)
}

// finish ends the adding.
func (l *names) finish() error {
	if l.file != nil && l.count > 0 {
		err := l.spill()
		l.chunks, l.refs = nil, nil
		return err
	}
	l.sort()
	return nil
}

// close removes what is on disk.
func (l *names) close() {
	if l.file != nil {
		closeTemp(l.file)
		l.file = nil
	}
}

// sort puts the names in memory into the order of their bytes, each once: the system may list a name twice if the folder
// changes meanwhile, and what it said last counts.
func (l *names) sort() {
	if l.count == 0 {
		return
	}
	_, prefix := unpackName(l.chunks[0], 0)
	l.refs = slices.Grow(l.refs[:0], l.count)
	for c, chunk := range l.chunks {
		for off := uint32(0); off < uint32(len(chunk)); {
			_, name := unpackName(chunk, off)
			l.refs = append(l.refs, nameRef{chunk: uint32(c), off: off})
			n := 0
			for n < len(prefix) && n < len(name) && prefix[n] == name[n] {
				n++
			}
			prefix = prefix[:n]
			off += 3 + uint32(len(name))
		}
	}
	for i := range l.refs {
		_, name := l.at(i)
		var key [8]byte
		copy(key[:], name[len(prefix):])
		l.refs[i].key = binary.BigEndian.Uint64(key[:])
	}
	// Names hold no zero byte, so padding with zeros keeps their order; equal keys say nothing.
	slices.SortFunc(l.refs, func(a, b nameRef) int {
		if c := cmp.Compare(a.key, b.key); c != 0 {
			return c
		}
		_, an := unpackName(l.chunks[a.chunk], a.off)
		_, bn := unpackName(l.chunks[b.chunk], b.off)
		return cmp.Or(strings.Compare(an, bn), cmp.Compare(b.chunk, a.chunk), cmp.Compare(b.off, a.off))
	})
	l.refs = slices.CompactFunc(l.refs, func(a, b nameRef) bool {
		if a.key != b.key {
			return false
		}
		_, an := unpackName(l.chunks[a.chunk], a.off)
		_, bn := unpackName(l.chunks[b.chunk], b.off)
		return an == bn
	})
	l.count = len(l.refs)
}

func (l *names) at(i int) (kind byte, name string) {
	r := l.refs[i]
	return unpackName(l.chunks[r.chunk], r.off)
}

// each calls yield with each name once, in the order of the bytes, until it returns false. finish comes first.
func (l *names) each(yield func(kind byte, name string) bool) error {
	if l.file == nil {
		for i := range l.count {
			if !yield(l.at(i)) {
				return nil
			}
		}
		return nil
	}
	var h runHeap
	buf := make([]byte, namesBlock)
	start := int64(0)
	for i, end := range l.runs {
		r := &nameRun{number: i, pos: start, end: end}
		start = end
		if ok, err := r.next(l.file, buf); err != nil {
			return err
		} else if ok {
			h = append(h, r)
		}
	}
	heap.Init(&h)
	last, any := "", false
	for len(h) > 0 {
		r := h[0]
		kind, name := r.kind, r.name
		if !any || name != last {
			if !yield(kind, name) {
				return nil
			}
			last, any = name, true
		}
		switch ok, err := r.next(l.file, buf); {
		case err != nil:
			return err
		case ok:
			heap.Fix(&h, 0)
		default:
			heap.Pop(&h)
		}
	}
	return nil
}

// A nameRun is where the reading of a run has come to.
type nameRun struct {
	number   int
	pos, end int64  // of the next block
	block    string // a name in use keeps only its block alive
	off      uint32
	kind     byte
	name     string
}

var errRun = errors.New("a sorted part of the listing cannot be read back")

func (r *nameRun) next(file io.ReaderAt, buf []byte) (bool, error) {
	if r.off == uint32(len(r.block)) {
		if r.pos == r.end {
			return false, nil
		}
		n, err := file.ReadAt(buf[:min(int64(len(buf)), r.end-r.pos)], r.pos)
		if err != nil {
			return false, errors.Join(errRun, err)
		}
		size := int64(binary.LittleEndian.Uint32(buf))
		if size == 0 || r.pos+4+size > r.end {
			return false, errRun
		}
		if int(size) > n-4 { // one name of that length
			buf = make([]byte, 4+size)
			if _, err := file.ReadAt(buf, r.pos); err != nil {
				return false, errors.Join(errRun, err)
			}
		}
		r.block, r.off = string(buf[4:4+size]), 0
		r.pos += 4 + size
	}
	r.kind, r.name = unpackName(r.block, r.off)
	r.off += 3 + uint32(len(r.name))
	return true, nil
}

// A runHeap has the run with the smallest name at the top; of equal names the one that was listed last.
type runHeap []*nameRun

func (h runHeap) Len() int { return len(h) }
func (h runHeap) Less(i, j int) bool {
	if c := strings.Compare(h[i].name, h[j].name); c != 0 {
		return c < 0
	}
	return h[i].number > h[j].number
}
func (h runHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(any)     { panic("source: runs are never added") }
func (h *runHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
