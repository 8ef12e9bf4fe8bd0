package proxy

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// resetsFor is how long Dialled still recognises a connection after its reset: bytes that came
	// over it before may not have been read yet.
	resetsFor = 2 * time.Second
	// maxResets bounds the remembered connections. If more are reset within resetsFor, Dialled
	// assumes that any connection may be one of them.
	maxResets = 4096
)

// Dialled reports whether a connection that this machine accepted from the address local was
// dialled by this server, that is, whether local is the server's end of an upstream connection.
// Address translation can hide where a connection leads, but not this end of it.
//
// Call Dialled after bytes have come over the connection, not when it is accepted: the server may
// not know the connection any earlier. If local is an address of this machine, Dialled looks at all
// of the server's connections, so it suits listeners that see few connections.
func (s *Server) Dialled(local netip.AddrPort) bool {
	local = plain(local)
	if !s.local.IsLocal(netip.AddrPortFrom(local.Addr(), 0), time.Now()) {
		return false
	}
	for _, f := range s.flows.all() {
		f.mu.Lock()
		up := f.upstream
		f.mu.Unlock()
		if up != nil && plain(up.Local()) == local {
			return true
		}
	}
	return s.resets.has(local, time.Now()) // looked at last: a reset moves a connection from flows to resets
}

// resetLog holds the local ends of recently reset connections, oldest first.
type resetLog struct {
	mu   sync.Mutex
	list []resetEnd
	lost time.Time // when an end was last dropped for want of room
}

type resetEnd struct {
	at   netip.AddrPort
	when time.Time
}

func (l *resetLog) add(at netip.AddrPort, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := 0
	for old < len(l.list) && now.Sub(l.list[old].when) > resetsFor {
		old++
	}
	if len(l.list)-old >= maxResets {
		old++
		l.lost = now
	}
	l.list = append(l.list[old:], resetEnd{plain(at), now})
}

func (l *resetLog) has(at netip.AddrPort, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost.IsZero() && now.Sub(l.lost) <= resetsFor {
		return true
	}
	for _, end := range l.list {
		if end.at == at && now.Sub(end.when) <= resetsFor {
			return true
		}
	}
	return false
}
