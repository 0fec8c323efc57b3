package varve_test

// The speed of the whole, each figure beside a floor that is measured in the same run, alternating with it, so that a noisy or a slow machine changes both:
//
//	go test -run - -bench . .                  everything once in about a minute
//	go test -run - -bench . -benchtime 10x .   figures to rely on: medians
//
// Ratios are named after what they compare with. Files are written below TMPDIR; with that on a memory disk, what is measured is this program and not the disk.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/pgtest"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// try returns v; an error is a panic.
func try[T any](v T, err error) T {
	must(err)
	return v
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// series is the times that a piece of work took, a round each.
type series []float64

func (s *series) time(f func()) {
	start := time.Now()
	f()
	*s = append(*s, time.Since(start).Seconds())
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return s[len(s)/2]
}

// per returns the median over the rounds of a/b.
func per(a, b series) float64 {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	return median(q)
}

// sum adds series round by round.
func sum(of ...series) series {
	total := slices.Clone(of[0])
	for _, s := range of[1:] {
		for i := range s {
			total[i] += s[i]
		}
	}
	return total
}

// over divides a series.
func (s series) over(n int) series {
	s = slices.Clone(s)
	for i := range s {
		s[i] /= float64(n)
	}
	return s
}

// speed reports the median MB/s instead of a time that would include the floor's.
func speed(b *testing.B, s series, size int64) {
	b.ReportMetric(float64(size)/1e6/median(s), "MB/s")
	b.ReportMetric(0, "ns/op")
}

// random returns the same incompressible bytes each time.
func random(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

var profiles = []struct {
	name string
	p    chunk.Params
}{{"Fine", chunk.Fine}, {"Coarse", chunk.Coarse}}

// cut calls f with each chunk of a stream. The chunk is valid during the call only.
func cut(c *chunk.Chunker, r io.Reader, f func(p []byte)) {
	c.Reset(r)
	for {
		p, err := c.Next()
		if err == io.EOF {
			return
		}
		must(err)
		f(p)
	}
}

// BenchmarkChunking cuts as repositories do, and as restic does with the same bounds: x-restic is how many times as fast.
func BenchmarkChunking(b *testing.B) {
	data := random(64 << 20)
	pol := try(chunker.DerivePolynomial(bytes.NewReader(random(1 << 16))))
	for _, pr := range profiles {
		b.Run(pr.name, func(b *testing.B) {
			ours := try(chunk.New(pr.p, &[32]byte{1}))
			theirs, buf := chunker.New(nil, pol), make([]byte, pr.p.Max)
			var gear, restic series
			for b.Loop() {
				gear.time(func() { cut(ours, bytes.NewReader(data), func([]byte) {}) })
				restic.time(func() {
					theirs.Reset(bytes.NewReader(data), pol, chunker.WithBoundaries(uint(pr.p.Min), uint(pr.p.Max)),
						chunker.WithAverageBits(bits.Len(uint(pr.p.Avg-pr.p.Min))))
					for {
						if _, err := theirs.Next(buf); err == io.EOF {
							break
						} else if err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			speed(b, gear, int64(len(data)))
			b.ReportMetric(per(restic, gear), "x-restic")
		})
	}
}

// BenchmarkNaming names pieces of the profiles' average sizes. x-hash is its speed in units of one unkeyed BLAKE3 over everything.
func BenchmarkNaming(b *testing.B) {
	data := random(64 << 20)
	namer := try(crypt.NewKeys()).Namer()
	for _, pr := range profiles {
		b.Run(pr.name, func(b *testing.B) {
			var name, hash series
			for b.Loop() {
				name.time(func() {
					for p := range slices.Chunk(data, pr.p.Avg) {
						namer.Content(p)
					}
				})
				hash.time(func() { blake3.Sum256(data) })
			}
			speed(b, name, int64(len(data)))
			b.ReportMetric(per(hash, name), "x-hash")
		})
	}
}

// BenchmarkCutAndName does both on one core. x-alone is the time that it takes in units of what both take one after the other.
func BenchmarkCutAndName(b *testing.B) {
	data := random(64 << 20)
	namer := try(crypt.NewKeys()).Namer()
	for _, pr := range profiles {
		b.Run(pr.name, func(b *testing.B) {
			c := try(chunk.New(pr.p, &[32]byte{1}))
			var both, cutting, naming series
			for b.Loop() {
				both.time(func() { cut(c, bytes.NewReader(data), func(p []byte) { namer.Content(p) }) })
				cutting.time(func() { cut(c, bytes.NewReader(data), func([]byte) {}) })
				naming.time(func() {
					for p := range slices.Chunk(data, pr.p.Avg) {
						namer.Content(p)
					}
				})
			}
			speed(b, both, int64(len(data)))
			b.ReportMetric(per(both, sum(cutting, naming)), "x-alone")
		})
	}
}

// newRepo makes a repository with a cache in a folder that ends with the benchmark.
func newRepo(b testing.TB, root string) *repo.Repo {
	key := try(crypt.NewKey())
	store := try(dir.Create(filepath.Join(root, "repository")))
	r, _, err := repo.Create(b.Context(), store, key, &repo.Options{Cache: filepath.Join(root, "cache")})
	must(err)
	b.Cleanup(func() { must(r.Close()) })
	return r
}

// stream is data as a dump that is read once.
func stream(data []byte) source.Join {
	return source.Join{"db.sql": source.Stream("db.sql", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	})}
}

// write puts data as packs are put.
func write(b *testing.B, store backend.Backend, data []byte) {
	for p := range slices.Chunk(data, 16<<20) {
		must(backend.PutBytes(b.Context(), store, fmt.Sprintf("packs/%x", blake3.Sum256(p[:64])), p, &backend.PutOptions{IfAbsent: true}))
	}
}

// BenchmarkFirstBackup stores 256 MB that no compression makes smaller, as one stream and as large files. x-ideal is its speed in units of what all cores would reach
// if cutting, naming, sealing and writing, as one core does them, were shared out without loss.
func BenchmarkFirstBackup(b *testing.B) {
	data := random(256 << 20)
	folder := b.TempDir()
	for i, p := range slices.Collect(slices.Chunk(data, len(data)/4)) {
		must(os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), p, 0o600))
	}
	files := try(source.Dir(folder, nil))
	defer files.Close()
	for _, bb := range []struct {
		name string
		p    chunk.Params
		fsys source.Join
	}{
		{"Stream", chunk.Fine, stream(data)},
		{"Files", chunk.Coarse, source.Join{"files": files}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			keys := try(crypt.NewKeys())
			namer, c := keys.Namer(), try(chunk.New(bb.p, &[32]byte{1}))
			_, _, aead, err := keys.NewSection(crypt.SectionContent)
			must(err)
			var backup, cutting, naming, sealing, writing series
			for b.Loop() {
				root := try(os.MkdirTemp(b.TempDir(), ""))
				r := newRepo(b, root)
				backup.time(func() {
					s := try(r.Backup(b.Context(), "shop", bb.fsys, nil))
					if s.Stats.Stored < int64(len(data)) {
						b.Fatalf("only %d bytes were stored", s.Stats.Stored)
					}
				})
				cutting.time(func() { cut(c, bytes.NewReader(data), func([]byte) {}) })
				naming.time(func() {
					for p := range slices.Chunk(data, bb.p.Avg) {
						namer.Content(p)
					}
				})
				out, nonce, counter := make([]byte, 0, 1<<20), make([]byte, 12), 0
				sealing.time(func() {
					for p := range slices.Chunk(data, 512<<10) {
						counter++
						nonce[0], nonce[1] = byte(counter), byte(counter>>8)
						aead.Seal(out, nonce, p, nil)
					}
				})
				store := try(dir.Create(filepath.Join(root, "floor")))
				writing.time(func() { write(b, store, data) })
				must(os.RemoveAll(root))
			}
			speed(b, backup, int64(len(data)))
			b.ReportMetric(per(sum(cutting, naming, sealing, writing).over(runtime.GOMAXPROCS(0)), backup), "x-ideal")
			b.ReportMetric(float64(len(data))/1e6/median(cutting), "cut-MB/s")
			b.ReportMetric(float64(len(data))/1e6/median(naming), "name-MB/s")
			b.ReportMetric(float64(len(data))/1e6/median(sealing), "seal-MB/s")
			b.ReportMetric(float64(len(data))/1e6/median(writing), "write-MB/s")
		})
	}
}

// BenchmarkUnchangedBackup backs up 10,000 files (or VARVE_BENCH_FILES) of which none has changed. x-find is the time that it takes in units of find -printf over the
// same tree.
func BenchmarkUnchangedBackup(b *testing.B) {
	files := 10_000
	if s := os.Getenv("VARVE_BENCH_FILES"); s != "" {
		_, err := fmt.Sscan(s, &files)
		must(err)
	}
	root := b.TempDir()
	tree := filepath.Join(root, "tree")
	for i := range files {
		folder := filepath.Join(tree, fmt.Sprintf("%03d", i/100%1000))
		if i%100 == 0 {
			must(os.MkdirAll(folder, 0o755))
		}
		must(os.WriteFile(filepath.Join(folder, fmt.Sprintf("image-%07d.jpeg", i)), []byte{byte(i), byte(i >> 8), byte(i >> 16)}, 0o644))
	}
	r := newRepo(b, root)
	src := try(source.Dir(tree, nil))
	defer src.Close()
	backup := func() *repo.Snapshot {
		return try(r.Backup(b.Context(), "shop", src, nil))
	}
	// Files that changed in the two seconds before a backup are read again by the next.
	time.Sleep(2100 * time.Millisecond)
	backup()
	var ours, find series
	for b.Loop() {
		ours.time(func() {
			if s := backup(); s.Stats.Read != 0 || s.Stats.Files != int64(files) {
				b.Fatalf("not an unchanged tree: %+v", s.Stats)
			}
		})
		if runtime.GOOS == "linux" {
			find.time(func() { must(exec.Command("find", tree, "-printf", `%s %T@\n`).Run()) })
		}
	}
	b.ReportMetric(median(ours)*1e9/float64(files), "ns/file")
	if find != nil {
		b.ReportMetric(per(ours, find), "x-find")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSecondBackup backs up a dump of 64 MB when that of the day before is there. x-ideal is its speed in units of what all cores would reach if cutting and naming
// all of it, and compressing, sealing and writing what is new, as one core does them, were shared out without loss.
func BenchmarkSecondBackup(b *testing.B) {
	first, second := sqlPair(64_000_000)
	var backup, working, writing series
	var stored int64
	for b.Loop() {
		root := try(os.MkdirTemp(b.TempDir(), ""))
		r := newRepo(b, root)
		try(r.Backup(b.Context(), "shop", stream(first), nil))
		backup.time(func() {
			stored = try(r.Backup(b.Context(), "shop", stream(second), nil)).Stats.Stored
		})
		s := newSink(chunk.Fine, 512<<10)
		s.store(first)
		working.time(func() { s.store(second) })
		store, packs := try(dir.Create(filepath.Join(root, "floor"))), random(int(stored))
		writing.time(func() { write(b, store, packs) })
		must(os.RemoveAll(root))
	}
	speed(b, backup, int64(len(second)))
	b.ReportMetric(per(sum(working, writing).over(runtime.GOMAXPROCS(0)), backup), "x-ideal")
	b.ReportMetric(float64(len(second))/1e6/median(working), "work-MB/s")
	b.ReportMetric(float64(stored), "stored-B")
}

// BenchmarkRestore restores 160 MB: a large file and 2,000 small ones. x-cp is its speed in units of that of cp -r.
func BenchmarkRestore(b *testing.B) {
	root := b.TempDir()
	tree := filepath.Join(root, "tree")
	data := random(128 << 20)
	must(os.MkdirAll(tree, 0o755))
	must(os.WriteFile(filepath.Join(tree, "large"), data, 0o644))
	for i := range 2000 {
		folder := filepath.Join(tree, fmt.Sprintf("%02d", i/100))
		must(os.MkdirAll(folder, 0o755))
		must(os.WriteFile(filepath.Join(folder, fmt.Sprintf("%04d.jpeg", i)), data[i*1000:][:16<<10], 0o644))
	}
	r := newRepo(b, root)
	src := try(source.Dir(tree, nil))
	defer src.Close()
	s := try(r.Backup(b.Context(), "shop", src, nil))
	var restore, cp series
	for b.Loop() {
		out := filepath.Join(root, "out")
		restore.time(func() { try(r.Restore(b.Context(), s, out, nil)) })
		must(os.RemoveAll(out))
		if runtime.GOOS != "windows" {
			cp.time(func() { must(exec.Command("cp", "-r", tree, out).Run()) })
			must(os.RemoveAll(out))
		}
	}
	speed(b, restore, s.Stats.Bytes)
	if cp != nil {
		b.ReportMetric(per(cp, restore), "x-cp")
	}
}

// sqlPair returns a dump of about size bytes and that of the next day: of its rows one in a hundred has changed, and so stands elsewhere in its table, and as many are
// new.
func sqlPair(size int) (first, second []byte) {
	words := make([]string, 2000)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range words {
		words[i] = fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))[:2+r.IntN(8)]
	}
	row := func(id, version int) string {
		r := rand.New(rand.NewPCG(uint64(id), uint64(version)))
		var b strings.Builder
		fmt.Fprintf(&b, "%d\t2026-11-%02d %02d:%02d:%02d+00\t%d\t%x", id, 1+id%28, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(100_000), r.Uint64())
		for range 14 {
			f := r.Float64()
			b.WriteByte(" \t"[r.IntN(8)/7])
			b.WriteString(words[int(2000*f*f*f)])
		}
		b.WriteByte('\n')
		return b.String()
	}
	var one, two bytes.Buffer
	head, foot := "SET statement_timeout = 0;\nCOPY public.events (id, at, customer_id, session, message) FROM stdin;\n", "\\.\n"
	one.WriteString(head)
	two.WriteString(head)
	var moved []string // rows that have left their places and not found another one yet
	id, fresh := 0, 0
	for ; one.Len() < size; id++ {
		s := row(id, 1)
		one.WriteString(s)
		if r.IntN(100) > 0 {
			two.WriteString(s)
			continue
		}
		fresh++
		if n := len(moved); n > 0 && r.IntN(2) == 0 {
			two.WriteString(moved[n-1])
			moved = moved[:n-1]
		}
		moved = append(moved, row(id, 2))
	}
	for _, s := range moved {
		two.WriteString(s)
	}
	for i := range fresh {
		two.WriteString(row(id+i, 1))
	}
	one.WriteString(foot)
	two.WriteString(foot)
	return one.Bytes(), two.Bytes()
}

// BenchmarkDay2 logs a table of what is stored of a dump, and of that of the day after, by the size of chunks: with frames of 512 KiB, and with each chunk compressed and
// sealed alone. Everything counts that is in packs, their directories included. The dumps are those that VARVE_BENCH_DUMPS names ("first.sql,second.sql"), else those of
// a PostgreSQL if there is one (of more than 300 MB with VARVE_TEST_LONG=1), else made up. To see the table:
//
//	go test -run - -bench Day2 -benchtime 1x -v .
func BenchmarkDay2(b *testing.B) {
	origin, first, second := dumps(b)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%s of %.1f MB, the day after %.1f MB; MB stored:\n\n", origin, mb(len(first)), mb(len(second)))
	table.WriteString("| chunks of | measured | day 1, frames | day 2, frames | day 1, alone | day 2, alone |\n|---|---|---|---|---|---|\n")
	for b.Loop() {
		for _, kib := range []int{1024, 256, 64, 16, 8, 4} {
			p := chunk.Params{Algorithm: chunk.Gear, Min: kib << 10 / 4, Avg: kib << 10, Max: 8 * kib << 10}
			var stored [2][2]int // frames or alone, day 1 or 2
			var chunks int
			for i, frame := range []int{512 << 10, 0} {
				s := newSink(p, frame)
				stored[i][0] = s.store(first)
				chunks = s.chunks
				stored[i][1] = s.store(second)
			}
			fmt.Fprintf(&table, "| %d KiB | %.1f KiB | %.1f | %.2f | %.1f | %.2f |\n", kib, float64(len(first))/1024/float64(chunks),
				mb(stored[0][0]), mb(stored[0][1]), mb(stored[1][0]), mb(stored[1][1]))
			if kib == 16 {
				b.ReportMetric(float64(stored[0][1]), "stored-B")
				b.ReportMetric(float64(stored[1][1])/float64(stored[0][1]), "alone/frames")
			}
		}
	}
	if patch, whole, ok := zstdPatch(b, first, second); ok {
		fmt.Fprintf(&table, "| zstd -1 of the whole | | %.1f | | | |\n| zstd --patch-from | | | %.2f | | |\n", mb(whole), mb(patch))
	}
	b.ReportMetric(0, "ns/op")
	b.Log(table.String())
}

func mb(n int) float64 { return float64(n) / 1e6 }

// dumps returns what BenchmarkDay2 works on and where it is from.
func dumps(b *testing.B) (origin string, first, second []byte) {
	if one, two, ok := strings.Cut(os.Getenv("VARVE_BENCH_DUMPS"), ","); ok {
		return "A dump", try(os.ReadFile(one)), try(os.ReadFile(two))
	}
	if !pgtest.Installed() {
		first, second = sqlPair(20_000_000)
		return "A made-up dump", first, second
	}
	pg := pgtest.Start(b)
	dump := func() []byte {
		cmd := exec.Command(pg.Dump("shop")[0], pg.Dump("shop")[1:]...)
		cmd.Env = append(os.Environ(), pg.Env...)
		return try(cmd.Output())
	}
	pg.Shop("shop", pgtest.Orders())
	first = dump()
	pg.Day("shop", 1)
	return "A pg_dump", first, dump()
}

// zstdPatch returns the sizes of the second dump as a patch of the first, and of the first alone, if there is a zstd program.
func zstdPatch(b *testing.B, first, second []byte) (patch, whole int, ok bool) {
	zstd, err := exec.LookPath("zstd")
	if err != nil {
		return 0, 0, false
	}
	tmp := b.TempDir()
	one, two := filepath.Join(tmp, "1.sql"), filepath.Join(tmp, "2.sql")
	must(os.WriteFile(one, first, 0o600))
	must(os.WriteFile(two, second, 0o600))
	return len(try(exec.Command(zstd, "-q", "-c", "--long=31", "--patch-from="+one, two).Output())), len(try(exec.Command(zstd, "-q", "-c", "-1", one).Output())), true
}

// sink stores dumps as a repository would, but keeps nothing: it counts.
type sink struct {
	keys    *crypt.Keys
	section *pack.SectionKey
	chunker *chunk.Chunker
	namer   *crypt.Namer
	encoder *pack.Encoder
	frame   int // bytes of plaintext that a frame has at most, unless a chunk is larger
	known   map[pack.ID]bool

	chunks int // of the last dump
	stored int
	packs  *pack.Writer
	buf    []byte // of packs
	plain  []byte // of the frame that is being gathered
	blobs  []pack.Blob
	sealed []byte
}

func newSink(p chunk.Params, frame int) *sink {
	k := try(crypt.NewKeys())
	return &sink{keys: k, section: try(pack.NewSectionKey(k, crypt.SectionContent)), chunker: try(chunk.New(p, &[32]byte{1})), namer: k.Namer(),
		encoder: pack.NewEncoder(), frame: frame, known: map[pack.ID]bool{}}
}

// store stores a dump and returns how many bytes that took.
func (s *sink) store(dump []byte) int {
	s.chunks, s.stored = 0, 0
	cut(s.chunker, bytes.NewReader(dump), func(p []byte) {
		s.chunks++
		id := pack.ID(s.namer.Content(p))
		if s.known[id] {
			return
		}
		s.known[id] = true
		if len(s.plain)+len(p) > s.frame {
			s.flush()
		}
		s.plain = append(s.plain, p...)
		s.blobs = append(s.blobs, pack.Blob{ID: id, Length: uint32(len(p))})
	})
	s.flush()
	s.close()
	return s.stored
}

// flush makes a frame of what was gathered.
func (s *sink) flush() {
	if len(s.blobs) == 0 {
		return
	}
	var f pack.Frame
	f, s.sealed = s.encoder.Encode(s.sealed, s.section, s.plain)
	f.Blobs = s.blobs
	if s.packs != nil && s.packs.SizeWith(&f) > 16<<20 {
		s.close()
	}
	if s.packs == nil {
		s.packs = pack.NewWriter(s.keys, s.buf)
	}
	must(s.packs.Add(s.section.Section, f, s.sealed))
	s.plain, s.blobs = s.plain[:0], nil // the pack keeps f.Blobs
}

func (s *sink) close() {
	if s.packs != nil {
		_, object, _, err := s.packs.Close()
		must(err)
		s.stored += len(object)
		s.buf = object
		s.packs = nil
	}
}
