package repo

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/memory"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// The pipeline of one backup. One goroutine for each box but those with a star, which are many:
//
//	walk ──batches──> name* ──in order──> assemble ──frames──> encode* ──sealed──> pack ──packs──> put*
//
// walk reads and cuts; name computes ids; assemble looks them up, builds trees and gathers what is new into frames, all in the order of the walk, so that equal input
// gives equal trees; encode compresses and seals; pack fills packs; put stores them and, now and then, a segment that names them.
// Buffers are made once and go round in circles: their number bounds the memory, and a full circle holds the walk back.

const (
	batchOps     = 1024
	encoderSize  = 3 << 20
	frameBlobs   = 8 << 10 // tiny files: what is known of a blob takes more memory than the blob
	packBlobs    = 64 << 10
	segmentBlobs = 64 << 10
	segmentEvery = 8 // packs, and an eighth of what was put so far
)

// layout is how large things are made. Tests scale it, so that little data comes to many packs; it is never an option.
type layout struct {
	batch        int // what the walk hands on at once, unless a chunk is larger
	contentFrame int
	treeFrame    int
	hintFiles    int // that a window of hints has at most
	pack         int // before padding; the collector lets the heap double, so three of 16 MiB would be too much

	smallPack    int64 // packs below are joined by maintenance, when there are enough of one size
	joinPacks    int
	joinSegments int // so many segments of one size become one
}

var sizes = layout{
	batch:        1 << 20,
	contentFrame: 512 << 10,
	treeFrame:    256 << 10,
	hintFiles:    64 << 10,
	pack:         12 << 20,

	smallPack:    3 << 20,
	joinPacks:    8,
	joinSegments: 8,
}

// packBuffer is the room for a pack.
func (l *layout) packBuffer() int { return l.pack + 64<<10 }

type opKind uint8

const (
	opChunk  opKind = iota // the next chunk of the current content
	opHole                 // a hole of n bytes
	opUntold               // the content that begins has no change token
	opKnown                // pieces that the repository has: each was looked up
	opFile                 // the current content is that of this entry
	opDrop                 // the current content is nobody's
	opEntry                // an entry without content
	opEnter                // a folder begins; its entries are held and sorted when n is 1
	opLeave                // the folder is that of this entry
	opUnread               // node lists what could not be read
	opRoot                 // the root is that of this entry
)

type op struct {
	kind   opKind
	n      int64
	entry  *tree.Entry
	pieces []tree.Piece
	path   string // of a file, for its change token
	node   []byte
}

type chunkRef struct {
	off, len uint32
	id       pack.ID
}

// batch is some of the walk: what happened, in order, and the chunks that it read.
type batch struct {
	data   []byte
	chunks []chunkRef
	ops    []op
	named  chan struct{}
}

type frameBuf struct {
	kind  uint8
	data  []byte
	blobs []pack.Blob
}

type sealedFrame struct {
	section pack.Section
	frame   pack.Frame
	data    []byte
	buf     *frameBuf // whose blobs the frame names
}

type finishedPack struct {
	id   pack.ID
	data []byte
	dir  *pack.Directory
}

type pipeline struct {
	s      *session
	caller context.Context // of Backup
	ctx    context.Context // is done as well when any of the boxes fails
	group  *errgroup.Group
	counts counters
	tokens *tokenWriter // nil: none are kept

	hintKey *[32]byte // nil: no hints are stored

	free    chan *batch
	work    chan *batch
	ordered chan *batch
	frames  chan *frameBuf // free
	encode  chan *frameBuf
	outs    chan []byte // free
	sealed  chan sealedFrame
	bufs    chan []byte // free
	packs   chan finishedPack

	batchSize int
	blocks    []memory.Block // what bufs are, but for those that a pack was too large for

	keyOnce [3]sync.Once // of sections
	keys    [3]*pack.SectionKey
	keyErr  [3]error

	mu      sync.Mutex // guards what follows
	pending []index.Pack
	blobs   int // in pending
	packed  int
	flushed time.Time

	root   pack.ID // these three are set by assemble, and read when it is done
	unread *pack.ID
	hints  *tree.Piece
}

type counters struct {
	files, folders, others, bytes, read, fresh, stored, unread atomic.Int64
}

// newPipeline starts all but the walk, which the caller is.
func newPipeline(ctx context.Context, s *session, tokens *tokenWriter, hintKey *[32]byte, maxChunk int) *pipeline {
	o := &s.repo.opts
	group, gctx := errgroup.WithContext(ctx)
	p := &pipeline{s: s, caller: ctx, ctx: gctx, group: group, tokens: tokens, hintKey: hintKey, batchSize: max(sizes.batch, maxChunk), flushed: time.Now()}
	// What the circles take is at most half, packs take the rest: at least one to fill and one to put, and two puts at a time hide much of what
	// making a file durable costs.
	workers := max(1, min(o.Workers, (int(o.MaxMemory/2)/p.batchSize-8)/3))
	batches, frames := workers+2, workers+3
	used := int64(batches+2*frames)*int64(p.batchSize) + int64(workers)*encoderSize
	packs := int(min(max((o.MaxMemory-used)/int64(sizes.packBuffer()), 2), 8))

	p.free, p.work, p.ordered = make(chan *batch, batches), make(chan *batch, batches), make(chan *batch, batches)
	p.frames, p.encode = make(chan *frameBuf, frames), make(chan *frameBuf, frames)
	p.outs, p.sealed = make(chan []byte, frames), make(chan sealedFrame, frames)
	p.bufs, p.packs = make(chan []byte, packs), make(chan finishedPack)
	for range batches {
		p.free <- &batch{}
	}
	for range frames {
		p.frames <- &frameBuf{}
		p.outs <- nil
	}
	for range packs {
		b := memory.New(sizes.packBuffer())
		p.blocks = append(p.blocks, b)
		p.bufs <- b.Bytes
	}

	for range workers {
		group.Go(p.name)
	}
	group.Go(p.assemble)
	var encoders sync.WaitGroup
	for range workers {
		encoders.Add(1)
		group.Go(func() error { defer encoders.Done(); return p.encoding() })
	}
	group.Go(func() error { encoders.Wait(); close(p.sealed); return nil })
	group.Go(p.packing)
	for range packs - 1 {
		group.Go(p.putting)
	}
	return p
}

// take and give move buffers and work; they end when the pipeline does.
func take[T any](ctx context.Context, c <-chan T) (v T, ok bool, err error) {
	select {
	case v, ok = <-c:
		return v, ok, nil
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
}

func give[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// batch returns an empty batch for the walk.
func (p *pipeline) batch() (*batch, error) {
	b, _, err := take(p.ctx, p.free)
	if err != nil {
		return nil, err
	}
	clear(b.ops)
	b.data, b.chunks, b.ops, b.named = b.data[:0], b.chunks[:0], b.ops[:0], make(chan struct{})
	return b, nil
}

// send passes a batch on.
func (p *pipeline) send(b *batch) error {
	if err := give(p.ctx, p.ordered, b); err != nil {
		return err
	}
	return give(p.ctx, p.work, b)
}

// name computes the ids of the chunks of whole batches.
func (p *pipeline) name() error {
	n := p.s.repo.keys.Namer()
	for {
		b, ok, err := take(p.ctx, p.work)
		if !ok {
			return err
		}
		for i := range b.chunks {
			c := &b.chunks[i]
			c.id = n.Content(b.data[c.off : c.off+c.len])
		}
		close(b.named)
	}
}

// encodeFrame makes a frame of what was gathered. A test may put another one in its place, that makes delta frames.
var encodeFrame = func(_ *session, enc *pack.Encoder, out []byte, key *pack.SectionKey, f *frameBuf) (pack.Frame, []byte, error) {
	frame, sealed := enc.Encode(out, key, f.data)
	return frame, sealed, nil
}

// encoding compresses and seals frames.
func (p *pipeline) encoding() error {
	enc := pack.NewEncoder()
	for {
		f, ok, err := take(p.ctx, p.encode)
		if !ok {
			return err
		}
		key, err := p.section(f.kind)
		if err != nil {
			return err
		}
		out, _, err := take(p.ctx, p.outs)
		if err != nil {
			return err
		}
		if cap(out) < len(f.data)+pack.Overhead {
			out = make([]byte, 0, max(sizes.contentFrame, len(f.data))+1<<10)
		}
		frame, sealed, err := encodeFrame(p.s, enc, out, key, f)
		if err != nil {
			return err
		}
		frame.Blobs = f.blobs
		if err := give(p.ctx, p.sealed, sealedFrame{key.Section, frame, sealed, f}); err != nil {
			return err
		}
	}
}

// section returns the session's section of a kind: one for all packs, for its frames carry a counter.
func (p *pipeline) section(kind uint8) (*pack.SectionKey, error) {
	i := kind - crypt.SectionContent
	p.keyOnce[i].Do(func() { p.keys[i], p.keyErr[i] = pack.NewSectionKey(p.s.repo.keys, kind) })
	return p.keys[i], p.keyErr[i]
}

// packing fills packs, one after the other.
func (p *pipeline) packing() error {
	defer close(p.packs)
	var w *pack.Writer
	blobs := 0
	closePack := func() error {
		id, data, dir, err := w.Close()
		if err != nil {
			return err
		}
		w, blobs = nil, 0
		return give(p.ctx, p.packs, finishedPack{id, data, dir})
	}
	for {
		s, ok, err := take(p.ctx, p.sealed)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		// The directory is kept until a segment names it, the buffer goes back.
		s.frame.Blobs = append([]pack.Blob(nil), s.frame.Blobs...)
		if w != nil && (w.SizeWith(&s.frame) > sizes.pack || blobs+len(s.frame.Blobs) > packBlobs) {
			if err := closePack(); err != nil {
				return err
			}
		}
		if w == nil {
			buf, _, err := take(p.ctx, p.bufs)
			if err != nil {
				return err
			}
			w = pack.NewWriter(p.s.repo.keys, buf)
		}
		if err := w.Add(s.section, s.frame, s.data); err != nil {
			return err
		}
		blobs += len(s.frame.Blobs)
		p.outs <- s.data[:0]
		s.buf.data, s.buf.blobs = s.buf.data[:0], s.buf.blobs[:0]
		p.frames <- s.buf
	}
	if w != nil {
		return closePack()
	}
	return nil
}

// putting stores packs, and a segment when enough of them have gathered.
func (p *pipeline) putting() error {
	for {
		f, ok, err := take(p.ctx, p.packs)
		if !ok {
			return err
		}
		if err := p.s.putPack(p.ctx, f.id, f.data); err != nil {
			return err
		}
		p.counts.stored.Add(int64(len(f.data)))
		done := index.Pack{ID: f.id, Size: uint32(len(f.data)), Dir: f.dir}
		p.bufs <- f.data[:0]

		p.mu.Lock()
		p.pending = append(p.pending, done)
		p.blobs += done.BlobCount()
		p.packed++
		var flush []index.Pack
		if len(p.pending) >= max(segmentEvery, p.packed/segmentEvery) || p.blobs >= segmentBlobs || time.Since(p.flushed) > times.segment {
			flush, p.pending, p.blobs, p.flushed = p.pending, nil, 0, time.Now()
		}
		p.mu.Unlock()
		if err := p.flush(p.ctx, flush); err != nil {
			p.mu.Lock()
			p.pending = append(p.pending, flush...) // the end tries once more to name them
			p.mu.Unlock()
			return err
		}
	}
}

// flush puts a segment for packs that were put.
func (p *pipeline) flush(ctx context.Context, packs []index.Pack) error {
	if len(packs) == 0 {
		return nil
	}
	n, err := p.s.putSegment(ctx, packs)
	p.counts.stored.Add(n)
	return err
}

// wait ends the pipeline: err is the walk's. When all went well, everything that was new is stored and named by segments. When not, what was stored is named if
// that is soon done, so that the next session need not store it again.
func (p *pipeline) wait(err error) error {
	if err != nil {
		p.group.Go(func() error { return err })
	} else {
		close(p.ordered)
		close(p.work)
	}
	gerr := p.group.Wait() // the first error of all; it has cancelled p.ctx
	ctx := p.caller
	if gerr != nil {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), times.grace)
		defer cancel()
		ctx = c
	}
	for i := range p.blocks {
		p.blocks[i].Free() // nobody is left who could touch them
	}
	if broken.commitFirst && gerr == nil {
		return nil
	}
	ferr := p.flush(ctx, p.pending)
	if gerr != nil {
		return gerr
	}
	return ferr
}
