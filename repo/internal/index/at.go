package index

import "github.com/varvebackup/varve/pack"

// At returns the copy with an ordinal and the blob that it is one of.
func (x *Index) At(ordinal uint32) (pack.ID, Copy) {
	return x.recs[ordinal].id, x.copyAt(int(ordinal))
}
