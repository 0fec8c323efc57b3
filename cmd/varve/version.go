package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/repo"
)

type versionJSON struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of varve",
		Long: `Print the version of varve.

JSON: {version, go, os, arch}`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			v := versionJSON{repo.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			if a.json {
				return a.writeJSON(v)
			}
			_, err := fmt.Fprintf(a.out, "varve %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
			return err
		},
	}
}
