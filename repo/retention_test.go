package repo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// A yearShop is the database and the files of a shop, which change from day to day: of its rows one in a hundred changes each day and then stands elsewhere, and as many are new;
// of its files one in fifty is new, one in fifty changes, and one in a hundred goes.
type yearShop struct {
	r     *rand.Rand
	words []string
	rows  []shopRow
	next  uint32
	files map[string]shopRow // contents are made of what a row is
}

type shopRow struct{ id, version uint32 }

func newYearShop(size int) *yearShop {
	s := &yearShop{r: rand.New(rand.NewPCG(1, 1)), words: make([]string, 2000), files: map[string]shopRow{}}
	for i := range s.words {
		s.words[i] = fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i), byte(i >> 8)}))[:2+s.r.IntN(8)]
	}
	for ; int(s.next) < size*4/5/140; s.next++ {
		s.rows = append(s.rows, shopRow{id: s.next})
	}
	for range max(100, size/5/40_000) {
		s.upload()
	}
	return s
}

func (s *yearShop) upload() {
	s.files[fmt.Sprintf("uploads/%02d/%d.jpg", s.next%60, s.next)] = shopRow{id: s.next}
	s.next++
}

// day goes on by a day.
func (s *yearShop) day() {
	rows := make([]shopRow, 0, len(s.rows)+len(s.rows)/100)
	var moved []shopRow
	for _, row := range s.rows {
		if s.r.IntN(100) > 0 {
			rows = append(rows, row)
			continue
		}
		// Half of what changes takes the place of what changed before it, the other half goes to the end.
		if n := len(moved); n > 0 && s.r.IntN(2) == 0 {
			rows = append(rows, moved[n-1])
			moved = moved[:n-1]
		}
		row.version++
		moved = append(moved, row)
	}
	rows = append(rows, moved...)
	for range len(s.rows) / 100 {
		rows = append(rows, shopRow{id: s.next})
		s.next++
	}
	s.rows = rows
	n := len(s.files)
	for _, name := range sortedNames(s.files) {
		switch s.r.IntN(100) {
		case 0:
			delete(s.files, name)
		case 1, 2:
			row := s.files[name]
			row.version++
			s.files[name] = row
		}
	}
	for range n / 50 {
		s.upload()
	}
}

func sortedNames[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// tree is all that there is today.
func (s *yearShop) tree(size int) dmgTree {
	var dump bytes.Buffer
	dump.WriteString("COPY public.events (id, at, customer_id, session, message) FROM stdin;\n")
	src := rand.NewPCG(0, 0)
	r := rand.New(src)
	for _, row := range s.rows {
		src.Seed(uint64(row.id), uint64(row.version))
		fmt.Fprintf(&dump, "%d\t2026-11-%02d %02d:%02d:%02d+00\t%d\t%x", row.id, 1+row.id%28, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(100_000), r.Uint64())
		for range 14 {
			f := r.Float64()
			dump.WriteByte(" \t"[r.IntN(8)/7])
			dump.WriteString(s.words[int(2000*f*f*f)])
		}
		dump.WriteByte('\n')
	}
	t := dmgTree{"db.sql": dump.Bytes()}
	for name, row := range s.files {
		src.Seed(uint64(row.id), 7)
		data := make([]byte, size/5/max(100, size/5/40_000)*(1+r.IntN(100))/50)
		rand.NewChaCha8([32]byte{byte(row.id), byte(row.id >> 8), byte(row.id >> 16), byte(row.id >> 24)}).Read(data)
		for v := range row.version {
			copy(data[len(data)*int(v%10)/10:], fmt.Sprintf("changed %d", v))
		}
		t[name] = data
	}
	return t
}

// Two months of nightly backups, retention and pruning: what is stored in the end is near what the kept snapshots need alone.
//
//	VARVE_TEST_LONG=1 go test -timeout 60m -run TestRetention -v ./repo
func TestRetention(t *testing.T) {
	size, days := 2<<20, 60
	if long() {
		size = 300 << 20
	} else if raceEnabled {
		size, days = 256<<10, 25
	}
	synctest.Test(t, func(t *testing.T) {
		store := func() backend.Backend {
			if !long() {
				return mem.New(nil)
			}
			return &clocked{Backend: dmgMust(dir.Create(filepath.Join(t.TempDir(), "repo")))(t), at: map[string]time.Time{}}
		}
		d := dmgNew(t, store())
		cache := t.TempDir()
		open := func() *repo.Repo {
			return dmgMust(repo.Open(t.Context(), d.b, d.key, &repo.Options{Cache: cache}))(t)
		}
		keep := repo.Keep{Daily: 7, Weekly: 4, Monthly: 3}
		shop := newYearShop(size)
		type was struct {
			shop yearShop
			sum  [32]byte
		}
		then := map[string]was{}
		var copied, fed, peak int64
		night := func(backup bool) {
			r := open()
			defer r.Close()
			if backup {
				tree := shop.tree(size)
				s := dmgMust(r.Backup(t.Context(), "shop", tree.fs(), nil))(t)
				copyOf := *shop
				copyOf.files = map[string]shopRow{}
				for name, row := range shop.files {
					copyOf.files[name] = row
				}
				then[s.ID] = was{copyOf, sha256.Sum256(tree["db.sql"])}
				fed += s.Stats.Stored
				shop.day()
			}
			plan := dmgMust(r.Plan(t.Context(), "", keep))(t)
			ids := plan.Forget()
			if err := r.Forget(t.Context(), ids...); err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				delete(then, id)
			}
			rep, err := r.Prune(t.Context(), nil)
			if err != nil {
				t.Fatalf("prune: %v (%+v)", err, rep)
			}
			copied += rep.CopiedBytes
			peak = max(peak, rep.Stored)
			time.Sleep(day)
		}
		for range days {
			night(true)
		}
		first, fedFirst := d.size(t, ""), fed
		for range 12 {
			night(false)
		}
		is := d.size(t, "")

		r := open()
		defer r.Close()
		alone := dmgNew(t, store())
		n := 0
		for s, err := range r.Snapshots(t.Context(), repo.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			w := then[s.ID]
			// What is left of it is what went in.
			fsys := dmgMust(r.FS(t.Context(), s))(t)
			f := dmgMust(fsys.Open("db.sql"))(t)
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil || [32]byte(h.Sum(nil)) != w.sum {
				t.Fatalf("%s: another dump than went in (%v)", s.ID, err)
			}
			tree := w.shop.tree(size)
			for _, name := range sortedNames(tree)[1:min(50, len(tree))] {
				if got, err := fs.ReadFile(fsys, name); err != nil || !bytes.Equal(got, tree[name]) {
					t.Fatalf("%s:%s: %v", s.ID, name, err)
				}
			}
			dmgMust(alone.open(t).Backup(t.Context(), "shop", tree.fs(), nil))(t)
		}
		need := alone.size(t, "")
		ratio := float64(is) / float64(need)
		t.Logf("%d days of %.1f MB: %.1f MB were put by backups; %d snapshots are kept; %.1f MB stored in all (%.1f in %d packs) after the undo window, %.1f MB on day %d, at most %.1f; %.1f MB were copied by prune; "+
			"the kept ones alone take %.1f MB (%d packs): %.3f", days, float64(size)/1e6, float64(fedFirst)/1e6, n, float64(is)/1e6, float64(d.size(t, "packs/"))/1e6, len(dmgNames(t, d.b, "packs/")),
			float64(first)/1e6, days, float64(peak)/1e6, float64(copied)/1e6, float64(need)/1e6, len(dmgNames(t, alone.b, "packs/")), ratio)
		if n < 8 {
			t.Errorf("%d snapshots are kept", n)
		}
		if ratio > 1.25 {
			t.Errorf("%.3f times as much is stored as is needed, at most 1.25", ratio)
		}
		if rep := d.check(t, &repo.CheckOptions{ReadData: !long()}); !rep.Sound() {
			t.Errorf("check: %s", dmgFindings(rep))
		}
	})
}

// A clocked store has this program's clock, for one on a disk in a test with a virtual one.
type clocked struct {
	backend.Backend
	mu sync.Mutex // guards at
	at map[string]time.Time
}

func (c *clocked) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *backend.PutOptions) error {
	err := c.Backend.Put(ctx, name, r, size, o)
	if err == nil {
		c.mu.Lock()
		c.at[name] = time.Now()
		c.mu.Unlock()
	}
	return err
}

func (c *clocked) Stat(ctx context.Context, name string) (backend.Info, error) {
	info, err := c.Backend.Stat(ctx, name)
	return c.dated(info), err
}

func (c *clocked) List(ctx context.Context, prefix string) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		for info, err := range c.Backend.List(ctx, prefix) {
			if !yield(c.dated(info), err) {
				return
			}
		}
	}
}

func (c *clocked) dated(info backend.Info) backend.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.at[info.Name]; ok {
		info.Modified = at
	}
	return info
}
