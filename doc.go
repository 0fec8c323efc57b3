// Package varve is the overview of a library, and of a small program, that back up web applications: database dumps, file trees and buckets, as encrypted,
// deduplicated snapshots on a disk or in a bucket. A day's snapshot costs what changed that day. There is no code here; the packages below have it.
//
//	cmd/varve            examples/            bench_test.go
//	        \               |                 /
//	         \            source             /       what to back up, each an fs.FS
//	          \             |               /
//	           +---------  repo  ----------+         the engine: sessions, snapshots, restore, check
//	             /      /       \      \
//	         chunk   crypt     pack   backend        leaves: none imports another
//	                                     |
//	                        backend/{dir,mem,s3,open,backendtest}
//
// Programs need package repo, a source and a backend:
//
//	store, err := dir.Open("/mnt/backup/shop")
//	r, err := repo.Open(ctx, store, crypt.Passphrase(secret), &repo.Options{Cache: "/var/cache/shop"})
//	snap, err := r.Backup(ctx, "shop", source.Join{
//		"db.sql":  source.Command("db.sql", []string{"pg_dump", "shop"}, nil),
//		"uploads": uploads,
//	}, nil)
//	fsys, err := r.FS(ctx, snap)
//
// The folder examples holds whole programs; examples/quickstart runs anywhere. docs/FORMAT.md specifies what is stored byte for byte, docs/DESIGN.md says why it is
// as it is. The benchmarks beside this file report speeds as ratios to what the same machine can do at best, measured in the same run.
package varve
