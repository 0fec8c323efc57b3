package repo

import (
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/pack"
	"github.com/varvebackup/varve/repo/internal/tree"
)

// verify reads every restored file back, several at a time.
func (rs *restorer) verify(ctx context.Context, base *tree.Entry) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rs.repo.opts.Workers + 1)
	known := func(path string) bool {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		return rs.kept[path] || rs.broken[path]
	}
	check := func(path string, e *tree.Entry) {
		if e.IsRegular() && !known(path) {
			g.Go(func() error { return rs.fail(gctx, path, rs.compare(gctx, path, e)) })
		}
	}
	var walk func(dir string, e *tree.Entry, all bool) error
	walk = func(dir string, e *tree.Entry, all bool) error {
		for c, err := range tree.Salvage(gctx, rs.repo.node, pack.ID(e.Folder)) {
			if err != nil && known(dir) {
				continue
			} else if err != nil {
				if err := rs.fail(gctx, dir, err); err != nil {
					return err
				}
				continue
			}
			path := join(dir, string(c.Name))
			want, below := rs.wants(path, all)
			if !want {
				continue
			}
			if !c.IsDir() {
				check(path, c)
			} else if rs.unmade[path] {
				continue
			} else if err := walk(path, c, below); err != nil {
				return err
			}
		}
		return nil
	}
	var err error
	if base.IsDir() {
		err = walk("", base, rs.wanted == nil)
	} else {
		check(string(base.Name), base)
	}
	if gerr := g.Wait(); gerr != nil {
		err = gerr // the other one is only that the context ended
	}
	return err
}

// compare reads a restored file and compares each piece with its id.
func (rs *restorer) compare(ctx context.Context, path string, e *tree.Entry) error {
	f, err := rs.target.Open(path)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || uint64(st.Size()) != e.Size {
		return fmt.Errorf("read back: its size is not %d", e.Size)
	}
	buf := make([]byte, 64<<10)
	for run, err := range tree.Pieces(ctx, rs.repo.node, e, 0) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if run.Hole() {
			for left := run.Length; left > 0 && ctx.Err() == nil; {
				n := min(left, uint64(len(buf)))
				at := int64(run.Offset + run.Length - left)
				if skip := nextData(f, at) - at; skip > 0 {
					left -= min(left, uint64(skip))
					continue
				}
				if _, err := f.ReadAt(buf[:n], at); err != nil {
					return fmt.Errorf("read back: %w", err)
				}
				if slices.ContainsFunc(buf[:n], func(c byte) bool { return c != 0 }) {
					return fmt.Errorf("read back: bytes from %d on are not what was written", run.Offset)
				}
				left -= n
			}
			continue
		}
		if uint64(cap(buf)) < run.Length {
			buf = make([]byte, run.Length)
		}
		p := buf[:run.Length]
		if _, err := f.ReadAt(p, int64(run.Offset)); err != nil && err != io.EOF {
			return fmt.Errorf("read back: %w", err)
		}
		if rs.repo.id(crypt.SectionContent, p) != pack.ID(run.ID) {
			return fmt.Errorf("read back: bytes from %d on are not what was written", run.Offset)
		}
		buf = buf[:cap(buf)]
	}
	return nil
}
