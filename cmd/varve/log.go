package main

import (
	"context"
	"log/slog"
	"sync"
)

// warner is what a repository says beside its results: each thing once, with the first object of which it is true.
type warner struct {
	a *app

	mu   sync.Mutex // guards said, and warning
	said map[string]bool
}

func (w *warner) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (w *warner) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said[r.Message] {
		return nil
	}
	w.said[r.Message] = true
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += "; " + a.Key + ": " + a.Value.String()
		return true
	})
	w.a.warn(text)
	return nil
}

// WithAttrs and WithGroup are for loggers made from this one, of which there are none.
func (w *warner) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *warner) WithGroup(string) slog.Handler      { return w }
