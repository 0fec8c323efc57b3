package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Database returns the source that a URL names: Postgres (postgres://, postgresql://), MySQL (mysql://, mariadb://), or a
// Stream of all that a MongoDB (mongodb://, mongodb+srv://; what mongodump --archive writes, for mongorestore) or a Redis
// (redis://, rediss://; an RDB file) has. Options stand behind a '#', joined by '&':
//
//	all  database=NAME  table=NAME  bin=FOLDER  arg=ARGUMENT                          as in the options of the source
//	schema=NAME  format=custom  no-globals  max-lag=5m                                for Postgres alone
//
// Those with a value, but for bin, format and max-lag, may stand there several times. MongoDB and Redis know bin and arg.
// What is no such URL is an error, in which no password is repeated.
func Database(conn string) (fs.FS, error) {
	conn, fragment, _ := strings.Cut(conn, "#")
	scheme, _, ok := strings.Cut(conn, "://")
	if !ok {
		return nil, errors.New("source: no URL of a database")
	}
	o, err := parseOptions(fragment)
	if err != nil {
		return nil, err
	}
	var fsys fs.FS
	switch scheme {
	case "postgres", "postgresql":
		p := &PostgresOptions{All: o.flag("all"), Databases: o.list("database"), Schemas: o.list("schema"), Tables: o.list("table"), NoGlobals: o.flag("no-globals"),
			Bin: o.value("bin"), Args: o.list("arg")}
		switch format := o.value("format"); format {
		case "", "plain":
		case "custom":
			p.Custom = true
		default:
			o.err = fmt.Errorf("source: format=%s: there are plain and custom", format)
		}
		if lag := o.value("max-lag"); lag != "" {
			if p.MaxLag, err = time.ParseDuration(lag); err != nil || p.MaxLag <= 0 {
				o.err = fmt.Errorf("source: max-lag=%s: a time looks like 90s or 5m", lag)
			}
		}
		if _, err := parseConninfo(conn); err != nil {
			return nil, err
		}
		fsys = Postgres(conn, p)
	case "mysql", "mariadb":
		m := &MySQLOptions{All: o.flag("all"), Databases: o.list("database"), Tables: o.list("table"), Bin: o.value("bin"), Args: o.list("arg")}
		if err := new(mysql).parse(conn); err != nil {
			return nil, err
		}
		fsys = MySQL(conn, m)
	default:
		i := slices.IndexFunc(presets, func(p preset) bool { return slices.Contains(p.schemes, scheme) })
		if i < 0 {
			return nil, fmt.Errorf("source: no database is known by %s://", scheme)
		}
		if fsys, err = presets[i].stream(conn, o.value("bin"), o.list("arg")); err != nil {
			return nil, err
		}
	}
	return fsys, o.done()
}

// dbOptions are the options of a URL that nobody has asked for yet.
type dbOptions struct {
	values url.Values
	err    error
}

func parseOptions(fragment string) (*dbOptions, error) {
	v, err := url.ParseQuery(fragment)
	for key := range v {
		if strings.Trim(key, "abcdefghijklmnopqrstuvwxyz-") != "" { // it may be the end of a password
			err = errors.New("no option")
		}
	}
	if err != nil {
		return nil, errors.New("source: what follows the '#' of a database's URL can't be read: options look like all&max-lag=5m, and a '#' in a password is written %23")
	}
	return &dbOptions{values: v}, nil
}

func (o *dbOptions) list(key string) []string {
	v := o.values[key]
	delete(o.values, key)
	return v
}

func (o *dbOptions) value(key string) string {
	v := o.list(key)
	if len(v) > 1 {
		o.err = fmt.Errorf("source: the option %s stands there %d times", key, len(v))
	}
	return strings.Join(v, "")
}

func (o *dbOptions) flag(key string) bool {
	v := o.list(key)
	if strings.Join(v, "") != "" {
		o.err = fmt.Errorf("source: the option %s has no value", key)
	}
	return v != nil
}

// done returns what was wrong with the options, and an error for those that nobody knows.
func (o *dbOptions) done() error {
	for key := range o.values {
		return fmt.Errorf("source: this database has no option %q", key)
	}
	return o.err
}

// A preset is how the dump of a kind of database is had from the program that comes with it, on its standard output and
// without compression, and how secrets get to that program unseen.
type preset struct {
	schemes  []string
	file     string // the dump's name
	programs string // the packages that have the program
	command  func(conn string, u *url.URL) presetCommand
	complete func(last []byte) bool // of the output; nil: the exit status tells
}

type presetCommand struct {
	argv   []string // the program first; a "%" in it is the path of the file
	env    []string
	secret string // content of a private file; "": there is none
}

var presets = []preset{
	{
		schemes: []string{"mongodb", "mongodb+srv"}, file: "mongo.archive", programs: "mongodb-database-tools",
		command: func(conn string, _ *url.URL) presetCommand {
			uri, _ := json.Marshal(conn) // a string in JSON is one in YAML
			// Not --quiet: it keeps to itself even why it fails.
			return presetCommand{argv: []string{"mongodump", "--config=%", "--archive"}, secret: "uri: " + string(uri) + "\n"}
		},
	},
	{
		schemes: []string{"redis", "rediss"}, file: "redis.rdb", programs: "redis-tools",
		command: func(_ string, u *url.URL) (c presetCommand) {
			c.argv = []string{"redis-cli"}
			add := func(key, value string) {
				if value != "" {
					c.argv = append(c.argv, key, value)
				}
			}
			add("-s", u.Query().Get("socket"))
			add("-h", u.Hostname())
			add("-p", u.Port())
			add("--user", u.User.Username())
			if u.Scheme == "rediss" {
				c.argv = append(c.argv, "--tls")
			}
			if pw, ok := u.User.Password(); ok {
				c.env = []string{"REDISCLI_AUTH=" + pw}
			}
			c.argv = append(c.argv, "--rdb", "-")
			return c
		},
		complete: rdbComplete,
	},
}

// stream returns the Stream of a preset.
func (p *preset) stream(conn, bin string, args []string) (fs.FS, error) {
	u, err := url.Parse(conn)
	// A list of hosts with ports is none of Go's URLs, and not for us to read.
	if _, hosts, _ := strings.Cut(conn, "://"); err != nil && strings.Contains(hosts, ",") && p.schemes[0] == "mongodb" {
		u, err = &url.URL{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("source: not a URL as in %s://user@host:port; a special character in a password is written %%XX", p.schemes[0])
	}
	return Stream(p.file, func(ctx context.Context) (io.ReadCloser, error) {
		c := p.command(conn, u)
		program, err := exec.LookPath(joinBin(bin, c.argv[0]))
		if err != nil {
			return nil, &CommandError{Name: c.argv[0], Err: exec.ErrNotFound, Hint: "install " + p.programs}
		}
		cmd := exec.Command(program, c.argv[1:]...)
		var remove func()
		if c.secret != "" {
			path, done, err := privateFile(cmd, c.secret)
			if err != nil {
				return nil, err
			}
			remove = done
			for i, arg := range cmd.Args[1:] {
				cmd.Args[1+i] = strings.ReplaceAll(arg, "%", path)
			}
		}
		cmd.Args = append(cmd.Args, args...)
		r, err := start(ctx, programName(program), cmd, &CommandOptions{Env: c.env})
		if err != nil {
			if remove != nil {
				remove()
			}
			return nil, err
		}
		return &dump{run: r, complete: p.complete, close: remove}, nil
	}), nil
}

// rdbComplete tells whether an RDB file ends so: in 0xFF and a checksum of 8 bytes. A server that sends it from memory puts a
// mark of 40 random digits behind that, which redis-cli can't take off again in a pipe, and which Redis skips when it loads
// the file.
func rdbComplete(last []byte) bool {
	for _, mark := range []int{0, 40} {
		if end := len(last) - mark - 9; end >= 0 && last[end] == 0xff && len(bytes.Trim(last[len(last)-mark:], "0123456789abcdef")) == 0 {
			return true
		}
	}
	return false
}

// endsIn returns what tells whether a dump has these words near its end.
func endsIn(words string) func(last []byte) bool {
	return func(last []byte) bool { return bytes.Contains(last, []byte(words)) }
}
