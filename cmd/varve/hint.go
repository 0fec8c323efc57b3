package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// A step is what a command was about when something went wrong, where the error alone does not tell.
type step int

const (
	stepStore    step = iota + 1 // open the store
	stepSnapshot                 // find a snapshot
	stepPath                     // find a path in a snapshot
	stepSource                   // look at what is to be backed up
	stepSecret                   // read the file of a secret
	stepSlot                     // find a slot
	stepReplica                  // open the other store of replicate or heal
	stepPrune                    // prune
)

type stepError struct {
	step step
	what string // as the person wrote it
	err  error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

func at(s step, what string, err error) error { return &stepError{s, what, err} }

// failed ends a command that has told all that there is to tell but this.
type failed struct {
	status int
	text   string
}

func (f failed) Error() string { return f.text }

// finish says what went wrong, if anything, and returns the exit status.
func (a *app) finish(err error) int {
	switch {
	case a.out.err != nil && errors.Is(a.out.err, syscall.EPIPE):
		return statusFailed // whoever read has enough
	case a.out.err != nil:
		err = fmt.Errorf("standard output: %w", a.out.err)
	case err == nil:
		return statusDone
	}
	text, status := a.sentence(err), statusFailed
	if f, ok := errors.AsType[failed](err); ok {
		text, status = f.text, f.status
	}
	if a.json {
		b, _ := json.Marshal(map[string]string{"error": text}) // strings can be marshalled
		fmt.Fprintf(a.stderr, "%s\n", b)
	} else {
		fmt.Fprintf(a.stderr, "varve: %s\n", printableLines(text))
	}
	return status
}

// sentence says what is wrong, and what a person can do about it.
func (a *app) sentence(err error) string {
	is := func(target error) bool { return errors.Is(err, target) }
	_, future := errors.AsType[*crypt.VersionError](err)
	_, damaged := errors.AsType[*repo.DamageError](err)
	if s, ok := errors.AsType[*stepError](err); ok && is(fs.ErrNotExist) && !damaged {
		return missing(s)
	}
	pe, hasPath := errors.AsType[*fs.PathError](err)
	hint := ""
	if s, ok := errors.AsType[*stepError](err); ok && s.step == stepPrune && !is(context.Canceled) && !future {
		hint = pruneHint(err)
	}
	switch {
	case hint != "":
	case is(repo.ErrUncertain):
		hint = "\"varve snapshots\" tells, once the store answers again"
	case is(context.Canceled):
		return fmt.Sprintf("interrupted (%v)", err)
	case is(repo.ErrNoRepository):
		hint = fmt.Sprintf("correct --repo or VARVE_REPO (now %s), or make a repository there with \"varve init\"", a.repository)
	case is(repo.ErrExists):
		hint = fmt.Sprintf("nothing was changed in %s; give --repo or VARVE_REPO an empty or new folder", a.repository)
	case is(open.ErrScheme):
		hint = "correct --repo or VARVE_REPO"
	case is(crypt.ErrWrongKey):
		hint = "it opens none of the repository's slots; check where it came from, or set VARVE_KEY to the recovery key"
	case is(repo.ErrRole):
		hint = fmt.Sprintf("use the passphrase or key of %s; \"varve key list\" shows the roles that there are", roleFor(a.command))
	case is(fs.ErrInvalid) && a.command == "lock extend":
		hint = "\"varve lock set\" says what is locked from now on, and then \"varve lock extend\" locks what is there"
	case is(repo.ErrTooLate):
		hint = "another copy may still have it: a replica, or the bucket as it was (as-of in its URL)"
	case is(repo.ErrBusy):
		hint = "run this again"
	case is(repo.ErrVoid):
		hint = "this happens when the machine sleeps or the store is out of reach for two days; run the backup again"
	case future:
		hint = "a newer varve wrote it, so update this one"
	case damaged, is(crypt.ErrDamaged):
		hint = "\"varve check\" lists all that is damaged and what it hurts"
	case hasPath && a.cache != "" && strings.HasPrefix(pe.Path, a.cache):
		hint = "give another folder by --cache or VARVE_CACHE, or --no-cache"
	case is(syscall.ENOSPC), is(syscall.EDQUOT):
		hint = "the disk is full; free some space and run this again"
	case is(syscall.EROFS):
		hint = "the disk can only be read; mount it for writing"
	case hasPath && is(fs.ErrPermission):
		hint = "run varve as a user who may do that, or change who may"
	default:
		return err.Error()
	}
	return err.Error() + ": " + hint
}

// roleFor says who may run a command that the key at hand may not run.
func roleFor(command string) string {
	switch command {
	case "cat", "restore", "key add", "key remove":
		return "an owner"
	}
	return "a maintainer or an owner"
}

// missing says what is not there.
func missing(s *stepError) string {
	switch s.step {
	case stepStore:
		return fmt.Sprintf("there is no folder %s: correct --repo or VARVE_REPO, mount the disk, or make a repository with \"varve init\"", s.what)
	case stepSnapshot:
		return fmt.Sprintf("there is no snapshot %q: \"varve snapshots\" lists those that there are", s.what)
	case stepPath:
		return fmt.Sprintf("there is no %s in that snapshot: \"varve ls\" lists what is there", s.what)
	case stepSource:
		return fmt.Sprintf("there is no source %s, so nothing was backed up: check its path", s.what)
	case stepSecret:
		return fmt.Sprintf("there is no file %s to read the secret from: check its path", s.what)
	case stepReplica:
		return fmt.Sprintf("there is no folder %s: correct --from or --to, or mount the disk", s.what)
	case stepPrune:
		return fmt.Sprintf("%v: correct --condemn: \"varve check\" names what is damaged", s)
	case stepSlot:
		return fmt.Sprintf("there is no slot %q: \"varve key list\" lists those that there are", s.what)
	}
	return s.Error()
}

// trim returns an error without the path that is printed beside it.
func trim(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		if _, after, ok := strings.Cut(err.Error(), pe.Path+": "); ok {
			return after
		}
	}
	return err.Error()
}
