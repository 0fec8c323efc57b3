package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// long tells whether the tests that take minutes are wanted: VARVE_TEST_LONG=1.
func long() bool { return os.Getenv("VARVE_TEST_LONG") != "" }

func crashMust(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// crashRandom returns n bytes of a seeded stream.
func crashRandom(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

// crashText returns n bytes that compress.
func crashText(seed uint64, n int) []byte {
	words := strings.Fields("the layer of sediment that one year leaves on a lake bed silt clay summer winter thaw ice core count thick thin dark pale grain shore")
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(append(b, words[r.IntN(len(words))]...), ' ')
		if r.IntN(12) == 0 {
			b = fmt.Appendf(b, "%d\n", r.Uint32())
		}
	}
	return b[:n]
}

// crashPlant writes files below root, about size bytes in all, and returns how many. Names depend on the seed only, so another seed adds files.
func crashPlant(t testing.TB, root string, seed uint64, size int) (total int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 2))
	for i := 0; size > 0; i++ {
		n := 1 + r.IntN(40<<10)
		switch r.IntN(20) {
		case 0:
			n = 4 << 20
		case 1, 2, 3:
			n = 600 << 10
		}
		n = min(n, size)
		data := crashRandom(seed<<20+uint64(i), n)
		if r.IntN(3) == 0 {
			data = crashText(seed<<20+uint64(i), n)
		}
		path := filepath.Join(root, fmt.Sprintf("%d", r.IntN(20)), fmt.Sprintf("%d-%d", seed, i))
		crashMust(t, os.MkdirAll(filepath.Dir(path), 0o755))
		crashMust(t, os.WriteFile(path, data, 0o644))
		size -= n
		total += int64(n)
	}
	return total
}

// crashDigest returns a hash of every regular file of fsys, by path.
func crashDigest(t testing.TB, fsys fs.FS) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	crashMust(t, fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		all[path] = binary.LittleEndian.Uint64(h.Sum(nil))
		return err
	}))
	return all
}

func crashSame(t testing.TB, what string, got, want map[string]uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d", what, len(got), len(want))
	}
	for path, w := range want {
		if g, ok := got[path]; !ok || g != w {
			t.Errorf("%s: %s is missing or different", what, path)
			return
		}
	}
}

// crashSnapshotDigest is crashDigest of a snapshot.
func crashSnapshotDigest(t testing.TB, r *repo.Repo, s *repo.Snapshot) map[string]uint64 {
	t.Helper()
	fsys, err := r.FS(t.Context(), s)
	crashMust(t, err)
	return crashDigest(t, fsys)
}

func crashSound(t testing.TB, r *repo.Repo, data bool) *repo.CheckReport {
	t.Helper()
	rep, err := r.Check(context.Background(), &repo.CheckOptions{ReadData: data})
	crashMust(t, err)
	if !rep.Sound() {
		for _, f := range rep.Findings {
			if !f.Harmless {
				t.Errorf("check: %s: %v (%v)", f.Object, f.Err, f.Paths)
			}
		}
		t.FailNow()
	}
	return rep
}

// crashRepo makes a repository.
func crashRepo(t testing.TB, b backend.Backend, o *repo.Options) (*repo.Repo, crypt.RawKey) {
	t.Helper()
	key, err := crypt.NewKey()
	crashMust(t, err)
	r, _, err := repo.Create(context.Background(), b, key, o)
	crashMust(t, err)
	return r, key
}

func crashOpen(t testing.TB, b backend.Backend, key crypt.RawKey, o *repo.Options) *repo.Repo {
	t.Helper()
	r, err := repo.Open(context.Background(), b, key, o)
	crashMust(t, err)
	return r
}

func crashSnapshots(t testing.TB, r *repo.Repo, series string) (all []*repo.Snapshot) {
	t.Helper()
	for s, err := range r.Snapshots(context.Background(), repo.Filter{Series: series}) {
		crashMust(t, err)
		all = append(all, s)
	}
	return all
}

// crashNames returns the objects below a prefix, sorted.
func crashNames(t testing.TB, b backend.Backend, prefix string) (names []string) {
	t.Helper()
	for i, err := range b.List(context.Background(), prefix) {
		crashMust(t, err)
		names = append(names, i.Name)
	}
	slices.Sort(names)
	return names
}

// crashCopy returns a store in memory with the objects of another.
func crashCopy(t testing.TB, b backend.Backend) *mem.Mem {
	t.Helper()
	m := mem.New(nil)
	for _, name := range crashNames(t, b, "") {
		data, err := b.Get(context.Background(), name, 0, -1, nil)
		crashMust(t, err)
		crashMust(t, backend.PutBytes(context.Background(), m, name, data, nil))
	}
	return m
}

// crashEnds returns the outcome that each ended session's object states, in order of ids.
func crashEnds(t testing.TB, b backend.Backend) (outcomes []string) {
	t.Helper()
	for _, name := range crashNames(t, b, "sessions/") {
		if !strings.HasSuffix(name, ".end") {
			continue
		}
		data, err := b.Get(context.Background(), name, 0, -1, nil)
		crashMust(t, err)
		crashMust(t, crypt.Verify(name, data))
		lines := bytes.Split(data, []byte("\n"))
		if len(lines) < 3 || string(lines[0]) != "varve end" || string(lines[1]) != name {
			t.Fatalf("%s holds %q", name, data)
		}
		outcomes = append(outcomes, string(lines[2]))
	}
	return outcomes
}

// A crashLog records the calls that reach a store, in the order in which they began.
type crashLog struct {
	mu    sync.Mutex // guards calls
	calls []string   // "put packs/..", "list gc/"
}

func (l *crashLog) Before(_ context.Context, op backendtest.Op, name string) error {
	if op != backendtest.Entry {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.calls = append(l.calls, string(op)+" "+name)
	}
	return nil
}

// crashFS changes what opening a file of another FS gives.
type crashFS struct {
	fs.FS
	open func(path string) (fs.File, error) // nil, nil: as it is

	mu     sync.Mutex // guards opened
	opened []string   // regular files
}

func (c *crashFS) Open(path string) (fs.File, error) {
	if c.open != nil {
		if f, err := c.open(path); f != nil || err != nil {
			return f, err
		}
	}
	if info, err := fs.Lstat(c.FS, path); err == nil && info.Mode().IsRegular() {
		c.mu.Lock()
		c.opened = append(c.opened, path)
		c.mu.Unlock()
	}
	return c.FS.Open(path)
}

func (c *crashFS) Lstat(path string) (fs.FileInfo, error)     { return fs.Lstat(c.FS, path) }
func (c *crashFS) ReadLink(path string) (string, error)       { return fs.ReadLink(c.FS, path) }
func (c *crashFS) ReadDir(path string) ([]fs.DirEntry, error) { return fs.ReadDir(c.FS, path) }

// reads returns the files that were opened since the last call, sorted.
func (c *crashFS) reads() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.opened
	c.opened = nil
	slices.Sort(r)
	return r
}

// crashFile is a file whose reads go wrong after some bytes.
type crashFile struct {
	fs.File
	after int
	do    func() error // called at each read when that many bytes were read; nil goes on
}

func (f *crashFile) Read(p []byte) (int, error) {
	if f.after <= 0 {
		if err := f.do(); err != nil {
			return 0, err
		}
		return f.File.Read(p)
	}
	n, err := f.File.Read(p[:min(len(p), f.after)])
	f.after -= n
	return n, err
}

// crashStream is a stream of n bytes that costs little to make: blocks of a seeded buffer, each with its own number in every 4 KiB, so that no chunk comes twice.
type crashStream struct {
	block []byte
	off   int64
	size  int64
	ctx   context.Context
}

func newCrashStream(ctx context.Context, seed uint64, size int64) *crashStream {
	return &crashStream{block: crashRandom(seed, 1<<20), size: size, ctx: ctx}
}

func (s *crashStream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.off >= s.size {
		return 0, io.EOF
	}
	at := int(s.off % int64(len(s.block)))
	if at == 0 {
		for i := 0; i < len(s.block); i += 1024 {
			binary.LittleEndian.PutUint64(s.block[i:], uint64(s.off)+uint64(i)*0x9e3779b97f4a7c15)
		}
	}
	n := copy(p[:min(int64(len(p)), s.size-s.off)], s.block[at:])
	s.off += int64(n)
	return n, nil
}

func (s *crashStream) Close() error { return nil }

// crashStreamAt returns n bytes of the stream from off on.
func crashStreamAt(seed uint64, off int64, n int) []byte {
	s := newCrashStream(context.Background(), seed, off+int64(n))
	s.off = off &^ (1<<20 - 1)
	b, err := io.ReadAll(s)
	if err != nil {
		panic(err)
	}
	return b[off&(1<<20-1):]
}

// crashBlocks is a folder of files that others may have as well.
func crashBlocks(seeds []uint64) fs.FS {
	m := fstest.MapFS{}
	for i, seed := range seeds {
		m[fmt.Sprintf("%d/%d", i%3, seed)] = &fstest.MapFile{Data: crashRandom(seed, int(100<<10+seed%7*50<<10)), Mode: 0o644}
	}
	return m
}

// crashShared is a source of two folders: one that others have as well, and one that they do not.
func crashShared(shared uint64, sharedSize int, own uint64, ownSize int) fs.FS {
	m := fstest.MapFS{}
	add := func(dir string, seed uint64, size int) {
		data := crashRandom(seed, size)
		for i := 0; len(data) > 0; i++ {
			n := min(len(data), 300<<10+i*1000)
			m[fmt.Sprintf("%s/%03d", dir, i)] = &fstest.MapFile{Data: data[:n], Mode: 0o644}
			data = data[n:]
		}
	}
	add("shared", shared, sharedSize)
	add("own", own, ownSize)
	return m
}

// crashSource is a small source with a file that is larger than a pack.
func crashSource(seed uint64, size int) fstest.MapFS {
	return fstest.MapFS{
		"big":      {Data: crashRandom(seed, size)},
		"text":     {Data: crashText(seed, 1<<20)},
		"a/empty":  {},
		"a/b/file": {Data: []byte(fmt.Sprint("file ", seed))},
	}
}

var crashDayOne = sync.OnceValue(func() fstest.MapFS {
	return fstest.MapFS{"old": {Data: crashRandom(9, 300<<10)}, "a/b/file": {Data: []byte("old")}}
})

// crashIntact tells whether exactly the snapshot of crashDayOne is there, whole, in a sound repository.
func crashIntact(t *testing.T, r *repo.Repo) {
	t.Helper()
	snaps := crashSnapshots(t, r, "")
	if len(snaps) != 1 {
		t.Fatalf("%d snapshots, want the first one only", len(snaps))
	}
	crashSame(t, "the first snapshot", crashSnapshotDigest(t, r, snaps[0]), crashDigest(t, crashDayOne()))
	crashSound(t, r, true)
}

type crashWait struct{ read func() error }

func (w *crashWait) Read([]byte) (int, error) { return 0, w.read() }
func (w *crashWait) Close() error             { return nil }

// crashAttrFS gives entries of another FS attributes.
type crashAttrFS struct {
	fs.FS
	attr map[string]*repo.Attr
}

func (a *crashAttrFS) ReadDir(path string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(a.FS, path)
	for i, d := range list {
		info, err := d.Info()
		if err != nil {
			return nil, err
		}
		p := d.Name()
		if path != "." {
			p = path + "/" + p
		}
		list[i] = fs.FileInfoToDirEntry(crashInfo{info, a.attr[p]})
	}
	return list, err
}

type crashInfo struct {
	fs.FileInfo
	attr *repo.Attr
}

func (i crashInfo) Sys() any { return i.attr }
