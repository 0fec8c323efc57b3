package bucket

// SetPage makes pages of the listing small.
func SetPage(f *FS, keys int) { f.pageKeys = keys }

// Encode writes a segment of a key.
func Encode(segment string) string { return encode(segment) }
