package lease

import (
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Reason says why a slot's holder must give it up.
type Reason uint8

// The reasons for a Sever.
const (
	// SeverFenced: the node can't prove its session any more. Reset both sides, now.
	SeverFenced Reason = iota + 1
	// SeverEvicted: the limit was lowered with evict. Reset both sides.
	SeverEvicted
	// SeverWanted: an idle, kept-alive connection's slot is wanted. Close it gracefully, then
	// Release.
	SeverWanted
)

// String names the reason in logs.
func (r Reason) String() string {
	switch r {
	case SeverFenced:
		return "fenced"
	case SeverEvicted:
		return "evicted"
	case SeverWanted:
		return "slot wanted"
	}
	return "unknown"
}

// Holder is what uses a slot: the proxy's tunnel or upstream connection. Sever is called from
// another goroutine, at any time between Acquire and Release, also before the dial has ended, and
// must not block: it starts the end, and Release follows when the upstream has seen it. It may be
// called more than once, and just after Release.
type Holder interface{ Sever(Reason) }

// Slot is one connection's or request's unit of one key: a claim. Of scope host it is the right to
// one open upstream connection, and its holder must Release it once the upstream has seen the end
// of the connection. Those of the other scopes belong to a [Request].
type Slot struct {
	manager *Manager
	scope   limit.Scope  // of a request's
	target  limit.Target // of scope host
	request *Request     // of the other scopes; nil: the slot is of scope host
	holder  Holder
	waited  time.Duration

	// part changes where a change of limits moves the connection to another count, and where a pool
	// is gathered. It is written under both parts' locks.
	part atomic.Pointer[part]
	// guarded is set while the lease's deadline applies to the connection.
	guarded atomic.Bool
	// severed is set once the slot was fenced or evicted.
	severed atomic.Bool

	// The rest is guarded by the part's lock.
	prev, next *Slot
	since      time.Duration // of scope host: when it was admitted last
	use        slotUse
	moving     bool    // new limits count it elsewhere: the core is about to move it
	after      bool    // a limit counts it that was set after its admission
	ghost      *Waiter // admitted above a limit that only reports, and not known yet to have exceeded it
}

// match finds the limit that a slot counts under, and its key.
func (s *Slot) match(t *limit.Table) (*limit.Limit, limit.Key) {
	if s.request == nil {
		return t.Match(s.target)
	}
	l, name := t.Find(s.scope, s.request.subject)
	return l, limit.Key{Scope: s.scope, Resource: limit.Connections, Name: name}
}

type slotUse uint8

const (
	slotBusy     slotUse = iota // a connection that somebody uses, or a dial
	slotParked                  // a kept-alive connection that nobody uses
	slotTaken                   // a connection that is closing: about to be free
	slotHalf                    // one that is half closed: it counts as closing, and may last
	slotReleased                // given back
)

// NewSlot returns a slot for one connection to target, for [Node.TryAcquire] and [Node.Acquire]. It
// has no [Manager]: its own methods must not be called.
func NewSlot(target limit.Target, h Holder) *Slot {
	return &Slot{target: target, holder: h}
}

// Scope is the scope of the limits that the slot counts under.
func (s *Slot) Scope() limit.Scope {
	if s.request == nil {
		return limit.ScopeHost
	}
	return s.scope
}

// Release gives the slot back. The upstream must have seen the end of the connection. A second call
// does nothing.
func (s *Slot) Release() { s.manager.release(s) }

// Park marks the connection as idle and kept for reuse: it still counts, and is the first to go
// when its slot is wanted.
func (s *Slot) Park() { s.manager.park(s) }

// Unpark takes a parked slot back into use. It reports false where the slot has been asked for
// meanwhile ([SeverWanted] has come, or is on its way) or the lease has ended: the connection must
// then not be used.
func (s *Slot) Unpark() bool { return s.manager.unpark(s) }

// Closing says that the connection is about to end. The slot still counts, but requests that could
// use it are kept waiting instead of refused. Release follows.
func (s *Slot) Closing() { s.manager.closing(s) }

// HalfClosed is Closing for a connection of which one side has ended, as the other mostly does
// then. Release follows, or Lasts.
func (s *Slot) HalfClosed() { s.manager.halfClosed(s) }

// Lasts takes back HalfClosed: the connection goes on for a while, and nobody waits for its end.
func (s *Slot) Lasts() { s.manager.lasts(s) }

// Live reports whether the connection may be used at this moment. Where an expired lease closes
// connections, it is false from the lease's deadline on, also where nobody has had the time yet to
// sever the connection, as in a process that was stopped and has just been woken: neither read nor
// write another byte then.
func (s *Slot) Live() bool { return s.manager.node.Live(s, s.manager.cfg.Clock) }

// Covered reports whether a connection may be opened that has waited for something else since it was
// admitted. A limit that was set or lowered meanwhile counts it, but may have no room for it, also
// where the node has a slot, which is for those that are open already. Then the slot is to be given
// back and acquired anew: what is not open yet must wait until the count has come down.
func (s *Slot) Covered() bool { return s.manager.node.Covered(s) }

// Limited reports whether the connection counts against a limit.
func (s *Slot) Limited() bool { return s.guarded.Load() }

// Waited is how long Acquire waited for the slot.
func (s *Slot) Waited() time.Duration { return s.waited }

// Key is what the connection is counted under.
func (s *Slot) Key() limit.Key { return s.part.Load().pool.key }
