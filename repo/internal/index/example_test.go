package index_test

import (
	"fmt"

	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/index"
)

// A session describes its packs in a segment; whoever opens the repository joins all segments.
func Example() {
	blob := pack.ID{1}
	payload := index.EncodeSegment(session, []index.Pack{packOf(7, frame(blob, pack.ID{2}))})

	b := index.NewBuilder(nil)
	if err := b.Add(payload, 1_800_000_000, false); err != nil {
		panic(err)
	}
	x := b.Index()
	for _, c := range x.Find(nil, blob, 1) {
		f := x.Frame(c.Frame)
		fmt.Printf("pack %x, bytes %d to %d; bytes %d to %d of its plaintext; born %d\n",
			x.Pack(f.Pack).ID[:2], f.Offset, f.Offset+f.Stored, c.Offset, c.Offset+c.Length, f.Birth)
	}
	fmt.Println(x.Has(blob, 1, 100), x.Has(blob, 1, 101))
	// Output:
	// pack 0700, bytes 0 to 50; bytes 0 to 100 of its plaintext; born 1800000000
	// true false
}

func ExampleSet() {
	var s index.Set
	fmt.Println(s.Add(pack.ID{1}), s.Add(pack.ID{1}), s.Has(pack.ID{1}), s.Len())
	// Output: true false true 1
}
