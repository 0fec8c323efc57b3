package crypt

// What the tests need beyond the API: rows, which no caller ever sees, and the primitives under published vectors.

var (
	KEM    = kem
	Derive = derive
)

func KeyedHash(key [32]byte, p []byte) [32]byte { return sum(keyed(&key), p) }

// RowOf returns the encoded row that a slot of k would hold.
func RowOf(k *Keys) []byte { return encode(must(k.row(k.role))) }

// RecodeRow decodes a row and encodes it again.
func RecodeRow(b []byte) ([]byte, error) {
	r, err := parseRow("row", b)
	if err != nil {
		return nil, err
	}
	return encode(r), nil
}

// RowKeys returns the keys of an encoded row.
func RowKeys(b []byte) (*Keys, error) {
	r, err := parseRow("row", b)
	if err != nil {
		return nil, err
	}
	return r.keys()
}

// Encode returns the object of a slot.
func (s *Slot) Encode() []byte {
	return AppendHash(append(append([]byte(slotMagic), version), encode(s.content)...))
}
