package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// A session is one running backup as the others see it: a marker that is renewed, segments that name what it stored, and one commit. It believes present what the
// index said after its marker was put, and what it stored itself; sessions share none of that.
//
// The order is the protocol (docs/DESIGN.md): marker, then gc/, then index/, then packs, then the segments that name them, then the manifest, then the end.
type session struct {
	*marker
	repo  *Repo
	begun time.Time
	view  *view
}

// begin puts the marker and reads what is there.
func (r *Repo) begin(ctx context.Context, series string) (*session, error) {
	now := time.Now()
	var early *view
	if broken.markerLate {
		var err error
		if early, err = r.loadView(ctx); err != nil {
			return nil, err
		}
	}
	m, err := beginMarker(ctx, r.backend, newSession(r.keys, series, now), r.opts.Logger)
	if err != nil {
		return nil, err
	}
	if early != nil {
		return &session{marker: m, repo: r, begun: now, view: early}, nil
	}
	s := &session{marker: m, repo: r, begun: now}
	view, err := r.loadView(ctx)
	if err != nil {
		s.end(ctx, false)
		return nil, err
	}
	s.view = view
	return s, nil
}

// A marker is what maintenance sees of a session: that it began, that it is alive, and that it is over.
type marker struct {
	backend backend.Backend
	id      string
	log     *slog.Logger

	stop    context.CancelFunc // of the renewals
	renewed sync.WaitGroup
}

// beginMarker puts the marker of a session and renews it until its end.
func beginMarker(ctx context.Context, b backend.Backend, id string, log *slog.Logger) (*marker, error) {
	rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &marker{backend: b, id: id, log: log, stop: stop}
	// From here on the session may be seen, also when the store says that its marker failed: it needs its end.
	if err := m.mark(ctx, markerName(id)); err != nil {
		m.end(ctx, false)
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	m.renewed.Go(func() { m.renew(rctx) })
	return m, nil
}

func (m *marker) mark(ctx context.Context, name string) error {
	return putOnce(ctx, m.backend, name, crypt.AppendHash([]byte("varve session\n"+name+"\n")))
}

// renew puts a renewal each hour until ctx is done. One that fails is tried again soon; should none succeed for two days, maintenance may put a void, and then the commit finds it.
func (m *marker) renew(ctx context.Context) {
	wait := times.renew
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := m.mark(ctx, markerName(m.id)+"."+strconv.Itoa(n)); err != nil {
			if ctx.Err() == nil {
				m.log.Warn("a session's marker could not be renewed, it is tried again", "session", m.id, "error", err)
			}
			wait = times.renew / 12
			continue
		}
		n++
		wait = times.renew
	}
}

// end puts the session's end and waits for its renewals. It does so after a failure too, and when ctx is cancelled: nobody has to wait for this session. That it fails harms nothing.
func (m *marker) end(ctx context.Context, committed bool) {
	m.stop()
	m.renewed.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), times.grace)
	defer cancel()
	name, outcome := markerName(m.id)+endSuffix, "failed"
	if committed {
		outcome = "committed"
	}
	object := crypt.AppendHash([]byte("varve end\n" + name + "\n" + outcome + "\n"))
	if err := putOnce(ctx, m.backend, name, object); err != nil {
		m.log.Warn("a session's end could not be put: maintenance will wait for it for two days", "session", m.id, "error", err)
	}
}

// putSegment names packs that were put, so that this snapshot and other sessions may rely on them.
func (s *session) putSegment(ctx context.Context, packs []index.Pack) (int64, error) {
	payload := index.EncodeSegment(s.id, packs)
	object, err := s.repo.keys.Seal(crypt.KindSegment, "", payload)
	if err != nil {
		return 0, err
	}
	if len(object) > backend.MaxSize {
		return 0, fmt.Errorf("an index segment of %d bytes", len(object))
	}
	id := hashHex(object)
	if err := putOnce(ctx, s.repo.backend, indexName(id), object); err != nil {
		return 0, err
	}
	s.repo.remember("index", id, []byte{byte(crypt.KindSegment)}, payload)
	return int64(len(object)), nil
}

// putPack stores one pack. The caller may do with data what it likes afterwards, and free it.
func (s *session) putPack(ctx context.Context, id pack.ID, data []byte) error {
	name := packName(id)
	return putWith(ctx, s.repo.backend, name, data, func(o *backend.PutOptions) error {
		l := &lent{data: data}
		defer l.end()
		return s.repo.backend.Put(ctx, name, l, int64(len(data)), o)
	})
}

// lent is bytes that are an object's for as long as a Put runs. A transport that goes on reading for a moment after a Put that failed or was cancelled, as net/http's may, finds them gone.
type lent struct {
	mu   sync.RWMutex // guards data
	data []byte
	over bool
}

// ReadAt implements io.ReaderAt.
func (l *lent) ReadAt(p []byte, off int64) (int, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.over {
		return 0, fs.ErrClosed
	}
	if off < 0 || off > int64(len(l.data)) {
		return 0, io.EOF
	}
	n := copy(p, l.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (l *lent) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data, l.over = nil, true
}

// commit puts the manifest in the session's one place for it. ErrVoid: maintenance was there before. Whatever the store replied, what it holds decides.
func (s *session) commit(ctx context.Context, snap *Snapshot) (int64, error) {
	body, err := tree.Marshal(snap.manifest())
	if err != nil {
		return 0, err
	}
	name := snapshotName(s.id)
	object, err := s.repo.keys.Seal(crypt.KindSnapshot, name, body)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err // nothing was sent yet, so there is no doubt
	}
	perr := backend.PutBytes(ctx, s.repo.backend, name, object, &backend.PutOptions{IfAbsent: true})
	if perr == nil {
		s.repo.remember("objects", cacheName(name), object)
		return int64(len(object)), nil
	}
	switch {
	case broken.existsIsMine && errors.Is(perr, fs.ErrExist):
		return int64(len(object)), nil
	case broken.commitBlind:
		return 0, perr
	}
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), times.grace)
	defer cancel()
	there, gerr := s.repo.backend.Get(lctx, name, 0, -1, nil)
	switch {
	case gerr == nil && string(there) == string(object):
		return int64(len(object)), nil
	case gerr == nil:
		if _, _, err := s.repo.openObject(name, there, crypt.KindVoid); err == nil {
			return 0, ErrVoid
		}
		return 0, &DamageError{Object: name, Err: errors.New("something else is in the place of the commit")}
	case errors.Is(gerr, fs.ErrNotExist):
		return 0, perr
	}
	return 0, fmt.Errorf("%w (%s): %w", ErrUncertain, s.id, errors.Join(perr, gerr))
}
