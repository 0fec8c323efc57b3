package crypt

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
)

const (
	version = 1 // of the format: objects, slots and rows
	epoch   = 0 // of the keys: the only one so far
)

// row is the secret of a slot (FORMAT section 3): exactly what a role holds.
type row struct {
	Version    uint64 `cbor:"1,keyasint"`
	Role       Role   `cbor:"2,keyasint"`
	Repository []byte `cbor:"3,keyasint"`
	Epoch      uint32 `cbor:"4,keyasint"`

	Master []byte `cbor:"5,keyasint,omitempty"` // owner

	ContentID         []byte `cbor:"6,keyasint,omitempty"` // writer and maintainer, from here
	TreeID            []byte `cbor:"7,keyasint,omitempty"`
	Chunking          []byte `cbor:"8,keyasint,omitempty"`
	Series            []byte `cbor:"9,keyasint,omitempty"`
	Split             []byte `cbor:"10,keyasint,omitempty"`
	Shared            []byte `cbor:"11,keyasint,omitempty"`
	ContentPublic     []byte `cbor:"12,keyasint,omitempty"`
	TreePublic        []byte `cbor:"13,keyasint,omitempty"`
	MaintenancePublic []byte `cbor:"14,keyasint,omitempty"`

	TreePrivate []byte `cbor:"15,keyasint,omitempty"` // maintainer
	Maintenance []byte `cbor:"16,keyasint,omitempty"` // maintainer; the Ed25519 seed
}

// row returns what role r holds of k's keys; r must not be more than k's role.
func (k *Keys) row(r Role) (*row, error) {
	w := &row{Version: version, Role: r, Repository: k.repository[:], Epoch: epoch}
	if r == Owner {
		w.Master = k.master[:]
		return w, nil
	}
	w.ContentID, w.TreeID = k.contentID[:], k.treeID[:]
	w.Chunking, w.Series, w.Split = k.chunking[:], k.series[:], k.split[:]
	w.Shared = k.shared[:]
	w.ContentPublic, w.TreePublic = k.contentPublic.Bytes(), k.treePublic.Bytes()
	w.MaintenancePublic = k.maintenancePublic
	if r == Maintainer {
		tree, err := k.treePrivate.Bytes()
		if err != nil {
			return nil, fmt.Errorf("crypt: tree private key: %w", err)
		}
		w.TreePrivate, w.Maintenance = tree, k.maintenance.Seed()
	}
	return w, nil
}

// parseRow decodes the row that was found in the object of that name. It returns ErrDamaged or a *VersionError.
func parseRow(object string, b []byte) (*row, error) {
	var peek struct {
		Version uint16 `cbor:"1,keyasint"`
		Epoch   uint32 `cbor:"4,keyasint"`
	}
	if err := cborPeeker.Unmarshal(b, &peek); err != nil {
		return nil, damaged(object, "row is malformed")
	}
	if peek.Version > version || peek.Epoch > epoch {
		return nil, &VersionError{Object: object, Version: int(peek.Version), Epoch: peek.Epoch}
	}
	r := new(row)
	if err := decode(b, r); err != nil {
		// The decoder's message stays inside: nothing of a row may end up in a log.
		return nil, damaged(object, "row is malformed")
	}
	if err := r.check(); err != nil {
		return nil, damaged(object, err.Error())
	}
	return r, nil
}

// check refuses a row with a key that is not its role's, or without one that is.
func (r *row) check() error {
	if r.Version != version {
		return errors.New("row has no version")
	}
	if !r.Role.valid() {
		return errors.New("row has no role")
	}
	all, derived, maintainer := true, r.Role != Owner, r.Role == Maintainer
	for _, f := range []struct {
		key   int
		bytes []byte
		size  int
		has   bool
	}{
		{3, r.Repository, 16, all},
		{5, r.Master, 32, r.Role == Owner},
		{6, r.ContentID, 32, derived},
		{7, r.TreeID, 32, derived},
		{8, r.Chunking, 32, derived},
		{9, r.Series, 32, derived},
		{10, r.Split, 32, derived},
		{11, r.Shared, 32, derived},
		{12, r.ContentPublic, publicKeySize, derived},
		{13, r.TreePublic, publicKeySize, derived},
		{14, r.MaintenancePublic, ed25519.PublicKeySize, derived},
		{15, r.TreePrivate, 32, maintainer},
		{16, r.Maintenance, ed25519.SeedSize, maintainer},
	} {
		switch {
		case !f.has && f.bytes != nil:
			return fmt.Errorf("row of a %s with key %d", r.Role, f.key)
		case f.has && len(f.bytes) != f.size:
			return fmt.Errorf("row of a %s whose key %d has %d bytes, not %d", r.Role, f.key, len(f.bytes), f.size)
		}
	}
	return nil
}

// keys makes the keys of a checked row, which it doesn't keep.
func (r *row) keys() (*Keys, error) {
	if r.Role == Owner {
		return ownerKeys([16]byte(r.Repository), [32]byte(r.Master))
	}
	k := &Keys{
		role:       r.Role,
		repository: [16]byte(r.Repository),
		contentID:  [32]byte(r.ContentID), treeID: [32]byte(r.TreeID),
		chunking: [32]byte(r.Chunking), series: [32]byte(r.Series), split: [32]byte(r.Split),
		shared:            [32]byte(r.Shared),
		maintenancePublic: bytes.Clone(r.MaintenancePublic),
	}
	var err error
	if k.contentPublic, err = kem.NewPublicKey(r.ContentPublic); err != nil {
		return nil, errors.New("row with a bad content public key")
	}
	if k.treePublic, err = kem.NewPublicKey(r.TreePublic); err != nil {
		return nil, errors.New("row with a bad tree public key")
	}
	if r.Role == Maintainer {
		if k.treePrivate, err = kem.NewPrivateKey(bytes.Clone(r.TreePrivate)); err != nil {
			return nil, errors.New("row with a bad tree private key")
		}
		k.maintenance = ed25519.NewKeyFromSeed(r.Maintenance)
		if !bytes.Equal(k.treePrivate.PublicKey().Bytes(), r.TreePublic) {
			return nil, errors.New("row whose tree keys are no pair")
		}
		if !k.maintenancePublic.Equal(k.maintenance.Public()) {
			return nil, errors.New("row whose maintenance keys are no pair")
		}
	}
	return k, k.deriveShared()
}
