package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/repo"
	"github.com/varvebackup/varve/source/bucket"
)

// isBucket tells whether a source or target is a bucket's URL.
func isBucket(arg string) bool {
	scheme, _, ok := strings.Cut(arg, "://")
	return ok && strings.EqualFold(scheme, "s3")
}

// bucketName returns the name that a bucket gets in a snapshot beside other sources: its own, or the last one of the prefix.
func bucketName(rawURL string) (string, error) {
	name, o, _, err := s3.ParseURL(rawURL)
	if err != nil {
		return "", err
	}
	if base := path.Base(o.Prefix); base != "." && base != "/" && base != ".." {
		return base, nil
	}
	return name, nil
}

// openBucket opens s3://bucket/prefix?endpoint=host:port&profile=name. Errors do not repeat the URL.
func openBucket(ctx context.Context, rawURL string) (*bucket.FS, error) {
	name, o, rest, err := s3.ParseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("the bucket's URL: %w", err)
	}
	for param, v := range rest {
		if param != "profile" {
			return nil, fmt.Errorf("the bucket's URL: %q means nothing here (there are endpoint, region, path-style, insecure, ca and profile)", param)
		}
		o.Credentials = credentials.NewFileAWSCredentials("", v)
	}
	prefix := strings.TrimPrefix(o.Prefix, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	o.Prefix = ""
	return bucket.Open(ctx, name, &bucket.Options{Prefix: prefix, S3: *o})
}

// restoreBucket puts what is in a snapshot into a bucket.
func (a *app) restoreBucket(ctx context.Context, spec, rawURL string, overwrite repo.Overwrite, f *restoreFlags) error {
	if f.verify {
		return errors.New("--verify is for folders: a bucket's service has the hash of each object, and refuses it if it arrives changed")
	}
	b, err := openBucket(ctx, rawURL)
	if err != nil {
		return err
	}
	defer b.Close()
	r, s, base, err := a.openSpec(ctx, spec)
	if err != nil {
		return err
	}
	defer r.Close()
	if f.delete && s.Stats.Unread > 0 {
		return fmt.Errorf("--delete: %s not read whole when the snapshot was made, and would be deleted: take another snapshot, or leave out --delete", count(s.Stats.Unread, "entry was", "entries were"))
	}
	fsys, _, err := openFS(ctx, r, s, base)
	if err != nil {
		return err
	}
	begun := time.Now()
	p := a.progress()
	report, err := b.Put(ctx, fsys, &bucket.PutOptions{Base: base, Overwrite: overwrite, Delete: f.delete, Progress: p.restore})
	p.clear()
	failures, partly := errors.AsType[*repo.RestoreError](err)
	switch {
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return failed{statusFailed, fmt.Sprintf("interrupted: what was restored so far is in %s, and the same command goes on from there", b)}
	case err != nil && !partly:
		return err
	}
	done := &repo.RestoreReport{Files: report.Put, Skipped: report.Kept, Bytes: report.Bytes}
	if werr := a.reportRestore(s.ID, b.String(), done, report.Deleted, failures, time.Since(begun)); werr != nil {
		return werr
	}
	if partly {
		rest := "the rest was"
		if f.delete {
			rest += ", and nothing was deleted"
		}
		return failed{statusFailed, fmt.Sprintf("%s to %s, %s", count(int64(len(failures.Failed)+failures.More), "entry was not restored", "entries were not restored"), b, rest)}
	}
	return nil
}
