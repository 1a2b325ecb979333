package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/oncelog/oncelog/broker"
)

// newLogger writes to w as the configuration says.
func newLogger(w io.Writer, cfg broker.LogConfig) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.SlogLevel()}
	if cfg.Format == broker.LogText || cfg.Format == broker.LogAuto && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
