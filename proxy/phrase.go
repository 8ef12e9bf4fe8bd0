package proxy

import (
	"strconv"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Most clients show only the status line of a refused CONNECT, so its reason phrase says why. It
// partly repeats the client's own words, such as the requested name; these are cleaned and cut.

const (
	// maxPhrase bounds the reason phrase. Other proxies of the cluster rely on it to recognise the
	// answer, by the field after the status line.
	maxPhrase = 120
	// maxPhraseName bounds a name in the phrase, to leave room for the reason.
	maxPhraseName = 64
	// maxSharedName is the same for a pattern, which more words stand around.
	maxSharedName = 44
)

// appendPhrase appends the reason phrase: visible ASCII and spaces, at most maxPhrase bytes. target
// is zero if it is not known.
func (r *refusal) appendPhrase(dst []byte, status int, target limit.Target) []byte {
	start := len(dst)
	dst = append(dst, "weir: "...)
	switch {
	case r.limit != nil:
		dst = r.appendLimit(dst)
	case r.reason == reasonNoLease:
		dst = append(dst, "no lease: this node has no live session with the cluster"...)
	case r.reason == reasonDraining:
		dst = append(dst, "this node is draining"...)
	case status < 500 && !r.reason.limited() || r.reason == reasonUnchecked || target.Host == "":
		dst = append(dst, r.details...) // the destination does not matter
	default:
		dst = appendDestination(dst, target)
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

// appendLimit appends which limit is in the way, and how.
func (r *refusal) appendLimit(dst []byte) []byte {
	dst = appendLimited(dst, r.limit)
	is, its := " is ", "its "
	if countsSeveral(r.limit) {
		is, its = " are ", "their "
	}
	dst = append(dst, is...)
	if r.reason == reasonBlocked {
		return append(dst, "blocked by a limit of 0 connections"...)
	}
	dst = append(dst, "at "...)
	dst = append(dst, its...)
	dst = append(dst, "limit of "...)
	none := ", and none came free in time"
	if l := &r.limit.Limit; r.limit.Key.Resource == limit.Connections {
		dst = strconv.AppendInt(dst, l.Connections, 10)
		dst = append(dst, " connections"...)
		if l.Connections == 1 {
			dst = dst[:len(dst)-1]
		}
	} else {
		dst = append(dst, l.Requests.String()...)
		dst = append(dst, ' ')
		dst = append(dst, r.limit.Key.Resource.String()...)
		none = ", and no token came in time"
	}
	switch r.reason {
	case reasonQueueFull:
		dst = append(dst, " and "...)
		dst = append(dst, its...)
		dst = append(dst, "queue is full"...)
	case reasonQueueTimeout:
		dst = append(dst, none...)
	}
	return dst
}

// countsSeveral reports whether a limit counts several hosts, clients or users together.
func countsSeveral(e *lease.LimitError) bool {
	return e.Limit.Shared || e.Key.Scope == limit.ScopeTotal
}

// appendLimited appends what a limit counts for. A shared one counts for all that its pattern
// matches.
func appendLimited(dst []byte, e *lease.LimitError) []byte {
	k := e.Key
	switch {
	case k.Scope == limit.ScopeTotal:
		return append(dst, "all workers together"...)
	case countsSeveral(e):
		dst = append(dst, "all "...)
		dst = append(dst, k.Scope.String()...)
		dst = append(dst, 's')
		if k.Name != "*" {
			dst = append(dst, " of "...)
			dst = appendCut(dst, k.Name, maxSharedName)
		}
		return append(dst, " together"...)
	case k.Scope != limit.ScopeHost:
		dst = append(dst, k.Scope.String()...)
		dst = append(dst, ' ')
	}
	return appendCut(dst, k.Name, maxPhraseName)
}

// appendDestination appends host:port.
func appendDestination(dst []byte, t limit.Target) []byte {
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
