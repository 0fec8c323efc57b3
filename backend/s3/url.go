package s3

import (
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
)

// ParseURL takes s3://bucket/prefix?endpoint=host:port apart, as a person writes it: the query may have endpoint, region, path-style, insecure and ca. What else there is in it is
// rest, each once. The prefix is the URL's path, with its slashes. The error is fs.ErrInvalid, and does not repeat the URL, which may hold a password.
func ParseURL(rawURL string) (bucket string, o *Options, rest map[string]string, err error) {
	fail := func(format string, args ...any) (string, *Options, map[string]string, error) {
		return "", nil, nil, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), fs.ErrInvalid)
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return fail("not a URL")
	case u.User != nil:
		return fail("keys don't belong into a URL, where others may see them; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment")
	case u.Opaque != "" || u.Host == "" || u.Port() != "":
		return fail("write s3://bucket/prefix?endpoint=host:port")
	case u.Fragment != "":
		return fail("a fragment (#) means nothing here")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("the part behind the ? can't be read")
	}
	o, rest = &Options{Prefix: u.Path}, map[string]string{}
	for name, values := range query {
		if len(values) != 1 {
			return fail("%s is there %d times", name, len(values))
		}
		v := values[0]
		flag, ferr := strconv.ParseBool(v)
		switch name {
		case "endpoint":
			o.Endpoint = v
		case "region":
			o.Region = v
		case "ca":
			o.CAFile = v
		case "path-style":
			if ferr != nil {
				return fail("path-style is 1 or 0, not %q", v)
			}
			o.PathStyle, o.VirtualHost = flag, !flag
		case "insecure":
			if ferr != nil {
				return fail("insecure is 1 or 0, not %q", v)
			}
			o.Insecure = flag
		default:
			rest[name] = v
		}
	}
	return u.Host, o, rest, nil
}
