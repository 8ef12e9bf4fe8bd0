package connlimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Cluster holds slots that a fleet of servers shares. A node of package weir in the same process is
// one.
type Cluster interface {
	// Hold takes a slot of each limit of scope client and key that (client, key) is under, with key a
	// Config.ClusterKey, possibly "". lost is called at most once, when the slots are lost: the
	// connection must end. ctx bounds the taking; the slots outlive it.
	//
	// client is the first address of what counts as one client here, such as an IPv6 /64, or all of
	// a link-local address, with its zone. A node leaves the zone out, which names an interface of
	// this machine. client is the zero Addr for a client without an address, and for the
	// connections of Config.TrustedProxies: those are under the key's limits alone.
	//
	// An error of being over a limit has a method RetryAfter() (time.Duration, bool): when to try
	// again, as far as that is known. If it also has Blocked() bool, that says whether the limit is 0.
	// If ctx ends while Hold waits for room under a limit, the error is one of being over that limit.
	// An error without RetryAfter says that the cluster can't answer, and Config.ClusterOptional
	// admits then.
	Hold(ctx context.Context, client netip.Addr, key string, lost func()) (release func(), err error)
}

// afterConn is what a connection waits for once it has a slot here.
func (c *Config) afterConn() wait {
	if c.Cluster != nil && !c.ClusterRequests {
		return forCluster
	}
	return 0
}

// afterRequest is what a request waits for once it has a slot here.
func (c *Config) afterRequest() wait {
	if c.Cluster != nil && c.ClusterRequests {
		return forCluster
	}
	return 0
}

// hold adds the cluster's slot to one from here, or frees that.
func (l *Limiter) hold(ctx clusterContext, b *book, c *Config, slot Slot, addr netip.Addr) (Slot, error) {
	err := l.holdWithin(ctx, b, c, slot, addr)
	if err == nil {
		return slot, nil
	}
	slot.Free()
	if errors.Is(err, ErrLimit) {
		b.countRefusal(addr)
	}
	return Slot{}, err
}

// A clusterContext is how long a slot of the cluster is waited for, and what happens when it is
// lost.
type clusterContext struct {
	context.Context
	lost func()
}

// closing is the context of a connection: it is closed when its slot is lost.
func closing(conn net.Conn) clusterContext {
	return clusterContext{context.Background(), func() { abort(conn) }}
}

func (l *Limiter) holdWithin(cc clusterContext, b *book, c *Config, slot Slot, addr netip.Addr) error {
	ctx, cancel := context.WithTimeout(cc, c.ClusterTimeout)
	defer cancel()
	var ended atomic.Bool // what is lost after the connection's end is nobody's loss
	release, err := c.Cluster.Hold(ctx, b.rules.Load().inCluster(addr), c.ClusterKey, func() {
		if !ended.Load() {
			b.tally(addr, func(c *Counters) { c.Lost++ })
			cc.lost()
		}
	})
	var over interface{ RetryAfter() (time.Duration, bool) }
	switch {
	case err == nil:
		end := func() { ended.Store(true); release() }
		if !slot.admit(end) { // it has ended meanwhile
			end()
		}
		return nil
	case cc.Err() != nil: // the client has gone, perhaps while it waited: no limit has refused it
		return context.Cause(cc)
	case errors.As(err, &over):
		return b.rules.Load().clusterRefusal(err, over.RetryAfter)
	case c.ClusterOptional: // also where a cluster that can't be reached has used up ClusterTimeout
		slot.admit(nil)
		return nil
	}
	return fmt.Errorf("connlimit: the cluster can't say whether there is a slot: %w", err)
}

// abort closes what conn wraps, and so breaks off whatever is read from it or written to it. Close
// of a tls.Conn would wait for a writer. Whoever uses conn closes it then, and its wrappers.
func abort(conn net.Conn) { innermost(conn).Close() }

// discard closes a connection that nobody else will close, and its wrappers with it: one may count
// it, as that of another Limiter does. The socket goes first: a tls.Conn has nothing to wait for.
func discard(conn net.Conn) {
	if inner(conn) != nil {
		abort(conn)
	}
	conn.Close()
}
