package repo_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/backendtest"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/index"
)

// dmgTree is what a snapshot has to hold: contents by path.
type dmgTree map[string][]byte

// fs returns it as a source. Dumps are streams, which are cut finely.
func (d dmgTree) fs() fstest.MapFS {
	m := fstest.MapFS{}
	for name, data := range d {
		m[name] = &fstest.MapFile{Data: data, Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0)}
		if strings.HasSuffix(name, ".sql") {
			m[name].Sys = &repo.Attr{Stream: true}
		}
	}
	return m
}

// dmgRand returns n bytes that do not compress, the same for the same seed.
func dmgRand(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// dmgRepo is a repository with its keys and what its snapshots hold.
type dmgRepo struct {
	b     backend.Backend
	key   crypt.RawKey
	keys  *crypt.Keys // the owner's
	want  map[string]dmgTree
	gone  map[string]bool // snapshots that a record forgets
	clean []string        // names of all objects
}

func dmgMust[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func dmgNew(t testing.TB, b backend.Backend) *dmgRepo {
	t.Helper()
	key := dmgMust(crypt.NewKey())(t)
	if _, _, err := repo.Create(t.Context(), b, key, nil); err != nil {
		t.Fatal(err)
	}
	return &dmgRepo{b: b, key: key, keys: dmgKeys(t, b, key), want: map[string]dmgTree{}, gone: map[string]bool{}}
}

// dmgKeys unlocks the keys in the slot that u opens, as any program could.
func dmgKeys(t testing.TB, b backend.Backend, u crypt.Unlocker) *crypt.Keys {
	t.Helper()
	for _, name := range dmgNames(t, b, "keys/") {
		slot := dmgMust(crypt.ParseSlot(name, dmgGet(t, b, name)))(t)
		if keys, err := slot.Unlock(t.Context(), u); err == nil {
			return keys
		}
	}
	t.Fatal("no slot opens")
	return nil
}

func (d *dmgRepo) open(t testing.TB) *repo.Repo {
	t.Helper()
	return dmgMust(repo.Open(t.Context(), d.b, d.key, nil))(t)
}

func (d *dmgRepo) backup(t testing.TB, series string, tree dmgTree) *repo.Snapshot {
	t.Helper()
	s := dmgMust(d.open(t).Backup(t.Context(), series, tree.fs(), nil))(t)
	d.want[s.ID] = tree
	return s
}

func (d *dmgRepo) check(t testing.TB, o *repo.CheckOptions) *repo.CheckReport {
	t.Helper()
	return dmgMust(d.open(t).Check(t.Context(), o))(t)
}

// copy returns the same repository in a store of its own.
func (d *dmgRepo) copy(t testing.TB, to backend.Backend) *dmgRepo {
	t.Helper()
	for _, name := range dmgNames(t, d.b, "") {
		dmgPut(t, to, name, dmgGet(t, d.b, name))
	}
	c := *d
	c.b, c.want = to, maps.Clone(d.want)
	return &c
}

func dmgNames(t testing.TB, b backend.Backend, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range b.List(context.Background(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

func dmgGet(t testing.TB, b backend.Backend, name string) []byte {
	t.Helper()
	return dmgMust(b.Get(context.Background(), name, 0, -1, nil))(t)
}

func dmgPut(t testing.TB, b backend.Backend, name string, data []byte) {
	t.Helper()
	if err := backend.PutBytes(context.Background(), b, name, data, nil); err != nil {
		t.Fatal(err)
	}
}

func dmgDelete(t testing.TB, b backend.Backend, name string) {
	t.Helper()
	if err := b.Delete(context.Background(), name); err != nil {
		t.Fatal(err)
	}
}

// dmgSeal puts an object of maintenance, sealed and signed with k.
func dmgSeal(t testing.TB, b backend.Backend, k *crypt.Keys, kind crypt.Kind, name string, body any) {
	t.Helper()
	dmgPut(t, b, name, dmgMust(k.Seal(kind, name, dmgCBOR(t, body)))(t))
}

func dmgCBOR(t testing.TB, v any) []byte {
	t.Helper()
	enc := dmgMust(cbor.CoreDetEncOptions().EncMode())(t)
	return dmgMust(enc.Marshal(v))(t)
}

// dmgList is the body of candidates and verdicts.
func dmgList(n int, packs ...string) any {
	ids := [][]byte{}
	for _, name := range packs {
		id := dmgID(name)
		ids = append(ids, id[:])
	}
	slices.SortFunc(ids, bytes.Compare)
	return map[int]any{1: n, 2: ids}
}

// dmgID returns the id in a pack's name.
func dmgID(name string) (id pack.ID) {
	fmt.Sscanf(name[strings.LastIndexByte(name, '/')+1:], "%x", (*dmgHex)(&id))
	return id
}

type dmgHex pack.ID

func (h *dmgHex) Scan(s fmt.ScanState, _ rune) error {
	for i := range h {
		if _, err := fmt.Fscanf(s, "%02x", &h[i]); err != nil {
			return err
		}
	}
	return nil
}

// dmgSnapshotName is the place of a session's commit.
func dmgSnapshotName(session string) string { return "snapshots/" + session[37:] + "/" + session }

// dmgSession makes up a session id of a series.
func dmgSession(k *crypt.Keys, series string, n int) string {
	sid := k.SeriesID(series)
	return fmt.Sprintf("20200101T000000000Z-%016x-%x", n, sid[:])
}

// dmgFixture is a repository with an object of every kind, whose check has no finding.
func dmgFixture(t testing.TB) *dmgRepo {
	t.Helper()
	d := dmgNew(t, mem.New(nil))
	big := dmgRand(1, 150<<10)
	day1 := dmgTree{"a.txt": []byte("first"), "dir/big.sql": big, "dir/same.txt": bytes.Repeat([]byte("same "), 3000), "dir/deep/x": dmgRand(2, 4<<10), "empty": {}}
	day2 := maps.Clone(day1)
	day2["a.txt"] = []byte("second")
	day2["new/y"] = dmgRand(3, 20<<10)
	day2["dir/big.sql"] = append(dmgRand(4, 50<<10), big[50<<10:]...)
	d.backup(t, "shop", day1)
	d.backup(t, "shop", day2)
	d.backup(t, "mail", dmgTree{"inbox/1": dmgRand(5, 6<<10), "shared": day1["dir/same.txt"]})
	gone := d.backup(t, "mail", dmgTree{"inbox/1": dmgRand(6, 3<<10)})
	d.gone[gone.ID] = true
	d.seal(t, crypt.KindForgotten, "forgotten/"+gone.ID, map[int]any{1: gone.ID, 2: []int64{1_700_000_000, 0}})

	// A second slot, so that one may be damaged.
	dmgMust(d.open(t).AddSlot(t.Context(), crypt.Owner, d.key, "second"))(t)

	// A session that fails at its commit; then a collection that freed its pack.
	before := dmgNames(t, d.b, "packs/")
	f := &backendtest.Faulty{Backend: d.b, Before: func(_ context.Context, op backendtest.Op, name string) error {
		if op == backendtest.Put && strings.HasPrefix(name, "snapshots/") {
			return errors.New("no")
		}
		return nil
	}}
	if _, err := dmgMust(repo.Open(t.Context(), f, d.key, nil))(t).Backup(t.Context(), "shop", dmgTree{"z": dmgRand(7, 5000)}.fs(), nil); err == nil {
		t.Fatal("a backup without a commit")
	}
	var garbage string
	for _, name := range dmgNames(t, d.b, "packs/") {
		if !slices.Contains(before, name) {
			garbage = name
		}
	}
	d.seal(t, crypt.KindCandidates, "gc/1", dmgList(1, garbage))
	d.seal(t, crypt.KindVerdict, "gc/1.free", dmgList(1, garbage))
	d.seal(t, crypt.KindDone, "gc/1.done", map[int]any{1: 1})
	dmgDelete(t, d.b, garbage)
	d.seal(t, crypt.KindCandidates, "gc/2", dmgList(2, "packs/00/"+strings.Repeat("0", 64)))
	void := dmgSession(d.keys, "shop", 1)
	d.seal(t, crypt.KindVoid, dmgSnapshotName(void), map[int]any{1: void})
	d.clean = dmgNames(t, d.b, "")
	return d
}

func (d *dmgRepo) seal(t testing.TB, kind crypt.Kind, name string, body any) {
	t.Helper()
	dmgSeal(t, d.b, d.keys, kind, name, body)
}

func dmgFind(rep *repo.CheckReport, object string) *repo.Finding {
	for i := range rep.Findings {
		if rep.Findings[i].Object == object {
			return &rep.Findings[i]
		}
	}
	return nil
}

func dmgFindings(rep *repo.CheckReport) string {
	var b strings.Builder
	for _, f := range rep.Findings {
		fmt.Fprintf(&b, "\n  %s: %v (harmless %v) snapshots %v paths %v", f.Object, f.Err, f.Harmless, f.Snapshots, f.Paths)
	}
	return b.String()
}

// hurt tells whether the report says that a path cannot be restored.
func dmgHurt(rep *repo.CheckReport, snapshot, path string) bool {
	for _, f := range rep.Findings {
		for _, p := range f.Paths {
			id, at, _ := strings.Cut(p, ":")
			if id == snapshot && (at == "." || at == path || strings.HasPrefix(path, at+"/")) {
				return true
			}
		}
	}
	return false
}

// agrees reads everything, through FS and by Restore, and compares: no wrong byte; what the report does not call hurt is there, and what it does is not.
func (d *dmgRepo) agrees(t *testing.T, rep *repo.CheckReport) {
	t.Helper()
	d.compare(t, rep, true)
}

func (d *dmgRepo) compare(t *testing.T, rep *repo.CheckReport, restore bool) {
	t.Helper()
	r := d.open(t)
	there := map[string]*repo.Snapshot{}
	for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
		if err != nil {
			var de *repo.DamageError
			if !errors.As(err, &de) || dmgFind(rep, de.Object) == nil {
				t.Errorf("Snapshots: %v, which check does not find", err)
			}
			continue
		}
		there[s.ID] = s
	}
	for id := range there {
		if d.want[id] == nil {
			t.Errorf("a snapshot %s that nobody made", id)
		}
	}
	for id, tree := range d.want {
		s := there[id]
		if s == nil && d.gone[id] {
			continue
		}
		if s == nil {
			if !slices.ContainsFunc(rep.Findings, func(f repo.Finding) bool {
				return slices.Contains(f.Snapshots, id) && (f.Object == dmgSnapshotName(id))
			}) {
				t.Errorf("snapshot %s is not there, and check does not say so", id)
			}
			continue
		}
		fsys, err := r.FS(t.Context(), s)
		if err != nil {
			if !dmgHurt(rep, id, ".") {
				t.Errorf("snapshot %s: %v", id, err)
			}
			continue
		}
		dir := filepath.Join(t.TempDir(), "r")
		var rerr error
		if restore {
			_, rerr = d.open(t).Restore(t.Context(), s, dir, &repo.RestoreOptions{Verify: true})
		}
		failed := 0
		for path, want := range tree {
			hurt := dmgHurt(rep, id, path)
			got, err := fs.ReadFile(fsys, path)
			if err == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(want, got) {
				t.Errorf("%s:%s: wrong bytes (%v)", id, path, err)
			}
			if hurt != (err != nil) {
				t.Errorf("%s:%s: hurt %v, FS says %v%s", id, path, hurt, err, dmgFindings(rep))
			}
			if !restore {
				continue
			}
			got, err = os.ReadFile(filepath.Join(dir, path))
			if err == nil && !bytes.Equal(got, want) {
				t.Errorf("%s:%s: wrong bytes restored", id, path)
			}
			if hurt != (err != nil) {
				t.Errorf("%s:%s: hurt %v, restored: %v (%v)", id, path, hurt, err, rerr)
			}
			if hurt {
				failed++
			}
		}
		if _, ok := errors.AsType[*repo.RestoreError](rerr); ok != (failed > 0) || !ok && rerr != nil {
			t.Errorf("restore %s with %d paths lost: %v", id, failed, rerr)
		}
	}
}

// dmgHash is the name that a pack or segment with these bytes has.
func dmgHash(b []byte) string {
	h := blake3.Sum256(b)
	return hex.EncodeToString(h[:])
}

// news backs up a tree and returns how many bytes of it were stored.
func (d *dmgRepo) news(t testing.TB, tree dmgTree) int64 {
	t.Helper()
	return d.backup(t, "shop", tree).Stats.New
}

// store puts a pack and a segment that names it, and returns the pack's name.
func (d *dmgRepo) store(t testing.TB, w *pack.Writer) string {
	t.Helper()
	id, data, dir, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	name := "packs/" + id.String()[:2] + "/" + id.String()
	dmgPut(t, d.b, name, bytes.Clone(data))
	object := dmgMust(d.keys.Seal(crypt.KindSegment, "", dmgSegmentOf(t, d.keys, name, &index.Pack{ID: id, Size: uint32(len(data)), Dir: dir})))(t)
	dmgPut(t, d.b, "index/"+dmgHash(object), object)
	return name
}

// dmgSegmentOf is the payload of a segment that names one pack, or none.
func dmgSegmentOf(t testing.TB, k *crypt.Keys, name string, p *index.Pack) []byte {
	t.Helper()
	var packs []index.Pack
	if p != nil {
		packs = append(packs, *p)
	}
	return index.EncodeSegment(dmgSession(k, "shop", int(name[9])), packs)
}

// dmgForge seals as a writer can who takes the keys out of the slot and does it by hand: all is right but the signature, which is by a key of the writer's own.
// For what is not signed it is Seal.
func dmgForge(t testing.TB, owner *crypt.Keys, kind crypt.Kind, name string, body []byte) []byte {
	t.Helper()
	writer := dmgMust(owner.Restrict(crypt.Writer))(t)
	spy := &dmgSpy{}
	if _, _, err := writer.NewSlot(context.Background(), spy, ""); err != nil {
		t.Fatal(err)
	}
	var row map[int]any
	if err := cbor.Unmarshal(spy.row, &row); err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	blake3.DeriveKey("varve v1 2026 objects", row[11].([]byte), key[:])
	aead := dmgMust(chacha20poly1305.NewX(key[:]))(t)

	header := append([]byte("VRVE"), 1, byte(kind), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	repository := writer.Repository()
	message := append([]byte("varve v1 signed object\x00"), repository[:]...)
	message = append(message, byte(kind))
	message = binary.LittleEndian.AppendUint16(message, uint16(len(name)))
	message = append(append(message, name...), body...)
	_, own, _ := ed25519.GenerateKey(nil)
	nonce := dmgRand(byte(kind), 24)
	aad := append(append(bytes.Clone(header), repository[:]...), name...)
	object := append(bytes.Clone(header), nonce...)
	object = aead.Seal(object, nonce, append(bytes.Clone(body), ed25519.Sign(own, message)...), aad)
	if name == "" {
		return object
	}
	return crypt.AppendHash(object)
}

// dmgSpy is an Unlocker that keeps the row it is to wrap.
type dmgSpy struct{ row []byte }

func (s *dmgSpy) Wrap(_ context.Context, row, _ []byte) ([]byte, error) {
	s.row = bytes.Clone(row)
	return []byte{1}, nil
}

func (s *dmgSpy) Unwrap(context.Context, []byte, []byte) ([]byte, error) {
	return nil, crypt.ErrWrongKey
}
