//go:build linux

package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvebackup/varve/repo"
)

// Entries as they are stored, with whatever a forger likes.
type treeForged map[int]any

func treeForgedDir(name string, folder []byte) treeForged {
	return treeForged{1: []byte(name), 2: unix.S_IFDIR | 0o755, 15: folder}
}

func treeForgedFile(name string, size int64, pieces ...any) treeForged {
	return treeForged{1: []byte(name), 2: unix.S_IFREG | 0o644, 12: size, 13: pieces}
}

func treeForgedPiece(length int64, id []byte) any { return []any{length, id} }

// Snapshots that no backup writes: nothing outside the target is written, nothing hangs or grows without end, and the error says so.
func TestRestoreHostile(t *testing.T) {
	ctx := context.Background()
	entries := func(f *repo.Forger, list ...any) []byte { return f.Node([]any{1, list}) }
	folder := func(f *repo.Forger, list ...any) []byte {
		return f.Node([]any{6, treeForged{1: []byte{}, 2: unix.S_IFDIR | 0o755, 15: entries(f, list...)}})
	}
	evil := func(f *repo.Forger, name string) treeForged {
		return treeForgedFile(name, 4, treeForgedPiece(4, f.Chunk([]byte("evil"))))
	}
	link := func(name, target string) treeForged {
		return treeForged{1: []byte(name), 2: unix.S_IFLNK | 0o777, 8: []byte(target)}
	}
	bomb := func(f *repo.Forger, depth int) []byte {
		list := f.Node([]any{3, []any{treeForgedPiece(4096, f.Chunk(make([]byte, 4096)))}})
		size := int64(4096)
		for level := 1; level <= depth; level++ {
			var kids []any
			for range 1024 {
				kids = append(kids, treeForgedPiece(size, list))
			}
			list = f.Node([]any{4, level, kids})
			size *= 1024
		}
		return f.Node([]any{6, treeForged{1: []byte{}, 2: unix.S_IFDIR | 0o755, 15: entries(f, treeForged{1: []byte("bomb"), 2: unix.S_IFREG | 0o644, 12: size, 14: list})}})
	}
	for name, root := range map[string]func(f *repo.Forger) []byte{
		"dotdot":     func(f *repo.Forger) []byte { return folder(f, evil(f, "..")) },
		"dotdot dir": func(f *repo.Forger) []byte { return folder(f, treeForgedDir("..", entries(f, evil(f, "outside")))) },
		"dot":        func(f *repo.Forger) []byte { return folder(f, evil(f, ".")) },
		"empty":      func(f *repo.Forger) []byte { return folder(f, evil(f, "")) },
		"path":       func(f *repo.Forger) []byte { return folder(f, evil(f, "../outside/file")) },
		"absolute":   func(f *repo.Forger) []byte { return folder(f, evil(f, "/tmp/outside")) },
		"nul":        func(f *repo.Forger) []byte { return folder(f, evil(f, "a\x00b")) },
		"order":      func(f *repo.Forger) []byte { return folder(f, evil(f, "b"), evil(f, "a")) },
		"twice":      func(f *repo.Forger) []byte { return folder(f, link("a", "../outside"), evil(f, "a")) },
		"link twice": func(f *repo.Forger) []byte {
			return folder(f, link("a", "../outside"), treeForgedDir("a", entries(f, evil(f, "file"))))
		},
		"not a tree":  func(f *repo.Forger) []byte { return folder(f, treeForgedDir("a", f.Chunk([]byte("no tree")))) },
		"a file root": func(f *repo.Forger) []byte { return f.Node([]any{6, evil(f, "x")}) },
		"named root": func(f *repo.Forger) []byte {
			return f.Node([]any{6, treeForged{1: []byte("../outside"), 2: unix.S_IFDIR | 0o755, 15: entries(f)}})
		},
		"no root":   func(f *repo.Forger) []byte { return entries(f, evil(f, "a")) },
		"long name": func(f *repo.Forger) []byte { return folder(f, evil(f, strings.Repeat("n", 300)), evil(f, "z")) },
		"size": func(f *repo.Forger) []byte {
			return folder(f, treeForgedFile("a", 5, treeForgedPiece(4, f.Chunk([]byte("evil")))))
		},
		"piece length": func(f *repo.Forger) []byte {
			return folder(f, treeForgedFile("a", 9, treeForgedPiece(9, f.Chunk([]byte("evil")))))
		},
		"lost chunk": func(f *repo.Forger) []byte {
			return folder(f, treeForgedFile("a", 4, treeForgedPiece(4, make([]byte, 32))))
		},
		"lost folder": func(f *repo.Forger) []byte { return folder(f, treeForgedDir("a", make([]byte, 32))) },
		"list of other": func(f *repo.Forger) []byte {
			l := f.Node([]any{3, []any{treeForgedPiece(4, f.Chunk([]byte("evil")))}})
			return folder(f, treeForged{1: []byte("a"), 2: unix.S_IFREG | 0o644, 12: 8, 14: l})
		},
		"huge hole": func(f *repo.Forger) []byte {
			return folder(f, treeForgedFile("a", 1<<62, treeForgedPiece(1<<62, []byte{})))
		},
		"huger hole": func(f *repo.Forger) []byte {
			return folder(f, treeForgedFile("a", 1<<63-1, treeForgedPiece(1<<63-1, []byte{})))
		},
		"list bomb": func(f *repo.Forger) []byte { return bomb(f, 4) }, // a file of 4 PiB
		"deep": func(f *repo.Forger) []byte {
			id := entries(f, evil(f, "bottom"))
			for range 10_000 {
				id = entries(f, treeForgedDir("d", id))
			}
			return f.Node([]any{6, treeForged{1: []byte{}, 2: unix.S_IFDIR | 0o755, 15: id}})
		},
		"no device": func(f *repo.Forger) []byte {
			return folder(f, treeForged{1: []byte("a"), 2: unix.S_IFBLK | 0o666, 11: []any{uint64(1 << 40), uint64(1 << 40)}}, treeForged{1: []byte("b"), 2: 0o170000}, evil(f, "c"))
		},
		"time": func(f *repo.Forger) []byte {
			e := evil(f, "a")
			e[3] = []any{int64(-1 << 63), 999_999_999}
			return folder(f, e)
		},
		"xattr": func(f *repo.Forger) []byte {
			e := evil(f, "a")
			e[9] = []any{[]any{[]byte("user.x\x00y"), []byte("z")}, []any{[]byte("we.do.not.know"), []byte("z")}}
			return folder(f, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := treeRepo(t, nil)
			f, err := repo.NewForger(ctx, r, "forged")
			treeMust(t, err)
			s, err := f.Commit(ctx, root(f))
			treeMust(t, err)
			base := treeTemp(t)
			treeMust(t, treeFolder("", treeFolder("outside", treeFile("file", "mine", 1))).make(base+"/x"))
			rctx := ctx
			if strings.HasSuffix(name, "bomb") { // it ends where the disk does, or its user
				c, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				rctx = c
			}
			_, err = r.Restore(rctx, s, base+"/x/out", &repo.RestoreOptions{Overwrite: repo.OverwriteAlways, Verify: true})
			if err == nil && name != "time" && name != "huge hole" { // a file system takes the nearest time that it has, and may hold such a file
				t.Error("no error")
			}
			t.Logf("%.300v", err)
			list, err := os.ReadDir(base + "/x")
			treeMust(t, err)
			if b, err := os.ReadFile(base + "/x/outside/file"); err != nil || string(b) != "mine" || len(list) > 2 {
				t.Errorf("outside: %v %q %v", list, b, err)
			}
			if list, err := os.ReadDir(base + "/x/outside"); err != nil || len(list) != 1 {
				t.Error(list, err)
			}

			// What reads does not fail otherwise.
			if fsys, err := r.FS(ctx, s); err == nil && !strings.HasSuffix(name, "bomb") && !strings.HasPrefix(name, "huge") && name != "deep" {
				fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
					if err == nil && d.Type().IsRegular() {
						fs.ReadFile(fsys, path)
					}
					return nil
				})
			}
			for c := range r.Diff(ctx, s, s) {
				if c.Before != nil || c.After != nil {
					t.Error(c)
				}
			}
		})
	}
}

// What can be deep is: 2,000 folders in each other, and paths of more than 4,096 bytes.
func TestRestoreDeep(t *testing.T) {
	in := filepath.Join(treeTemp(t), "in")
	treeMust(t, os.Mkdir(in, 0o755))
	fd, err := unix.Open(in, unix.O_DIRECTORY, 0)
	treeMust(t, err)
	names := slices.Repeat([]string{"d"}, 2000)
	for range 20 {
		names = append(names, strings.Repeat("long", 60))
	}
	for _, name := range names {
		treeMust(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		treeMust(t, err)
		unix.Close(fd)
		fd = next
	}
	treeMust(t, unix.Symlinkat("bottom", fd, "link"))
	unix.Close(fd)
	r, _ := treeRepo(t, nil)
	s := treeBackup(t, r, treeDir(t, in))
	out := filepath.Join(treeTemp(t), "out")
	rep := treeRestore(t, r, s, out, &repo.RestoreOptions{Verify: true})
	if rep.Folders != int64(len(names)) || rep.Others != 1 {
		t.Error(rep)
	}
	again := treeBackup(t, r, treeDir(t, out))
	if d := treeDiffs(t, r, s, again); len(d) > 0 {
		t.Errorf("%.1000s", fmt.Sprint(d))
	}
}

// A lost part of a large folder does not hide the rest of it.
func TestRestoreSalvage(t *testing.T) {
	ctx := context.Background()
	r, _ := treeRepo(t, nil)
	f, err := repo.NewForger(ctx, r, "forged")
	treeMust(t, err)
	file := func(name string) treeForged {
		return treeForgedFile(name, 4, treeForgedPiece(4, f.Chunk([]byte("good"))))
	}
	a := f.Node([]any{1, []any{file("a1"), file("a2")}})
	c := f.Node([]any{1, []any{file("c1"), treeForgedDir("c2", f.Node([]any{1, []any{file("x")}}))}})
	index := f.Node([]any{2, 1, []any{[]any{[]byte("a1"), a, 2}, []any{[]byte("b1"), make([]byte, 32), 2}, []any{[]byte("c1"), c, 2}}})
	s, err := f.Commit(ctx, f.Node([]any{6, treeForged{1: []byte{}, 2: unix.S_IFDIR | 0o755, 15: index}}))
	treeMust(t, err)
	out := t.TempDir()
	for _, o := range []repo.RestoreOptions{{}, {Overwrite: repo.OverwriteAlways, Verify: true}} {
		_, err = r.Restore(ctx, s, out, &o)
		if got := treeFailures(t, err); !slices.Equal(got, []string{"."}) {
			t.Error(err)
		}
		if got := treeLines(t, out); !slices.Equal(got, []string{"a1=good", "a2=good", "c1=good", "c2/", "c2/x=good"}) {
			t.Error(got)
		}
	}
	list, err := fs.ReadDir(treeFS(t, r, s), ".")
	if _, ok := errors.AsType[*repo.DamageError](err); !ok || len(list) != 4 {
		t.Error(list, err)
	}
}
