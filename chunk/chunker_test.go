package chunk_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/varvebackup/varve/chunk"
)

// fataler is a *testing.T, *testing.B or *rapid.T.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func newChunker(t fataler, p chunk.Params, key *[32]byte) *chunk.Chunker {
	t.Helper()
	c, err := chunk.New(p, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rest returns copies of the chunks up to the first error.
func rest(c *chunk.Chunker) ([][]byte, error) {
	var chunks [][]byte
	for {
		b, err := c.Next()
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, bytes.Clone(b))
	}
}

func cut(t fataler, p chunk.Params, key *[32]byte, r io.Reader) [][]byte {
	t.Helper()
	c := newChunker(t, p, key)
	c.Reset(r)
	chunks, err := rest(c)
	if err != io.EOF {
		t.Fatal(err)
	}
	return chunks
}

func lengths(chunks [][]byte) []int {
	var l []int
	for _, c := range chunks {
		l = append(l, len(c))
	}
	return l
}

// hesitant returns nothing n times before every read of r.
type hesitant struct {
	r    io.Reader
	n, i int
}

func (h *hesitant) Read(p []byte) (int, error) {
	if h.i++; h.i%(h.n+1) != 0 {
		return 0, nil
	}
	return h.r.Read(p)
}

func TestReaders(t *testing.T) {
	t.Parallel()
	for _, pr := range profiles {
		t.Run(pr.name, func(t *testing.T) {
			data := random(4, 5*pr.p.Max/2)
			c := newChunker(t, pr.p, &testKey)
			c.Reset(bytes.NewReader(data))
			want, err := rest(c)
			if err != io.EOF {
				t.Fatal(err)
			}
			if !bytes.Equal(bytes.Join(want, nil), data) {
				t.Fatal("chunks do not join to the input")
			}
			for i, b := range want {
				if len(b) > pr.p.Max || len(b) < pr.p.Min && i < len(want)-1 {
					t.Fatalf("chunk %d of %d has %d bytes", i, len(want), len(b))
				}
			}
			for _, r := range []struct {
				name string
				r    io.Reader
			}{
				{"OneByteReader", iotest.OneByteReader(bytes.NewReader(data))},
				{"HalfReader", iotest.HalfReader(bytes.NewReader(data))},
				{"DataErrReader", iotest.DataErrReader(bytes.NewReader(data))},
				{"hesitant", &hesitant{r: bytes.NewReader(data), n: 99}},
				{"hesitant DataErrReader", &hesitant{r: iotest.DataErrReader(bytes.NewReader(data)), n: 1}},
			} {
				c.Reset(r.r) // also: tables and buffer serve again
				got, err := rest(c)
				if err != io.EOF || !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%s: cuts differ, or %v", r.name, err)
				}
			}
		})
	}
}

// erratic reads as many bytes as the steps say, and ends with or after data.
type erratic struct {
	data  []byte
	steps []int
	eager bool
}

func (e *erratic) Read(p []byte) (int, error) {
	n := min(len(p), len(e.data))
	if len(e.steps) > 0 {
		n = min(n, e.steps[0])
		e.steps = e.steps[1:]
	}
	copy(p, e.data[:n])
	e.data = e.data[n:]
	if len(e.data) == 0 && (e.eager || n == 0) {
		return n, io.EOF
	}
	return n, nil
}

// One Chunker, many streams one after the other, some of them left early: each
// is cut as a new Chunker cuts its bytes from memory, and changing a chunk
// changes no other.
func TestReadersRapid(t *testing.T) {
	t.Parallel()
	for _, pr := range profiles {
		if pr.p.Max > 128<<10 {
			continue
		}
		t.Run(pr.name, func(t *testing.T) {
			long := newChunker(t, pr.p, &testKey)
			noise := random(5, 1<<20)
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(0, 400<<10).Draw(t, "n")
				at := rapid.IntRange(0, len(noise)-n).Draw(t, "at")
				e := &erratic{
					data:  noise[at : at+n],
					steps: rapid.SliceOfN(rapid.IntRange(0, 1<<16), 0, 50).Draw(t, "steps"),
					eager: rapid.Bool().Draw(t, "eager"),
				}
				leave := rapid.IntRange(0, 300).Draw(t, "leave")

				want := cut(t, pr.p, &testKey, bytes.NewReader(e.data))
				long.Reset(e)
				for i := 0; i < leave; i++ {
					b, err := long.Next()
					if err == io.EOF && i == len(want) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if i >= len(want) || !bytes.Equal(b, want[i]) {
						t.Fatalf("chunk %d differs", i)
					}
					clear(b)
					_ = append(b, "more"...)
				}
			})
		})
	}
}

func TestEmpty(t *testing.T) {
	for _, pr := range profiles {
		if chunks := cut(t, pr.p, &testKey, bytes.NewReader(nil)); len(chunks) != 0 {
			t.Errorf("%s: %d chunks", pr.name, len(chunks))
		}
	}
}

func TestErrors(t *testing.T) {
	for _, pr := range profiles {
		if pr.p.Max != 128<<10 {
			continue
		}
		broken := errors.New("broken")
		data := random(6, 3*pr.p.Max)
		all := cut(t, pr.p, &testKey, bytes.NewReader(data))
		whole := len(all) - 1 // where the last chunk ends, only the stream's end tells
		then := func(err error) io.Reader {
			return io.MultiReader(bytes.NewReader(data), iotest.ErrReader(err))
		}
		for _, tt := range []struct {
			name string
			r    io.Reader
			want int // chunks before the error
			err  error
		}{
			{"end", bytes.NewReader(data), len(all), io.EOF},
			{"error", then(broken), whole, broken},
			{"error at once", iotest.ErrReader(broken), 0, broken},
			{"error with data", iotest.DataErrReader(then(broken)), whole, broken},
			{"cut short", then(io.ErrUnexpectedEOF), whole, io.ErrUnexpectedEOF},
			{"cut short at once", iotest.ErrReader(io.ErrUnexpectedEOF), 0, io.ErrUnexpectedEOF},
			{"no progress", io.MultiReader(bytes.NewReader(data), &hesitant{n: 100}), whole, io.ErrNoProgress},
			{"timeout", iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(data))), 0, iotest.ErrTimeout},
		} {
			t.Run(pr.name+" "+tt.name, func(t *testing.T) {
				c := newChunker(t, pr.p, &testKey)
				c.Reset(tt.r)
				got, err := rest(c)
				if err != tt.err {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if !slices.EqualFunc(got, all[:tt.want], bytes.Equal) {
					t.Errorf("%d chunks, want the first %d", len(got), tt.want)
				}
				for range 3 {
					if b, err := c.Next(); b != nil || err != tt.err {
						t.Errorf("then %d bytes and %v, want %v for ever", len(b), err, tt.err)
					}
				}
				c.Reset(bytes.NewReader(data))
				if got, err := rest(c); err != io.EOF || !slices.EqualFunc(got, all, bytes.Equal) {
					t.Errorf("after Reset: %d chunks and %v", len(got), err)
				}
			})
		}
	}
}

type lying int

func (l lying) Read([]byte) (int, error) { return int(l), nil }

func TestMisusePanics(t *testing.T) {
	for name, f := range map[string]func(){
		"no key":         func() { chunk.New(chunk.Fine, nil) },
		"no Reset":       func() { newChunker(t, chunk.Fine, &testKey).Next() },
		"negative count": func() { cut(t, chunk.Fine, &testKey, lying(-1)) },
		"huge count":     func() { cut(t, chunk.Fine, &testKey, lying(math.MaxInt)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if s, ok := recover().(string); !ok || !bytes.HasPrefix([]byte(s), []byte("chunk: ")) {
					t.Errorf("panic %v, want chunk: ...", s)
				}
			}()
			f()
		})
	}
}

// An edit moves the cuts beside it only.
func TestResynchronises(t *testing.T) {
	t.Parallel()
	for _, pr := range profiles {
		t.Run(pr.name, func(t *testing.T) {
			n := 24 * pr.p.Avg
			data := random(7, n)
			at := n / 4
			old := map[string]bool{}
			for _, b := range cut(t, pr.p, &testKey, bytes.NewReader(data)) {
				old[string(b)] = true
			}
			for _, edit := range []struct {
				name string
				data []byte
			}{
				{"insert", slices.Concat(data[:at], []byte("one more row\n"), data[at:])},
				{"delete", slices.Concat(data[:at], data[at+9:])},
				{"replace", slices.Concat(data[:at], []byte("another"), data[at+7:])},
			} {
				fresh := 0
				for _, b := range cut(t, pr.p, &testKey, bytes.NewReader(edit.data)) {
					if !old[string(b)] {
						fresh += len(b)
					}
				}
				if fresh == 0 || fresh > n/2 {
					t.Errorf("%s: %d of %d bytes are in new chunks, average chunk %d", edit.name, fresh, n, pr.p.Avg)
				}
			}
		})
	}
}

func TestKeysDiffer(t *testing.T) {
	t.Parallel()
	other := testKey
	other[31] ^= 0x80
	for _, pr := range profiles {
		data := random(8, 16*pr.p.Avg)
		ends := map[int]bool{}
		for key := range 2 {
			k := []*[32]byte{&testKey, &other}[key]
			end, common := 0, 0
			for _, l := range lengths(cut(t, pr.p, k, bytes.NewReader(data))) {
				end += l
				if ends[end] && end < len(data) {
					common++
				}
				ends[end] = true
			}
			if common > 1 { // one may be chance
				t.Errorf("%s: two keys share %d cuts", pr.name, common)
			}
		}
	}
}

func TestAllocs(t *testing.T) {
	for _, pr := range profiles {
		c := newChunker(t, pr.p, &testKey)
		r := bytes.NewReader(random(10, 4*pr.p.Max))
		allocs := testing.AllocsPerRun(3, func() {
			r.Seek(0, io.SeekStart)
			c.Reset(r)
			for {
				if _, err := c.Next(); err != nil {
					break
				}
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a stream", pr.name, allocs)
		}
	}
}

// A Chunker holds no more than Max and the stated read-ahead.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	for _, pr := range profiles {
		c := newChunker(t, pr.p, &testKey)
		r := bytes.NewReader(random(11, 4*pr.p.Max+1<<20))
		c.Reset(r)
		done := 0
		for {
			b, err := c.Next()
			if err != nil {
				break
			}
			if held := int(r.Size()) - r.Len() - done; held > pr.p.Max+256<<10 {
				t.Fatalf("%s: holds %d bytes", pr.name, held)
			}
			done += len(b)
		}
	}
}
