package repo_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/backend/open"
	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/internal/miniotest"
	"github.com/varvebackup/varve/repo"
)

// A thief with every power that the service knows deletes each object, each version of each that he can, and puts junk in their places. In a bucket with versions
// and compliance locks, everything restores as of the moment before; then the bucket is healed from that view of itself, and backups go on.
func TestS3Thief(t *testing.T) {
	srv := miniotest.Start(t)
	ctx := t.Context()
	bucket := srv.BucketWith(minio.MakeBucketOptions{ObjectLocking: true})
	url := "s3://" + bucket + "/shop?endpoint=" + srv.Endpoint + "&region=us-east-1&insecure=1"
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	openURL := func(url string) backend.Backend {
		b := dmgMust(open.URL(ctx, url, nil))(t)
		t.Cleanup(func() { b.(interface{ Close() error }).Close() })
		return b
	}
	b := openURL(url)
	key := dmgMust(crypt.NewKey())(t)
	_, _, err := repo.Create(ctx, b, key, &repo.Options{Lock: repo.Lock{Mode: backend.Compliance, Period: time.Hour}})
	crashMust(t, err)
	d := &dmgRepo{b: b, key: key, keys: dmgKeys(t, b, key), want: map[string]dmgTree{}, gone: map[string]bool{}}
	big := dmgRand(1, 700<<10)
	d.backup(t, "shop", dmgTree{"db.sql": big, "uploads/1": dmgRand(2, 20<<10)})
	d.backup(t, "shop", dmgTree{"db.sql": append(big[:600<<10:600<<10], dmgRand(3, 80<<10)...), "uploads/1": dmgRand(2, 20<<10), "uploads/2": dmgRand(4, 9<<10)})
	d.backup(t, "mail", dmgTree{"inbox": dmgRand(5, 40<<10)})

	// The store's clock, before and a second later.
	names := dmgNames(t, b, "")
	var then time.Time
	for info, err := range b.List(ctx, "") {
		crashMust(t, err)
		if info.Modified.After(then) {
			then = info.Modified
		}
	}
	then = then.Truncate(time.Second).Add(time.Second)
	clock := s3Open(t, srv, srv.Bucket())
	for i := 0; ; i++ {
		crashMust(t, backend.PutBytes(ctx, clock, "tick", []byte{byte(i)}, nil))
		info, err := clock.Stat(ctx, "tick")
		crashMust(t, err)
		if info.Modified.After(then.Add(time.Second)) {
			break
		}
	}

	thief := srv.Client()
	survived := 0
	for o := range thief.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		crashMust(t, o.Err)
		err := thief.RemoveObject(ctx, bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID, GovernanceBypass: true})
		if err != nil {
			survived++
		}
	}
	if survived == 0 {
		t.Fatal("no lock held the thief back")
	}
	for i, name := range names {
		if i%3 > 0 {
			crashMust(t, thief.RemoveObject(ctx, bucket, "shop/"+name, minio.RemoveObjectOptions{}))
		}
		if i%3 < 2 {
			_, err := thief.PutObject(ctx, bucket, "shop/"+name, bytes.NewReader(crypt.AppendHash([]byte("junk"))), 4+32, minio.PutObjectOptions{})
			crashMust(t, err)
		}
	}
	// What was only overwritten is looked through, what was deleted is not listed.
	if s := crashSnapshotsOrNone(ctx, d); s == len(d.want) {
		t.Fatal("the thief did nothing")
	}

	view := openURL(url + "&as-of=" + then.UTC().Format(time.RFC3339))
	old := *d
	old.b = view
	old.everything(t, old.open(t))

	if _, err := repo.Heal(ctx, b, view, nil); err == nil {
		t.Error("heal believes what only ends in its own hash")
	}
	rep, err := repo.Heal(ctx, b, view, &repo.CopyOptions{Replace: true, Lock: repo.Lock{Mode: backend.Compliance, Period: time.Hour}})
	if err != nil {
		t.Fatalf("heal: %v (%+v)", err, rep)
	}
	d.everything(t, d.open(t))
	d.backup(t, "shop", dmgTree{"db.sql": big, "after": []byte("after")})
	d.everything(t, d.open(t))
	if rep := d.check(t, &repo.CheckOptions{ReadData: true}); !rep.Sound() {
		t.Errorf("check: %s", dmgFindings(rep))
	}
}

// crashSnapshotsOrNone counts the snapshots that can be listed now.
func crashSnapshotsOrNone(ctx context.Context, d *dmgRepo) (n int) {
	r, err := repo.Open(ctx, d.b, d.key, nil)
	if err != nil {
		return 0
	}
	for _, err := range r.Snapshots(ctx, repo.Filter{}) {
		if err == nil {
			n++
		}
	}
	return n
}

func s3Open(t *testing.T, srv *miniotest.Server, bucket string) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), bucket, &s3.Options{Endpoint: srv.Endpoint, Region: "us-east-1", Insecure: true, Credentials: srv.Credentials()})
	crashMust(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}
