package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"crypto/rand"
	"fmt"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// What a section of a pack holds, and so whose key seals it.
const (
	SectionContent uint8 = 1
	SectionTree    uint8 = 2
	SectionHint    uint8 = 3
)

// How the frames of a section are sealed.
const (
	aeadChaCha20Poly1305 uint8 = 1 // 12-byte nonce, RFC 8439
	aeadAES256GCM        uint8 = 2
)

const (
	sectionContext = "varve v1 section"
	publicKeySize  = 1216 // ML-KEM-768 and X25519
	encSize        = 1120
	hintKeySize    = chacha20poly1305.NonceSizeX + 32 + chacha20poly1305.Overhead // the rest of a hint section's record is zeros
)

var kem = hpke.MLKEM768X25519()

// NewSection begins a section of the given kind: it encapsulates a fresh key to the public key of that kind, which
// every role holds, and returns the cipher for the section's frames, its id, and the 1,120 bytes from which
// [Keys.OpenSection] gets the cipher again. A section of hints is for every role: its key is sealed under the shared
// key instead. The cipher has nonces of 12 bytes, which must not repeat within the
// section, and is safe for concurrent use. A kind that isn't one of the three constants panics.
func (k *Keys) NewSection(kind uint8) (aead uint8, enc []byte, c cipher.AEAD, err error) {
	var public hpke.PublicKey
	switch kind {
	case SectionHint:
		return k.newHintSection()
	case SectionContent:
		public = k.contentPublic
	case SectionTree:
		public = k.treePublic
	default:
		panic(fmt.Sprintf("crypt: NewSection: kind %d", kind))
	}
	aead = fastAEAD()
	enc, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.ExportOnly(), k.sectionInfo(kind))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("crypt: new section: %w", err)
	}
	key, err := sender.Export(sectionContext+string([]byte{aead}), 32)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("crypt: new section: %w", err)
	}
	if c, err = frameAEAD(aead, key); err != nil {
		return 0, nil, nil, err
	}
	return aead, enc, c, nil
}

// OpenSection returns the cipher of a section from what [Keys.NewSection] returned, as found in a pack or segment. It
// returns ErrRole if k lacks the private key of that kind, and ErrDamaged if kind, aead or enc can't be right. Most
// changes of enc show later, when no frame opens.
func (k *Keys) OpenSection(kind, aead uint8, enc []byte) (cipher.AEAD, error) {
	var private hpke.PrivateKey
	switch kind {
	case SectionHint:
	case SectionContent:
		private = k.contentPrivate
	case SectionTree:
		private = k.treePrivate
	default:
		return nil, damaged("section", fmt.Sprintf("unknown kind %d", kind))
	}
	if aead != aeadChaCha20Poly1305 && aead != aeadAES256GCM {
		return nil, damaged("section", fmt.Sprintf("unknown cipher %d", aead))
	}
	if len(enc) != encSize {
		return nil, damaged("section", fmt.Sprintf("encapsulated key of %d bytes", len(enc)))
	}
	if kind == SectionHint {
		return k.openHintSection(aead, enc)
	}
	if private == nil {
		return nil, fmt.Errorf("crypt: a %s opens no section of kind %d: %w", k.role, kind, ErrRole)
	}
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.ExportOnly(), k.sectionInfo(kind))
	if err != nil {
		return nil, damaged("section", "bad encapsulated key")
	}
	key, err := recipient.Export(sectionContext+string([]byte{aead}), 32)
	if err != nil {
		return nil, fmt.Errorf("crypt: open section: %w", err)
	}
	return frameAEAD(aead, key)
}

// newHintSection is NewSection for what every role may read.
func (k *Keys) newHintSection() (aead uint8, enc []byte, c cipher.AEAD, err error) {
	aead = fastAEAD()
	var key [32]byte
	rand.Read(key[:])
	if c, err = frameAEAD(aead, key[:]); err != nil {
		return 0, nil, nil, err
	}
	enc = make([]byte, chacha20poly1305.NonceSizeX, encSize)
	rand.Read(enc)
	enc = k.hintSections.Seal(enc, enc, key[:], append(k.sectionInfo(SectionHint), aead))
	return aead, enc[:encSize], c, nil
}

func (k *Keys) openHintSection(aead uint8, enc []byte) (cipher.AEAD, error) {
	for _, b := range enc[hintKeySize:] {
		if b != 0 {
			return nil, damaged("section", "padding that is not zero")
		}
	}
	key, err := k.hintSections.Open(nil, enc[:chacha20poly1305.NonceSizeX], enc[chacha20poly1305.NonceSizeX:hintKeySize], append(k.sectionInfo(SectionHint), aead))
	if err != nil {
		return nil, damaged("section", "its key does not authenticate")
	}
	return frameAEAD(aead, key)
}

func (k *Keys) sectionInfo(kind uint8) []byte {
	return append(append([]byte(sectionContext), k.repository[:]...), kind)
}

func frameAEAD(aead uint8, key []byte) (cipher.AEAD, error) {
	if aead == aeadChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("crypt: %w", err)
	}
	return cipher.NewGCM(block)
}

// fastAEAD returns the cipher that is the faster one here.
func fastAEAD() uint8 {
	if hasAES() {
		return aeadAES256GCM
	}
	return aeadChaCha20Poly1305
}

// hasAES reports whether AES-GCM is fast and constant-time on this machine, by the rule of crypto/tls.
func hasAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3 ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH ||
		runtime.GOARCH == "ppc64" || runtime.GOARCH == "ppc64le"
}
