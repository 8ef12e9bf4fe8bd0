package lease

import (
	"time"
)

// departure is how far a node has come in leaving.
type departure uint8

const (
	staying  departure = iota
	draining           // no headroom, nothing idle is kept; connections keep their bandwidth
	parting            // no session is wanted any more: the leader is to be told once nothing is in use
	parted             // it has been told
)

// leaving reports whether the node keeps nothing idle.
func (n *Node) leaving() bool { return n.departure >= draining }

// parting reports whether the node has begun to give its session back.
func (n *Node) parting() bool { return n.departure >= parting }

// Drain makes the node keep nothing idle from now on.
func (n *Node) Drain(now time.Duration) { n.depart(now, max(n.departure, draining)) }

// Undrain ends what Drain began: free slots and kept-alive connections stay again. After Part it
// does nothing, because a session that is being given back must not grow.
func (n *Node) Undrain(now time.Duration) {
	if !n.parting() {
		n.depart(now, staying)
	}
}

// depart visits every pool: the demand of a key that requests wait for has headroom, or has none,
// from now on.
func (n *Node) depart(now time.Duration, to departure) {
	n.departure = to
	n.beginWalk(now)
}

// Part asks to end the session by consent. From now on nothing is admitted; the leader hears of it
// once nothing that the session allowed is in use.
func (n *Node) Part(now time.Duration) {
	n.departure = parting
	n.gate.close()
	n.era.parts++
	n.beginWalk(now)
}

// AllEnded reports whether a node that parts has no connection left that its session allowed.
func (n *Node) AllEnded() bool { return n.parting() && !n.Walking() && n.busy == 0 }

// byeDue reports whether the leader can be told that the session has ended.
func (n *Node) byeDue() bool { return n.departure == parting && n.AllEnded() }
