// Varve backs up a web application as encrypted, deduplicated snapshots, and gets them back. It is a thin shell over
// package repo, for the day on which the application is gone; "varve help" and "varve help COMMAND" describe its use.
//
//	varve init                                varve backup SERIES [AS=]SOURCE...
//	varve snapshots [SERIES]                  varve ls SNAP[:PATH]      varve cat SNAP:PATH
//	varve restore SNAP[:PATH] DIR             varve diff SNAP SNAP      varve check [--read-data[=n/N]]
//	varve forget [SERIES] --keep-daily 7      varve forget SNAP...      varve unforget ID...      varve prune [--follow URL]
//	varve replicate --to|--from URL           varve heal --from URL [--quick]
//	varve lock [set|extend]                   varve doctor [--policy NAME]
//	varve key list|add|remove                 varve version
//
// # Exit status
//
//	0  done
//	1  failed; standard error says why, and what can be done. For doctor, which tells of holes with 0, only with --strict: a
//	   thief can destroy the backups
//	3  a snapshot was made, but some files could not be read whole; they are listed
//
// # JSON
//
// With --json, a command prints one JSON document on standard output; cat prints none. These fields stay what they are, and others may be
// added. An error is a document on standard error, {"error": "..."}; a warning before it is {"warning": "..."}. A list that an error cut short (in ls, diff
// and snapshots) is a whole document all the same, so the exit status counts.
//
//	init         {repository, recovery_key, lock: {mode, seconds}, put_if_absent}
//	backup       {snapshot: SNAPSHOT, made, seconds, unread: [{path, error}]}
//	snapshots    {snapshots: [SNAPSHOT]}
//	ls           {entries: [ENTRY]}
//	restore      {snapshot, files, folders, others, kept, bytes, bytes_fetched, seconds, failed: [{path, error}], more_failed}
//	diff         {changes: [{path, change, before: ENTRY, after: ENTRY}]}
//	check        {sound, snapshots, segments, packs, blobs, packs_read, bytes_read, seconds,
//	              findings: [{object, error, harmless, elsewhere, snapshots, paths, more_paths}],
//	              lock: {objects, unlocked, until, first}}
//	replicate, heal  {complete, copied, repaired, present, bytes, bytes_checked, seconds,
//	              damaged: [{side, object, error}], more_damaged}
//	forget       {forgotten: [ID], dry_run, plan: [{id, series, time, stored, why: [TEXT]}], damaged: [{object, error}], prune}
//	unforget     {unforgotten: [ID]}
//	prune        {finished: [N], freed, bytes_freed, snapshots, retained, spared, voided: [ID], taken_out: [NAME], run, due, waiting: [{session, since, last}], condemned, bytes_condemned,
//	              repacked, bytes_repacked, bytes_copied, bytes_stored, bytes_needed, segments_written, segments_removed, damaged: [{object, error}], dry_run}
//	lock, lock set  {mode, seconds}
//	lock extend  {objects, unlocked, due, until, first, deleted: [NAME], dry_run}
//	doctor       {repository, bucket, tls, read_after_write, put_if_absent, versions, locks, clock_skew_seconds,
//	              used: {objects, locked, mode, until, first, in_use},
//	              folders: [{folder, put, overwrite, hide, delete, delete_version,
//	                         governance: {put, delete, shorten, remove}, compliance: {put, delete, shorten, remove}}],
//	              thief, verdicts: [{threat, survives, text, remedies: [TEXT]}], warnings: [TEXT], untried: [TEXT], left: [NAME]}
//	key list     {slots: [SLOT]}
//	key add      {slot: SLOT, key}
//	key remove   {removed}
//	version      {version, go, os, arch}
//
//	SNAPSHOT     {id, series, time, end, host, tags: {KEY: VALUE}, parent, version, incomplete, files, folders, others,
//	              bytes, bytes_read, bytes_new, bytes_stored, unread, forgotten,
//	              parts: [{name, begun, ended}]}
//	ENTRY        {path, type, mode, size, mod_time, uid, gid, user, group, target}
//	SLOT         {id, role, kind, label, created, current, error}
//
// Times are RFC 3339 in UTC, sizes are bytes, paths are as io/fs knows them in a snapshot: valid UTF-8, where \xHH is a byte that
// is no part of such text and a backslash is doubled. The help of each command says what its fields mean.
package main
