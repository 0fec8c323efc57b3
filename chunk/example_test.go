package chunk_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"slices"

	"github.com/varvebackup/varve/chunk"
)

func Example() {
	key := [32]byte{1, 2, 3} // the repository's secret chunking key
	c, err := chunk.New(chunk.Fine, &key)
	if err != nil {
		log.Fatal(err)
	}

	yesterday := counting(500_000)
	today := slices.Concat(yesterday[:200_000], []byte("a new row\n"), yesterday[200_000:])

	seen := map[string]bool{}
	for _, dump := range [][]byte{yesterday, today} {
		all, fresh := 0, 0
		c.Reset(bytes.NewReader(dump))
		for {
			b, err := c.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				log.Fatal(err)
			}
			all++
			if !seen[string(b)] {
				seen[string(b)] = true
				fresh++
			}
		}
		fmt.Printf("%d chunks, %d new\n", all, fresh)
	}
	// Output:
	// 26 chunks, 26 new
	// 26 chunks, 1 new
}

func ExampleParams_Validate() {
	p := chunk.Fine
	p.Algorithm = chunk.Rabin
	fmt.Println(p.Validate())
	p.Avg = p.Min + 16<<10
	fmt.Println(p.Validate())
	// Output:
	// chunk: rabin needs a power of two as avg - min, not 16384 - 4096
	// <nil>
}
