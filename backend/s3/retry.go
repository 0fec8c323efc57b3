package s3

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// attempts are the tries of one call.
type attempts struct {
	b        *Bucket
	ctx      context.Context
	op, name string
	needs    string // which permission, for who has it not
	try      int    // from 1
	began    time.Time
	pauses   *backoff.ExponentialBackOff
}

func (b *Bucket) attempts(ctx context.Context, op, name, needs string) *attempts {
	return &attempts{b: b, ctx: ctx, op: op, name: name, needs: needs, try: 1}
}

func or[T int | time.Duration](v, zero T) T {
	if v <= 0 {
		return zero
	}
	return v
}

// progress forgets the failures so far: the call got on since.
func (a *attempts) progress() { a.pauses = nil }

// again waits and returns nil if the call is worth another try after err, and
// otherwise the error to return.
func (a *attempts) again(err error) error {
	if cerr := a.ctx.Err(); cerr != nil {
		return fmt.Errorf("backend/s3: %s %s: %w", a.op, a.name, cerr)
	}
	f := a.b.explain(a.op, a.name, a.needs, err)
	if !f.passing {
		return f
	}
	o := &a.b.retry
	if a.pauses == nil {
		a.pauses = backoff.NewExponentialBackOff()
		a.pauses.InitialInterval = or(o.Wait, 500*time.Millisecond)
		a.pauses.MaxInterval = or(o.MaxWait, 30*time.Second)
		a.began = time.Now()
	}
	limit := or(o.Elapsed, 5*time.Minute)
	if !a.b.reached.Load() {
		// Nobody ever answered there: more likely a wrong endpoint than a
		// service that restarts.
		limit = min(limit, absence)
	}
	pause := a.pauses.NextBackOff()
	if o.Tries > 0 && a.try >= o.Tries || time.Since(a.began)+pause > limit {
		f.tries = a.try
		return f
	}
	if o.Notify != nil {
		o.Notify(f, pause)
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		a.try++
		return nil
	case <-a.ctx.Done():
		return fmt.Errorf("backend/s3: %s %s: %w, after %d tries, the last of which: %w", a.op, a.name, a.ctx.Err(), a.try, f)
	}
}
