package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varvebackup/varve/source"
)

// A part is one SOURCE of a backup.
type part struct {
	arg  string
	name string // AS, or what takes its place; "" if the path gives none
	as   bool   // name is AS
	kind partKind
	path string // of a folder or file, or of a database of SQLite
	line string // of a command
	url  string // of a database or bucket

	optional bool
	why      error // of one that is absent
}

type partKind uint8

const (
	folder partKind = iota
	file
	standardInput
	command
	database
	sqlite
	bucketKeys
	absent // an optional one that is not there
)

// databases are the names that a database's dump gets beside other sources, by the scheme of its URL.
var databases = map[string]string{
	"postgres": "postgres", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql",
	"mongodb": "mongo.archive", "mongodb+srv": "mongo.archive", "redis": "redis.rdb", "rediss": "redis.rdb",
}

// concealed returns a database's URL without what may be secret: the password, and parameters that are called so.
func concealed(url string) string {
	scheme, rest, _ := strings.Cut(url, "://")
	// The last '@', for somebody may have left one in the password as it is, or another character that ends the host.
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if user, _, ok := strings.Cut(rest[:i], ":"); ok {
			rest = user + ":***" + rest[i:]
		}
	}
	rest, options, hasOptions := strings.Cut(rest, "#")
	rest, query, hasQuery := strings.Cut(rest, "?")
	url = scheme + "://" + rest
	if hasQuery {
		params := strings.Split(query, "&")
		for i, p := range params {
			if key, _, _ := strings.Cut(p, "="); strings.Contains(key, "pass") {
				params[i] = key + "=***"
			}
		}
		url += "?" + strings.Join(params, "&")
	}
	if hasOptions {
		url += "#" + options
	}
	return url
}

// parsePart reads [AS=]SOURCE. What stands before the first '=' is AS unless it has a slash in it or begins with "exec:" or "sqlite:". With fs.ErrNotExist it returns the
// part as well, with the name that it would have.
func parsePart(arg string) (*part, error) {
	p := &part{arg: arg}
	rest := arg
	if before, after, ok := strings.Cut(arg, "="); ok && !strings.HasPrefix(arg, "exec:") && !strings.HasPrefix(arg, sqliteScheme) && !strings.ContainsAny(before, `/\`) {
		if before == "" || before == "." || before == ".." {
			return nil, fmt.Errorf("source %q: no entry can be called %q; a path with '=' in it is written ./%s", arg, before, arg)
		}
		p.name, p.as, rest = before, true, after
	}
	if scheme, _, ok := strings.Cut(rest, "://"); ok && databases[scheme] != "" {
		p.kind, p.url = database, rest
		p.arg = strings.TrimSuffix(arg, rest) + concealed(rest)
		p.defaultName(databases[scheme])
		return p, nil
	}
	if path, ok := strings.CutPrefix(rest, sqliteScheme); ok {
		return p, p.parseSQLite(path)
	}
	line, isCommand := strings.CutPrefix(rest, "exec:")
	switch {
	case isBucket(rest):
		name, err := bucketName(rest)
		if err != nil {
			return nil, fmt.Errorf("source s3: %w", err) // the URL is not repeated
		}
		p.kind, p.url = bucketKeys, rest
		p.defaultName(name)
		return p, nil
	case rest == "":
		return nil, fmt.Errorf("source %q: there is no source in it", arg)
	case rest == "-":
		p.kind = standardInput
		p.defaultName("stdin")
		return p, nil
	case isCommand:
		p.kind, p.line = command, line
		name := programName(line)
		if name == "" {
			return nil, fmt.Errorf("source %q: there is no command in it", arg)
		}
		p.defaultName(name)
		return p, nil
	}
	abs, err := filepath.Abs(rest)
	if err != nil {
		return nil, at(stepSource, rest, err)
	}
	if base := filepath.Base(abs); base != string(filepath.Separator) && base != "." {
		p.defaultName(base)
	}
	// A link that is named is followed, as by any program; those below it are not.
	if p.path, err = filepath.EvalSymlinks(abs); err != nil {
		if scheme, _, ok := strings.Cut(rest, "://"); ok { // a slip in a URL, which may have a password in it
			return nil, fmt.Errorf("source %q: no kind of source is called %s://", strings.TrimSuffix(arg, rest)+concealed(rest), scheme)
		}
		return p, at(stepSource, rest, err)
	}
	info, err := os.Stat(p.path)
	switch {
	case err != nil:
		return p, at(stepSource, rest, err)
	case info.IsDir():
		p.kind = folder
	case info.Mode().IsRegular():
		p.kind = file
	default:
		return nil, fmt.Errorf("source %q is neither a folder nor a file: give what it yields to standard input, and - as the source", arg)
	}
	return p, nil
}

func (p *part) defaultName(name string) {
	if !p.as {
		p.name = name
	}
}

// programName returns the base name of the program that a command line runs: of its first word that sets no variable.
func programName(line string) string {
	for _, word := range strings.Fields(line) {
		if !strings.Contains(word, "=") {
			return filepath.Base(strings.Trim(word, `"'`))
		}
	}
	return ""
}

// absentFS is a part that is not there.
type absentFS struct{ err error }

func (a absentFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: a.err}
}

// A backupSource is what all SOURCEs make together.
type backupSource struct {
	fsys  fs.FS
	trees []io.Closer
}

// tempIn returns the cache folder if it can be used for temporary files: it lies on a disk, which what is the system's for such files may not.
func tempIn(cache string) string {
	if cache == "" || os.MkdirAll(cache, 0o700) != nil {
		return ""
	}
	return cache
}

func (s *backupSource) Close() {
	for _, t := range s.trees {
		t.Close()
	}
}

// ownPatterns returns patterns that leave varve's own folders out of the folder root: a repository that is backed up into itself grows for ever.
func ownPatterns(root string, own []string) (patterns []string) {
	for _, dir := range own {
		abs, err := filepath.Abs(dir)
		if err != nil {
			continue
		}
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			abs = real
		}
		rel, err := filepath.Rel(root, abs)
		if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			continue
		}
		escaped := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, " ", `\ `).Replace(filepath.ToSlash(rel))
		patterns = append(patterns, "/"+escaped+"/")
	}
	return patterns
}

// folderOptions say what is left out of folders.
type folderOptions struct {
	exclude, excludeFrom, ignoreFiles []string
	excludeCaches, oneFileSystem      bool
	optional                          []string // names of parts
}

// dir returns the options for source.Dir.
func (o *folderOptions) dir() (*source.DirOptions, error) {
	exclude := slices.Clone(o.exclude)
	for _, path := range o.excludeFrom {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("--exclude-from %s: %v", path, trim(err))
		}
		exclude = append(exclude, strings.Split(strings.TrimPrefix(string(b), "\ufeff"), "\n")...)
	}
	for _, name := range o.ignoreFiles {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("--ignore-file %q: it is the name of files, such as .gitignore, not a path", name)
		}
	}
	return &source.DirOptions{Exclude: exclude, IgnoreFiles: o.ignoreFiles, ExcludeCaches: o.excludeCaches, OneFileSystem: o.oneFileSystem}, nil
}

// openSources makes one source of the command line's. own are folders that are varve's, cache is that of them which holds what can be made again.
func openSources(args []string, stdin io.Reader, o *folderOptions, own []string, cache string) (_ *backupSource, err error) {
	var parts []*part
	names := map[string]string{}
	inputs := 0
	optional := map[string]bool{} // by name; true once there is such a part
	for _, name := range o.optional {
		optional[name] = false
	}
	for _, arg := range args {
		p, err := parsePart(arg)
		if p != nil && errors.Is(err, fs.ErrNotExist) {
			if _, may := optional[p.name]; may {
				p.kind, p.why, err = absent, err, nil
			}
		}
		if err != nil {
			return nil, err
		}
		if _, may := optional[p.name]; may {
			p.optional, optional[p.name] = true, true
		}
		alone := len(args) == 1 && p.kind == folder && !p.as
		if p.name == "" && !alone {
			return nil, fmt.Errorf("source %q has no name of its own: give it one, as in root=%s", p.arg, p.arg)
		}
		if other, taken := names[p.name]; taken {
			return nil, fmt.Errorf("the sources %q and %q would both be called %q in the snapshot: give one of them another name, as in other=%s", other, p.arg, p.name, strings.TrimPrefix(p.arg, p.name+"="))
		}
		if p.kind == standardInput {
			if inputs++; inputs > 1 {
				return nil, errors.New("standard input can be read once: give - as one source only")
			}
		}
		names[p.name] = p.arg
		parts = append(parts, p)
	}
	for name, found := range optional {
		if !found {
			return nil, fmt.Errorf("--optional %s: no source has that name in the snapshot", name)
		}
	}
	options, err := o.dir()
	if err != nil {
		return nil, err
	}
	options.Temp = tempIn(cache)
	s := &backupSource{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	join := source.Join{}
	for _, p := range parts {
		fsys, err := s.open(p, stdin, *options, ownPatterns(p.path, own))
		if err != nil && p.optional {
			fsys, err = absentFS{err}, nil
		}
		if err != nil {
			return nil, at(stepSource, p.arg, err)
		}
		if p.optional {
			join[p.name] = source.Optional(fsys)
			continue
		}
		if len(parts) == 1 && (p.kind == folder || p.kind == database) && !p.as {
			s.fsys = fsys
			return s, nil
		}
		join[p.name] = fsys
	}
	s.fsys = join
	return s, nil
}

func (s *backupSource) open(p *part, stdin io.Reader, o source.DirOptions, own []string) (fs.FS, error) {
	switch p.kind {
	case absent:
		return absentFS{p.why}, nil
	case standardInput:
		return source.Stream(p.name, func(ctx context.Context) (io.ReadCloser, error) { return newInput(ctx, stdin), nil }), nil
	case command:
		return source.Shell(p.name, p.line, nil), nil
	case database:
		fsys, err := source.Database(p.url)
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", p.arg, err)
		}
		return fsys, nil
	case sqlite:
		return source.SQLiteFile(p.path, nil), nil
	case bucketKeys:
		b, err := openBucket(context.Background(), p.url)
		if err != nil {
			return nil, err
		}
		s.trees = append(s.trees, b)
		return b, nil
	case file:
		t, err := source.Dir(filepath.Dir(p.path), nil)
		if err != nil {
			return nil, err
		}
		s.trees = append(s.trees, t)
		return &fileFS{tree: t, base: filepath.Base(p.path)}, nil
	}
	o.Exclude = slices.Concat(o.Exclude, own)
	t, err := source.Dir(p.path, &o)
	if err != nil {
		return nil, err
	}
	s.trees = append(s.trees, t)
	return t, nil
}
