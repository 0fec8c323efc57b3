// Package crypt holds the keys of a repository: who may do what, how blobs are named, how objects are sealed and
// signed, and the slots through which a person or a program gets at the keys.
//
// Most callers need two things. [ParseSlot] and [Slot.Unlock] turn an object under keys/ and a [Passphrase], a
// [RawKey] or another [Unlocker] into [Keys]; [Keys.Seal] and [Keys.Open] turn payloads into objects and back.
// A new repository begins with [NewKeys] and [Keys.NewSlot].
//
// All keys derive from one master of 32 bytes. A slot holds the row of its role and nothing more, so a role is
// a set of keys that are there or missing, not a rule that the program follows:
//
//	                                   writer  maintainer  owner
//	name blobs, cut, split                x        x         x
//	seal content and trees (public key)   x        x         x
//	seal and open objects                 x        x         x     manifests, segments, pack directories
//	check maintenance's signatures        x        x         x
//	open trees                                     x         x
//	sign for maintenance                           x         x     config, void, gc/, forgotten/, rewritten segments
//	open content                                             x
//	the master: make keys of any role                        x
//
// The promise: bytes that were changed, cut, moved to another name or another repository, or sealed by a role that
// may not, are an error and never a payload. [Verify] tells a good copy from a damaged one without any key. Sizes
// and costs that the store dictates are capped before anything is computed. Keys are never printed.
//
// BLAKE3 names and derives, XChaCha20-Poly1305 seals objects and slots, Ed25519 signs, HPKE (RFC 9180) with
// ML-KEM-768 and X25519 opens a section of a pack, Argon2id (RFC 9106) stretches a passphrase. The bytes are those
// of docs/FORMAT.md, sections 1 to 3.
package crypt
