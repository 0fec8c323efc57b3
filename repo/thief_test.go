package repo_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/backend/s3/policy"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/repo/internal/index"
)

// A thief has a writer's key, and a store that lets a writer add and neither replace nor delete. Whatever he adds: after the owner's next prunes every older snapshot restores, what he
// added is gone, and he has read nothing.
func TestThief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dmgNew(t, mem.New(nil))
		robbed{d: d, store: backend.AppendOnly(d.b), nap: func() { time.Sleep(day) }, naps: 20}.test(t)
	})
}

// The same beside a real server with the writer's policy, which keeps him from gc/ and forgotten/ and from deleting. MinIO has no condition against replacing, so he replaces
// everything as well, and the owner puts back what was there before.
func TestS3ThiefWithPolicy(t *testing.T) {
	srv := miniotest.Start(t)
	bucket := srv.Bucket()
	if err := srv.Client().EnableVersioning(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	text, err := policy.For(policy.Writer, bucket, "")
	if err == nil {
		text, err = policy.WithoutConditions(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	const tick = 1500 * time.Millisecond
	repo.SetTimes(t, repo.Times{Lag: tick, Expire: 2 * tick, Margin: 2 * tick, Undo: tick, Slack: tick})
	store, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Insecure: true, Credentials: srv.AssumeRole(text)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	robbed{d: dmgNew(t, s3Open(t, srv, bucket)), store: store, nap: func() { time.Sleep(tick + tick/4) }, naps: 7, replaces: true,
		forbidden: []string{"gc/", "forgotten/"}}.test(t)
}

// robbed is a repository and what a thief has of it.
type robbed struct {
	d         *dmgRepo
	store     backend.Backend // the thief's
	nap       func()          // until the owner prunes again
	naps      int
	replaces  bool     // he can replace objects
	forbidden []string // where he can put nothing
}

func (rob robbed) test(t *testing.T) {
	ctx, d, store := t.Context(), rob.d, rob.store
	var secrets []string
	for i := range 4 {
		name := fmt.Sprintf("secret-name-%d", i)
		tree := dmgTree{name: append([]byte("secret content "), dmgRand(byte(i), 200<<10)...), "shared": dmgRand(99, 150<<10)}
		d.backup(t, "shop", tree)
		secrets = append(secrets, name)
		rob.nap()
	}
	clean := dmgNames(t, d.b, "")
	honest := maps.Clone(d.want)

	key := dmgMust(crypt.NewKey())(t)
	dmgMust(d.open(t).AddSlot(ctx, crypt.Writer, key, "web"))(t)
	slots := dmgNames(t, d.b, "keys/")
	keys := dmgKeys(t, d.b, key)
	w := dmgMust(repo.Open(ctx, store, key, nil))(t)

	// He reads nothing.
	for s, err := range w.Snapshots(ctx, repo.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		fsys, err := w.FS(ctx, s)
		if err == nil {
			_, err = fs.ReadDir(fsys, ".")
		}
		if !errors.Is(err, repo.ErrRole) {
			t.Errorf("a writer lists %s: %v", s.ID, err)
		}
	}
	for _, name := range clean {
		object := dmgGet(t, d.b, name)
		for _, secret := range append(secrets, "secret content") {
			if bytes.Contains(object, []byte(secret)) {
				t.Errorf("%s holds %q", name, secret)
			}
		}
		if id, ok := strings.CutPrefix(name, "packs/"); ok {
			dir := dmgMust(pack.ReadDirectory(keys, bytes.NewReader(object), int64(len(object))))(t)
			for i := range dir.Sections {
				if _, err := pack.OpenSectionKey(keys, dir.Sections[i]); !errors.Is(err, crypt.ErrRole) {
					t.Errorf("a writer opens section %d of %s: %v", i, id, err)
				}
			}
		}
	}

	// He destroys nothing at once.
	for _, name := range clean {
		if err := store.Delete(ctx, name); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("delete %s: %v", name, err)
		}
		if rob.replaces {
			continue
		}
		if err := backend.PutBytes(ctx, store, name, []byte("junk"), nil); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("replace %s: %v", name, err)
		}
	}
	if err := w.Forget(ctx, slices.Sorted(maps.Keys(honest))[0]); !errors.Is(err, repo.ErrRole) {
		t.Error(err)
	}

	// He adds what he can.
	put := func(name string, object []byte) string {
		t.Helper()
		if slices.ContainsFunc(rob.forbidden, func(p string) bool { return strings.HasPrefix(name, p) }) {
			if err := backend.PutBytes(ctx, store, name, object, nil); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("put %s: %v", name, err)
			}
			return name
		}
		if err := backend.PutBytes(ctx, store, name, object, &backend.PutOptions{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		return name
	}
	forged := func(kind crypt.Kind, name string, body any) string {
		t.Helper()
		// With somebody else's signature: that of another repository's owner. And with none: as a kind that needs none.
		if _, err := keys.Seal(kind, name, dmgCBOR(t, body)); !errors.Is(err, crypt.ErrRole) {
			t.Errorf("a writer signs %s: %v", name, err)
		}
		object := dmgMust(keys.Seal(crypt.KindSnapshot, name, dmgCBOR(t, body)))(t)
		return put(name, object)
	}
	var packs []string
	for _, name := range clean {
		if strings.HasPrefix(name, "packs/") {
			packs = append(packs, name)
		}
	}
	ids := slices.Sorted(maps.Keys(honest))
	// Forged words of maintenance: candidates, verdicts, words to forget, voids.
	junk := []string{
		forged(crypt.KindCandidates, "gc/1", dmgList(1, packs...)),
		forged(crypt.KindVerdict, "gc/1.free", dmgList(1, packs...)),
		forged(crypt.KindDone, "gc/1.done", map[int]any{1: 1}),
	}
	for _, id := range ids {
		forged(crypt.KindForgotten, "forgotten/"+id, map[int]any{1: id, 2: []int64{1_700_000_000, 0}})
	}
	void := dmgSession(keys, "shop", 7)
	junk = append(junk, forged(crypt.KindVoid, dmgSnapshotName(void), map[int]any{1: void}))
	// A pack of nothing, one that no segment names, and segments that claim old blobs to be in it.
	claims := dmgRand(55, 300<<10)
	wrong := "packs/" + dmgHash(claims)[:2] + "/" + dmgHash(claims)
	put(wrong, claims)
	loose := dmgRand(56, 100<<10)
	put("packs/"+dmgHash(loose)[:2]+"/"+dmgHash(loose), loose)
	var lies []index.Pack
	for _, name := range packs {
		object := dmgGet(t, d.b, name)
		dir := dmgMust(pack.ReadDirectory(keys, bytes.NewReader(object), int64(len(object))))(t)
		off := uint32(0)
		for i := range dir.Frames {
			dir.Frames[i].Offset = off
			off += dir.Frames[i].Stored
		}
		// The same blobs, said to be in his pack, and the old pack with its frames moved.
		lies = append(lies, index.Pack{ID: dmgID(name), Size: uint32(len(object)), Dir: dir})
		own := *dir
		own.Frames = nil
		end := uint32(0)
		for _, f := range dir.Frames {
			if end+f.Stored < uint32(len(claims)) {
				f.Offset = end
				end += f.Stored
				own.Frames = append(own.Frames, f)
			}
		}
		segment := dmgMust(keys.Seal(crypt.KindSegment, "", index.EncodeSegment(dmgSession(keys, "shop", 8), []index.Pack{{ID: dmgID(wrong), Size: uint32(len(claims)), Dir: &own}})))(t)
		put("index/"+dmgHash(segment), segment)
	}
	for i := range lies {
		for j := range lies[i].Dir.Frames {
			lies[i].Dir.Frames[j].Counter++
		}
	}
	segment := dmgMust(keys.Seal(crypt.KindSegment, "", index.EncodeSegment(dmgSession(keys, "shop", 9), lies)))(t)
	put("index/"+dmgHash(segment), segment)
	// A segment that is none, and a snapshot of nothing, dated before all others.
	broken := dmgRand(57, 5000)
	junk = append(junk, put("index/"+dmgHash(broken), broken))
	backdated := dmgSession(keys, "shop", 10)
	manifest := map[int]any{1: "shop", 2: backdated, 3: []int64{1_577_836_800, 0}, 4: []int64{1_577_836_800, 0}, 5: "thief", 6: []any{}, 7: make([]byte, 32), 9: make([]int, 8), 10: "x"}
	junk = append(junk, put(dmgSnapshotName(backdated), dmgMust(keys.Seal(crypt.KindSnapshot, dmgSnapshotName(backdated), dmgCBOR(t, manifest)))(t)))
	// Sessions that never end, and one that is his own backup.
	for i := range 3 {
		s := dmgSession(keys, "shop", 20+i)
		put("sessions/"+s, crypt.AppendHash([]byte("x")))
	}
	own := dmgMust(w.Backup(ctx, "shop", dmgTree{"junk": dmgRand(58, 400<<10)}.fs(), nil))(t)

	// What is there is read as before.
	check := func() {
		t.Helper()
		r := d.open(t)
		found := 0
		for s, err := range r.Snapshots(ctx, repo.Filter{}) {
			if err != nil {
				continue
			}
			want := honest[s.ID]
			if want == nil {
				continue
			}
			found++
			fsys := dmgMust(r.FS(ctx, s))(t)
			for path, data := range want {
				if got, err := fs.ReadFile(fsys, path); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s:%s: %v", s.ID, path, err)
				}
			}
		}
		if found != len(honest) {
			t.Errorf("%d of %d snapshots are there", found, len(honest))
		}
	}
	check()

	if rob.replaces {
		rob.replaceAll(t, clean, check)
	}

	// The owner prunes for some days: what he is told is junk, he condemns.
	d.forget(t, own.ID)
	condemned := []string{}
	for range rob.naps {
		rob.nap()
		for range 12 {
			_, err := d.open(t).Prune(ctx, &repo.PruneOptions{Condemn: condemned})
			condemned = nil
			if err == nil {
				break
			}
			var named string
			for _, name := range junk {
				if strings.Contains(err.Error(), name) {
					named = name
				}
			}
			if named == "" {
				t.Fatalf("prune: %v", err)
			}
			condemned = []string{named}
		}
		check()
	}
	delete(d.want, own.ID)
	check()

	// And his things are gone.
	left := dmgNames(t, d.b, "")
	for _, name := range left {
		switch {
		case slices.Contains(clean, name), slices.Contains(slots, name):
		case strings.HasPrefix(name, "gc/"), strings.HasPrefix(name, "forgotten/"), strings.HasPrefix(name, "sessions/"):
		case strings.HasPrefix(name, "index/"), strings.HasPrefix(name, "snapshots/"):
		default:
			t.Errorf("%s is left", name)
		}
	}
	if slices.Contains(left, wrong) || slices.Contains(left, junk[len(junk)-1]) {
		t.Error("his pack or his snapshot is there")
	}
	t.Logf("left: %d packs, %d segments, %d snapshots, %d others", len(dmgNames(t, d.b, "packs/")), len(dmgNames(t, d.b, "index/")), len(dmgNames(t, d.b, "snapshots/")),
		len(dmgNames(t, d.b, "gc/"))+len(dmgNames(t, d.b, "sessions/"))+len(dmgNames(t, d.b, "forgotten/")))
	alone := d.size(t, "packs/")
	var need int64
	for _, name := range packs {
		if slices.Contains(left, name) {
			info := dmgMust(d.b.Stat(ctx, name))(t)
			need += info.Size
		}
	}
	if alone > need*5/4 && need > 0 {
		t.Errorf("%d bytes are stored, %d of them in the packs of before", alone, need)
	}
	if n := len(dmgNames(t, d.b, "index/")); n > 8 {
		t.Errorf("%d segments are left", n)
	}
	rep := d.check(t, &repo.CheckOptions{ReadData: true})
	for _, f := range rep.Findings {
		if len(f.Snapshots) > 0 || len(f.Paths) > 0 {
			t.Errorf("%s: %v hurts %v", f.Object, f.Err, f.Snapshots)
		}
	}
}

// replaceAll lets the thief put junk in the place of everything that he may, half of it such as ends in its own hash. The owner reads on all the same, and heals the store from what it was.
func (rob robbed) replaceAll(t *testing.T, names []string, check func()) {
	t.Helper()
	ctx := t.Context()
	then := time.Time{}
	for info, err := range rob.d.b.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Modified.After(then) {
			then = info.Modified
		}
	}
	rob.nap()
	replaced := 0
	for i, name := range names {
		junk := []byte("junk")
		if i%2 == 0 {
			junk = crypt.AppendHash(junk)
		}
		err := backend.PutBytes(ctx, rob.store, name, junk, nil)
		if err == nil {
			replaced++
		} else if !errors.Is(err, fs.ErrPermission) {
			t.Fatal(err)
		}
	}
	if replaced == 0 {
		t.Error("the policy keeps a writer from replacing: test that instead")
	}
	check()
	if rep, err := repo.Heal(ctx, rob.d.b, backend.AsOf(rob.d.b, then), &repo.CopyOptions{Replace: true}); err != nil {
		t.Fatalf("heal: %v (%+v)", err, rep)
	}
	check()
}
