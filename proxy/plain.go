package proxy

import (
	"sync/atomic"

	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// exchanges are what plain requests need of an upstream connection, beside the flow that a tunnel
// needs too. It belongs to the flow's owner, but for the links.
type exchanges struct {
	reused bool
	spoilt bool        // stray bytes may follow the upstream's response: the connection is not kept
	owner  owner       // of the requests that it has carried
	head   http1.Head  // of the response
	writer sock.Writer // bytes waiting to be written to the upstream
	list   *idleList   // of its target
	idle   idleLinks   // guarded by the pool

	allowedBy atomic.Pointer[Policy]    // the last one that allowed its address
	avoids    atomic.Pointer[forbidden] // those of the cluster's ports last known that it does not lead to
}

// end releases what the last request has left.
func (p *exchanges) end() {
	p.writer.Release()
}
