package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
)

// A store is a backend as a repository uses it. It writes as the config says, and it reads an object from wherever a whole copy of it is: the newest version, an
// older one where the backend keeps versions, a replica. Objects never change and all are named by their hash or end in it, so which copy it came from makes no difference.
type store struct {
	backend.Backend
	looksFirst bool // there is no put-if-absent
	lock       Lock // for what is put; zero: none
	replicas   []*replica
	outage     *outage // of Backend; nil without replicas
	log        *slog.Logger
	// mended, if not nil, hears of each object whose newest version in Backend is not what was put, or not there, for the reason why, while another copy is whole. Calls may
	// come from several goroutines.
	mended func(name string, why error)
}

// newStore is a store whose config is not known yet.
func newStore(b backend.Backend, o *Options) *store {
	s := &store{Backend: b, log: o.Logger}
	for _, r := range o.Replicas {
		s.replicas, s.outage = append(s.replicas, &replica{Backend: r}), &outage{}
	}
	return s
}

// locked tells whether objects of this name are locked: all that a restore needs.
func locked(name string) bool {
	prefix, _, _ := strings.Cut(name, "/")
	switch prefix + "/" {
	case configPrefix, keysPrefix, packsPrefix, indexPrefix, snapshotsPrefix:
		return true
	}
	return false
}

// Put implements backend.Backend. Without put-if-absent it looks, and then puts: two who do so at the same time both succeed, so nothing may be collected beside
// sessions there.
func (s *store) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	var opts backend.PutOptions
	if o != nil {
		opts = *o
	}
	if opts.IfAbsent && s.looksFirst {
		switch _, err := s.Backend.Stat(ctx, name); {
		case err == nil:
			return fmt.Errorf("put %s: %w", name, fs.ErrExist)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		opts.IfAbsent = false
	}
	if s.lock.Period > 0 && locked(name) {
		opts.Retain = s.lock.from(time.Now())
	}
	err := s.Backend.Put(ctx, name, r, size, &opts)
	if errors.Is(err, errors.ErrUnsupported) && !opts.Retain.IsZero() {
		err = fmt.Errorf("the repository wants what is put locked (%v), and nothing was: %w", s.lock, err)
	}
	return err
}

// Get implements backend.Backend. A whole object is verified by its name and comes from the first copy that is whole, if any is. A part of one comes from the first that
// has it; whoever finds out that its bytes are wrong asks others. Junk that is larger than any object is crypt.ErrDamaged. Where there are replicas, they are
// asked first during an outage.
func (s *store) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	whole := off == 0 && n < 0
	return s.get(ctx, name, off, n, dst, func(data []byte) error {
		if whole {
			return crypt.Verify(name, data)
		}
		return nil
	})
}

// read returns an object from the first copy of which good says nothing bad, and otherwise the first of all, as Get does.
func (s *store) read(ctx context.Context, name string, good func(object []byte) error) ([]byte, error) {
	return s.get(ctx, name, 0, -1, nil, good)
}

func (s *store) get(ctx context.Context, name string, off, n int64, dst []byte, good func([]byte) error) ([]byte, error) {
	if s.outage != nil && s.outage.is() != nil {
		for get := range s.elsewhere(ctx, name) {
			if other, oerr := get(off, n); oerr == nil && good(other) == nil {
				return append(dst, other...), nil
			}
		}
	}
	began := time.Now()
	data, err := s.Backend.Get(ctx, name, off, n, dst)
	if s.outage != nil {
		s.outage.note(ctx, began, err)
	}
	if errors.Is(err, fs.ErrInvalid) && n < 0 && off >= 0 && backend.ValidName(name) {
		err = fmt.Errorf("%w: %v", crypt.ErrDamaged, err) // nothing is wrong with what was asked for
	}
	why := err
	if why == nil {
		why = good(data[len(dst):])
	}
	if why == nil || ctx.Err() != nil || errors.Is(err, fs.ErrInvalid) {
		return data, err
	}
	for get := range s.others(ctx, name) {
		if other, oerr := get(off, n); oerr == nil && good(other) == nil {
			s.heard(name, why)
			return append(data[:len(dst)], other...), nil
		}
	}
	return data, err
}

func (s *store) heard(name string, why error) {
	if s.mended != nil {
		s.mended(name, why)
	} else if s.log != nil {
		s.log.Warn("an object is damaged or missing, and read from another copy: a check tells more, and heal repairs it", "object", name, "error", why)
	}
}

// others yields, for each other copy of an object than the newest in Backend, what reads it. What cannot be asked has none.
func (s *store) others(ctx context.Context, name string) iter.Seq[func(off, n int64) ([]byte, error)] {
	return func(yield func(func(off, n int64) ([]byte, error)) bool) {
		if s.outage == nil || s.outage.is() == nil {
			for get := range older(ctx, s.Backend, name) {
				if !yield(get) {
					return
				}
			}
		}
		for get := range s.elsewhere(ctx, name) {
			if !yield(get) {
				return
			}
		}
	}
}

// elsewhere is others without those in Backend.
func (s *store) elsewhere(ctx context.Context, name string) iter.Seq[func(off, n int64) ([]byte, error)] {
	return func(yield func(func(off, n int64) ([]byte, error)) bool) {
		for _, r := range s.replicas {
			if !yield(func(off, n int64) ([]byte, error) { return r.Get(ctx, name, off, n, nil) }) {
				return
			}
			for get := range older(ctx, r, name) {
				if !yield(get) {
					return
				}
			}
		}
	}
}

// older yields what reads the versions of an object that are not the newest.
func older(ctx context.Context, b backend.Backend, name string) iter.Seq[func(off, n int64) ([]byte, error)] {
	return func(yield func(func(off, n int64) ([]byte, error)) bool) {
		for v, err := range backend.Versions(ctx, b, name) {
			if err != nil || ctx.Err() != nil {
				return
			}
			if v.Name != name || v.Latest || v.Deleted {
				continue
			}
			if !yield(func(off, n int64) ([]byte, error) { return backend.GetVersion(ctx, b, name, v.ID, off, n, nil) }) {
				return
			}
		}
	}
}

// List implements backend.Backend: what Backend has, and what replicas have besides, but no probes. A replica that fails is left out; who trusts that all is listed has none.
func (s *store) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range s.all(ctx, prefix) {
			if err == nil && isProbe(info.Name) {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

func (s *store) all(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	if len(s.replicas) == 0 {
		return s.Backend.List(ctx, prefix)
	}
	return func(yield func(backend.Info, error) bool) {
		seen := map[string]bool{}
		stores := []backend.Backend{s.Backend}
		for _, r := range s.replicas {
			stores = append(stores, r)
		}
		for i, b := range stores {
			for info, err := range b.List(ctx, prefix) {
				if err != nil && i > 0 && ctx.Err() == nil {
					if s.log != nil {
						s.log.Warn("a replica cannot be listed, so it is read without it", "error", err)
					}
					break
				}
				if err != nil {
					yield(backend.Info{}, err)
					return
				}
				if seen[info.Name] {
					continue
				}
				seen[info.Name] = true
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// Stat implements backend.Backend.
func (s *store) Stat(ctx context.Context, name string) (backend.Info, error) {
	info, err := s.Backend.Stat(ctx, name)
	if err == nil || ctx.Err() != nil {
		return info, err
	}
	for _, b := range s.replicas {
		if other, oerr := b.Stat(ctx, name); oerr == nil {
			return other, nil
		}
	}
	return info, err
}
