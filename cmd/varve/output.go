package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// output remembers that standard output could not be written, so that nobody mistakes that error for another.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// writeJSON prints the command's document.
func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A list prints {"name":[...]} item by item, for lists that may be long.
type list struct {
	w    io.Writer
	name string
	n    int
}

func (l *list) add(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	before := ",\n"
	if l.n == 0 {
		before = fmt.Sprintf("{%q:[\n", l.name)
	}
	l.n++
	_, err = fmt.Fprintf(l.w, "%s%s", before, b)
	return err
}

func (l *list) end() error {
	text := "\n]}\n"
	if l.n == 0 {
		text = fmt.Sprintf("{%q:[]}\n", l.name)
	}
	_, err := io.WriteString(l.w, text)
	return err
}

// warn prints a line on stderr that is no failure.
func (a *app) warn(text string) {
	if a.json {
		b, _ := json.Marshal(map[string]string{"warning": text}) // strings can be marshalled
		fmt.Fprintf(a.stderr, "%s\n", b)
		return
	}
	fmt.Fprintf(a.stderr, "varve: %s\n", printableLines(text))
}

// printable returns s without what a terminal would obey or not show: each byte of such a character becomes \xHH, as splitSpec understands it.
func printable(s string) string {
	clean := func(r rune, n int) bool { return unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) }
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if clean(r, n) {
			b.WriteString(s[:n])
		} else {
			for _, c := range []byte(s[:n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
		s = s[n:]
	}
	return b.String()
}

// printableLines is printable for text of several lines: what a failed command said, for one. All but the first are indented, so that none is taken for a message of varve's.
func printableLines(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = printable(strings.ReplaceAll(strings.TrimRight(l, "\r"), "\t", " "))
	}
	return strings.Join(lines, "\n  ")
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return humanize.Comma(n) + " " + many
}

func local(t time.Time) string { return t.Local().Format(time.DateTime) }

func duration(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
