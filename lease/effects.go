package lease

import "time"

// Effects is what the shell has to carry out after a turn of the core.
type Effects struct {
	// Severs are the slots whose holders must give them up. Call Sever without the core's lock.
	Severs []Severance
	// Woken are those whose wait for bytes is over. Call Wake without the core's lock.
	Woken []Waker
	// Pending: something is to be sent. Call Outgoing.
	Pending bool
	// Stale: the stream must be given up, because the session that it served has ended.
	Stale bool
	// Fenced: a fence has ended since the last turn, which severed so many connections. The end of
	// a session by consent is none.
	Fenced  bool
	Severed int
	// Changed: the session may have ended, or what a node that parts waits for.
	Changed bool
	// Walks: a walk began that has pages left. Call Walk until Walking reports false.
	Walks bool
	// Wake is when Tick must be called at the latest.
	Wake time.Duration
}

// reported is how much of what only ever rises the shell has been told.
type reported struct{ fences, fenced, walks uint64 }

// Effects hands over what the last turn decided; each sever, fence and walk once.
func (n *Node) Effects(now time.Duration) Effects {
	e := Effects{
		Severs:  n.severs,
		Woken:   n.woken,
		Pending: n.pending(now),
		Stale:   n.stale(),
		Fenced:  n.reported.fenced != n.fenced && !n.parting(),
		Severed: n.fenceSevered,
		Changed: n.reported.fences != n.fences || n.parting(),
		Walks:   n.reported.walks != n.walks && n.Walking(),
		Wake:    n.NextWake(now),
	}
	n.severs, n.woken = nil, nil
	n.reported = reported{n.fences, n.fenced, n.walks}
	return e
}
