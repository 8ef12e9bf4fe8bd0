package proxy

import (
	"strconv"

	"github.com/weirproxy/weir/fsm"
)

// Most clients show nothing of a refused CONNECT but its status line, so the reason phrase says
// why. What it says is partly the client's own words, such as the name it has asked for: these are
// cleaned and cut.

const (
	// maxPhrase bounds the reason phrase. Other proxies of the cluster know the answer by what
	// follows the status line.
	maxPhrase = 120
	// maxPhraseName bounds a name within it, so that a long name leaves room for the reason.
	maxPhraseName = 64
)

// Limit is the limit that governs a destination.
type Limit struct {
	// Name is what counts against it: a host, or the pattern where hosts share one count.
	Name string
	// Connections is the most at a time; 0 blocks.
	Connections int64
}

// grounds are what a refusal's reason phrase names.
type grounds struct {
	target fsm.Target // zero where it is not known yet
	limit  Limit      // of a refusal for its sake; zero where there is none any more
}

// grounds are those of a refusal of the request that is being answered.
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
		dst = append(dst, r.details...) // the client's doing, whatever the destination
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

// appendLimit appends what follows the name of what is at its limit.
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
