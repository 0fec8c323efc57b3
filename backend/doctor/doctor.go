// Package doctor finds out what a repository's store, with the credentials at
// hand, would survive: it tries what a thief of them would.
//
//	report, err := doctor.Run(ctx, store, nil)
//	for _, v := range report.Verdicts {
//		fmt.Println(v.Text)
//	}
//
// [Run] puts objects of its own in each folder of a repository, whose last part
// begins with "probe-": such objects are no part of a repository, so it may run
// in a store that has one, beside backups, and in an empty one. On them, and on
// nothing else, it tries to overwrite, to hide, to delete, to delete versions,
// and to end locks. It believes what the store does, not what it says of its
// settings. What it can remove again, it removes, and
// what earlier runs could not.
//
// What was tried is a [Report]; a [Verdict] says what that means. No keys are
// needed, and nothing of the repository is read but names, and the locks of some
// objects.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/varvebackup/varve/backend"
)

// Options are for Run. Nil and zero: there is no replica.
type Options struct {
	// Replica says that there is another copy of the repository, as repo.Replicate
	// makes it, which these credentials can't reach. It is not looked at.
	Replica bool
}

// An Outcome is what came of something that was tried.
type Outcome string

const (
	Untried     Outcome = "untried"     // it could not be tried
	Done        Outcome = "done"        // it was done
	Refused     Outcome = "refused"     // these credentials may not do it
	Locked      Outcome = "locked"      // a lock kept it from being done
	Unsupported Outcome = "unsupported" // the store knows no such thing
)

// An Answer is what is known of the store.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// A Folder is what came of the tries in one folder of a repository.
type Folder struct {
	Name          string // with its slash: "packs/"
	Put           Outcome
	Overwrite     Outcome
	Hide          Outcome // delete without a version's id, see [backend.Hide]
	Delete        Outcome // with all versions
	DeleteVersion Outcome // see [backend.Erase] where the bucket locks by itself
	Governance    Lock
	Compliance    Lock
}

// A Lock is what came of the tries with an object locked in one mode.
type Lock struct {
	Put     Outcome // an object locked from its put on
	Delete  Outcome // its version, see [backend.Erase]
	Shorten Outcome // the lock, to an earlier time
	Remove  Outcome // the lock
}

// Locks is how some objects of the repository are locked, as it is now.
type Locks struct {
	Objects int          // that were looked at
	Locked  int          // of those
	Mode    backend.Mode // governance if any of them has that; "" if none is locked
	Until   time.Time    // when the first of the locks ends
	First   string       // an object that is not locked, else the one whose lock ends first
	InUse   bool         // all that is needed for sure is locked, and some packs are
}

// A Report is what Run found out.
type Report struct {
	Repository bool   // there is one
	Bucket     bool   // it is one, so policies can restrict credentials
	TLS        Answer // whether the way to the store is encrypted

	ReadAfterWrite Answer // what was put is read and listed at once
	PutIfAbsent    Answer // an object that is there stays when it is put if absent; of several that put it, one succeeds
	Versions       Answer // what is replaced or deleted is kept
	Locks          Answer // an object can be locked when it is put

	// Skew is how far the store's clock is ahead of this machine's, as far as the
	// store's resolution and the time of a request tell; zero if they may agree.
	Skew time.Duration

	Used    *Locks   // nil: there is no repository, or its locks can't be read
	Folders []Folder // sorted by name

	Thief    Thief
	Verdicts []Verdict // one for each threat
	Warnings []string  // whole sentences
	Untried  []string  // likewise: what only its owner can know
	Left     []string  // names of objects of this run that could not be removed, in some version; sorted
}

// MaxSkew is how far clocks may be apart before a Report warns.
const MaxSkew = time.Minute

// The folders of a repository. Old snapshots need what is in the vital ones.
var (
	vital   = []string{"config/", "index/", "keys/", "packs/", "snapshots/"}
	records = []string{"forgotten/", "gc/", "sessions/"}
)

// Run examines a store. It takes some hundred requests, and some seconds more
// where a lock of its own has to end before it can clean up.
//
// The error is that of the store if it can't be listed, or fails otherwise: then
// there is nothing to report. That something is refused is no error but a result.
func Run(ctx context.Context, b backend.Backend, o *Options) (*Report, error) {
	if o == nil {
		o = new(Options)
	}
	r := &run{b: b, id: random(), rep: &Report{TLS: Unknown, ReadAfterWrite: Unknown, PutIfAbsent: Unknown, Versions: Unknown, Locks: Unknown}}
	if err := r.examine(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		// An examination that is cut short cleans up, too.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		r.clean(cctx, false)
		return nil, fmt.Errorf("examine the store: %w", err)
	}
	r.judge(o)
	return r.rep, nil
}

const grace = 10 * time.Second

// result sorts the error of a try. An error is the store's, or that of ctx.
func result(err error) (Outcome, error) {
	switch {
	case err == nil:
		return Done, nil
	case errors.Is(err, backend.ErrRetained):
		return Locked, nil
	case errors.Is(err, fs.ErrPermission):
		return Refused, nil
	case errors.Is(err, errors.ErrUnsupported):
		return Unsupported, nil
	}
	return Untried, err
}
