package proxy

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

// The cluster's ports are refused by address and port. For a port that listens on all addresses,
// the kernel is asked whether the destination is local; other destinations cost nothing. A proxy's
// port is a loop: nested tunnels would multiply one client's descriptors, and a client could write
// a PROXY header to a node that trusts this one.
//
// No list of addresses is complete, so a tunnel's first bytes are checked as well. Ports that only
// nodes dial begin with a greeting that the client would have to answer, and never sees whole. A
// proxy's own answers carry a mark of the cluster. Responses of upstreams do not, so a client that
// nests a plain request before its CONNECT is not detected.

const (
	// resetsFor is how long Dialled still recognises a connection after its reset: bytes that came
	// over it before may not have been read yet.
	resetsFor = 2 * time.Second
	// maxResets bounds the remembered connections. If more are reset within resetsFor, Dialled
	// assumes that any connection may be one of them.
	maxResets = 4096
)

// Dialled reports whether a connection that this machine accepted at the address accepted, and that
// comes from local, was dialled by this server, that is, whether local is the server's end of an
// upstream connection. Address translation can hide where a connection leads, but not this end of
// it.
//
// Systems let connections to different addresses have the same end, and give it away again once a
// connection has ended. So if the server's connection from local leads elsewhere or has ended, and
// the machine has a socket that is connected from local to accepted, the accepted connection is
// that socket's.
//
// Call Dialled after bytes have come over the connection, not when it is accepted: the server may
// not know the connection any earlier. If local is an address of this machine, Dialled looks at all
// of the server's connections, so it suits listeners that see few connections.
func (s *Server) Dialled(local, accepted netip.AddrPort) bool {
	local, accepted = plain(local), plain(accepted)
	if !s.local.IsLocal(netip.AddrPortFrom(local.Addr(), 0), time.Now()) {
		return false
	}
	suspect := false
	for _, f := range s.flows.all() {
		f.mu.Lock()
		up := f.upstream
		f.mu.Unlock()
		if up == nil || plain(up.Local()) != local {
			continue
		}
		if plain(up.Remote()) == accepted {
			return true
		}
		suspect = true // it leads elsewhere, or has ended, and others may have its port
	}
	// resets are looked at last: a reset moves a connection from flows to there.
	return (suspect || s.resets.has(local, time.Now())) && !connected(local, accepted)
}

// connected reports whether it is certain that the machine has such a socket.
func connected(local, remote netip.AddrPort) bool {
	found, known := sock.Connected(local, remote)
	return found && known
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
