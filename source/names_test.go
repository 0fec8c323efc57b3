package source_test

import (
	"testing"

	"github.com/varvebackup/varve/source"
)

// A name that the system lists twice is one entry, of the kind that was said last.
func TestNamesTwice(t *testing.T) {
	got, kinds := source.SortNames(
		[]string{"image-2", "image-1", "image-1-and-a-long-end", "image-1", "image-1-and-a-long-end2"},
		[]string{"image-2", "image-0", "image-1-and-a-long-end"},
	)
	equal(t, got, []string{"image-0", "image-1", "image-1-and-a-long-end", "image-1-and-a-long-end2", "image-2"})
	if string(kinds) != "\x04\x08\x04\x08\x04" {
		t.Error(kinds)
	}
	if got, _ := source.SortNames(nil, nil); got != nil {
		t.Error(got)
	}
	got, _ = source.SortNames([]string{"a", "a"}, []string{"a"})
	equal(t, got, []string{"a"})
}
