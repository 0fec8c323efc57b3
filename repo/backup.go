package repo

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// BackupOptions are for Backup. Nil and the zero value are good.
type BackupOptions struct {
	// Tags are kept in the snapshot.
	Tags map[string]string
	// Host is the name of the host in the snapshot. Empty: the system's.
	Host string
	// MinAge makes no snapshot, and returns ErrFresh with the newest one, if that began less than MinAge ago.
	MinAge time.Duration
	// Tolerate says of what cannot be read whether that is as it should be: it is listed all the same, but ErrIncomplete is not for it. Path is as the source
	// spells it. Nil: nothing is tolerated.
	Tolerate func(path string, err error) bool
	// Progress is called at most five times a second and once at the end, from one goroutine, never after Backup has returned.
	Progress func(Progress)
}

// Progress is how far a backup or restore has come.
type Progress struct {
	Stats
	Path    string // what is being read; empty for a restore
	Total   int64  // bytes that a restore will write; 0 while unknown
	Elapsed time.Duration
}

// Backup makes a snapshot of fsys in a series and returns it when it is committed: from then on it can be restored, whatever happens to this process.
//
// All regular files are read; links, devices and the like are recorded, never opened or followed. A file whose change token (see Attr) is that of the last snapshot
// of the series is not read again. Files that cannot be read, vanish, or change while they are read are recorded in the snapshot, which is returned together with ErrIncomplete.
//
// No snapshot is made, and the error says why, when the root or a stream cannot be read to its end, the backend fails, ctx is done, maintenance closed the session (ErrVoid), or a
// record of maintenance or the config is damaged (*DamageError), for then nothing can be relied upon. Earlier
// snapshots are not touched, and what was stored serves the next backup.
//
// Any number of backups may run at once.
func (r *Repo) Backup(ctx context.Context, series string, fsys fs.FS, o *BackupOptions) (*Snapshot, error) {
	if o == nil {
		o = &BackupOptions{}
	}
	snap, err := r.own.backup(ctx, series, fsys, o)
	if snap != nil {
		r.outdated()
	}
	if err != nil && snap == nil {
		return nil, fmt.Errorf("back up %s: %w", series, err)
	}
	return snap, err
}

func (r *Repo) backup(ctx context.Context, series string, fsys fs.FS, o *BackupOptions) (*Snapshot, error) {
	if err := checkSeries(series); err != nil {
		return nil, err
	}
	for k, v := range o.Tags {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return nil, fmt.Errorf("the tag %q=%q is not UTF-8", k, v)
		}
	}
	if r.config == nil {
		return nil, fmt.Errorf("nothing can be written without the config: %w", r.broken)
	}
	parent, err := r.newest(ctx, series)
	if err != nil {
		return nil, err
	}
	if parent != nil && o.MinAge > 0 {
		// One from the future says more of a clock than of its age: it must not hold up all others until its time has come.
		if age := time.Since(parent.Time); age < o.MinAge && age > -o.MinAge {
			return parent, ErrFresh
		}
	}
	s, err := r.begin(ctx, series)
	if err != nil {
		return nil, err
	}
	snap, err := r.runSession(ctx, s, series, fsys, parent, o)
	s.end(ctx, snap != nil)
	return snap, err
}

// checkSeries tells whether a series may have this name: one that the command line can take apart again.
func checkSeries(series string) error {
	if series == "" || len(series) > 255 {
		return fmt.Errorf("a series has a name of 1 to 255 bytes, not %d", len(series))
	}
	for _, c := range series {
		if c == '@' || c == ':' || c < ' ' || c == 0x7f || c == 0xfffd {
			return fmt.Errorf("the series %q: no '@', ':' or control characters", series)
		}
	}
	return nil
}

func (r *Repo) runSession(ctx context.Context, s *session, series string, fsys fs.FS, parent *Snapshot, o *BackupOptions) (*Snapshot, error) {
	snap := &Snapshot{ID: s.id, Series: series, Time: s.begun, Host: o.Host, Tags: maps.Clone(o.Tags), Version: Version}
	if parent != nil {
		snap.Parent = parent.ID
	}
	if snap.Host == "" {
		snap.Host, _ = os.Hostname() // without a name there is none in the snapshot
	}
	snap.Host = text(snap.Host)
	streams, files := r.config.Streams.chunk(), r.config.Files.chunk()
	cutStreams, err := chunk.New(streams, r.keys.ChunkingKey())
	if err != nil {
		return nil, err
	}
	cutFiles, err := chunk.New(files, r.keys.ChunkingKey())
	if err != nil {
		return nil, err
	}
	tokens := newTokenWriter(r, series)
	defer tokens.abort()
	var hintKey *[32]byte
	if hinted(r, tokens) {
		key := r.keys.HintKey(series)
		hintKey = &key
	}
	p := newPipeline(ctx, s, tokens, hintKey, max(streams.Max, files.Max, maxBlock))
	w := &walker{p: p, fsys: fsys, begun: s.begun, tolerate: o.Tolerate, parent: parent, cutStreams: cutStreams, cutFiles: cutFiles}
	stop := report(o.Progress, func() Progress {
		return Progress{Stats: p.stats(), Path: w.at(), Elapsed: time.Since(s.begun)}
	})
	err = w.run(series)
	if err != nil {
		err = p.wait(err)
	} else if err = w.finish(); err != nil {
		err = p.wait(err)
	} else {
		err = p.wait(nil)
	}
	defer stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	snap.root = p.root
	snap.unread = p.unread
	snap.hints = p.hints
	snap.missing = w.missing
	for _, part := range w.parts {
		snap.parts = append(snap.parts, partWhen{r.partHash([]byte(part.name)), *tree.TimeOf(part.begun), *tree.TimeOf(part.ended)})
	}
	snap.End = time.Now()
	snap.Stats = p.stats()
	n, err := s.commit(ctx, snap)
	if err != nil {
		return nil, err
	}
	if broken.commitFirst {
		if err := p.flush(ctx, p.pending); err != nil {
			return nil, err
		}
	}
	p.counts.stored.Add(n)
	snap.Stats.Stored += n
	if err := tokens.commit(); err != nil {
		r.opts.Logger.Warn("the cache cannot be written", "error", err)
	}
	if snap.missing > 0 {
		return snap, fmt.Errorf("snapshot %s: %w (%d)", snap.ID, ErrIncomplete, snap.missing)
	}
	return snap, nil
}

func (p *pipeline) stats() Stats {
	c := &p.counts
	return Stats{Files: c.files.Load(), Folders: c.folders.Load(), Others: c.others.Load(), Bytes: c.bytes.Load(), Read: c.read.Load(),
		New: c.fresh.Load(), Stored: c.stored.Load(), Unread: c.unread.Load()}
}

// report is ticker for a function that may be nil.
func report(progress func(Progress), now func() Progress) (stop func()) {
	if progress == nil {
		return func() {}
	}
	return ticker(func() { progress(now()) })
}

// ticker calls f at most five times a second, whatever f takes and however late it is called, until the returned function is called, which calls it a last time
// and waits for it.
func ticker(f func()) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for over := false; !over; {
			select {
			case <-time.After(200 * time.Millisecond): // a time.Ticker makes up for what was late
			case <-done:
				over = true
			}
			f()
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}
