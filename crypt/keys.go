package crypt

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// Keys is what one role holds of one repository's keys: keys that the role lacks are not in it. It is immutable and
// safe for concurrent use, and prints as its role and repository only.
type Keys struct {
	role       Role
	repository [16]byte

	// All roles.
	contentID, treeID         [32]byte
	chunking, series, split   [32]byte
	shared                    [32]byte
	contentPublic, treePublic hpke.PublicKey
	maintenancePublic         ed25519.PublicKey
	objectAEAD, directoryAEAD cipher.AEAD // from shared
	cache                     [32]byte    // from shared
	hintID, hint              [32]byte    // from shared
	hintSections              cipher.AEAD // from shared

	// Nil where the role lacks them.
	treePrivate    hpke.PrivateKey    // maintainer, owner
	maintenance    ed25519.PrivateKey // maintainer, owner
	contentPrivate hpke.PrivateKey    // owner
	master         *[32]byte          // owner
}

// NewKeys makes the keys of a new repository: a random repository id and a random master, for its owner.
func NewKeys() (*Keys, error) {
	var repository [16]byte
	var master [32]byte
	rand.Read(repository[:])
	rand.Read(master[:])
	return ownerKeys(repository, master)
}

// ownerKeys derives everything from the master.
func ownerKeys(repository [16]byte, master [32]byte) (*Keys, error) {
	k := &Keys{
		role:       Owner,
		repository: repository,
		contentID:  derive("varve v1 2026 content id", master[:]),
		treeID:     derive("varve v1 2026 tree id", master[:]),
		chunking:   derive("varve v1 2026 chunking", master[:]),
		series:     derive("varve v1 2026 series", master[:]),
		split:      derive("varve v1 2026 tree split", master[:]),
		shared:     derive("varve v1 2026 shared", master[:]),
		master:     &master,
	}
	content := derive("varve v1 2026 content hpke", master[:])
	tree := derive("varve v1 2026 tree hpke", master[:])
	maintenance := derive("varve v1 2026 maintenance", master[:])

	var err error
	if k.contentPrivate, err = kem.NewPrivateKey(content[:]); err != nil {
		return nil, fmt.Errorf("crypt: content private key: %w", err)
	}
	if k.treePrivate, err = kem.NewPrivateKey(tree[:]); err != nil {
		return nil, fmt.Errorf("crypt: tree private key: %w", err)
	}
	k.contentPublic, k.treePublic = k.contentPrivate.PublicKey(), k.treePrivate.PublicKey()
	k.maintenance = ed25519.NewKeyFromSeed(maintenance[:])
	k.maintenancePublic = k.maintenance.Public().(ed25519.PublicKey)
	return k, k.deriveShared()
}

// deriveShared makes what derives from the shared key.
func (k *Keys) deriveShared() (err error) {
	object := derive("varve v1 2026 objects", k.shared[:])
	if k.objectAEAD, err = chacha20poly1305.NewX(object[:]); err != nil {
		return fmt.Errorf("crypt: object key: %w", err)
	}
	directory := derive("varve v1 2026 pack directories", k.shared[:])
	if k.directoryAEAD, err = chacha20poly1305.NewX(directory[:]); err != nil {
		return fmt.Errorf("crypt: directory key: %w", err)
	}
	k.cache = derive("varve v1 2026 cache", k.shared[:])
	k.hintID = derive("varve v1 2026 hint id", k.shared[:])
	k.hint = derive("varve v1 2026 hints", k.shared[:])
	sections := derive("varve v1 2026 hint sections", k.shared[:])
	if k.hintSections, err = chacha20poly1305.NewX(sections[:]); err != nil {
		return fmt.Errorf("crypt: key of hint sections: %w", err)
	}
	return nil
}

// derive is BLAKE3's derive-key mode with 32 bytes of output.
func derive(context string, material []byte) (key [32]byte) {
	blake3.DeriveKey(context, material, key[:])
	return key
}

// Role returns the role whose keys these are.
func (k *Keys) Role() Role { return k.role }

// Repository returns the id of the repository, which is no secret.
func (k *Keys) Repository() [16]byte { return k.repository }

// Epoch returns the key epoch: 0 in this version of the format.
func (k *Keys) Epoch() uint32 { return epoch }

// Restrict returns the keys of role r and no others. It returns ErrRole if r is more than k's role or no role.
func (k *Keys) Restrict(r Role) (*Keys, error) {
	if !r.valid() || r > k.role {
		return nil, fmt.Errorf("crypt: %s keys from those of a %s: %w", r, k.role, ErrRole)
	}
	// By way of the row, as if they came out of a slot: so no key can slip through.
	w, err := k.row(r)
	if err != nil {
		return nil, err
	}
	return w.keys()
}

// ChunkingKey returns a copy of the key that decides where streams are cut.
func (k *Keys) ChunkingKey() *[32]byte {
	c := k.chunking
	return &c
}

// CacheKey returns the key for what a client keeps on its own disk.
func (k *Keys) CacheKey() [32]byte { return k.cache }

// HintKey returns the key under which the hints of a series name paths: it is derived from the shared key, which every role holds.
func (k *Keys) HintKey(series string) [32]byte { return sum(keyed(&k.hint), []byte(series)) }

// DirectoryAEAD returns XChaCha20-Poly1305 under the key for pack directories and trailers. It is safe for
// concurrent use; nonces are the caller's business.
func (k *Keys) DirectoryAEAD() cipher.AEAD { return k.directoryAEAD }

// String names role and repository, and no key.
func (k Keys) String() string {
	return fmt.Sprintf("%s keys of repository %x", k.role, k.repository)
}

// Format writes [Keys.String], whatever the verb. Its receiver is a value, so that a copy doesn't print keys either.
func (k Keys) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }
