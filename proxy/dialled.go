package proxy

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// resetsFor is how long a connection that the proxy has reset is still known as the proxy's:
	// what came over it before may not have been read yet.
	resetsFor = 2 * time.Second
	// maxResets bounds the connections that are remembered. While more are reset, any connection
	// may be one of them.
	maxResets = 4096
)

// Dialled reports whether a connection that this machine has accepted from the address local comes
// from this server: whether local is its end of a connection to an upstream. Destinations can be
// told by address only as long as nothing translates them on the way; the other end of a connection
// can't be mistaken. It is for listeners that see few connections: where local is an address of
// this machine, all of the server's are looked at. It must be asked once something has come over
// the connection, not when it is accepted: the server may not know of it earlier.
func (s *Server) Dialled(local netip.AddrPort) bool {
	local = plain(local)
	if !s.local.isLocal(netip.AddrPortFrom(local.Addr(), 0), time.Now()) {
		return false
	}
	for _, f := range s.flows.all() {
		f.mu.Lock()
		up := f.upstream
		f.mu.Unlock()
		if up != nil && plain(up.local()) == local {
			return true
		}
	}
	return s.resets.has(local, time.Now()) // after the flows: a reset moves a connection from there to here
}

// local is the socket's own address; the zero value once it is closed.
func (s *sock) local() (at netip.AddrPort) {
	s.raw.Control(func(fd uintptr) { at = localAddr(int(fd)) })
	return at
}

// resetLog remembers the local ends of connections that were reset lately, oldest first.
type resetLog struct {
	mu   sync.Mutex
	list []resetEnd
	lost time.Time // when the last one was forgotten before its time
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
