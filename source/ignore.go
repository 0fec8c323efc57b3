package source

import (
	"bytes"
	"strings"
)

// An ignore is a list of patterns with the meaning that they have in a .gitignore file at the root of the tree. Text
// and patterns are bytes: '?' is one byte, as in git.
type ignore []pattern

type pattern struct {
	text    string // without the leading '!', the leading and the trailing '/'
	literal int    // length of the prefix of text that has no special characters
	negated bool   // '!': what matches is kept
	folder  bool   // trailing '/': only folders match
	base    bool   // no '/' but a trailing one: matched against the last element of a path
}

func parseIgnore(lines []string) ignore {
	var ig ignore
	for _, line := range lines {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var p pattern
		s := trimSpaces(strings.TrimSuffix(line, "\r"))
		s, p.negated = strings.CutPrefix(s, "!")
		s, p.folder = strings.CutSuffix(s, "/")
		p.base = !strings.Contains(s, "/")
		s = strings.TrimPrefix(s, "/")
		if s == "" {
			continue
		}
		p.text = s
		if p.literal = strings.IndexAny(s, `*?[\`); p.literal < 0 {
			p.literal = len(s)
		}
		ig = append(ig, p)
	}
	return ig
}

// trimSpaces cuts trailing spaces, but not an escaped one.
func trimSpaces(s string) string {
	end := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
			end = min(i+1, len(s))
		case s[i] != ' ':
			end = i + 1
		}
	}
	return s[:end]
}

// decide reports whether the entry at path is excluded by a pattern of its own, and whether any matches. That a folder above
// it is excluded is for the caller to know: nothing below such a folder can be kept. The last pattern that matches decides.
func (ig ignore) decide(path []byte, folder bool) (excluded, decided bool) {
	base := path[bytes.LastIndexByte(path, '/')+1:]
	for i := len(ig) - 1; i >= 0; i-- {
		p := &ig[i]
		if p.folder && !folder {
			continue
		}
		text := path
		if p.base {
			text = base
		}
		// Git compares the literal prefix first and globs the rest alone, so that "**" behind a prefix counts as the
		// beginning of a pattern; only for patterns with a slash.
		if len(text) < p.literal || string(text[:p.literal]) != p.text[:p.literal] {
			continue
		}
		if p.literal == len(p.text) {
			if len(text) == p.literal {
				return !p.negated, true
			}
			continue
		}
		if skip := p.literal; !p.base {
			if wild(p.text[skip:], text[skip:], true) == matched {
				return !p.negated, true
			}
		} else if wild(p.text, text, false) == matched {
			return !p.negated, true
		}
	}
	return false, false
}

// The outcomes of wild. The aborts keep backtracking short: no longer text for the innermost star can help.
const (
	matched         = iota
	unmatched       // not from here
	abortAll        // nor from any later byte of text
	abortToStarstar // nor before the text's next '/', which only "**" crosses
)

// wild matches all of text with all of pat in git's glob language (wildmatch): '*' and '?' and classes don't match '/'
// if slashes count, "**" between slashes does.
func wild(pat string, text []byte, slashes bool) int {
	t := 0
	for i := 0; i < len(pat); i++ {
		if pat[i] == '*' {
			return wildStar(pat, i, text[t:], slashes)
		}
		if t == len(text) {
			return abortAll
		}
		switch c := text[t]; pat[i] {
		case '?':
			if slashes && c == '/' {
				return unmatched
			}
		case '[':
			in, next, ok := class(pat, i, c)
			if !ok {
				return abortAll
			}
			if !in || slashes && c == '/' {
				return unmatched
			}
			i = next
		case '\\':
			i++
			if i == len(pat) || pat[i] != c {
				return unmatched
			}
		default:
			if pat[i] != c {
				return unmatched
			}
		}
		t++
	}
	if t < len(text) {
		return unmatched
	}
	return matched
}

// wildStar goes on with wild at the star pat[i].
func wildStar(pat string, i int, text []byte, slashes bool) int {
	rest := strings.TrimLeft(pat[i:], "*")
	cross := !slashes
	if len(pat)-len(rest)-i > 1 && slashes && (i == 0 || pat[i-1] == '/') &&
		(rest == "" || rest[0] == '/' || strings.HasPrefix(rest, `\/`)) {
		cross = true
		// "**/" may stand for nothing at all.
		if rest != "" && rest[0] == '/' && wild(rest[1:], text, slashes) == matched {
			return matched
		}
	}
	if rest == "" {
		if !cross && bytes.IndexByte(text, '/') >= 0 {
			return abortToStarstar
		}
		return matched
	}
	if !cross && rest[0] == '/' {
		// One star stands for exactly one element here.
		slash := bytes.IndexByte(text, '/')
		if slash < 0 {
			return abortAll
		}
		return wild(rest, text[slash:], slashes)
	}
	for ; len(text) > 0; text = text[1:] {
		r := wild(rest, text, slashes)
		if r != unmatched && !(cross && r == abortToStarstar) {
			return r
		}
		if !cross && text[0] == '/' {
			return abortToStarstar
		}
	}
	return abortAll
}

// class reports whether c is in the class that begins at pat[i], and where its ']' is; not ok means malformed.
func class(pat string, i int, c byte) (in bool, end int, ok bool) {
	i++
	negated := i < len(pat) && (pat[i] == '!' || pat[i] == '^')
	if negated {
		i++
	}
	var prev byte // what a '-' begins at; 0 if it can't
	for first := true; ; first = false {
		if i >= len(pat) {
			return false, 0, false
		}
		p := pat[i]
		switch {
		case p == ']' && !first:
			return in != negated, i, true
		case p == '\\':
			if i++; i == len(pat) {
				return false, 0, false
			}
			p = pat[i]
			in = in || p == c
		case p == '-' && prev != 0 && i+1 < len(pat) && pat[i+1] != ']':
			if i++; pat[i] == '\\' {
				if i++; i == len(pat) {
					return false, 0, false
				}
			}
			in = in || prev <= c && c <= pat[i]
			p = 0
		case p == '[' && i+1 < len(pat) && pat[i+1] == ':':
			n := strings.IndexByte(pat[i+2:], ']')
			if n < 0 {
				return false, 0, false
			}
			name, closed := strings.CutSuffix(pat[i+2:i+2+n], ":")
			if !closed {
				in = in || c == '[' // an ordinary member after all
				break
			}
			is, known := named[name]
			if !known {
				return false, 0, false
			}
			in = in || is(c)
			i += 2 + n
			p = 0
		default:
			in = in || p == c
		}
		prev = p
		i++
	}
}

func within(c, lo, hi byte) bool { return lo <= c && c <= hi }
func isLower(c byte) bool        { return within(c, 'a', 'z') }
func isUpper(c byte) bool        { return within(c, 'A', 'Z') }
func isDigit(c byte) bool        { return within(c, '0', '9') }
func isAlpha(c byte) bool        { return isLower(c) || isUpper(c) }
func isAlnum(c byte) bool        { return isAlpha(c) || isDigit(c) }
func isGraph(c byte) bool        { return within(c, '!', '~') }

// named are the classes of "[[:name:]]", in ASCII whatever the locale is.
var named = map[string]func(byte) bool{
	"alnum":  isAlnum,
	"alpha":  isAlpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  isGraph,
	"lower":  isLower,
	"print":  func(c byte) bool { return within(c, ' ', '~') },
	"punct":  func(c byte) bool { return isGraph(c) && !isAlnum(c) },
	"space":  func(c byte) bool { return c == ' ' || within(c, '\t', '\r') },
	"upper":  isUpper,
	"xdigit": func(c byte) bool { return isDigit(c) || within(c|0x20, 'a', 'f') },
}
