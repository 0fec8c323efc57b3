package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// sqliteScheme begins a SOURCE that is a database of SQLite: its path follows, as it is.
const sqliteScheme = "sqlite:"

// parseSQLite makes p the database of SQLite at path. It looks for the file, and opens nothing.
func (p *part) parseSQLite(path string) error {
	if path == "" {
		return fmt.Errorf("source %q: there is no path in it", p.arg)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return at(stepSource, path, err)
	}
	p.defaultName(filepath.Base(abs))
	// The WAL and the journal lie beside the file itself, not beside a link to it.
	if p.path, err = filepath.EvalSymlinks(abs); err != nil {
		return at(stepSource, path, err)
	}
	info, err := os.Stat(p.path)
	switch {
	case err != nil:
		return at(stepSource, path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("source %q: a database of SQLite is a file, and this is none", p.arg)
	}
	p.kind = sqlite
	return nil
}
