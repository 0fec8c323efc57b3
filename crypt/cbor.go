package crypt

import (
	"bytes"
	"errors"

	"github.com/fxamacker/cbor/v2"
)

// The modes are immutable once made and safe for concurrent use.
var (
	cborEncoder = must(cbor.CoreDetEncOptions().EncMode())

	cborDecoder = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       32,
	}.DecMode())

	// cborPeeker ignores unknown map keys: for finding the version of a row from the future.
	cborPeeker = must(cbor.DecOptions{
		IndefLength:     cbor.IndefLengthForbidden,
		MaxNestedLevels: 4,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constants above, not input
	}
	return v
}

func encode(v any) []byte { return must(cborEncoder.Marshal(v)) }

// decode fills v, a pointer to a zero value, and refuses bytes that encode(v) would not have made. The comparison is
// what makes it strict: the decoder alone takes long forms, nulls and arrays of numbers for byte strings.
func decode(b []byte, v any) error {
	if err := cborDecoder.Unmarshal(b, v); err != nil {
		return err
	}
	if !bytes.Equal(encode(v), b) {
		return errors.New("not deterministic CBOR")
	}
	return nil
}
