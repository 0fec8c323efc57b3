package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// impatient returns a dialer whose connections fail when neither a read nor a
// write made progress for a while. (A timeout for each request can't tell a
// slow link from a dead one.)
func impatient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &impatientConn{Conn: c}, nil
	}
}

type impatientConn struct{ net.Conn }

// A write gives the read that waits for its answer more time, too.
func (c *impatientConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *impatientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// An inspector is the transport below minio-go. It keeps from it what no S3
// service said: minio-go takes any 404 for a missing object, any well-formed
// XML for a listing, and any 200 for a stored object.
type inspector struct {
	base http.RoundTripper
	b    *Bucket
}

// largeBody is the size from which the service is asked whether it would accept
// a request, before the body is sent.
const largeBody = 1 << 20

func (t *inspector) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodPut && req.ContentLength >= largeBody {
		// A service that refuses and closes the connection while the body is
		// under way would be seen as a reset.
		clone := *req
		clone.Header = req.Header.Clone()
		clone.Header.Set("Expect", "100-continue")
		req = &clone
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.b.skew.Store(int64(time.Until(date)))
	}
	if req.Method == http.MethodDelete && resp.Header.Get("X-Amz-Delete-Marker") == "true" && !req.URL.Query().Has("versionId") {
		t.b.kept.Store(keepsVersions)
	}
	if why, err := foreign(req, resp); err != nil {
		return nil, err
	} else if why != "" {
		return nil, &foreignError{status: resp.Status, code: resp.StatusCode, what: why}
	}
	if req.Method != http.MethodHead { // its answer may be anybody's
		t.b.reached.Store(true)
	}
	return resp, nil
}

// A foreignError is an answer that is not from an S3 service.
type foreignError struct {
	status string
	code   int
	what   string
}

func (e *foreignError) Error() string { return fmt.Sprintf("%s (status %s)", e.what, e.status) }

// The longest document that a service sends: a listing has a thousand keys.
const maxXML = 16 << 20

// foreign returns what is wrong with an answer as one of an S3 service, or "".
// It reads documents whole, so that one that is cut is an error of the
// connection and not of the service.
func foreign(req *http.Request, resp *http.Response) (string, error) {
	switch req.Method {
	case http.MethodPost, http.MethodHead: // credentials; has no body, see Stat
		return "", nil
	}
	query := req.URL.Query()
	good := resp.StatusCode >= 200 && resp.StatusCode < 300
	root := ""
	switch {
	case good && query.Has("list-type"):
		root = "ListBucketResult"
	case good && query.Has("versions"):
		root = "ListVersionsResult"
	case good && query.Has("versioning"):
		root = "VersioningConfiguration"
	case good && query.Has("object-lock"):
		root = "ObjectLockConfiguration"
	case good && query.Has("retention") && req.Method == http.MethodPut:
		if resp.ContentLength == 0 {
			return "", nil
		}
	case good && query.Has("retention"):
		root = "Retention"
	case good && query.Has("legal-hold"):
		root = "LegalHold"
	case good && query.Has("tagging"):
		root = "Tagging"
	case good && query.Has("location"):
		root = "LocationConstraint"
	case good && req.Method == http.MethodDelete:
		if resp.StatusCode == http.StatusNoContent {
			return "", nil
		}
	case good:
		if resp.Header.Get("Etag") != "" {
			return "", nil
		}
	case resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests:
		return "", nil // whoever says so
	default:
		root = "Error"
	}
	page, err := io.ReadAll(io.LimitReader(resp.Body, maxXML))
	resp.Body.Close()
	switch {
	case err != nil && resp.StatusCode == http.StatusPreconditionFailed:
		// The status is the whole answer: the object was there, and this request
		// did not put it. Another one could not know that any more.
		page = nil
	case err != nil:
		return "", err
	}
	resp.Body = io.NopCloser(bytes.NewReader(page))
	switch {
	case root != "" && rootOf(page) == root:
		return "", nil
	case len(page) == 0 && !good && resp.StatusCode != http.StatusNotFound:
		return "", nil // the status says it all
	}
	return describe(page), nil
}

// rootOf returns the name of the root element of an XML document, or "".
func rootOf(p []byte) string {
	d := xml.NewDecoder(bytes.NewReader(p))
	d.Strict = false
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	for {
		t, err := d.RawToken()
		if err != nil {
			return ""
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t.Name.Local
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return ""
			}
		}
	}
}

// describe says in a few words what begins so.
func describe(p []byte) string {
	if len(p) == 0 {
		return "an empty page"
	}
	p = p[:min(len(p), 4<<10)]
	lower := bytes.ToLower(p)
	what := "a page"
	if bytes.Contains(lower, []byte("<html")) || bytes.HasPrefix(bytes.TrimSpace(lower), []byte("<!doctype html")) {
		what = "an HTML page"
	}
	text := p
	if i := bytes.Index(lower, []byte("<title>")); i >= 0 && len(lower) == len(p) {
		text = text[i+len("<title>"):]
		if j := bytes.IndexByte(text, '<'); j >= 0 {
			text = text[:j]
		}
	}
	words := strings.Join(strings.Fields(string(text)), " ")
	if len(words) > 80 {
		words = words[:80] + "..."
	}
	return fmt.Sprintf("%s: %q", what, words)
}
