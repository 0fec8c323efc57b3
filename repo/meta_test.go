package repo_test

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// objects is a source that knows metadata only of what is open, as one of a bucket.
type objects struct {
	fstest.MapFS
	opened []string
}

type objectInfo struct {
	fs.FileInfo
	attr *repo.Attr
}

func (i objectInfo) Sys() any                   { return i.attr }
func (i objectInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i objectInfo) Type() fs.FileMode          { return i.Mode().Type() }

func (o *objects) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := o.MapFS.ReadDir(name)
	for i, d := range list {
		info, _ := d.Info()
		list[i] = objectInfo{info, &repo.Attr{Token: []byte(info.ModTime().String())}}
	}
	return list, err
}

type openObject struct {
	fs.File
	info fs.FileInfo
}

func (f openObject) Stat() (fs.FileInfo, error) { return f.info, nil }

func (o *objects) OpenContext(_ context.Context, name string) (fs.File, error) {
	o.opened = append(o.opened, name)
	f, err := o.MapFS.Open(name)
	if err != nil {
		return nil, err
	}
	info, _ := f.Stat()
	when := info.ModTime().String()
	return openObject{f, objectInfo{info, &repo.Attr{Token: []byte(when), ContentType: "image/png", Meta: map[string]string{"when": when}}}}, nil
}

// Of a file that is not opened again, because nothing of it changed, the metadata are those of the last snapshot.
func TestMetaRemembered(t *testing.T) {
	r, _ := crashRepo(t, mem.New(nil), &repo.Options{Cache: t.TempDir()})
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	src := &objects{MapFS: fstest.MapFS{"a": {Data: []byte("a"), ModTime: day(1)}, "b": {Data: []byte("b"), ModTime: day(1)}}}
	var snap *repo.Snapshot
	for i, opened := range [][]string{{"a", "b"}, nil, {"b"}, nil} {
		src.opened = nil
		if i == 2 {
			src.MapFS["b"].ModTime = day(2)
		}
		var err error
		snap, err = r.Backup(t.Context(), "shop", src, nil)
		crashMust(t, err)
		if !slices.Equal(src.opened, opened) {
			t.Errorf("backup %d opened %q, not %q", i, src.opened, opened)
		}
		fsys, err := r.FS(t.Context(), snap)
		crashMust(t, err)
		for name, f := range src.MapFS {
			fi, err := fs.Stat(fsys, name)
			crashMust(t, err)
			if a := fi.Sys().(*repo.Attr); a.ContentType != "image/png" || !maps.Equal(a.Meta, map[string]string{"when": f.ModTime.String()}) {
				t.Errorf("backup %d: %s has %q %v", i, name, a.ContentType, a.Meta)
			}
		}
	}

	// A snapshot as a source says all that it knows: files of equal content do not get metadata back that they had.
	plain, err := r.Backup(t.Context(), "plain", fstest.MapFS{"a": {Data: []byte("a")}}, nil)
	crashMust(t, err)
	for i, s := range []*repo.Snapshot{snap, plain} {
		fsys, err := r.FS(t.Context(), s)
		crashMust(t, err)
		c, err := r.Backup(t.Context(), "copy", fsys, nil)
		crashMust(t, err)
		cfs, err := r.FS(t.Context(), c)
		crashMust(t, err)
		fi, err := fs.Stat(cfs, "a")
		crashMust(t, err)
		if a := fi.Sys().(*repo.Attr); (a.ContentType != "") != (i == 0) || (len(a.Meta) > 0) != (i == 0) {
			t.Errorf("copy %d has %q %v", i, a.ContentType, a.Meta)
		}
	}
}
