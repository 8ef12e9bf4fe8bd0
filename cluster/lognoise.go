package cluster

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/lognoise"
)

// quietLogger is Raft's logger. Raft reports an unreachable peer as an error, many times a second.
// Here each such line is a warning, repeated every half minute; the others appear at debug level.
type quietLogger struct {
	hclog.Logger
	said *lognoise.Said
}

func newQuietLogger(log hclog.Logger) hclog.Logger {
	return &quietLogger{Logger: log, said: &lognoise.Said{}}
}

// Error implements [hclog.Logger].
func (l *quietLogger) Error(msg string, args ...any) {
	key, peer := peerOf(msg, args)
	switch {
	case closedByUs(args):
		l.Logger.Debug(msg, args...)
	case !peer:
		l.Logger.Error(msg, args...)
	case l.said.Due(key, time.Now()):
		l.Logger.Warn(msg, args...)
	default:
		l.Logger.Debug(msg, args...)
	}
}

// Warn implements [hclog.Logger].
func (l *quietLogger) Warn(msg string, args ...any) {
	if key, peer := peerOf(msg, args); peer && !l.said.Due(key, time.Now()) {
		l.Logger.Debug(msg, args...)
		return
	}
	l.Logger.Warn(msg, args...)
}

// With implements [hclog.Logger].
func (l *quietLogger) With(args ...any) hclog.Logger {
	return &quietLogger{Logger: l.Logger.With(args...), said: l.said}
}

// Named implements [hclog.Logger].
func (l *quietLogger) Named(name string) hclog.Logger {
	return &quietLogger{Logger: l.Logger.Named(name), said: l.said}
}

// peerOf returns a key for a line's subject and peer; ok is false if the line is not about a peer.
func peerOf(msg string, args []any) (key string, ok bool) {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "target", "server-id":
			return msg + " " + fmt.Sprint(args[i+1]), true
		}
	}
	return msg, slices.Contains(strangersLines, msg)
}

// strangersLines are lines of Raft's transport about a connection that do not name its peer. On an
// unencrypted port, anybody who reaches it can cause them.
var strangersLines = []string{"failed to decode incoming command", "failed to flush response", "failed to accept connection"}

// closedByUs reports whether a line only reports that this node closed its own connections.
func closedByUs(args []any) bool {
	for _, arg := range args {
		if err, ok := arg.(error); ok && errors.Is(err, net.ErrClosed) {
			return true
		}
	}
	return false
}
