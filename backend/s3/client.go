package s3

import (
	"context"

	"github.com/minio/minio-go/v7"
)

// A Client is the way to a bucket for those who keep something else in it than a Backend does: the same connections, patience and sentences.
type Client struct{ b *Bucket }

// Connect returns a client for a bucket, as Open does a Bucket. A prefix only tells errors what is asked for.
func Connect(ctx context.Context, bucket string, o *Options) (*Client, error) {
	b, err := Open(ctx, bucket, o)
	if err != nil {
		return nil, err
	}
	return &Client{b}, nil
}

// Core sends requests. Each is tried once, so it belongs into Do.
func (c *Client) Core() minio.Core { return c.b.core }

// Do calls request until it returns nil, or an error that no further try will change, or long enough in vain, and returns that error as one for people:
// op and key say what was tried, needs which permission it takes ("s3:GetObject"). It wraps fs.ErrNotExist, fs.ErrExist (a precondition), fs.ErrPermission, errors.ErrUnsupported or
// the end of ctx, where it is one of them.
func (c *Client) Do(ctx context.Context, op, key, needs string, request func() error) error {
	for a := c.b.attempts(ctx, op, key, needs); ; {
		err := request()
		if err == nil {
			return nil
		}
		if err := a.again(err); err != nil {
			return err
		}
	}
}

// Close closes connections that are kept for later.
func (c *Client) Close() error { return c.b.Close() }

// String says where the bucket is, as a URL without anything secret.
func (c *Client) String() string { return c.b.String() }
