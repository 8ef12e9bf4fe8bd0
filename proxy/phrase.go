package proxy

import (
	"strconv"

	"github.com/weirproxy/weir/fsm"
)

// Most clients show only the status line of a refused CONNECT, so its reason phrase says why. It
// partly repeats the client's own words, such as the requested name; these are cleaned and cut.

const (
	// maxPhrase bounds the reason phrase. Other proxies of the cluster rely on it to recognise the
	// answer, by the field after the status line.
	maxPhrase = 120
	// maxPhraseName bounds a name in the phrase, to leave room for the reason.
	maxPhraseName = 64
)

// Limit is the limit that governs a destination.
type Limit struct {
	// Name is the host, or the pattern if its hosts share one count.
	Name string
	// Connections is the most connections at a time; 0 blocks.
	Connections int64
}

// grounds are the names in a refusal's reason phrase.
type grounds struct {
	target fsm.Target // zero if it is not known yet
	limit  Limit      // the cause of the refusal; zero if it has been deleted since
}

// grounds returns the grounds for refusing the current request.
func (c *client) grounds(r *refusal) grounds {
	g := grounds{target: c.target}
	if r.reason.limited() {
		g.limit, _ = c.srv.admitter.Limit(c.target)
	}
	return g
}

// appendPhrase appends the reason phrase: visible ASCII and spaces, at most maxPhrase bytes.
func (r *refusal) appendPhrase(dst []byte, status int, g grounds) []byte {
	start := len(dst)
	dst = append(dst, "weir: "...)
	switch {
	case r.reason.limited() && g.limit.Name != "":
		dst = appendCut(dst, g.limit.Name, maxPhraseName)
		dst = r.appendLimit(dst, g.limit.Connections)
	case r.reason == reasonNoLease:
		dst = append(dst, "no lease: this node has no live session with the cluster"...)
	case r.reason == reasonDraining:
		dst = append(dst, "this node is draining"...)
	case status < 500 && !r.reason.limited() || g.target.Host == "":
		dst = append(dst, r.details...) // the client's fault: the destination does not matter
	default:
		dst = appendDestination(dst, g.target)
		dst = append(dst, ": "...)
		dst = append(dst, r.details...)
	}
	phrase := dst[start:]
	for i, c := range phrase {
		if c < ' ' || c > '~' {
			phrase[i] = '?'
		}
	}
	if len(phrase) > maxPhrase {
		dst = append(dst[:start+maxPhrase-len(cutMark)], cutMark...)
	}
	return dst
}

// appendLimit appends the phrase after the limit's name.
func (r *refusal) appendLimit(dst []byte, n int64) []byte {
	if r.reason == reasonBlocked {
		return append(dst, " is blocked by a limit of 0 connections"...)
	}
	dst = append(dst, " is at its limit of "...)
	dst = strconv.AppendInt(dst, n, 10)
	dst = append(dst, " connection"...)
	if n != 1 {
		dst = append(dst, 's')
	}
	switch r.reason {
	case reasonQueueFull:
		return append(dst, " and its queue is full"...)
	case reasonQueueTimeout:
		return append(dst, ", and none came free in time"...)
	}
	return dst
}

// appendDestination appends host:port.
func appendDestination(dst []byte, t fsm.Target) []byte {
	six := t.Addr.Is6()
	if six {
		dst = append(dst, '[')
	}
	dst = appendCut(dst, t.Host, maxPhraseName)
	if six {
		dst = append(dst, ']')
	}
	dst = append(dst, ':')
	return strconv.AppendUint(dst, uint64(t.Port), 10)
}

const cutMark = "..."

// appendCut appends at most limit bytes of s.
func appendCut(dst []byte, s string, limit int) []byte {
	if len(s) <= limit {
		return append(dst, s...)
	}
	return append(append(dst, s[:limit-len(cutMark)]...), cutMark...)
}
