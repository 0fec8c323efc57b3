package crypt_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/varvebackup/varve/crypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestBLAKE3Vectors(t *testing.T) {
	var vectors struct {
		Key   string
		Cases []struct {
			Len    int    `json:"input_len"`
			Hash   string `json:"hash"`
			Keyed  string `json:"keyed_hash"`
			Derive string `json:"derive_key"`
		}
	}
	readJSON(t, "blake3.json", &vectors)
	if len(vectors.Cases) < 20 {
		t.Fatalf("%d cases", len(vectors.Cases))
	}
	for _, c := range vectors.Cases {
		in := make([]byte, c.Len)
		for i := range in {
			in[i] = byte(i % 251)
		}
		if got := crypt.AppendHash(in[:c.Len:c.Len])[c.Len:]; !bytes.Equal(got, unhex(t, c.Hash)[:32]) {
			t.Errorf("hash of %d bytes = %x", c.Len, got)
		}
		if got := crypt.KeyedHash([32]byte([]byte(vectors.Key)), in); !bytes.Equal(got[:], unhex(t, c.Keyed)[:32]) {
			t.Errorf("keyed hash of %d bytes = %x", c.Len, got)
		}
		if got := crypt.Derive("BLAKE3 2019-12-27 16:29:52 test vectors context", in); !bytes.Equal(got[:], unhex(t, c.Derive)[:32]) {
			t.Errorf("key derived from %d bytes = %x", c.Len, got)
		}
	}
}

// The example of draft-irtf-cfrg-xchacha-03, appendix A.3.1.
func TestXChaCha20Poly1305Vector(t *testing.T) {
	key := unhex(t, "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f")
	nonce := unhex(t, "404142434445464748494a4b4c4d4e4f5051525354555657")
	aad := unhex(t, "50515253c0c1c2c3c4c5c6c7")
	plain := "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
	want := unhex(t, "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"+
		"ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"+
		"21f9664c97637da9768812f615c68b13b52e"+"c0875924c1c7987947deafd8780acf49")
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		t.Fatal(err)
	}
	if got := aead.Seal(nil, nonce, []byte(plain), aad); !bytes.Equal(got, want) {
		t.Errorf("sealed = %x", got)
	}
}

// Vectors of the reference implementation (github.com/P-H-C/phc-winner-argon2, src/test.c), version 0x13. Those of
// RFC 9106 take a secret and associated data, which slots don't use.
func TestArgon2idVectors(t *testing.T) {
	for _, v := range []struct {
		passes, memory uint32
		lanes          uint8
		want           string
	}{
		{2, 64 << 10, 1, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"},
		{2, 256, 1, "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"},
		{2, 256, 2, "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037"},
	} {
		got := argon2.IDKey([]byte("password"), []byte("somesalt"), v.passes, v.memory, v.lanes, 32)
		if hex.EncodeToString(got) != v.want {
			t.Errorf("%d passes, %d KiB, %d lanes: %x", v.passes, v.memory, v.lanes, got)
		}
	}
}

type hpkeVector struct {
	AEAD         uint16 `json:"aead_id"`
	Info         string `json:"info"`
	SkRm         string `json:"skRm"`
	PkRm         string `json:"pkRm"`
	Enc          string `json:"enc"`
	SharedSecret string `json:"shared_secret"`
	Encryptions  []struct{ Aad, Ct, Pt string }
	Exports      []struct {
		Context string `json:"exporter_context"`
		L       int
		Value   string `json:"exported_value"`
	}
}

func TestHPKEVector(t *testing.T) {
	var vectors []hpkeVector
	readJSON(t, "hpke-pq-647a.json", &vectors)
	for _, v := range vectors {
		private, err := crypt.KEM.NewPrivateKey(unhex(t, v.SkRm))
		if err != nil {
			t.Fatal(err)
		}
		if got := private.PublicKey().Bytes(); !bytes.Equal(got, unhex(t, v.PkRm)) {
			t.Errorf("public key = %x", got)
		}
		aead, err := hpke.NewAEAD(v.AEAD)
		if err != nil {
			t.Fatal(err)
		}
		recipient, err := hpke.NewRecipient(unhex(t, v.Enc), private, hpke.HKDFSHA256(), aead, unhex(t, v.Info))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range v.Exports {
			if got, err := recipient.Export(string(unhex(t, e.Context)), e.L); err != nil || !bytes.Equal(got, unhex(t, e.Value)) {
				t.Errorf("export = %x, %v", got, err)
			}
		}
		for _, e := range v.Encryptions {
			if got, err := recipient.Open(unhex(t, e.Aad), unhex(t, e.Ct)); err != nil || !bytes.Equal(got, unhex(t, e.Pt)) {
				t.Errorf("plaintext = %x, %v", got, err)
			}
		}
	}
}

// A section opened with the vector's key pair has the frame key that RFC 9180's key schedule, written out here, makes of
// the vector's shared secret.
func TestSectionByHand(t *testing.T) {
	var vectors []hpkeVector
	readJSON(t, "hpke-pq-647a.json", &vectors)
	v := vectors[0]

	// A maintainer whose tree key pair is the vector's.
	r := rowMap(t, testRow(t, crypt.Maintainer))
	r[13], r[15] = unhex(t, v.PkRm), unhex(t, v.SkRm)
	k, err := crypt.RowKeys(marshal(t, r))
	if err != nil {
		t.Fatal(err)
	}

	repository := k.Repository()
	info := append(append([]byte("varve v1 section"), repository[:]...), 2)
	// KEM 0x647a, KDF 1 (HKDF-SHA256), AEAD 0xffff (export only).
	suite := "HPKE\x64\x7a\x00\x01\xff\xff"
	extract := func(salt []byte, label string, ikm []byte) []byte {
		return try(hkdf.Extract(sha256.New, []byte("HPKE-v1"+suite+label+string(ikm)), salt))
	}
	expand := func(prk []byte, label string, context []byte) []byte {
		l := binary.BigEndian.AppendUint16(nil, 32)
		return try(hkdf.Expand(sha256.New, prk, string(l)+"HPKE-v1"+suite+label+string(context), 32))
	}
	context := append([]byte{0}, extract(nil, "psk_id_hash", nil)...)
	context = append(context, extract(nil, "info_hash", info)...)
	exporter := expand(extract(unhex(t, v.SharedSecret), "secret", nil), "exp", context)

	for aead := uint8(1); aead <= 2; aead++ {
		c, err := k.OpenSection(crypt.SectionTree, aead, unhex(t, v.Enc))
		if err != nil {
			t.Fatal(err)
		}
		key := expand(exporter, "sec", append([]byte("varve v1 section"), aead))
		want := frameCipher(t, aead, key)
		nonce := []byte("twelve bytes")
		if got := c.Seal(nil, nonce, []byte("frame"), []byte("aad")); !bytes.Equal(got, want.Seal(nil, nonce, []byte("frame"), []byte("aad"))) {
			t.Errorf("aead %d: another frame key than by hand", aead)
		}
	}
}
