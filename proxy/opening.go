package proxy

import (
	"errors"
	"strings"
)

// A tunnel may lead to a node of the cluster by an address that nobody has listed: through a port
// forward, a NAT rule, or an interface that did not fit into gossip. The node is then known by the
// first bytes that it sends: the greeting of a port that only nodes dial, or an answer of a proxy
// with the cluster's loop mark. Both are looked for in the first bytes alone, so that a tunnel
// costs no more once it has begun.

const (
	// loopField is the header field that carries the loop mark, as CDN-Loop (RFC 8586) does between
	// CDNs. It is the first field of every answer of the proxy's own.
	loopField = "Weir-Loop"
	// maxStatusLine bounds the status lines that are looked at: those of the proxy's own answers
	// are no longer.
	maxStatusLine = len(statusPrefix) + len("503 ") + maxPhrase
	// maxLoopMark bounds the mark itself.
	maxLoopMark = 64
)

// Errors that end a tunnel at its upstream's first bytes.
var (
	errNodeGreeted  = errors.New("the upstream is a node's own port")
	errProxyGreeted = errors.New("the upstream is a proxy of this cluster")
)

// loopMark is what the cluster's proxies know each other's answers by. Nil is none.
type loopMark struct {
	tail        []byte // the CRLF of a status line, and the field behind it
	established []byte // answers a CONNECT
}

// SetLoopMark changes the mark that the proxies of one cluster have in common, and no other proxy
// has. It must be printable ASCII without spaces, at most 64 bytes; other bytes are left out. "" is
// none: loops are then found by address alone. Clients see the mark.
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

// field is the whole line to put first into an answer of the proxy's own.
func (m *loopMark) field() []byte {
	if m == nil {
		return nil
	}
	return m.tail[len(crlf):]
}

// answer is the answer to a CONNECT.
func (m *loopMark) answer() []byte {
	if m == nil {
		return established
	}
	return m.established
}

// statusPrefix begins every answer of a proxy's own.
const statusPrefix = "HTTP/1.1 "

// opening matches the first bytes from a tunnel's upstream with what only a node of the cluster
// sends. Bytes that are no more than the beginning of that are passed on; the bytes that complete
// it are not, nor is anything after them. It is the tunnel's downward direction's alone.
type opening struct {
	greeting string // of ports that only nodes dial; "" once the upstream has sent something else
	loop     []byte // what follows a status line; nil likewise
	seen     int    // bytes so far
	matched  int    // of loop; 0 while still within the status line
}

// newOpening begins to look.
func (s *Server) newOpening() opening {
	o := opening{greeting: s.greeting}
	if m := s.loop.Load(); m != nil {
		o.loop = m.tail
	}
	return o
}

// check looks at the next bytes from the upstream. Its error says that they must not be passed on.
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

// matchAnswer matches a status line and what follows it. A status line holds no CR, so there is
// never more than one way to go on.
func (o *opening) matchAnswer(c byte) {
	fits := false
	switch {
	case o.loop == nil:
		return
	case o.seen < len(statusPrefix):
		fits = c == statusPrefix[o.seen]
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
