package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/collect"
	"github.com/varvebackup/varve/repo/internal/index"
	"github.com/varvebackup/varve/repo/internal/tree"
	"github.com/varvebackup/varve/repo/internal/walk"
)

// Layout scales how large things are made; zero leaves one as it is.
type Layout struct {
	Batch, ContentFrame, TreeFrame, Pack int
	SmallPack                            int64
	JoinPacks, JoinSegments              int
}

// SetLayout replaces sizes until the end of a test.
func SetLayout(t testing.TB, n Layout) {
	old := sizes
	t.Cleanup(func() { sizes = old })
	for _, c := range []struct {
		to   *int
		from int
	}{{&sizes.batch, n.Batch}, {&sizes.contentFrame, n.ContentFrame}, {&sizes.treeFrame, n.TreeFrame}, {&sizes.pack, n.Pack}, {&sizes.joinPacks, n.JoinPacks}, {&sizes.joinSegments, n.JoinSegments}} {
		if c.from != 0 {
			*c.to = c.from
		}
	}
	if n.SmallPack != 0 {
		sizes.smallPack = n.SmallPack
	}
}

// Rules are the names of the rules that Break switches off.
func Rules() (names []string) {
	for f := range reflect.TypeOf(broken).NumField() {
		names = append(names, reflect.TypeOf(broken).Field(f).Name)
	}
	return names
}

// Break switches a rule of the protocol off until the end of a test.
func Break(t testing.TB, rule string) {
	f, ok := reflect.TypeOf(broken).FieldByName(rule)
	if !ok {
		t.Fatalf("there is no rule %q", rule)
	}
	flag := reflect.ValueOf(&broken).Elem().FieldByIndex(f.Index).Addr().UnsafePointer()
	*(*bool)(flag) = true
	t.Cleanup(func() { *(*bool)(flag) = false })
}

// Remember opens each object and section key once for each role, until the end of a test that uses one repository.
func Remember(t testing.TB) {
	type what struct {
		role crypt.Role
		name string
		want string
		sum  [32]byte
	}
	type object struct {
		kind crypt.Kind
		body []byte
		err  error
	}
	type section struct {
		key *pack.SectionKey
		err error
	}
	var mu sync.Mutex // guards what follows
	objects, sections := map[what]object{}, map[what]section{}
	old := openKey
	t.Cleanup(func() { openKey = old })
	openKey.object = func(k *crypt.Keys, name string, data []byte, want ...crypt.Kind) (crypt.Kind, []byte, error) {
		w := what{k.Role(), name, fmt.Sprint(want), sha256.Sum256(data)}
		mu.Lock()
		o, ok := objects[w]
		mu.Unlock()
		if !ok {
			o.kind, o.body, o.err = old.object(k, name, data, want...)
			mu.Lock()
			objects[w] = o
			mu.Unlock()
		}
		return o.kind, bytes.Clone(o.body), o.err
	}
	openKey.section = func(k pack.Opener, s pack.Section) (*pack.SectionKey, error) {
		w := what{k.(*crypt.Keys).Role(), fmt.Sprint(s.Kind, s.AEAD), "", sha256.Sum256(s.Key)}
		mu.Lock()
		o, ok := sections[w]
		mu.Unlock()
		if !ok {
			o.key, o.err = old.section(k, s)
			mu.Lock()
			sections[w] = o
			mu.Unlock()
		}
		return o.key, o.err
	}
}

// LeastMemory lets r use as little memory as it can do with.
func LeastMemory(r *Repo) { r.opts.MaxMemory = 4 << 20 }

// Outdated makes r look again.
func Outdated(r *Repo) { r.outdated() }

// Manifest opens the snapshot of a session, whether it is forgotten or not; nil if there is a void in its place.
func Manifest(ctx context.Context, r *Repo, session string) (*Snapshot, error) {
	return r.openSnapshot(ctx, snapshotName(session))
}

// Word reads a word under forgotten/ from its bytes: whether it takes back, or lets go.
func Word(r *Repo, name string, object []byte) (undo, final bool, err error) {
	_, body, err := r.openObject(name, object, crypt.KindForgotten)
	if err != nil {
		return false, false, err
	}
	var rec sessionRecord
	err = tree.Unmarshal(body, &rec)
	return rec.Undo, rec.Final, err
}

// SnapshotName is where the commit of a session is.
func SnapshotName(session string) string { return snapshotName(session) }

// Candidates opens what a collection condemned, or a verdict.
func Candidates(ctx context.Context, r *Repo, name string) (packs []string, err error) {
	kind, n, ok := gcKind(name)
	if !ok {
		return nil, errNoSuchName
	}
	_, body, err := r.fetchSealed(ctx, name, kind)
	if err != nil {
		return nil, err
	}
	l := &packList{}
	if err := l.parse(body, n); err != nil {
		return nil, err
	}
	for _, p := range l.Packs {
		packs = append(packs, packName(pack.ID(p)))
	}
	return packs, nil
}

// NeedsWithout tells whether all that the given snapshots need is indexed and stored outside of the given packs, and those that a verdict freed.
func NeedsWithout(ctx context.Context, r *Repo, snaps []*Snapshot, packs map[string]bool) error {
	s, err := r.ownView(ctx)
	if err != nil {
		return err
	}
	res, err := r.walkFrom(ctx, s, snaps)
	if err != nil {
		return err
	}
	kept := collect.Keep(s.x, res.Reached, func(n uint32) bool {
		p := s.x.Pack(n)
		return p.State != index.Freed && !packs[packName(p.ID)]
	})
	for _, id := range kept.Lost {
		return fmt.Errorf("blob %v is nowhere else", id)
	}
	return nil
}

func (r *Repo) ownView(ctx context.Context) (*view, error) {
	v, err := r.look(ctx, nil)
	if err == nil && len(v.damaged) > 0 {
		err = v.damaged[0]
	}
	return v, err
}

func (r *Repo) walkFrom(ctx context.Context, v *view, snaps []*Snapshot) (*walk.Result, error) {
	var roots []pack.ID
	for _, s := range snaps {
		roots = append(roots, s.root)
	}
	res, err := walk.Run(ctx, v.x, v.node, roots, 1)
	if err == nil && res.Gone() != nil {
		err = fmt.Errorf("blob %v is missing: %v", res.Gone().ID, res.Gone().Err)
	}
	return res, err
}

// Indexed returns the names of all packs that segments name, and how many of them no verdict names.
func Indexed(ctx context.Context, r *Repo) (all map[string]bool, alive int, err error) {
	v, err := r.ownView(ctx)
	if err != nil {
		return nil, 0, err
	}
	all = map[string]bool{}
	for i := range v.x.Packs() {
		p := v.x.Pack(uint32(i))
		if !all[packName(p.ID)] && v.maint.of(p.ID) != index.Freed {
			alive++
		}
		all[packName(p.ID)] = true
	}
	return all, alive, nil
}

// YoungNeeds returns the packs that hold bases of frames in the given packs.
func YoungNeeds(ctx context.Context, r *Repo, young map[string]bool) (map[string]bool, error) {
	v, err := r.ownView(ctx)
	if err != nil {
		return nil, err
	}
	bases := map[string]bool{}
	for n := range v.x.Frames() {
		f := v.x.Frame(uint32(n))
		if !young[packName(v.x.Pack(f.Pack).ID)] {
			continue
		}
		for _, b := range f.Bases {
			for _, c := range v.x.Find(nil, b, v.x.Kind(uint32(n))) {
				bases[packName(v.x.Pack(v.x.Frame(c.Frame).Pack).ID)] = true
			}
		}
	}
	return bases, nil
}

// Deltas lets backups make delta frames until the end of a test, of those pieces of content of which want says so: with a base that begins with the same bytes, if one is present.
func Deltas(t testing.TB, want func(data []byte) bool) *int {
	type blob struct {
		id   pack.ID
		data []byte
	}
	const alike = 8
	var known []blob
	made := 0
	old := encodeFrame
	t.Cleanup(func() { encodeFrame = old })
	encodeFrame = func(s *session, enc *pack.Encoder, out []byte, key *pack.SectionKey, f *frameBuf) (pack.Frame, []byte, error) {
		if f.kind != crypt.SectionContent || len(f.data) < alike {
			return old(s, enc, out, key, f)
		}
		data := append([]byte(nil), f.data...)
		defer func() {
			off := 0
			for _, b := range f.blobs {
				known = append(known, blob{b.ID, data[off : off+int(b.Length)]})
				off += int(b.Length)
			}
		}()
		if !want(data) {
			return old(s, enc, out, key, f)
		}
		x := s.view.x
		for i := range known {
			b := &known[len(known)-1-i]
			if !bytes.HasPrefix(b.data, data[:alike]) {
				continue
			}
			depth := uint8(pack.MaxDepth)
			for _, c := range x.Find(nil, b.id, f.kind) {
				if x.Present(c.Frame) {
					depth = min(depth, x.Frame(c.Frame).Depth)
				}
			}
			if depth >= pack.MaxDepth-4 {
				continue
			}
			frame, sealed, ok, err := enc.EncodeDelta(out, key, f.data, depth+1, []pack.ID{b.id}, b.data)
			if err != nil {
				return frame, nil, err
			}
			if ok {
				made++
				return frame, sealed, nil
			}
		}
		return old(s, enc, out, key, f)
	}
	return &made
}

// ForgeClaims puts, as the thief of a writer's key could, a pack of junk and a segment that claims that some pieces of content are in it.
func ForgeClaims(ctx context.Context, r *Repo, contents [][]byte) error {
	return ForgePack(ctx, r, contents, 1, func(b []byte) {
		for i := range b {
			b[i] ^= byte(i*7 + 1)
		}
	}, nil)
}

// ForgePack puts, as the thief of a writer's key could, a pack that claims pieces of content, some of them in each frame, and a segment that names it. spoil, if not nil, changes the bytes
// of a frame, and change what the segment says.
func ForgePack(ctx context.Context, r *Repo, contents [][]byte, each int, spoil func([]byte), change func(*pack.Directory)) error {
	return forgePack(ctx, r, contents, each, spoil, change, false)
}

func forgePack(ctx context.Context, r *Repo, contents [][]byte, each int, spoil func([]byte), change func(*pack.Directory), junk bool) error {
	first := contents[0]
	w := pack.NewWriter(r.keys, nil)
	key, err := pack.NewSectionKey(r.keys, crypt.SectionContent)
	if err != nil {
		return err
	}
	enc := pack.NewEncoder()
	for len(contents) > 0 {
		n := min(each, len(contents))
		var data []byte
		var blobs []pack.Blob
		for _, c := range contents[:n] {
			data = append(data, c...)
			blobs = append(blobs, pack.Blob{ID: r.id(crypt.SectionContent, c), Length: uint32(len(c))})
		}
		contents = contents[n:]
		if spoil != nil {
			spoil(data)
		}
		f, sealed := enc.Encode(nil, key, data)
		f.Blobs = blobs
		if err := w.Add(key.Section, f, sealed); err != nil {
			return err
		}
	}
	id, data, dir, err := w.Close()
	if err != nil {
		return err
	}
	if change != nil {
		change(dir)
	}
	if junk {
		// As long as the pack would be, the same bytes each time, under the name that they have.
		data = bytes.Repeat(first[:1], len(data))
		id = blake3.Sum256(data)
	}
	return forgeSegment(ctx, r, index.Pack{ID: id, Size: uint32(len(data)), Dir: dir}, data)
}

// ForgeDescription puts, as the thief of a writer's key could, a segment that says of a pack what change makes of the pack's own word.
func ForgeDescription(ctx context.Context, r *Repo, name string, change func(*pack.Directory)) error {
	id, ok := parsePackName(name)
	if !ok {
		return errNoSuchName
	}
	object, err := r.backend.Get(ctx, name, 0, -1, nil)
	if err != nil {
		return err
	}
	dir, err := pack.ReadDirectory(r.keys, bytes.NewReader(object), int64(len(object)))
	if err != nil {
		return err
	}
	change(dir)
	return forgeSegment(ctx, r, index.Pack{ID: id, Size: uint32(len(object)), Dir: dir}, nil)
}

// ForgeJunk is ForgePack of what is no pack.
func ForgeJunk(ctx context.Context, r *Repo, contents [][]byte, change func(*pack.Directory)) error {
	return forgePack(ctx, r, contents, 1, nil, change, true)
}

// forgeSegment puts a segment, and the pack that it names unless that is there.
func forgeSegment(ctx context.Context, r *Repo, n index.Pack, data []byte) error {
	s, err := r.begin(ctx, "forged")
	if err != nil {
		return err
	}
	defer s.end(ctx, false)
	if data != nil {
		if err := s.putPack(ctx, n.ID, data); err != nil {
			return err
		}
	}
	_, err = s.putSegment(ctx, []index.Pack{n})
	return err
}

// OldestBirth returns the oldest birth of the copies of some content that can be relied upon, and 0 if there is none.
func OldestBirth(ctx context.Context, r *Repo, data []byte) (birth int64, pack string, err error) {
	v, err := r.ownView(ctx)
	if err != nil {
		return 0, "", err
	}
	for _, c := range v.x.Find(nil, r.id(crypt.SectionContent, data), crypt.SectionContent) {
		if f := v.x.Frame(c.Frame); v.x.Present(c.Frame) && (birth == 0 || f.Birth < birth) {
			birth, pack = f.Birth, packName(v.x.Pack(f.Pack).ID)
		}
	}
	return birth, pack, nil
}

// Unneeded returns the indexed packs of which no snapshot that is listed or may be taken back needs any copy of anything.
func Unneeded(ctx context.Context, r *Repo) (names []string, err error) {
	v, err := r.ownView(ctx)
	if err != nil {
		return nil, err
	}
	manifests, err := listNames(ctx, r.backend, snapshotsPrefix)
	if err != nil {
		return nil, err
	}
	snaps, _, err := r.openSnapshots(ctx, manifests)
	if err != nil {
		return nil, err
	}
	res, err := r.walkFrom(ctx, v, snaps)
	if err != nil {
		return nil, err
	}
	said, _, err := r.forgotten(ctx)
	if err != nil {
		return nil, err
	}
	hints, err := walk.Hints(ctx, v.x, v.hint, (&survey{roots: snaps, said: said}).hintRoots(), 1)
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{}
	for o := range walk.Union(res.Needed, hints.Needed).All() {
		_, c := v.x.At(o)
		needed[packName(v.x.Pack(v.x.Frame(c.Frame).Pack).ID)] = true
	}
	for i := range v.x.Packs() {
		p := v.x.Pack(uint32(i))
		if name := packName(p.ID); !needed[name] && v.maint.of(p.ID) != index.Freed {
			names = append(names, name)
		}
	}
	return names, nil
}

// Copies tells which copies of some content are indexed.
func Copies(ctx context.Context, r *Repo, data []byte) (lines []string) {
	v, err := r.ownView(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	for _, c := range v.x.Find(nil, r.id(crypt.SectionContent, data), crypt.SectionContent) {
		f := v.x.Frame(c.Frame)
		p := v.x.Pack(f.Pack)
		lines = append(lines, fmt.Sprintf("%s birth %d state %d depth %d", packName(p.ID), f.Birth, p.State, f.Depth))
	}
	return lines
}
