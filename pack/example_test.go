package pack_test

import (
	"bytes"
	"fmt"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
)

// A writer makes a pack that it cannot read itself; the owner reads it.
func Example() {
	owner, err := crypt.NewKeys()
	if err != nil {
		panic(err)
	}
	writer, err := owner.Restrict(crypt.Writer)
	if err != nil {
		panic(err)
	}

	plain := []byte("one layer a day, one layer a day")
	key, err := pack.NewSectionKey(writer, crypt.SectionContent)
	if err != nil {
		panic(err)
	}
	f, sealed := pack.NewEncoder().Encode(nil, key, plain)
	f.Blobs = []pack.Blob{{ID: writer.Namer().Content(plain), Length: uint32(len(plain))}}
	w := pack.NewWriter(writer, nil)
	if err := w.Add(key.Section, f, sealed); err != nil {
		panic(err)
	}
	_, object, _, err := w.Close()
	if err != nil {
		panic(err)
	}

	dir, err := pack.ReadDirectory(owner, bytes.NewReader(object), int64(len(object)))
	if err != nil {
		panic(err)
	}
	d := pack.NewDecoder()
	defer d.Close()
	for _, f := range dir.Frames {
		key, err := pack.OpenSectionKey(owner, dir.Sections[f.Section])
		if err != nil {
			panic(err)
		}
		plain, err := d.Decode(nil, key, &f, object[f.Offset:f.Offset+f.Stored], nil)
		fmt.Printf("%d blob, %d bytes: %s, %v\n", len(f.Blobs), f.Plain, plain, err)
	}
	// Output: 1 blob, 32 bytes: one layer a day, one layer a day, <nil>
}
