package backend

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
)

// Prefix returns the part of b whose names begin with prefix, without it: a
// store inside a store. prefix is empty, or a valid name and a slash ("shop/");
// anything else panics. Errors give the name that b knows.
func Prefix(b Backend, prefix string) Backend {
	if prefix == "" {
		return b
	}
	if name, ok := strings.CutSuffix(prefix, "/"); !ok || !ValidName(name) {
		panic(fmt.Sprintf("backend: Prefix: %q is not a valid name and a slash", prefix))
	}
	return &prefixed{b, prefix}
}

// A prefixed needs no check of names: as prefix is valid and ends in a slash,
// prefix+name is valid only if name is.
type prefixed struct {
	b      Backend
	prefix string
}

func (p *prefixed) Unwrap() Backend { return p.b }

func (p *prefixed) Put(ctx context.Context, name string, r io.ReaderAt, size int64, o *PutOptions) error {
	return p.b.Put(ctx, p.prefix+name, r, size, o)
}

func (p *prefixed) Get(ctx context.Context, name string, off, n int64, dst []byte) ([]byte, error) {
	return p.b.Get(ctx, p.prefix+name, off, n, dst)
}

func (p *prefixed) Stat(ctx context.Context, name string) (Info, error) {
	info, err := p.b.Stat(ctx, p.prefix+name)
	if err != nil {
		return Info{}, err
	}
	info.Name = name
	return info, nil
}

func (p *prefixed) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for info, err := range p.b.List(ctx, p.prefix+prefix) {
			if err == nil {
				info.Name = info.Name[len(p.prefix):]
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (p *prefixed) Delete(ctx context.Context, name string) error {
	return p.b.Delete(ctx, p.prefix+name)
}

func (p *prefixed) Retain(ctx context.Context, name, version string, r Retention) error {
	return Retain(ctx, p.b, p.prefix+name, version, r)
}

func (p *prefixed) Retention(ctx context.Context, name, version string) (Retention, error) {
	return RetentionOf(ctx, p.b, p.prefix+name, version)
}

func (p *prefixed) Shorten(ctx context.Context, name, version string, r Retention) error {
	return Shorten(ctx, p.b, p.prefix+name, version, r)
}

func (p *prefixed) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		for v, err := range Versions(ctx, p.b, p.prefix+prefix) {
			if err == nil {
				v.Name = v.Name[len(p.prefix):]
			}
			if !yield(v, err) {
				return
			}
		}
	}
}

func (p *prefixed) GetVersion(ctx context.Context, name, id string, off, n int64, dst []byte) ([]byte, error) {
	return GetVersion(ctx, p.b, p.prefix+name, id, off, n, dst)
}

func (p *prefixed) DeleteVersion(ctx context.Context, name, id string) error {
	return DeleteVersion(ctx, p.b, p.prefix+name, id)
}
