package source

import (
	"os"
	"os/exec"
	"path/filepath"
)

// privateFile gives cmd, which is still to be started, a file that only this user can read, and returns the path under which cmd finds it. done, to be called
// when cmd has ended or was not started, takes the file away. Where the system can keep it off the disk, nothing is left of it whenever this process ends.
func privateFile(cmd *exec.Cmd, content string) (path string, done func(), err error) {
	if f := memoryFile(content); f != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		return extraFile(len(cmd.ExtraFiles) - 1), func() { f.Close() }, nil
	}
	dir, err := os.MkdirTemp("", "varve")
	if err != nil {
		return "", nil, err
	}
	done = func() { os.RemoveAll(dir) }
	path = filepath.Join(dir, "options")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		done()
		return "", nil, err
	}
	return path, done, nil
}
