package repo

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/varvebackup/varve/chunk"
	"github.com/varvebackup/varve/crypt"
)

// Times are the protocol's, for tests that scale them.
type Times struct{ Renew, Expire, Lag, Racy, Grace, Segment, Margin, Undo, Slack, Follow time.Duration }

// SetTimes replaces times until the end of a test; zero leaves one as it is. No backup may run when it is called or at the end of the test.
func SetTimes(t testing.TB, n Times) {
	old := times
	t.Cleanup(func() { times = old })
	for _, c := range []struct {
		to   *time.Duration
		from time.Duration
	}{{&times.renew, n.Renew}, {&times.expire, n.Expire}, {&times.lag, n.Lag}, {&times.racy, n.Racy}, {&times.grace, n.Grace}, {&times.segment, n.Segment},
		{&times.margin, n.Margin}, {&times.undo, n.Undo}, {&times.slack, n.Slack}, {&times.follow, n.Follow}} {
		if c.from != 0 {
			*c.to = c.from
		}
	}
}

// IndexedContent returns how many bytes of content the index names, each chunk counted once.
func IndexedContent(ctx context.Context, r *Repo) (sum int64, err error) {
	v, err := r.loadView(ctx)
	if err != nil {
		return 0, err
	}
	var last [32]byte
	for id, c := range v.x.All() {
		if id != last && v.x.Kind(c.Frame) == crypt.SectionContent {
			sum += int64(c.Length)
		}
		last = id
	}
	return sum, nil
}

// TokenFile returns the path of a series' token file.
func TokenFile(r *Repo, series string) string {
	return filepath.Join(r.cache.dir, "tokens", tokenFile(r, series))
}

// SetStreams lets an open repository cut streams otherwise than its config says.
func SetStreams(r *Repo, p chunk.Params) { r.config.Streams = paramsOf(p) }

// IndexLen returns how many blobs the index names, each copy counted.
func IndexLen(ctx context.Context, r *Repo) (int, error) {
	v, err := r.loadView(ctx)
	if err != nil {
		return 0, err
	}
	return v.x.Len(), nil
}
