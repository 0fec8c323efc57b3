package minioserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
)

const module = "github.com/minio/minio"

// Program returns the path of the server's program, which it builds unless an earlier run did. Several processes may call it at once: one of them builds.
var Program = sync.OnceValues(func() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", errors.New("minioserver: the program was built without the paths of their sources (-trimpath)")
	}
	dir := filepath.Join(filepath.Dir(file), "server")
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	m := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("minioserver: %s names no version of %s", filepath.Join(dir, "go.mod"), module)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	cache = filepath.Join(cache, "varve-test", "minio-"+string(m[1]))
	program := filepath.Join(cache, "minio")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil // somebody else built it meanwhile
	}
	part := filepath.Join(cache, "part"+filepath.Ext(program))
	cmd := exec.Command("go", "build", "-o", part, module)
	cmd.Dir = dir
	// Flags for the tests (the race detector, another go.mod) are not for the server.
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("minioserver: building %s: %w\n%s", module, err, out)
	}
	if err := os.Rename(part, program); err != nil {
		return "", fmt.Errorf("minioserver: %w", err)
	}
	return program, nil
})
