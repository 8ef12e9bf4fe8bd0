package proxy

import (
	"errors"
	"strings"

	"github.com/weirproxy/weir/proxy/http1"
)

// A tunnel may lead to a node of the cluster by an address that is in no list: through a port
// forward, a NAT rule, or an interface that did not fit into gossip. Then the first bytes from the
// upstream give the node away: the greeting of a port that only nodes dial, or a proxy's answer
// with the cluster's loop mark. Only the first bytes are checked, so an established tunnel pays
// nothing.

const (
	// loopField is the header field with the loop mark, like CDN-Loop between CDNs (RFC 8586). It
	// is the first field of every answer that the proxy itself gives.
	loopField = "Weir-Loop"
	// maxStatusLine is the longest status line that is checked; the proxy's own are no longer.
	maxStatusLine = len(http1.StatusPrefix) + len("503 ") + maxPhrase
	// maxLoopMark bounds the mark itself.
	maxLoopMark = 64
)

// Errors that end a tunnel because of its upstream's first bytes.
var (
	errNodeGreeted  = errors.New("the upstream is a node's own port")
	errProxyGreeted = errors.New("the upstream is a proxy of this cluster")
)

// loopMark lets the cluster's proxies recognise each other's answers. nil is none.
type loopMark struct {
	tail        []byte // the CR LF of a status line, and the loop field
	established []byte // the answer to a CONNECT
}

// SetLoopMark sets the mark that the proxies of this cluster share, and that no other proxy has. It
// must be printable ASCII without spaces, at most 64 bytes; other bytes are dropped. "" turns the
// mark off; then loops are found by address alone. Clients can see the mark.
func (s *Server) SetLoopMark(mark string) { s.loop.Store(newLoopMark(mark)) }

func newLoopMark(mark string) *loopMark {
	mark = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, mark)
	mark = mark[:min(len(mark), maxLoopMark)]
	if mark == "" {
		return nil
	}
	tail := "\r\n" + loopField + ": " + mark + "\r\n"
	return &loopMark{tail: []byte(tail), established: []byte(establishedLine + tail + "\r\n")}
}

// field returns the whole line that comes first in an answer of the proxy's own.
func (m *loopMark) field() []byte {
	if m == nil {
		return nil
	}
	return m.tail[len("\r\n"):]
}

// answer returns the answer to a CONNECT.
func (m *loopMark) answer() []byte {
	if m == nil {
		return established
	}
	return m.established
}

// opening compares the first bytes from a tunnel's upstream with those that only a node of the
// cluster sends. A partial match is passed on; the bytes that complete a match, and all after them,
// are not. Used only by the tunnel's downward direction.
type opening struct {
	greeting string // of ports that only nodes dial; "" after a mismatch
	loop     []byte // expected after a status line; nil after a mismatch
	seen     int    // bytes seen so far
	matched  int    // bytes of loop matched; 0 within the status line
}

// newOpening starts a check.
func (s *Server) newOpening() opening {
	o := opening{greeting: s.greeting}
	if m := s.loop.Load(); m != nil {
		o.loop = m.tail
	}
	return o
}

// check examines the next bytes from the upstream. With an error, they must not be passed on.
func (o *opening) check(b []byte) error {
	if o.greeting == "" && o.loop == nil {
		return nil
	}
	return o.look(b)
}

func (o *opening) look(b []byte) error {
	for _, c := range b {
		o.matchGreeting(c)
		o.matchAnswer(c)
		o.seen++
		switch {
		case o.greeting != "" && o.seen == len(o.greeting):
			return errNodeGreeted
		case o.loop != nil && o.matched == len(o.loop):
			return errProxyGreeted
		case o.greeting == "" && o.loop == nil:
			return nil
		}
	}
	return nil
}

func (o *opening) matchGreeting(c byte) {
	if o.greeting != "" && o.greeting[o.seen] != c {
		o.greeting = ""
	}
}

// matchAnswer matches a status line and the loop field. A status line contains no CR, so at each
// byte there is only one way to go on.
func (o *opening) matchAnswer(c byte) {
	fits := false
	switch {
	case o.loop == nil:
		return
	case o.seen < len(http1.StatusPrefix):
		fits = c == http1.StatusPrefix[o.seen]
	case o.matched == 0 && c != '\r':
		fits = c >= ' ' && o.seen < maxStatusLine
	default:
		fits = c == o.loop[o.matched]
		o.matched++
	}
	if !fits {
		o.loop = nil
	}
}
