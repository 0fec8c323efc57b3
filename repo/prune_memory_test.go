package repo_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/backend/dir"
	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source"
)

// tinyBlobs is a stream that is cut into pieces of 72 bytes: a number, and a text behind which the chunker always cuts.
type tinyBlobs struct {
	cut    []byte
	number func(i int) (uint64, bool)
	i      int
	rest   []byte
}

func (s *tinyBlobs) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(s.rest) == 0 {
			id, ok := s.number(s.i)
			if !ok {
				if n == 0 {
					return 0, io.EOF
				}
				return n, nil
			}
			s.i++
			s.rest = append(binary.BigEndian.AppendUint64(s.rest[:0], id*0x9e3779b97f4a7c15), s.cut...)
		}
		k := copy(p[n:], s.rest)
		s.rest = s.rest[:copy(s.rest, s.rest[k:])]
		n += k
	}
	return n, nil
}

func (s *tinyBlobs) Close() error { return nil }

// The memory of a prune is that of its index, and little more: millions of blobs, of which a part is not needed in each pack.
//
//	VARVE_TEST_LONG=1 go test -timeout 30m -run TestPruneMemory -v ./repo
func TestPruneMemory(t *testing.T) {
	if crashRss() == 0 {
		t.Skip("this system does not tell RssAnon")
	}
	blobs := 200_000
	if long() {
		blobs = 5_000_000
	}
	if raceEnabled {
		blobs = 20_000
	}
	t.Setenv("GOGC", "25") // as the command has it
	place := filepath.Join(t.TempDir(), "repo")
	b, err := dir.Create(place)
	crashMust(t, err)
	r, key := crashRepo(t, b, nil)
	params := chunk.Params{Algorithm: chunk.Gear, Min: 64, Avg: 64 + 1<<11, Max: 16 << 10}
	repo.SetStreams(r, params)
	c, err := chunk.New(params, dmgKeys(t, b, key).ChunkingKey())
	crashMust(t, err)
	c.Reset(bytes.NewReader(crashRandom(5, 64<<10)))
	first, err := c.Next()
	crashMust(t, err)
	cut := bytes.Clone(first[len(first)-64:])

	backup := func(number func(i int) (uint64, bool)) *repo.Snapshot {
		s, err := r.Backup(t.Context(), "shop", source.Stream("dump.sql", func(context.Context) (io.ReadCloser, error) {
			return &tinyBlobs{cut: cut, number: number}, nil
		}), nil)
		crashMust(t, err)
		return s
	}
	before := blobs * 8 / 10
	gone := backup(func(i int) (uint64, bool) { return uint64(i), i < before })
	// Of each thousand three hundred are not there any more, and there are new ones.
	kept := before / 1000 * 700
	backup(func(i int) (uint64, bool) {
		if i < kept {
			return uint64(i/700*1000 + i%700), true
		}
		return uint64(i) + 1<<40, i < kept+blobs-before
	})
	crashMust(t, r.Forget(t.Context(), gone.ID))
	job := crashJob{Repo: place, Key: key.Text(), Prune: true, Memory: true,
		Times: repo.Times{Lag: time.Millisecond, Margin: time.Millisecond, Undo: time.Millisecond, Slack: time.Millisecond}}
	for _, what := range []string{"copying", "freeing"} {
		n, err := repo.IndexLen(t.Context(), r)
		crashMust(t, err)
		_, _, wait := crashStart(t, job)
		res, err := wait()
		crashMust(t, err)
		after, err := repo.IndexLen(t.Context(), r)
		crashMust(t, err)
		// What is freed leaves the index when it is read again.
		above, budget := res.Peak-res.Idle, int64(128<<20)+64*int64(n)
		t.Logf("%s: %d blobs, then %d, %v: RssAnon %.1f MiB above the idle %.1f MiB, at most %.1f (%.1f without the index); %+v", what, n, after, res.Duration.Round(time.Millisecond),
			float64(above)/(1<<20), float64(res.Idle)/(1<<20), float64(budget)/(1<<20), float64(above-64*int64(n))/(1<<20), *res.Report)
		if n < blobs {
			t.Errorf("only %d blobs", n)
		}
		if above > budget && !raceEnabled {
			t.Errorf("%s took %d bytes of memory, at most %d", what, above, budget)
		}
		if what == "copying" && res.Report.CopiedBytes == 0 || what == "freeing" && res.Report.Freed == 0 {
			t.Errorf("%s: %+v", what, res.Report)
		}
		if what == "freeing" && res.Report.Repacked > 0 {
			t.Errorf("what was copied is copied again: %+v", res.Report)
		}
	}
}
