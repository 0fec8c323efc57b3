package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/varvebackup/varve/backend"
	"github.com/varvebackup/varve/crypt"
)

// copyOne does what one object needs. An error is a backend's; what is wrong with the object is in the report.
func (c *copier) copyOne(ctx context.Context, info backend.Info) error {
	name := info.Name
	c.mu.Lock()
	h, there := c.at(name)
	c.mu.Unlock()
	var here error // what is wrong at the destination
	if there {
		var err error
		if here, err = c.inspect(ctx, name); err != nil {
			return err
		}
		there = !errors.Is(here, fs.ErrNotExist)
	}
	if there && here == nil && c.heal && !c.replaces(name) {
		c.settle(name, present)
		return nil
	}
	object, why, err := c.fetch(ctx, info)
	switch {
	case errors.Is(err, errVanished):
		c.mu.Lock()
		c.vanished = &DamageError{Object: name, Err: fs.ErrNotExist}
		c.mu.Unlock()
		return nil
	case err != nil:
		return err
	case why != nil:
		c.settle(name, func(r *CopyReport) {
			note(&r.Source, &r.SourceMore, name, why)
			if there && here != nil {
				note(&r.Destination, &r.DestinationMore, name, here)
			} else if there {
				r.Present++
			}
		})
		return nil
	case there && !c.heal && here == nil && int64(h.size) == int64(len(object)):
		// Only the source's newest version is another one.
		return c.exists(ctx, name, object)
	case there && !c.heal:
		if here == nil {
			here = fmt.Errorf("it has %d bytes and the source's %d, and both are whole", h.size, len(object))
		} else {
			here = fmt.Errorf("%w; heal repairs it", here)
		}
		c.settle(name, func(r *CopyReport) { note(&r.Destination, &r.DestinationMore, name, here) })
		return nil
	case there && here == nil:
		same, err := backend.Holds(ctx, c.dst, name, bytes.NewReader(object), int64(len(object)))
		if err != nil {
			return atDestination(err)
		}
		if same {
			c.settle(name, present)
			return nil
		}
		return c.overwrite(ctx, name, object)
	case there:
		return c.overwrite(ctx, name, object)
	}
	o := c.putOptions(name)
	o.IfAbsent = true
	err = backend.PutBytes(ctx, c.dst, name, object, o)
	if errors.Is(err, fs.ErrExist) {
		return c.exists(ctx, name, object)
	} else if err != nil {
		return atDestination(err)
	}
	c.settle(name, func(r *CopyReport) { r.Copied++; r.Bytes += int64(len(object)) })
	return nil
}

// replaces tells whether an object that is whole at both sides may have to be the source's: of one that its hash names there is only one.
func (c *copier) replaces(name string) bool {
	return c.opts.Replace && !strings.HasPrefix(name, packsPrefix) && !strings.HasPrefix(name, indexPrefix)
}

func (c *copier) putOptions(name string) *backend.PutOptions {
	o := &backend.PutOptions{}
	if c.opts.Lock.Period > 0 && locked(name) {
		o.Retain = c.opts.Lock.from(time.Now())
	}
	return o
}

func (c *copier) overwrite(ctx context.Context, name string, object []byte) error {
	if err := backend.PutBytes(ctx, c.dst, name, object, c.putOptions(name)); err != nil {
		return atDestination(err)
	}
	c.settle(name, func(r *CopyReport) { r.Repaired++; r.Bytes += int64(len(object)) })
	return nil
}

// exists deals with an object that came to the destination after it was listed: from one's own earlier try, or from somebody else.
func (c *copier) exists(ctx context.Context, name string, object []byte) error {
	there, err := c.dst.Get(ctx, name, 0, -1, nil)
	switch {
	case err == nil && string(there) == string(object):
		c.settle(name, present)
		return nil
	case err != nil && !unreadable(err):
		return atDestination(err)
	case err == nil:
		err = crypt.Verify(name, there)
	}
	switch {
	case c.heal && (err != nil || c.replaces(name)):
		return c.overwrite(ctx, name, object)
	case err == nil && prefixOf(name) == configPrefix:
		return fmt.Errorf("%w: at the destination, another repository (%s)", ErrExists, name)
	case err == nil:
		err = errors.New("it is another object than the source's, and both are whole")
	default:
		err = fmt.Errorf("%w; heal repairs it", err)
	}
	c.settle(name, func(r *CopyReport) { note(&r.Destination, &r.DestinationMore, name, err) })
	return nil
}

// inspect reads an object at the destination and returns why it is not what its name promises, fs.ErrNotExist if it is not there.
func (c *copier) inspect(ctx context.Context, name string) (why, err error) {
	object, err := c.dst.Get(ctx, name, 0, -1, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist), unreadable(err):
		return err, nil // the reason, as it is
	case err != nil:
		return nil, atDestination(err)
	}
	c.mu.Lock()
	c.rep.BytesChecked += int64(len(object))
	c.mu.Unlock()
	return crypt.Verify(name, object), nil
}

// unreadable tells of an error that it is about one object, which is damaged: longer than objects are, cut while it was read, or on a part of the disk that cannot be read.
func unreadable(err error) bool {
	return errors.Is(err, fs.ErrInvalid) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EIO)
}

// fetch reads an object at the source: the newest version that is what its name promises. If there is none, why says what is wrong with the newest. errVanished: it is not
// there any more.
func (c *copier) fetch(ctx context.Context, info backend.Info) (object []byte, why, err error) {
	name := info.Name
	if info.Size > backend.MaxSize {
		why = fmt.Errorf("it has %d bytes, more than an object may have", info.Size)
	} else {
		object, err = c.src.Get(ctx, name, 0, -1, nil)
	}
	switch {
	case why != nil:
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, errVanished
	case unreadable(err):
		why = err
	case err != nil:
		return nil, nil, atSource(err)
	default:
		if why = crypt.Verify(name, object); why == nil {
			return object, nil, nil
		}
	}
	for v, err := range backend.Versions(ctx, c.src, name) {
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			break
		} else if err != nil {
			return nil, nil, atSource(err)
		}
		if v.Name != name || v.Latest || v.Deleted {
			continue
		}
		object, err = backend.GetVersion(ctx, c.src, name, v.ID, 0, -1, object[:0])
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), unreadable(err):
		case err != nil:
			return nil, nil, atSource(err)
		case crypt.Verify(name, object) == nil:
			return object, nil, nil
		}
	}
	return nil, why, nil
}
