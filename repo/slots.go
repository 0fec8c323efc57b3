package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
)

// maxSlots bounds how many slots are tried, for each passphrase costs its time and the store may hold as many as it likes.
const maxSlots = 32

// Slot is one way to unlock the repository.
type Slot struct {
	ID      string
	Role    crypt.Role
	Kind    string // passphrase, key, or what the caller's Unlocker calls itself
	Label   string
	Created time.Time
	Current bool  // this Repo was opened with it
	Damage  error // what is wrong with the object; then only ID counts
}

// Slots lists the slots. What a slot says of itself is the store's word until it is unlocked.
func (r *Repo) Slots(ctx context.Context) ([]Slot, error) {
	names, err := listNames(ctx, r.own.backend, keysPrefix)
	if err != nil {
		return nil, fmt.Errorf("list slots: %w", err)
	}
	var slots []Slot
	for _, name := range names {
		object, err := r.own.backend.Get(ctx, name, 0, -1, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		id := strings.TrimPrefix(name, keysPrefix)
		if errors.Is(err, crypt.ErrDamaged) {
			slots = append(slots, Slot{ID: id, Damage: err})
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list slots: %w", err)
		}
		s, err := crypt.ParseSlot(name, object)
		if err != nil {
			slots = append(slots, Slot{ID: id, Damage: err})
			continue
		}
		slots = append(slots, Slot{ID: id, Role: s.Role, Kind: s.Kind, Label: s.Label, Created: s.Created, Current: id == r.slot})
	}
	return slots, nil
}

// AddSlot adds a slot that u opens, with the keys of the given role and no others. ErrRole: only an owner hands out keys.
func (r *Repo) AddSlot(ctx context.Context, role crypt.Role, u crypt.Unlocker, label string) (*Slot, error) {
	if r.keys.Role() != crypt.Owner {
		return nil, fmt.Errorf("add a slot: %w", ErrRole)
	}
	keys, err := r.keys.Restrict(role)
	if err != nil {
		return nil, fmt.Errorf("add a slot: %w", err)
	}
	s, err := putSlot(ctx, r.own.backend, keys, u, label)
	if err != nil {
		return nil, fmt.Errorf("add a slot: %w", err)
	}
	return &Slot{ID: s.ID, Role: s.Role, Kind: s.Kind, Label: s.Label, Created: s.Created}, nil
}

// RemoveSlot removes the slot whose id begins with prefix. Whoever knows what it held still holds the keys: against a thief only new keys help. The slot that this Repo
// was opened with, and the last owner's slot, stay: that is ErrBusy. fs.ErrNotExist: there is no such slot.
func (r *Repo) RemoveSlot(ctx context.Context, prefix string) error {
	if r.keys.Role() != crypt.Owner {
		return fmt.Errorf("remove a slot: %w", ErrRole)
	}
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	var found *Slot
	owners := 0
	for i := range slots {
		if slots[i].Role == crypt.Owner {
			owners++
		}
		if prefix != "" && strings.HasPrefix(slots[i].ID, prefix) {
			if found != nil {
				return fmt.Errorf("remove a slot: several begin with %q", prefix)
			}
			found = &slots[i]
		}
	}
	switch {
	case found == nil:
		return fmt.Errorf("remove a slot: %q: %w", prefix, fs.ErrNotExist)
	case found.Current:
		return fmt.Errorf("remove a slot: %w: %s is the one in use, open with another first", ErrBusy, found.ID)
	case found.Role == crypt.Owner && owners == 1:
		return fmt.Errorf("remove a slot: %w: %s is the only owner's", ErrBusy, found.ID)
	}
	if err := r.own.backend.Delete(ctx, keysPrefix+found.ID); err != nil {
		return fmt.Errorf("remove a slot: %w", err)
	}
	return nil
}

func putSlot(ctx context.Context, b backend.Backend, keys *crypt.Keys, u crypt.Unlocker, label string) (*crypt.Slot, error) {
	s, object, err := keys.NewSlot(ctx, u, label)
	if err != nil {
		return nil, err
	}
	return s, putOnce(ctx, b, s.Name(), object)
}
