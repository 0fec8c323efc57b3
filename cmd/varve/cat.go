package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"
)

func (a *app) catCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "cat SNAP:PATH",
		Short: "Print a file of a snapshot",
		Long: `Print the content of a file of a snapshot. Every byte is checked before it is
printed, but what is damaged further on shows only there: trust the output if
the exit status is 0.

JSON: none on standard output, which gets the file as it is.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.cat(cmd.Context(), args[0]) },
	}
}

func (a *app) cat(ctx context.Context, spec string) error {
	r, s, path, err := a.openSpec(ctx, spec)
	if err != nil {
		return err
	}
	defer r.Close()
	fsys, info, err := openFS(ctx, r, s, path)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
	case fs.ModeDir:
		return fmt.Errorf("%s is a folder: list it with \"varve ls\", or get it back with \"varve restore\"", spec)
	case fs.ModeSymlink:
		target, err := fsys.ReadLink(path)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s is a link to %q: print that instead", spec, target)
	default:
		return fmt.Errorf("%s is no file but a %s", spec, typeName(info.Mode()))
	}
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(a.out, f)
	return err
}
