package main

import (
	"context"
	"io"
)

// An input reads standard input until ctx is done. A read that waits for input cannot be cancelled, so a goroutine does it, which ends with the process if need be.
type input struct {
	ctx  context.Context
	ask  chan []byte
	got  chan result
	buf  []byte
	rest []byte
	err  error
}

type result struct {
	n   int
	err error
}

func newInput(ctx context.Context, r io.Reader) io.ReadCloser {
	in := &input{ctx: ctx, ask: make(chan []byte), got: make(chan result, 1), buf: make([]byte, 256<<10)}
	go func() {
		for b := range in.ask {
			n, err := r.Read(b)
			in.got <- result{n, err}
		}
	}()
	return in
}

func (in *input) Read(p []byte) (int, error) {
	if len(in.rest) == 0 && in.err == nil {
		in.ask <- in.buf
		select {
		case r := <-in.got:
			in.rest, in.err = in.buf[:r.n], r.err
		case <-in.ctx.Done():
			in.err = context.Cause(in.ctx) // in.buf is the goroutine's from here on
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, in.err
}

func (in *input) Close() error {
	close(in.ask)
	return nil
}
