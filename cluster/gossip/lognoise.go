package gossip

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

// maxLines bounds memberlist's other lines: without a key, strangers can cause lines about members
// too.
const maxLines = 24

// refusals logs why gossip with an address is refused, at most once per interval for each machine.
type refusals struct {
	log  hclog.Logger
	said *lognoise.Said
}

func (r *refusals) note(peer string, err error) {
	var wrong *handshake.Misfit
	why := ""
	switch {
	case errors.As(err, &wrong):
		why = wrong.Kind()
	case errors.Is(err, errUnmarked), errors.Is(err, errOverpacked), errors.Is(err, errNoGossip):
		why = err.Error()
	}
	if why != "" && r.said.Due(host(peer)+" "+why, time.Now()) {
		r.log.Warn("no gossip with a node", "peer", peer, "reason", err)
		return
	}
	r.log.Debug("no gossip with a node", "peer", peer, "reason", err)
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

func newQuietLogger(logger hclog.Logger, strangers *lognoise.Said) *log.Logger {
	out := logger.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true})
	return log.New(quietWriter{log: logger, out: out, said: strangers, rest: lognoise.AtMost(maxLines)}, "", 0)
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
	case wrong != nil && w.said.Due(host(sender(text))+" "+wrong.What, time.Now()):
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
		return host(sender(line)) + " " + strings.Map(withoutDigits, what), true
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

// host returns an address without its port.
func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}
