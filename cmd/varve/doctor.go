package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/backend/doctor"
	"github.com/varvebackup/varve/backend/s3/policy"
)

type doctorJSON struct {
	Repository     bool          `json:"repository"`
	Bucket         bool          `json:"bucket"`
	TLS            doctor.Answer `json:"tls"`
	ReadAfterWrite doctor.Answer `json:"read_after_write"`
	PutIfAbsent    doctor.Answer `json:"put_if_absent"`
	Versions       doctor.Answer `json:"versions"`
	Locks          doctor.Answer `json:"locks"`
	ClockSkew      float64       `json:"clock_skew_seconds"`
	Used           *usedJSON     `json:"used"`
	Folders        []triedJSON   `json:"folders"`
	Thief          doctor.Thief  `json:"thief"`
	Verdicts       []verdictJSON `json:"verdicts"`
	Warnings       []string      `json:"warnings"`
	Untried        []string      `json:"untried"`
	Left           []string      `json:"left"`
}

type usedJSON struct {
	Objects int        `json:"objects"`
	Locked  int        `json:"locked"`
	Mode    string     `json:"mode"`
	Until   *time.Time `json:"until"`
	First   string     `json:"first"`
	InUse   bool       `json:"in_use"`
}

type triedJSON struct {
	Folder        string         `json:"folder"`
	Put           doctor.Outcome `json:"put"`
	Overwrite     doctor.Outcome `json:"overwrite"`
	Hide          doctor.Outcome `json:"hide"`
	Delete        doctor.Outcome `json:"delete"`
	DeleteVersion doctor.Outcome `json:"delete_version"`
	Governance    triedLockJSON  `json:"governance"`
	Compliance    triedLockJSON  `json:"compliance"`
}

type triedLockJSON struct {
	Put     doctor.Outcome `json:"put"`
	Delete  doctor.Outcome `json:"delete"`
	Shorten doctor.Outcome `json:"shorten"`
	Remove  doctor.Outcome `json:"remove"`
}

type verdictJSON struct {
	Threat   doctor.Threat   `json:"threat"`
	Survives doctor.Survives `json:"survives"`
	Text     string          `json:"text"`
	Remedies []string        `json:"remedies"`
}

func (a *app) doctorCmd() *cobra.Command {
	var strict, plain bool
	var name string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what could destroy the backups, by trying",
		Long: `Find out what the backups survive with the credentials at hand, by trying what a
thief of them would: to overwrite, hide and delete objects, to delete older
versions, to end locks. It tries that on objects of its own in each folder of the
repository ("probe-..."), and removes them again as far as it may; it says what
stays. It touches nothing else, needs no secret, and works where there is no
repository yet.

A verdict tells "yes" where the harm does not happen (the store refuses), "undone"
where it happens and can be undone (older versions, locks, a replica), "partly",
or "no", and then what closes the hole. --replica says that there is a replica
which these credentials do not reach; it is believed.

The exit status is 0 when everything was tried, whatever came of it. With
--strict, it is 1 if a thief of these credentials can destroy the backups.

With --policy, print a policy for the bucket instead: writer for servers that
back up, maintainer for where snapshots are removed, second-provider for who
pulls a replica from here, replica for who keeps one here. --without-conditions
is for services that know no s3:if-none-match, as MinIO: there, overwriting is
not refused but undone, by versions and locks.

JSON: {repository, bucket, tls, read_after_write, put_if_absent, versions, locks,
clock_skew_seconds, used: {objects, locked, mode, until, first, in_use}, folders:
[{folder, put, overwrite, hide, delete, delete_version, governance: {put, delete,
shorten, remove}, compliance}], thief, verdicts: [{threat, survives, text,
remedies}], warnings, untried, left}.
tls to locks are yes, no or unknown; skew is how far the store's clock is ahead.
used is how some of the repository's objects are locked now (null: there is none,
or nobody may look). What was tried in a folder is done, refused, locked,
unsupported or untried. thief is what one can do to the backups with these
credentials: reads, adds, undone or destroys. A threat is crash, rot, mistake,
thief or account. left are the names of objects that could not be removed.`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("policy") {
				return a.printPolicy(policy.Name(name), plain)
			}
			if plain {
				return usageError(cmd, "--without-conditions is for --policy")
			}
			return a.examine(cmd.Context(), strict)
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "exit status 1 if a thief of these credentials can destroy the backups")
	cmd.Flags().StringVar(&name, "policy", "", "print the policy `NAME` for the bucket")
	cmd.Flags().BoolVar(&plain, "without-conditions", false, "print it for a service without s3:if-none-match")
	return cmd
}

// printPolicy prints a policy for the bucket that the repository's URL names. It is JSON whether that is asked for or not.
func (a *app) printPolicy(name policy.Name, plain bool) error {
	where, err := a.url()
	if err != nil {
		return err
	}
	u, err := url.Parse(where)
	if err != nil || !strings.EqualFold(u.Scheme, "s3") || u.Host == "" {
		return errors.New("policies are for buckets: give --repo or VARVE_REPO as s3://bucket/prefix")
	}
	text, err := policy.For(name, u.Host, u.Path)
	if err == nil && plain {
		text, err = policy.WithoutConditions(text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.out, text)
	return err
}

func (a *app) examine(ctx context.Context, strict bool) error {
	b, err := a.backend(ctx, false)
	if err != nil {
		return err
	}
	r, err := doctor.Run(ctx, b, &doctor.Options{Replica: len(a.replicas) > 0 || a.getenv("VARVE_REPLICA") != ""})
	if err != nil {
		return err
	}
	if a.json {
		err = a.writeJSON(doctorDoc(r))
	} else {
		err = a.printReport(r)
	}
	if err == nil && strict && r.Thief == doctor.Destroys {
		return failed{statusFailed, "a thief of these credentials can destroy the backups"}
	}
	return err
}

func doctorDoc(r *doctor.Report) doctorJSON {
	doc := doctorJSON{
		Repository: r.Repository, Bucket: r.Bucket, TLS: r.TLS, ReadAfterWrite: r.ReadAfterWrite, PutIfAbsent: r.PutIfAbsent, Versions: r.Versions, Locks: r.Locks,
		ClockSkew: r.Skew.Seconds(), Folders: []triedJSON{}, Thief: r.Thief, Verdicts: []verdictJSON{},
		Warnings: append([]string{}, r.Warnings...), Untried: append([]string{}, r.Untried...), Left: append([]string{}, r.Left...),
	}
	if u := r.Used; u != nil {
		doc.Used = &usedJSON{Objects: u.Objects, Locked: u.Locked, Mode: string(u.Mode), First: u.First, InUse: u.InUse}
		if !u.Until.IsZero() {
			until := u.Until.UTC()
			doc.Used.Until = &until
		}
	}
	for _, f := range r.Folders {
		doc.Folders = append(doc.Folders, triedJSON{f.Name, f.Put, f.Overwrite, f.Hide, f.Delete, f.DeleteVersion, triedLockJSON(f.Governance), triedLockJSON(f.Compliance)})
	}
	for _, v := range r.Verdicts {
		doc.Verdicts = append(doc.Verdicts, verdictJSON{v.Threat, v.Survives, v.Text, append([]string{}, v.Remedies...)})
	}
	return doc
}

func (a *app) printReport(r *doctor.Report) error {
	fmt.Fprintf(a.out, "put-if-absent: %s   read after write: %s   versions: %s   locks: %s   TLS: %s\n\n", r.PutIfAbsent, r.ReadAfterWrite, r.Versions, r.Locks, r.TLS)
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tput\toverwrite\thide\tdelete\tdelete a version\tend a lock")
	for _, f := range r.Folders {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.Put, f.Overwrite, f.Hide, f.Delete, f.DeleteVersion, endLock(f))
	}
	t.Flush()
	for _, v := range r.Verdicts {
		fmt.Fprintf(a.out, "\n%s: %s\n  %s\n", v.Threat, v.Survives, printable(v.Text))
		for _, s := range v.Remedies {
			fmt.Fprintf(a.out, "  - %s\n", printable(s))
		}
	}
	fmt.Fprintln(a.out)
	for _, w := range r.Warnings {
		fmt.Fprintf(a.out, "warning: %s\n", printable(w))
	}
	for _, u := range r.Untried {
		fmt.Fprintf(a.out, "untried: %s\n", printable(u))
	}
	if n := len(r.Left); n > 0 {
		fmt.Fprintf(a.out, "left: %s that these credentials can't remove, %s is one; a maintainer's run removes them\n", count(int64(n), "small object", "small objects"), printable(r.Left[0]))
	}
	return a.out.err
}

// endLock says which locks can be ended early.
func endLock(f doctor.Folder) string {
	switch ends := func(l doctor.Lock) bool {
		return l.Delete == doctor.Done || l.Shorten == doctor.Done || l.Remove == doctor.Done
	}; {
	case f.Governance.Put != doctor.Done && f.Compliance.Put != doctor.Done:
		return string(f.Governance.Put)
	case ends(f.Governance) && ends(f.Compliance):
		return "done"
	case ends(f.Governance):
		return "done (governance), refused (compliance)"
	case ends(f.Compliance):
		return "done (compliance)"
	}
	return "refused"
}
