package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLogger passes Raft's log on to slog. Raft says much at info that only its developers want,
// and calls it an error when a peer cannot be reached, for each of many groups and again and
// again; what an operator needs of both, the group and the connections say themselves.
type raftLogger struct {
	logger *slog.Logger
	name   string
	args   []any
	// counts are told of messages by their beginnings: what happens in Raft and is seen in no other way.
	counts map[string]func()
}

var _ hclog.Logger = (*raftLogger)(nil)

func newRaftLogger(l *slog.Logger, m *metrics) hclog.Logger {
	return &raftLogger{logger: l, name: "raft", counts: map[string]func(){
		"failed to contact quorum of nodes, stepping down": m.leases.Inc,
		"heartbeat timeout reached, starting election":     m.timeouts.Inc,
	}}
}

// quiet are the beginnings of messages that follow from a peer being away.
var quiet = []string{
	"failed to appendEntries to", "failed to heartbeat to", "failed to make requestVote RPC", "failed to contact",
	"failed to start pipeline replication", "failed to pipeline appendEntries", "peer has newer term",
	"rejecting vote request", "rejecting pre-vote request", "appendEntries rejected", "previous log term mis-match",
	"failed to get previous log", "failed to get log", "Election timeout reached", "heartbeat timeout reached", "no known peers",
	"not part of stable configuration", "failed to send snapshot to", "duplicate requestVote", "skipping application of old log",
	"target does not support pre-vote",
}

func (l *raftLogger) level(level hclog.Level, msg string, args []any) slog.Level {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, errCovered) {
			return slog.LevelDebug
		}
	}
	for _, q := range quiet {
		if strings.HasPrefix(msg, q) {
			return slog.LevelDebug
		}
	}
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Trace:
		return slog.LevelDebug - 4
	}
	return slog.LevelDebug
}

// Log passes a message on.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	if count := l.counts[msg]; count != nil {
		count()
	}
	at := l.level(level, msg, args)
	if !l.logger.Enabled(context.Background(), at) {
		return
	}
	all := append(append([]any(nil), l.args...), args...)
	for i, a := range all {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				all[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	l.logger.Log(context.Background(), at, "raft: "+msg, all...)
}

// Trace passes a message on.
func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }

// Debug passes a message on.
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }

// Info passes a message on.
func (l *raftLogger) Info(msg string, args ...any) { l.Log(hclog.Info, msg, args...) }

// Warn passes a message on.
func (l *raftLogger) Warn(msg string, args ...any) { l.Log(hclog.Warn, msg, args...) }

// Error passes a message on.
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

// IsTrace is false: nobody wants it.
func (l *raftLogger) IsTrace() bool { return false }

// IsDebug says whether debug messages are wanted.
func (l *raftLogger) IsDebug() bool {
	return l.logger.Enabled(context.Background(), slog.LevelDebug)
}

// IsInfo says whether info messages, which become debug, are wanted.
func (l *raftLogger) IsInfo() bool { return l.IsDebug() }

// IsWarn says whether warnings are wanted.
func (l *raftLogger) IsWarn() bool { return l.logger.Enabled(context.Background(), slog.LevelWarn) }

// IsError says whether errors are wanted.
func (l *raftLogger) IsError() bool { return l.logger.Enabled(context.Background(), slog.LevelError) }

// ImpliedArgs are those added to every message.
func (l *raftLogger) ImpliedArgs() []any { return l.args }

// With adds to every message.
func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{logger: l.logger, name: l.name, args: append(append([]any(nil), l.args...), args...), counts: l.counts}
}

// Name is the logger's name, which slog has no use for.
func (l *raftLogger) Name() string { return l.name }

// Named gives the same logger under another name.
func (l *raftLogger) Named(name string) hclog.Logger {
	return &raftLogger{logger: l.logger, name: name, args: l.args, counts: l.counts}
}

// ResetNamed gives the same logger under another name.
func (l *raftLogger) ResetNamed(name string) hclog.Logger { return l.Named(name) }

// SetLevel does nothing: slog decides.
func (l *raftLogger) SetLevel(hclog.Level) {}

// GetLevel is what slog would pass on.
func (l *raftLogger) GetLevel() hclog.Level {
	if l.IsDebug() {
		return hclog.Debug
	}
	return hclog.Warn
}

// StandardLogger gives a logger of package log.
func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

// StandardWriter takes lines.
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

type lineWriter struct{ l *raftLogger }

func (w lineWriter) Write(b []byte) (int, error) {
	w.l.Info(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}
