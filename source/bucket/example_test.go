package bucket_test

import (
	"fmt"

	"github.com/varvebackup/varve/source/bucket"
)

func ExamplePath() {
	for _, key := range []string{"uploads/cat.jpg", "uploads/", "a//b", "../x"} {
		path := bucket.Path(key, false)
		back, _, _ := bucket.Key(path)
		fmt.Printf("%-16s %-16s %v\n", key, path, back == key)
	}
	fmt.Println(bucket.Path("a", true)) // beside "a/b"
	// Output:
	// uploads/cat.jpg  uploads/cat.jpg  true
	// uploads/         uploads/%~.      true
	// a//b             a/%~./b          true
	// ../x             ..%~./x          true
	// a%~=
}
