// Package chunk decides where a stream is cut. Cuts follow content, so that an
// insertion moves the few cuts beside it and no other, and equal data far apart
// becomes equal chunks.
//
// Most callers take a profile, [Fine] for streams or [Coarse] for large files,
// make one [Chunker] with [New], and then for each stream call [Chunker.Reset]
// and [Chunker.Next] until [io.EOF].
//
// Where a chunk ends depends on its bytes, the key and the [Params], on nothing
// else: not on how a reader hands out the bytes, nor on what came before the
// chunk. This comment is the specification for format version 1; golden vectors
// are in testdata.
//
// # Common rules
//
// A chunk of length p ends at the least p with Min <= p < Max at which the
// algorithm cuts, else at Max, else at the end of the stream. Each decision
// looks at the window only: the 64 bytes b[p-64] ... b[p-1] of the chunk.
// Derive(s) is BLAKE3 in derive-key mode with context s and the 32-byte
// chunking key as material, read as an endless stream. Integers in it are
// little-endian.
//
// # Gear
//
// T[0] ... T[255] are the first 256 uint64 of Derive("varve v1 chunk gear table"),
// K the first 32 bytes of Derive("varve v1 chunk gear election"). Then
//
//	h(p)      = sum over i = 0 ... 63 of T[b[p-1-i]] << i   (mod 2^64)
//	nominated   if h(p) < 2^53, that is, its top 11 bits are zero
//	v(p)      = uint64 of the first 8 bytes of BLAKE3 keyed with K, of the window
//	elected     if v(p) < floor(2^64 * 2^11 / (Avg-Min))
//
// and the algorithm cuts at p if p is nominated and elected. Rolling one byte
// is h = h<<1 + T[b], as 64 shifts drop what left the window.
//
// Rolling hashes alone give their secrets away through the lengths of chunks
// (eprint 2025/532, 2025/558). Here they can give away T at most: which nominees
// are elected is a PRF's choice, made once in some 2048 bytes. So who knows T and
// a file cannot compute its cuts, nor the lengths of its chunks; but as every cut
// is a nominee, he can rule out files that have none at a cut he sees. Keep
// lengths secret where that matters; chunking does not replace that.
//
// # Rabin
//
// As in github.com/restic/chunker v0.5.0: the Rabin fingerprint, which is the
// window, read as a big-endian number whose bits are the coefficients of a
// polynomial over GF(2), modulo an irreducible polynomial P of degree 53. It
// cuts where the lowest log2(Avg-Min) bits of that are zero, hence at Min, at
// once, in a run of zero bytes.
// P is the first irreducible one among the uint64 of
// Derive("varve v1 chunk rabin polynomial"), each with bits 54 to 63 cleared,
// bits 53 and 0 set. It has gear's purpose without the election.
package chunk
