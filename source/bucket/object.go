package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"github.com/varvebackup/varve/repo"
)

// Names of what Attr.Meta holds.
const (
	metaETag = "etag"
	metaUser = "x-amz-meta-"
	metaTag  = "tag:"
)

// metaHeaders are kept by their names, in lower case. The content type has a place of its own.
var metaHeaders = []string{"cache-control", "content-disposition", "content-encoding", "content-language", "expires", "x-amz-website-redirect-location"}

var (
	errReplaced = errors.New("it was replaced while it was read")
	errKey      = errors.New("an object with such a key cannot be asked for: it is nothing but white space, or not UTF-8")
)

// content is an object that is being read. It is not safe for concurrent use.
type content struct {
	fs      *FS
	ctx     context.Context
	key     string
	etag    string
	info    *info
	tagsErr error // why the tags are not known

	body io.ReadCloser
	off  int64
	bad  int // requests in a row that yielded nothing
}

// get begins to read an object as it was listed, or, if that one is no more, as it is now.
func (f *FS) get(ctx context.Context, o *object, tags *tagger) (*content, error) {
	if strings.TrimSpace(o.key) == "" || !utf8.ValidString(o.key) {
		return nil, errKey
	}
	c := &content{fs: f, ctx: ctx, key: o.key}
	got, err := c.request(o.etag, 0)
	if errors.Is(err, errReplaced) {
		got, err = c.request("", 0)
	}
	if err != nil {
		return nil, err
	}
	c.etag = got.ETag
	c.info = infoOf("", o)
	if got.ETag != o.etag || got.Size != o.size || got.LastModified.Unix() != o.modified.Unix() {
		// It has no token: the listing that it belongs to is still to come.
		c.info = &info{size: got.Size, modified: got.LastModified, attr: &repo.Attr{}}
	}
	c.info.attr.ContentType = got.ContentType
	c.info.attr.Meta = metaOf(got)
	if !f.noTags {
		var found map[string]string
		if found, c.tagsErr = tags.of(ctx, f, o.key, got.UserTagCount); c.tagsErr != nil && ctx.Err() != nil {
			c.Close()
			return nil, ctx.Err()
		}
		for k, v := range found {
			c.info.attr.Meta[metaTag+k] = v
		}
	}
	return c, nil
}

// request asks for the object from off on, if it has an ETag.
func (c *content) request(etag string, off int64) (*minio.ObjectInfo, error) {
	var opts minio.GetObjectOptions
	opts.Set("Accept-Encoding", "identity") // what is stored, not what a transport makes of it
	if etag != "" {
		opts.SetMatchETag(etag)
	}
	if off > 0 {
		opts.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	var got minio.ObjectInfo
	replaced := false
	err := c.fs.client.Do(c.ctx, "get", c.key, "s3:GetObject", func() (err error) {
		c.body, got, _, err = c.fs.core.GetObject(c.ctx, c.fs.name, c.key, opts)
		if err == nil && off > 0 && !strings.HasPrefix(got.Headers.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)) {
			c.body.Close()
			replaced = true // or a service that knows no ranges
			return nil
		}
		if api := minio.ToErrorResponse(err); err != nil && (api.Code == minio.PreconditionFailed || api.StatusCode == http.StatusPreconditionFailed || api.StatusCode == http.StatusRequestedRangeNotSatisfiable) {
			replaced = true
			return nil
		}
		return err
	})
	if err == nil && replaced {
		c.body, err = nil, errReplaced
	}
	if err != nil {
		c.body = nil
		return nil, err
	}
	return &got, nil
}

// Read goes on where a connection was cut, as long as the object is the same.
func (c *content) Read(p []byte) (int, error) {
	for {
		if c.off == c.info.size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if c.body == nil {
			_, err := c.request(c.etag, c.off)
			if errors.Is(err, fs.ErrNotExist) {
				err = errReplaced
			}
			if err != nil {
				return 0, err
			}
		}
		n, err := c.body.Read(p[:min(int64(len(p)), c.info.size-c.off)])
		c.off += int64(n)
		if n > 0 {
			c.bad = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		c.body.Close()
		c.body = nil
		if cerr := c.ctx.Err(); cerr != nil {
			return 0, cerr
		}
		if c.bad++; c.bad > maxCuts {
			return 0, fmt.Errorf("the connection ended %d times after %d of %d bytes: %w", c.bad, c.off, c.info.size, err)
		}
	}
}

// maxCuts is how often in a row a connection may end without having yielded a byte.
const maxCuts = 5

func (c *content) Close() error {
	if c.body == nil {
		return nil
	}
	err := c.body.Close()
	c.body = nil
	return err
}

// keep reads all of a small object, so that it needs no connection any more.
func (c *content) keep() error {
	b := make([]byte, c.info.size)
	_, err := io.ReadFull(c, b)
	c.Close()
	if err == nil {
		c.off, c.body = 0, io.NopCloser(bytes.NewReader(b))
	}
	return err
}

// metaOf returns what an object has besides its content type and tags.
func metaOf(o *minio.ObjectInfo) map[string]string {
	m := map[string]string{metaETag: o.ETag}
	for _, h := range metaHeaders {
		if v := o.Headers.Get(h); v != "" {
			m[h] = v
		}
	}
	for k, v := range o.Headers {
		if k = strings.ToLower(k); strings.HasPrefix(k, metaUser) && len(v) > 0 {
			m[k] = v[0]
		}
	}
	return m
}
