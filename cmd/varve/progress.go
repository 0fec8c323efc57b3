package main

import (
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/varvebackup/varve/repo"
)

// A progress is one line on a terminal that is written again and again. Nil: there is no terminal, and nothing is written. Not safe for concurrent use.
type progress struct {
	w     io.Writer
	width func() int
	shown bool
}

func (a *app) progress() *progress {
	if a.width() <= 0 {
		return nil
	}
	return &progress{w: a.stderr, width: a.width}
}

func (p *progress) show(line string) {
	if p == nil {
		return
	}
	line = printable(line)
	if w := p.width() - 1; w > 0 && utf8.RuneCountInString(line) > w {
		line = string([]rune(line)[:w])
	}
	fmt.Fprintf(p.w, "\r%s\x1b[K", line)
	p.shown = true
}

func (p *progress) clear() {
	if p != nil && p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func (p *progress) backup(s repo.Progress) {
	if p != nil {
		p.show(fmt.Sprintf("%s  %s, read %s, new %s, stored %s  %s", clock(s.Elapsed), count(s.Files, "file", "files"), size(s.Read), size(s.New), size(s.Stored), s.Path))
	}
}

func (p *progress) restore(s repo.Progress) {
	if p == nil {
		return
	}
	p.show(fmt.Sprintf("%s  %s, %s", clock(s.Elapsed), count(s.Files, "file", "files"), share(s.Bytes, s.Total, s.Elapsed)))
}

// share says how much of a total is done, and when the rest may be.
func share(done, total int64, elapsed time.Duration) string {
	if total <= 0 || done <= 0 {
		return size(done)
	}
	text := fmt.Sprintf("%s of %s (%d %%)", size(done), size(total), int(100*float64(done)/float64(total)))
	if left := time.Duration(float64(elapsed) * (float64(total)/float64(done) - 1)); elapsed > 2*time.Second && left > 0 {
		text += ", " + clock(left) + " left"
	}
	return text
}

// clock is h:mm:ss, or m:ss.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
