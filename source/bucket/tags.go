package bucket

import (
	"context"
	"errors"
	"io/fs"
	"sync"

	"github.com/minio/minio-go/v7"
)

// A tagger reads tags. The number of an object's tags comes with the object, but only to who may read them: whether that is so, the first object shows, which is asked for
// them in any case. Nil: it is not found out.
type tagger struct {
	once sync.Once
	none bool  // the service has no tags
	err  error // they may not be read
}

func (t *tagger) of(ctx context.Context, f *FS, key string, count int) (map[string]string, error) {
	if t == nil {
		if count == 0 {
			return nil, nil
		}
		return f.tags(ctx, key)
	}
	var m map[string]string
	var err error
	asked := false
	t.once.Do(func() {
		m, err = f.tags(ctx, key)
		asked = true
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			t.none, err = true, nil
		case errors.Is(err, fs.ErrPermission):
			t.err = err
		}
	})
	switch {
	case asked:
		return m, err
	case t.err != nil:
		return nil, t.err
	case t.none || count == 0:
		return nil, nil
	}
	return f.tags(ctx, key)
}

func (f *FS) tags(ctx context.Context, key string) (m map[string]string, err error) {
	err = f.client.Do(ctx, "get the tags of", key, "s3:GetObjectTagging", func() error {
		t, err := f.core.Client.GetObjectTagging(ctx, f.name, key, minio.GetObjectTaggingOptions{})
		if err == nil {
			m = t.ToMap()
		}
		return err
	})
	return m, err
}
