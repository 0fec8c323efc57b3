// Package source makes file systems of what is to be backed up: a folder (Dir), what a reader yields (Stream), what a
// program writes (Command, Shell), what a database holds (Postgres, MySQL, SQLite; Database by a URL), and several of these side
// by side (Join). Each is an fs.FS for repo.Backup:
//
//	uploads, err := source.Dir("/srv/shop/uploads", &source.DirOptions{Exclude: []string{"/cache/"}})
//	...
//	defer uploads.Close()
//	snapshot, err := r.Backup(ctx, "shop", source.Join{
//		"db":      source.Postgres("postgres://backup@localhost/shop", nil),
//		"uploads": uploads,
//	}, nil)
//
// All promise the following. Nothing is read or run before it is asked for, and nothing outside of a source is reached.
// What can't be had is an error, never an empty file: a folder that can't be listed, a file that can't be read, a dump
// that was cut short. No goroutine and no process outlives the Close of the file that it served. Beyond io/fs they offer
// what package repo declares (ContextFS, EntriesFS, XattrFS, SparseFile, JoinedFS), and what else is known of an entry
// is a *repo.Attr in FileInfo.Sys().
package source
