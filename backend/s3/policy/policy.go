// Package policy has the policies to give to the credentials of a repository in
// a bucket: what Amazon S3, MinIO and others know as identity or user policies.
//
//	json, err := policy.For(policy.Writer, "backups", "shop")
//
// The names are files beside this one, with BUCKET and PREFIX in the places of
// what For fills in. None allows to bypass a lock (s3:BypassGovernanceRetention),
// or to change the bucket itself.
//
// That nothing is overwritten, Writer and Replica demand by a condition,
// s3:if-none-match, which Amazon knows: a put has to say that it is of a new
// object. MinIO knows no such key, and refuses a policy that has one:
// [WithoutConditions] takes it out. An overwrite goes through then, and what
// undoes it is a bucket that keeps versions, with locks; varve reads the older
// version by itself.
//
// All list the whole bucket, names and nothing more. A condition that restricts
// that to a prefix (s3:prefix) would have Amazon say "access denied" of each object
// that does not exist, so give a repository a bucket of its own if names matter.
//
// Whoever may lock (s3:PutObjectRetention) may lock for longer than you want to
// pay for. The condition key s3:object-lock-remaining-retention-days bounds that;
// it has to allow the lock's period, and the policies leave it to you.
package policy

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"github.com/varvebackup/varve/backend"
)

// A Name is one of the policies.
type Name string

const (
	// Writer is for a server that backs up. It lists and reads all, puts new packs,
	// segments, snapshots and markers of sessions, with locks, and nothing more:
	// it overwrites nothing (but see WithoutConditions), deletes nothing and
	// shortens no lock. The config, the keys and maintenance's records it can't even
	// put, so the repository is made with other credentials.
	Writer Name = "writer"
	// Maintainer is for where snapshots are forgotten and pruned, and locks are
	// extended: it puts, and deletes what is not locked. It makes repositories and
	// heals them, too.
	Maintainer Name = "maintainer"
	// SecondProvider is what a replica's side has for the bucket that it pulls
	// from: to read, older versions too.
	SecondProvider Name = "second-provider"
	// Replica is what it has for its own bucket: to put what is new.
	Replica Name = "replica"
)

// Names are all of them.
var Names = []Name{Writer, Maintainer, SecondProvider, Replica}

//go:embed *.json
var files embed.FS

// Template returns a policy with its placeholders.
func Template(n Name) (string, error) {
	b, err := files.ReadFile(string(n) + ".json")
	if err != nil {
		return "", fmt.Errorf("policy: there is no policy %q (there are: %s, %s, %s, %s): %w", n, Writer, Maintainer, SecondProvider, Replica, fs.ErrNotExist)
	}
	return string(b), nil
}

// For returns a policy for the repository in a bucket, below a prefix, which may
// be empty; slashes around it are dropped. The error is [fs.ErrNotExist] if
// there is no such policy, and [fs.ErrInvalid] for what can't be a bucket's name
// or a prefix.
func For(n Name, bucket, prefix string) (string, error) {
	t, err := Template(n)
	if err != nil {
		return "", err
	}
	if !backend.ValidName(bucket) || strings.Contains(bucket, "/") {
		return "", fmt.Errorf("policy: %q is not a name for a bucket: %w", bucket, fs.ErrInvalid)
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		if !backend.ValidName(prefix) {
			return "", fmt.Errorf("policy: prefix %q can't begin the names of objects: %w", prefix, fs.ErrInvalid)
		}
		prefix += "/"
	}
	return strings.NewReplacer("BUCKET", bucket, "PREFIX/", prefix).Replace(t), nil
}

// WithoutConditions returns a policy without its conditions, for services that
// don't know s3:if-none-match. The error is [fs.ErrInvalid] if it is none of these
// policies.
func WithoutConditions(policy string) (string, error) {
	var p struct {
		Version   string
		Statement []struct {
			Sid, Effect      string
			Action, Resource []string
			Condition        json.RawMessage `json:",omitempty"`
		}
	}
	d := json.NewDecoder(strings.NewReader(policy))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return "", fmt.Errorf("policy: %w: %w", fs.ErrInvalid, err)
	}
	for i := range p.Statement {
		p.Statement[i].Condition = nil
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", fmt.Errorf("policy: %w", err)
	}
	return string(b) + "\n", nil
}
