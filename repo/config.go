package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// config is what all who share a repository must agree on.
type config struct {
	Repository    []byte    `cbor:"1,keyasint"`
	Created       tree.Time `cbor:"2,keyasint"`
	Streams       params    `cbor:"3,keyasint"`
	Files         params    `cbor:"4,keyasint"`
	NoPutIfAbsent bool      `cbor:"5,keyasint,omitempty"`
	Lock          *lock     `cbor:"6,keyasint,omitempty"`
}

type lock struct {
	Mode    string `cbor:"mode"`
	Seconds uint64 `cbor:"seconds"`
}

type params struct {
	Algorithm string `cbor:"algorithm"`
	Min       int    `cbor:"min"`
	Avg       int    `cbor:"avg"`
	Max       int    `cbor:"max"`
}

func paramsOf(p chunk.Params) params { return params{string(p.Algorithm), p.Min, p.Avg, p.Max} }

func (p params) chunk() chunk.Params {
	return chunk.Params{Algorithm: chunk.Algorithm(p.Algorithm), Min: p.Min, Avg: p.Avg, Max: p.Max}
}

func newConfig(keys *crypt.Keys) *config {
	id := keys.Repository()
	return &config{Repository: id[:], Created: *tree.TimeOf(time.Now()), Streams: paramsOf(chunk.Fine), Files: paramsOf(chunk.Coarse)}
}

// apply makes s what this repository wants.
func (c *config) apply(s *store) {
	s.looksFirst = c.NoPutIfAbsent
	if c.Lock != nil {
		s.lock = Lock{backend.Mode(c.Lock.Mode), time.Duration(c.Lock.Seconds) * time.Second}
	}
}

func (c *config) seal(keys *crypt.Keys, n int) ([]byte, error) {
	body, err := tree.Marshal(c)
	if err != nil {
		return nil, err
	}
	return keys.Seal(crypt.KindConfig, configName(n), body)
}

// loadConfig returns the highest config, and its number. One that maintenance did not sign does not count; one whose bytes are not what was put is a *DamageError, for what it said
// is to be kept and not what an older one said. So it is when there is none.
func loadConfig(ctx context.Context, b *store, keys *crypt.Keys, names []string) (*config, int, error) {
	numbered := map[int]string{}
	var ns []int
	for _, name := range names {
		if n, ok := number(strings.TrimPrefix(name, configPrefix)); ok {
			ns, numbered[n] = append(ns, n), name
		}
	}
	slices.Sort(ns)
	worst := &DamageError{Object: configName(1), Err: fs.ErrNotExist}
	for _, n := range slices.Backward(ns) {
		c, err := readConfig(ctx, b, keys, numbered[n])
		if err == nil {
			return c, n, nil
		}
		if !errors.Is(err, crypt.ErrDamaged) && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		bad := &DamageError{Object: numbered[n], Err: err}
		if lost, err := rotten(ctx, b, bad.Object, bad.Err); err != nil {
			return nil, 0, err
		} else if lost {
			return nil, 0, bad
		}
		// Its bytes are whole, so they may have been read wrong. What is forged fails again.
		if c, err := readConfig(ctx, b, keys, numbered[n]); err == nil {
			return c, n, nil
		}
		if errors.Is(worst, fs.ErrNotExist) {
			worst = bad
		}
	}
	return nil, 0, worst
}

// readConfig reads one config. Errors: crypt.ErrDamaged, fs.ErrNotExist, *crypt.VersionError, or the backend's.
func readConfig(ctx context.Context, b *store, keys *crypt.Keys, name string) (*config, error) {
	object, err := b.read(ctx, name, func(object []byte) error {
		_, _, err := keys.Open(name, object, crypt.KindConfig)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, body, err := keys.Open(name, object, crypt.KindConfig)
	if err != nil {
		return nil, err
	}
	var c config
	if err := tree.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("%w: %v", crypt.ErrDamaged, err)
	}
	if id := keys.Repository(); !bytes.Equal(c.Repository, id[:]) {
		return nil, fmt.Errorf("%w: of another repository", crypt.ErrDamaged)
	}
	for _, p := range []params{c.Streams, c.Files} {
		if err := p.chunk().Validate(); err != nil {
			return nil, fmt.Errorf("%w: %v", crypt.ErrDamaged, err)
		}
	}
	if c.Lock != nil {
		if err := (Lock{backend.Mode(c.Lock.Mode), time.Duration(c.Lock.Seconds) * time.Second}).valid(); err != nil || c.Lock.Seconds > maxLock {
			return nil, fmt.Errorf("%w: a lock that can't be", crypt.ErrDamaged)
		}
	}
	return &c, nil
}
