package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
)

// sameRepository returns nil if src holds a repository and dst the same one; for Replicate, also if dst is empty.
func sameRepository(ctx context.Context, dst, src backend.Backend, heal, replace bool) error {
	from, err := takeStock(ctx, src)
	if err != nil {
		return atSource(err)
	}
	if !from.repository() {
		return fmt.Errorf("source: %w%s", ErrNoRepository, from.instead())
	}
	to, err := takeStock(ctx, dst)
	if err != nil {
		return atDestination(err)
	}
	switch {
	case to.repository():
	case to.alien != "" && heal:
		return fmt.Errorf("destination: %w%s", ErrNoRepository, to.instead())
	case to.alien != "":
		return fmt.Errorf("destination: %w: %s", ErrExists, to.alien)
	case heal && len(to.slots) == 0:
		return fmt.Errorf("destination: %w: it is empty, which is for Replicate to fill", ErrNoRepository)
	case !heal:
		return nil
	}
	// The first of the configs that is whole on both sides decides, but where that may be what is to be replaced.
	for _, name := range from.configs {
		if replace {
			break
		}
		if !slices.Contains(to.configs, name) {
			continue
		}
		a, err := whole(ctx, src, name)
		if err != nil {
			return atSource(err)
		}
		b, err := whole(ctx, dst, name)
		if err != nil {
			return atDestination(err)
		}
		if a != nil && b != nil && string(a) == string(b) {
			return nil
		} else if a != nil && b != nil {
			return fmt.Errorf("destination: %w: another repository (its %s is another one)%s", ErrExists, name, orReplaced(heal))
		}
	}
	// Slots say whose they are. A Create that lost a race may have left one of another repository, so it takes one in common.
	a, err := owners(ctx, src, from.slots)
	if err != nil {
		return atSource(err)
	}
	b, err := owners(ctx, dst, to.slots)
	if err != nil {
		return atDestination(err)
	}
	for id := range a {
		if b[id] {
			return nil
		}
	}
	if len(a) > 0 && len(b) > 0 && !replace {
		return fmt.Errorf("destination: %w: another repository (its slots are another one's)", ErrExists)
	}
	// Random ids, and hashes of what is sealed with random keys, are the same in no two repositories.
	for _, prefix := range []string{snapshotsPrefix, forgottenPrefix, indexPrefix, packsPrefix} {
		names := map[string]bool{}
		for info, err := range dst.List(ctx, prefix) {
			if err != nil {
				return atDestination(err)
			}
			if prefixOf(info.Name) != "" {
				names[info.Name] = true
			}
		}
		for info, err := range src.List(ctx, prefix) {
			if err != nil {
				return atSource(err)
			}
			if names[info.Name] {
				return nil
			}
		}
	}
	return fmt.Errorf("destination: %w: nothing there tells that it is the same repository (%s)", ErrExists, to.first())
}

func orReplaced(heal bool) string {
	if heal {
		return ", or somebody replaced it: then heal with Replace, from what is to be believed"
	}
	return ""
}

// A stock is what tells whether a backend holds a repository, and which.
type stock struct {
	configs, slots []string // names; configs in order of their numbers
	data           string   // some other object of a repository, "" if there is none; only if there is no config
	alien          string   // something else, likewise
}

func (s *stock) repository() bool { return len(s.configs) > 0 || s.data != "" }

func (s *stock) first() string { return slices.Concat(s.configs, s.slots, []string{s.data})[0] }

func (s *stock) instead() string {
	switch {
	case s.alien != "":
		return fmt.Sprintf(": what is there is something else (%s)", s.alien)
	case len(s.slots) > 0:
		return ": what is there was left by making one that did not come to its end"
	}
	return ""
}

func takeStock(ctx context.Context, b backend.Backend) (*stock, error) {
	s := &stock{}
	for _, prefix := range []string{configPrefix, keysPrefix} {
		names, err := listNames(ctx, b, prefix)
		if err != nil {
			return nil, err
		}
		names = slices.DeleteFunc(names, func(name string) bool { return prefixOf(name) == "" })
		if prefix == configPrefix {
			s.configs = names
		} else {
			s.slots = names
		}
	}
	n := func(name string) int {
		n, _ := number(strings.TrimPrefix(name, configPrefix))
		return n
	}
	slices.SortFunc(s.configs, func(a, b string) int { return n(a) - n(b) })
	if len(s.configs) > 0 {
		return s, nil
	}
	for _, prefix := range []string{snapshotsPrefix, indexPrefix, packsPrefix, gcPrefix, forgottenPrefix, ""} {
		for info, err := range b.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			if isProbe(info.Name) {
				continue
			}
			switch prefixOf(info.Name) {
			case sessionsPrefix, keysPrefix: // also of one that was never finished
			case "":
				s.alien = cmp.Or(s.alien, info.Name)
			default:
				s.data = info.Name
				return s, nil
			}
			if prefix == "" && s.alien != "" {
				return s, nil
			}
		}
	}
	return s, nil
}

// whole returns an object if it is there and what its name promises.
func whole(ctx context.Context, b backend.Backend, name string) ([]byte, error) {
	object, err := b.Get(ctx, name, 0, -1, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist), unreadable(err):
		return nil, nil
	case err != nil:
		return nil, err
	case crypt.Verify(name, object) != nil:
		return nil, nil
	}
	return object, nil
}

// owners returns the ids of the repositories that slots say they are of.
func owners(ctx context.Context, b backend.Backend, slots []string) (map[[16]byte]bool, error) {
	ids := map[[16]byte]bool{}
	for _, name := range slots[:min(len(slots), maxSlots)] {
		object, err := whole(ctx, b, name)
		if err != nil {
			return nil, err
		}
		if object == nil {
			continue
		}
		if s, err := crypt.ParseSlot(name, object); err == nil {
			ids[s.Repository] = true
		}
	}
	return ids, nil
}
