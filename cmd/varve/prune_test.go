package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/varvebackup/varve/repo"
)

// What a prune did is told in sentences, with what to do next.
func TestReportPrune(t *testing.T) {
	at := time.Date(2026, 11, 20, 3, 0, 0, 0, time.Local)
	for _, c := range []struct {
		rep  repo.PruneReport
		dry  bool
		want string
	}{
		{repo.PruneReport{}, false, "nothing is to be freed\n"},
		{repo.PruneReport{Finished: []int{3}, Freed: 1, FreedBytes: 5 << 20, Snapshots: 2, Retained: 1, Run: 4, Due: at, Condemned: 2, CondemnedBytes: 3 << 20, Repacked: 1, RepackedBytes: 2 << 20,
			CopiedBytes: 1 << 20, Stored: 9 << 20, Live: 8 << 20}, false,
			`freed 1 pack, 5.0 MiB
removed 2 forgotten snapshots for good
1 object is locked in the store: a later run deletes them
copied what is needed in 1 pack of 2.0 MiB: 1.0 MiB
2 packs of 3.0 MiB noted to be freed
run this again after 2026-11-20 03:00:00 to free them
9.0 MiB stored in packs, of which snapshots need 8.0 MiB
`},
		{repo.PruneReport{Run: 4, Due: at, Condemned: 2, Voided: []string{"y"}, Waiting: []repo.Waiting{{Session: "x", Since: at.Add(-time.Hour), Last: at}}}, false,
			`closed the session y: its backup can't end any more
2 packs noted to be freed
waits for the session x, open since 2026-11-20 02:00:00, last seen 2026-11-20 03:00:00: if it shows no more life, it is closed 2026-11-22 03:00:00
run this again when they are over: tomorrow, say
`},
		{repo.PruneReport{Condemned: 1, CondemnedBytes: 1 << 20, Repacked: 1, RepackedBytes: 1 << 20}, true,
			`1 pack of 1.0 MiB would be copied, for a part of them is needed
1 pack of 1.0 MiB would be noted to be freed
`},
		{repo.PruneReport{Run: 4, Due: at, TakenOut: []string{"gc/9"}}, true, "would take out gc/9\nwhat a run noted before this one can be freed after 2026-11-20 03:00:00\n"},
		{repo.PruneReport{Rotten: []*repo.DamageError{{Object: "packs/1", Err: errors.New("bad")}}}, false, "packs/1: damaged: bad\n"},
	} {
		s := newShell(t)
		a := &app{env: s.env, out: &output{w: &s.out}}
		if err := a.reportPrune(&c.rep, c.dry, nil); err != nil || s.out.String() != c.want {
			t.Errorf("%v\n got %s\nwant %s", err, s.out.String(), c.want)
		}
	}
}

func TestPruneHints(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("prune: %w", repo.ErrBusy), "--void-open"},
		{errors.ErrUnsupported, "--exclusive"},
		{syscall.ENOSPC, "--max-repack 0"},
		{fs.ErrInvalid, "--condemn"},
		{repo.ErrRole, "maintainer"},
		{&repo.DamageError{Object: "index/x", Err: fs.ErrNotExist}, "varve heal"},
	} {
		a := &app{}
		if text := a.sentence(at(stepPrune, "", c.err)); !strings.Contains(text, c.want) {
			t.Errorf("%v: %s", c.err, text)
		}
	}
	a := &app{}
	if text := a.sentence(fmt.Errorf("unforget: %w", repo.ErrTooLate)); !strings.Contains(text, "replica") {
		t.Error(text)
	}
}

func TestOblivion(t *testing.T) {
	at := time.Date(2026, 11, 20, 3, 0, 0, 0, time.Local)
	for d, want := range map[time.Duration]string{
		time.Hour:                      "(forgotten 2026-11-20 03:00:00, can be taken back until 2026-11-27 03:00:00)",
		repo.UndoWindow + 48*time.Hour: "(forgotten 2026-11-20 03:00:00, can be taken back until a prune lets it go)",
	} {
		if got := oblivion(at, at.Add(d)); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}
