package bucket

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
)

// Listings are taken flat, a thousand keys at a time, whatever folders the keys make: a tree of many small folders costs as few requests as one large one. A folder finds
// what it needs in a page that was read for the folder before it.
const (
	maxPage   = 1000 // keys, as many as a request yields
	keptPages = 8
)

// object is what a listing says.
type object struct {
	key      string
	size     int64
	etag     string
	modified time.Time
}

// page holds all keys of the prefix behind after, up to and with its last one.
type page struct {
	after   string
	objects []object
	end     bool // there are no more
}

func (p *page) covers(after string) bool {
	return p.after <= after && (p.end || after < p.objects[len(p.objects)-1].key)
}

// behind returns the objects whose keys come after one.
func (p *page) behind(after string) []object {
	i := sort.Search(len(p.objects), func(i int) bool { return p.objects[i].key > after })
	return p.objects[i:]
}

const lastRune = string(utf8.MaxRune)

// before returns a string that is less than key, with hardly a key between them.
func before(key string) string {
	r, n := utf8.DecodeLastRuneInString(key)
	head := key[:len(key)-n]
	switch {
	case key == "" || r == 0:
		return head
	case r == utf8.RuneError && n == 1, len(key)+utf8.UTFMax > maxKey:
		return head
	case r == 0xe000:
		r = 0xd800 // there are no runes between
	}
	return head + string(r-1) + lastRune
}

// above returns a string that is greater than all keys that begin with folder, but perhaps some of 1021 bytes and more, and less than those behind them.
func above(folder string) string {
	if n := maxKey - len(folder); n < utf8.UTFMax {
		return folder + strings.Repeat("~", max(n, 0))
	}
	return folder + lastRune
}

// pages is the listing of a bucket, in pieces.
type pages struct {
	fs *FS

	mu   sync.Mutex // guards kept
	kept []*page    // the last that were used, newest last
}

// get returns a page that holds what comes behind a key.
func (ps *pages) get(ctx context.Context, after string) (*page, error) {
	ps.mu.Lock()
	for i := len(ps.kept) - 1; i >= 0; i-- {
		if p := ps.kept[i]; p.covers(after) {
			ps.kept = append(slices.Delete(ps.kept, i, i+1), p)
			ps.mu.Unlock()
			return p, nil
		}
	}
	ps.mu.Unlock()
	p, err := ps.fs.list(ctx, after)
	if err != nil {
		return nil, err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.kept) == keptPages {
		ps.kept = slices.Delete(ps.kept, 0, 1)
	}
	ps.kept = append(ps.kept, p)
	return p, nil
}

// find returns the first object whose key is at least key; nil if there is none.
func (ps *pages) find(ctx context.Context, key string) (*object, error) {
	after := before(key)
	for {
		p, err := ps.get(ctx, after)
		if err != nil {
			return nil, err
		}
		list := p.behind(after)
		i := sort.Search(len(list), func(i int) bool { return list[i].key >= key })
		switch {
		case i < len(list):
			return &list[i], nil
		case p.end:
			return nil, nil
		}
		after = p.objects[len(p.objects)-1].key
	}
}

// exists tells whether there is an object, and what is said of it.
func (ps *pages) exists(ctx context.Context, key string) (*object, error) {
	o, err := ps.find(ctx, key)
	if err != nil || o == nil || o.key != key {
		return nil, err
	}
	return o, nil
}

// begins tells whether there is a key that begins with folder.
func (ps *pages) begins(ctx context.Context, folder string) (bool, error) {
	o, err := ps.find(ctx, folder)
	return err == nil && o != nil && strings.HasPrefix(o.key, folder), err
}

// beginsNear is begins, with a page that may have the answer and ends behind where it begins.
func (ps *pages) beginsNear(ctx context.Context, p *page, folder string) (bool, error) {
	i := sort.Search(len(p.objects), func(i int) bool { return p.objects[i].key >= folder })
	switch {
	case i < len(p.objects):
		return strings.HasPrefix(p.objects[i].key, folder), nil
	case p.end:
		return false, nil
	}
	return ps.begins(ctx, folder)
}

var errUnsorted = errors.New("the service lists keys in no order (a directory bucket?), which no snapshot can be made of")

// list asks for a page.
func (f *FS) list(ctx context.Context, after string) (*page, error) {
	p := &page{after: after}
	var wrong error
	err := f.client.Do(ctx, "list", f.String(), "s3:ListBucket", func() error {
		p.objects, p.end, wrong = make([]object, 0, f.pageKeys), true, nil
		owner := false
		last := after
		for o := range f.core.Client.ListObjectsIter(ctx, f.name, minio.ListObjectsOptions{
			Prefix: f.prefix, Recursive: true, StartAfter: after, MaxKeys: f.pageKeys, FetchOwner: &owner,
		}) {
			if o.Err != nil {
				return o.Err
			}
			if o.Key <= last && !(o.Key == "" && last == "") {
				wrong = fmt.Errorf("source/bucket: list %s: %q comes behind %q: %w", f, o.Key, last, errUnsorted)
				return nil
			}
			last = o.Key
			p.objects = append(p.objects, object{o.Key, o.Size, o.ETag, o.LastModified})
			if len(p.objects) == f.pageKeys {
				p.end = false
				break
			}
		}
		return ctx.Err() // a listing that was cancelled ends like a whole one
	})
	if err == nil {
		err = wrong
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// item is an object or folder in a folder.
type item struct {
	name   string // nameOf(segment)
	folder bool
	object object // of none, if it is a folder
}

func compareItems(a, b item) int {
	if c := strings.Compare(a.name, b.name); c != 0 || a.folder == b.folder {
		return c
	}
	if b.folder {
		return -1
	}
	return 1
}

// items yields what is in a folder, in the order of names, an object before the folder of the same name. dir begins the keys: it is the prefix, or ends in a slash.
//
// Keys come in the order of strings, in which the folder "a" is "a/": behind "a-b", before which it belongs. There may be any number of keys between them, so what is read cannot wait
// for it. It need not: a folder q that is still to come and belongs before a name that is already here is one that the last key H read begins with, H[len(q)] being
// less than a slash. (The name x > q has come, so x <= H < q/; all strings from q to q/ begin with q.) There are as many of these as H has such
// bytes, each of which is looked for; most of the time they lie in the page that is read next. An answer stands as long as H begins with q.
// What appears later was not there when it was looked for, and is left out. Endings put names behind their keys: at most three such items wait.
func (f *FS) items(ctx context.Context, ps *pages, dir string) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		var waiting []item
		asked := map[string]bool{} // by what H begins with: whether that folder was there, and has been yielded
		after := before(dir)
		h := "" // the last key read, within dir; up to the slash of a folder
		for done := false; !done; {
			p, err := ps.get(ctx, after)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(item{}, err)
				return
			}
			list := p.behind(after)
			for len(list) > 0 && !done {
				o := list[0]
				rel, inside := strings.CutPrefix(o.key, dir)
				if !inside {
					done = o.key > dir
					after, list = o.key, list[1:]
					continue
				}
				segment, _, isFolder := strings.Cut(rel, "/")
				if !isFolder {
					waiting = append(waiting, item{name: nameOf(segment), object: o})
					after, list, h = o.key, list[1:], rel
					continue
				}
				h = segment + "/"
				if _, known := asked[segment]; !known {
					asked[segment] = true
					waiting = append(waiting, item{name: nameOf(segment), folder: true})
				}
				folder := dir + h
				list = list[sort.Search(len(list), func(i int) bool { return !strings.HasPrefix(list[i].key, folder) }):]
				after = max(o.key, above(folder))
			}
			done = done || p.end && len(list) == 0
			for q := range asked {
				if !strings.HasPrefix(h, q) {
					delete(asked, q)
				}
			}
			name := strings.TrimSuffix(h, "/")
			var next *page
			for i := 0; i < len(name) && !done; i++ {
				if _, known := asked[name[:i]]; name[i] >= '/' || known {
					continue
				}
				if next == nil {
					if next, err = ps.get(ctx, after); err != nil {
						yield(item{}, err)
						return
					}
				}
				is, err := ps.beginsNear(ctx, next, dir+name[:i]+"/")
				if err != nil {
					yield(item{}, err)
					return
				}
				if asked[name[:i]] = is; is {
					waiting = append(waiting, item{name: nameOf(name[:i]), folder: true})
				}
			}
			slices.SortFunc(waiting, compareItems)
			n := 0
			for ; n < len(waiting) && (done || waiting[n].name <= encode(h)); n++ {
				if !yield(waiting[n], nil) {
					return
				}
			}
			waiting = slices.Delete(waiting, 0, n)
		}
	}
}

// named yields the entries of a folder, sorted by name: items, of which an object that stands beside a folder has a name of its own.
func (f *FS) named(ctx context.Context, ps *pages, dir string) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		var last *item     // an object of which it is not known yet whether it stands beside a folder
		var waiting []item // those that do: of names that one another begin with
		pass := func(bound string, all bool) bool {
			for len(waiting) > 0 && (all || waiting[0].name < bound) {
				next := waiting[0]
				waiting = slices.Delete(waiting, 0, 1)
				if !yield(next, nil) {
					return false
				}
			}
			return true
		}
		flush := func() bool {
			if last == nil {
				return true
			}
			it := *last
			last = nil
			return pass(it.name, false) && yield(it, nil)
		}
		for it, err := range f.items(ctx, ps, dir) {
			if err != nil {
				if flush() && pass("", true) {
					yield(item{}, err)
				}
				return
			}
			if !it.folder {
				if !flush() {
					return
				}
				last = &it
				continue
			}
			if last != nil && last.name == it.name {
				segment, _, _ := segmentOf(it.name) // it has been made of one
				last.name = besideOf(segment)
				waiting = append(waiting, *last)
				slices.SortFunc(waiting, compareItems)
				last = nil
			}
			if !flush() || !pass(it.name, false) || !yield(it, nil) {
				return
			}
		}
		if flush() {
			pass("", true)
		}
	}
}
