package repo_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/varvebackup/varve/backend/mem"
	"github.com/varvebackup/varve/repo"
)

// blockFS is a stream db whose Attr says Block.
type blockFS struct {
	data  []byte
	block int
}

type blockInfo struct {
	fs.FileInfo
	attr repo.Attr
}

func (i blockInfo) Sys() any { return &i.attr }

func (b blockFS) Parts() []string { return []string{"db"} }

func (b blockFS) Open(name string) (fs.File, error) {
	return fstest.MapFS{"db": {Data: b.data}}.Open(name)
}

func (b blockFS) Lstat(name string) (fs.FileInfo, error) {
	fi, err := fs.Stat(fstest.MapFS{"db": {Data: b.data}}, name)
	if err != nil || fi.IsDir() {
		return fi, err
	}
	return blockInfo{fi, repo.Attr{Stream: true, Block: b.block}}, nil
}

func (b blockFS) ReadLink(string) (string, error) { return "", fs.ErrInvalid }

// Of a stream that says Block, a day stores the blocks that differ, whatever lies between them.
func TestBlock(t *testing.T) {
	for _, c := range []struct{ block, stored int }{{1, 4096}, {4096, 4096}, {8192, 8192}, {1 << 30, 65536}} {
		r, _ := crashRepo(t, mem.New(nil), nil)
		data := crashRandom(1, 4<<20+100)
		const changes = 10
		for day := range 2 {
			if day == 1 {
				for i := range changes {
					data[i*(400<<10)+17]++
				}
			}
			snap, err := r.Backup(context.Background(), "s", blockFS{data, c.block}, nil)
			crashMust(t, err)
			if want := int64(changes * c.stored); day == 1 && snap.Stats.New != want {
				t.Errorf("Block %d: %d bytes are new, not %d", c.block, snap.Stats.New, want)
			}
			fsys, err := r.FS(context.Background(), snap)
			crashMust(t, err)
			f, err := fsys.Open("db")
			crashMust(t, err)
			got, err := io.ReadAll(f)
			crashMust(t, err)
			crashMust(t, f.Close())
			if !bytes.Equal(got, data) {
				t.Errorf("Block %d: another content", c.block)
			}
		}
	}
}
