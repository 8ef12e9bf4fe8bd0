package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	// maxGossipLines bounds memberlist's other lines: without a key, strangers can cause lines
	// about members too.
	maxGossipLines = 24
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

// quietWriter receives memberlist's log lines. Name conflicts, and sockets that this node closed,
// appear at debug level only, because weir logs them itself. Other lines about an address recur
// with every packet, and strangers can cause them: each is logged once in half a minute per
// machine, and all together are bounded.
type quietWriter struct {
	log  hclog.Logger
	out  io.Writer
	said *lognoise.Said // of strangers
	rest *lognoise.Said
}

func newQuietStandardLogger(logger hclog.Logger) *log.Logger {
	out := logger.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true})
	return log.New(quietWriter{log: logger, out: out, said: lognoise.Strangers(), rest: lognoise.AtMost(maxGossipLines)}, "", 0)
}

// Write implements [io.Writer].
func (w quietWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	for _, ours := range []string{"Conflicting address for", "use of closed network connection"} {
		if strings.Contains(text, ours) {
			w.log.Debug(text)
			return len(line), nil
		}
	}
	if strings.HasPrefix(text, "[DEBUG]") {
		return w.out.Write(line)
	}
	about, strangers := aboutStrangers(text)
	said := w.rest
	if strangers {
		said = w.said
	}
	wrong := unreadable(text)
	switch {
	case wrong != nil && w.said.Due(about+wrong.What, time.Now()):
		w.log.Warn("a node's gossip is refused", "from", sender(text), "reason", wrong)
	case wrong == nil && said.Due(about, time.Now()):
		return w.out.Write(line)
	default:
		w.log.Debug(text)
	}
	return len(line), nil
}

// aboutStrangers returns a key for a line, and whether anybody who reaches the port can cause that
// line.
func aboutStrangers(line string) (about string, ok bool) {
	_, what, _ := strings.Cut(line, "] memberlist: ")
	what, _, _ = strings.Cut(what, ":")
	if strings.Contains(line, "from=") {
		from := sender(line)
		host, _, err := net.SplitHostPort(from)
		if err != nil {
			host = from
		}
		return host + " " + strings.Map(withoutDigits, what), true
	}
	for _, known := range []string{"invalid checksum", "Too many pending push/pull", "Error accepting TCP", "Error reading UDP", "handler queue full"} {
		if strings.Contains(line, known) {
			return known, true
		}
	}
	return line, false
}

// withoutDigits drops digits, so that lines that differ only in numbers are equal.
func withoutDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// unreadable explains memberlist's line about gossip that it can't decrypt. It returns nil for any
// other line.
func unreadable(line string) *handshake.Misfit {
	for _, known := range []struct {
		text string
		why  handshake.Misfit
	}{
		{"no installed keys could decrypt", handshake.Misfit{What: "the gossip keys differ", Do: "give both nodes the same cluster.gossip_key, or, while it is changed, the other's in cluster.gossip_accept_keys"}},
		{"remote state is encrypted and encryption is not configured", handshake.Misfit{What: "one node encrypts gossip, and the other has no key", Do: "give both the same cluster.gossip_key, and restart the one without"}},
		{"encryption is configured but remote state is not encrypted", handshake.Misfit{What: "one node encrypts gossip, and the other doesn't", Do: "give both the same cluster.gossip_key, and restart the one without"}},
		{"Decrypt packet failed", handshake.Misfit{What: "a packet on the gossip port is not encrypted, or is not gossip", Do: "give all nodes the same cluster.gossip_key, and let only nodes reach the port"}},
	} {
		if strings.Contains(line, known.text) {
			return &known.why
		}
	}
	return nil
}

// sender returns the address at the end of a line of memberlist's.
func sender(line string) string {
	_, from, _ := strings.Cut(line, "from=")
	from, _, _ = strings.Cut(strings.TrimSpace(from), " ")
	return from
}
