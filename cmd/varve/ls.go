package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

// entryJSON is an entry of a snapshot wherever one is printed.
type entryJSON struct {
	Path    string    `json:"path"`
	Type    string    `json:"type"`
	Mode    string    `json:"mode"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"mod_time,omitzero"`
	UID     *uint32   `json:"uid,omitempty"`
	GID     *uint32   `json:"gid,omitempty"`
	User    string    `json:"user,omitempty"`
	Group   string    `json:"group,omitempty"`
	Target  string    `json:"target,omitempty"`
}

const entryHelp = `{path, type, mode, size, mod_time, uid, gid, user, group, target}. A path is
written as in SNAP:PATH. type is file, folder, link, pipe, socket, block_device,
char_device or other; mode is octal, as in "0644"; what is unknown of the last
six is left out.`

func entryOf(path string, info fs.FileInfo, target string) *entryJSON {
	e := &entryJSON{Path: path, Type: typeName(info.Mode()), Mode: fmt.Sprintf("%04o", unixMode(info.Mode())), Size: info.Size(), ModTime: info.ModTime().UTC(), Target: repo.Escape(target)}
	if a, ok := info.Sys().(*repo.Attr); ok {
		if a.Owned {
			e.UID, e.GID = &a.UID, &a.GID
		}
		e.User, e.Group = a.User, a.Group
	}
	return e
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, p := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= p
		}
	}
	return mode
}

func typeName(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "link"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block_device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "char_device"
	}
	return "other"
}

func (a *app) lsCmd() *cobra.Command {
	var long, recursive bool
	cmd := &cobra.Command{
		Use:   "ls SNAP[:PATH]",
		Short: "List what is in a snapshot",
		Long: `List a folder of a snapshot, or one entry, by paths from the snapshot's root.
Folders end in a slash.

JSON: {entries: [ENTRY]}, where ENTRY is
` + entryHelp,
		Args:              arguments(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ls(cmd.Context(), args[0], long, recursive)
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, owner, size and time as well")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "list folders below as well")
	return cmd
}

// A snapshotFS is what repo's FS offers.
type snapshotFS interface {
	repo.EntriesFS
	fs.ReadLinkFS
}

// openFS opens a snapshot and describes what is at a path of it.
func openFS(ctx context.Context, r *repo.Repo, s *repo.Snapshot, path string) (snapshotFS, fs.FileInfo, error) {
	f, err := r.FS(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	fsys := f.(snapshotFS)
	info, err := fsys.Lstat(path)
	if err != nil {
		return nil, nil, at(stepPath, path, fmt.Errorf("snapshot %s: %w", s.ID, err))
	}
	return fsys, info, nil
}

func (a *app) ls(ctx context.Context, spec string, long, recursive bool) error {
	r, s, path, err := a.openSpec(ctx, spec)
	if err != nil {
		return err
	}
	defer r.Close()
	fsys, info, err := openFS(ctx, r, s, path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(a.out)
	l := &list{w: w, name: "entries"}
	show := func(path string, info fs.FileInfo) error {
		target := ""
		if info.Mode().Type() == fs.ModeSymlink {
			var err error
			if target, err = fsys.ReadLink(path); err != nil {
				return err
			}
		}
		e := entryOf(path, info, target)
		switch {
		case a.json:
			return l.add(e)
		case long:
			_, err = fmt.Fprintln(w, longLine(e, info.Mode()))
		default:
			_, err = fmt.Fprintln(w, shown(e.Path, e.Type))
		}
		return err
	}
	if info.IsDir() {
		err = walk(ctx, fsys, path, recursive, show)
	} else {
		err = show(path, info)
	}
	if a.json && a.out.err == nil {
		// The document is a whole one even if the list is not.
		if eerr := l.end(); err == nil {
			err = eerr
		}
	}
	if ferr := w.Flush(); err == nil {
		err = ferr
	}
	return err
}

// walk calls show for what is in a folder, and below if it is to be recursive, in order.
func walk(ctx context.Context, fsys repo.EntriesFS, dir string, recursive bool, show func(string, fs.FileInfo) error) error {
	for d, err := range fsys.Entries(ctx, dir) {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		path := d.Name()
		if dir != "." {
			path = dir + "/" + path
		}
		if err := show(path, info); err != nil {
			return err
		}
		if recursive && info.IsDir() {
			if err := walk(ctx, fsys, path, recursive, show); err != nil {
				return err
			}
		}
	}
	return nil
}

// shown is a path as people see it.
func shown(path, typ string) string {
	if typ == "folder" {
		path += "/"
	}
	return printable(path)
}

func longLine(e *entryJSON, m fs.FileMode) string {
	owner := func(name string, id *uint32) string {
		switch {
		case name != "":
			return printable(name)
		case id != nil:
			return strconv.FormatUint(uint64(*id), 10)
		}
		return "-"
	}
	modified := "-"
	if !e.ModTime.IsZero() {
		modified = local(e.ModTime)
	}
	line := fmt.Sprintf("%-10s  %-17s  %12d  %-19s  %s", m, owner(e.User, e.UID)+":"+owner(e.Group, e.GID), e.Size, modified, shown(e.Path, e.Type))
	if e.Type == "link" {
		line += " -> " + printable(e.Target)
	}
	return line
}
