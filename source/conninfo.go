package source

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// conninfo is what a connection string of PostgreSQL's libpq says, by keyword.
type conninfo map[string]string

var errConninfo = errors.New("source: Postgres: neither a URL nor a connection string of libpq")

// parseConninfo reads both forms that libpq has: a URL, maybe with several hosts, and "key=value key='value'". No error
// repeats what may be a password.
func parseConninfo(s string) (conninfo, error) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return parseURI(rest)
		}
	}
	c := conninfo{}
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" {
			return c, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		key = strings.TrimRight(key, " \t\r\n")
		if !ok || !isKeyword(key) {
			return nil, errConninfo
		}
		rest = strings.TrimLeft(rest, " \t\r\n")
		quoted := strings.HasPrefix(rest, "'")
		var value strings.Builder
		i, closed := 0, !quoted
		if quoted {
			i = 1
		}
		for ; i < len(rest); i++ {
			ch := rest[i]
			if quoted && ch == '\'' {
				i++
				closed = true
				break
			}
			if !quoted && strings.IndexByte(" \t\r\n", ch) >= 0 {
				break
			}
			if ch == '\\' && i+1 < len(rest) {
				i++
				ch = rest[i]
			}
			value.WriteByte(ch)
		}
		if !closed {
			return nil, errConninfo
		}
		c[key], s = value.String(), rest[i:]
	}
}

// parseURI reads a URL behind its scheme: [user[:password]@][host[:port],...][/dbname][?key=value&...].
func parseURI(s string) (conninfo, error) {
	c := conninfo{}
	bad := false
	set := func(key, value string) {
		v, err := url.PathUnescape(value)
		bad = bad || err != nil
		if v != "" {
			c[key] = v
		}
	}
	s, query, _ := strings.Cut(s, "?")
	s, db, _ := strings.Cut(s, "/")
	if !strings.Contains(s, "@") && strings.Contains(db, "@") {
		return nil, errConninfo
	}
	// The last '@': libpq takes the first, and so a part of a password with an '@' in it for the host.
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		user, password, _ := strings.Cut(s[:i], ":")
		set("user", user)
		set("password", password)
		s = s[i+1:]
	}
	var hosts, ports []string
	for h := range strings.SplitSeq(s, ",") {
		port := ""
		if i := strings.LastIndexByte(h, ':'); i > strings.LastIndexByte(h, ']') {
			h, port = h[:i], h[i+1:]
		}
		// A '/' or '?' in a password ends the host too early: what came before it must not show on a command line.
		if strings.Trim(port, "0123456789") != "" {
			return nil, errConninfo
		}
		if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
			h = h[1 : len(h)-1]
		}
		hosts, ports = append(hosts, h), append(ports, port)
	}
	set("host", strings.Join(hosts, ","))
	if p := strings.Join(ports, ","); strings.Trim(p, ",") != "" {
		set("port", p)
	}
	set("dbname", db)
	for q := range strings.SplitSeq(query, "&") {
		key, value, ok := strings.Cut(q, "=")
		if q == "" {
			continue
		}
		if !ok || !isKeyword(key) {
			return nil, errConninfo
		}
		if key == "ssl" && value == "true" { // as JDBC has it
			key, value = "sslmode", "require"
		}
		set(key, value)
	}
	if bad {
		return nil, errConninfo
	}
	return c, nil
}

// isKeyword tells whether a parameter of libpq may be called so.
func isKeyword(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// argument returns a connection string for a command line, to the database db. What is secret is not in it.
func (c conninfo) argument(db string) string {
	var b strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, key := range slices.Sorted(maps.Keys(c)) {
		if key != "password" && key != "dbname" {
			fmt.Fprintf(&b, "%s='%s' ", key, quote.Replace(c[key]))
		}
	}
	fmt.Fprintf(&b, "dbname='%s'", quote.Replace(db))
	return b.String()
}
