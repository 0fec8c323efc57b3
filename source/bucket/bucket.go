// Package bucket makes a source of an S3 bucket, or of the keys in one that begin with a prefix, and puts a snapshot's tree back into one:
//
//	media, err := bucket.Open(ctx, "shop-media", &bucket.Options{Prefix: "uploads/"})
//	...
//	defer media.Close()
//	snapshot, err := r.Backup(ctx, "shop", source.Join{"media": media}, nil)
//	...
//	tree, err := r.FS(ctx, snapshot)
//	report, err := media.Put(ctx, tree, &bucket.PutOptions{Base: "media"})
//
// # What is kept
//
// Of each object its key, its bytes, its time and, in repo.Attr, its content type and, in Attr.Meta, what else it has:
//
//	etag                 as the service gave it
//	cache-control        content-disposition, content-encoding, content-language, expires and
//	                     x-amz-website-redirect-location: as it was put
//	x-amz-meta-NAME      user metadata, NAME in lower case
//	tag:NAME             a tag
//
// Versions but the newest, access lists, locks, encryption and storage class are not.
//
// # When an object is read
//
// The change token is made of what a listing says: size, time and ETag. An object whose token is that of the last snapshot costs nothing but its share of the
// listing, a thousand to the request. Changed ones are read, at the ETag that was listed, small ones several at a time. A new tag on an old
// object shows in no listing: it is seen when the object itself changes.
//
// # Keys and paths
//
// A key is cut at its slashes; what lies between is one name of the path each. A name is written so, byte for byte:
//
//	%~         %~~
//	00         01 01
//	01         01 02
//	others     themselves
//
// so nearly all keys are their own paths. What no folder can hold gets an ending:
//
//	%~.        behind a name that is empty, "." or ".."
//	%~=        behind the last name of a key, instead, if there also are keys that begin with it and a slash
//
//	key        path           beside
//	a/b.jpg    a/b.jpg
//	dir/       dir/%~.
//	a//b       a/%~./b
//	/x         %~./x
//	../x       ..%~./x
//	a          a%~=           a/b
//	50%~       50%~~
//
// With a prefix, it is what follows it that is cut. Every key has a path and no two share one; the way back ([Key]) needs nothing but the path. But for the two endings, names sort
// as keys do.
package bucket

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/varvebackup/varve/backend/s3"
	"github.com/varvebackup/varve/repo"
)

// Options says which keys, and how to get at them. Nil and zero: all keys of a bucket at Amazon, with the credentials of the environment.
type Options struct {
	// Prefix begins the keys, literally: "uploads/" for what is below that folder. It is no part of paths.
	Prefix string

	// NoTags leaves tags out, and does without s3:GetObjectTagging.
	NoTags bool

	// S3 says where the bucket is; its Prefix must be empty.
	S3 s3.Options
}

// FS is a bucket, or a part of it, as repo.Backup wants it. It may be used concurrently; a backup begins by listing its root, and another one that runs at the
// same time reads one object after the other.
//
// Listings have the state of the moment. An object that is gone when it is to be read is fs.ErrNotExist; one that was replaced is read as it is now. A prefix that begins no key
// is fs.ErrNotExist, an empty bucket is an empty folder.
type FS struct {
	client *s3.Client
	core   minio.Core
	name   string
	prefix string
	noTags bool

	pageKeys int

	mu   sync.Mutex // guards walk
	walk *walk      // nil while none is under way
}

var (
	_ repo.ContextFS = (*FS)(nil)
	_ repo.EntriesFS = (*FS)(nil)
	_ fs.ReadDirFS   = (*FS)(nil)
	_ fs.StatFS      = (*FS)(nil)
)

// Open returns the source that is a bucket. It looks for credentials, and sends the service nothing: whether there is such a bucket, the first listing tells. Its errors
// are those of s3.Open, and fs.ErrInvalid for a name that no bucket, and a prefix that no key can have.
func Open(ctx context.Context, name string, o *Options) (*FS, error) {
	if o == nil {
		o = new(Options)
	}
	if len(o.Prefix) > maxKey || o.S3.Prefix != "" {
		return nil, fmt.Errorf("source/bucket: open %s: the prefix %q: %w", name, o.Prefix+o.S3.Prefix, fs.ErrInvalid)
	}
	if err := s3utils.CheckValidBucketName(name); err != nil {
		return nil, fmt.Errorf("source/bucket: open %s: %v: %w", name, err, fs.ErrInvalid)
	}
	client, err := s3.Connect(ctx, name, &o.S3)
	if err != nil {
		return nil, err
	}
	return &FS{client: client, core: client.Core(), name: name, prefix: o.Prefix, noTags: o.NoTags, pageKeys: maxPage}, nil
}

// Close ends what is read ahead, and closes connections that are kept for later.
func (f *FS) Close() error {
	f.mu.Lock()
	w := f.walk
	f.mu.Unlock()
	w.end()
	return f.client.Close()
}

// String says where the keys are, as a URL without anything secret.
func (f *FS) String() string {
	return strings.Replace(f.client.String(), "/?", "/"+f.prefix+"?", 1)
}

// Bucket returns the bucket's name. A source.Join reads parts that have one last.
func (f *FS) Bucket() string { return f.name }
