// Package lease holds connection slots on lease.
//
// A node admits connections to a limited host from slots that the cluster has granted it. [Manager] is the node's side:
// it holds the slots, admits from them in memory, queues who must wait, and fences when the node can no longer
// prove that its session is live. [Server] is the leader's side: it decides who holds how many, and ends the
// sessions of nodes that have gone. Between them runs one stream per node (package leasepb).
//
// Both sides are a deciding core without goroutines, clocks or I/O, and a shell around it. The cores take the time as an
// argument and messages as values, so that a simulation can drive the code that runs in production:
//
//	Manager  (goroutines, stream, timers)  ──▶ Node       ──▶ pool, session
//	Server   (goroutines, Raft, timers)    ──▶ Allocator  ──▶ divide (max-min shares), turns
//
// # Why the cap holds
//
// Slots in use ≤ slots that the node believes it holds ≤ its grants in the log, as long as its session is open; and the
// log keeps the sum of the grants ≤ the limit. The node counts a slot as its own only once the leader has said that it is
// committed, and stops using one before it says so. The leader ends a session without its consent only when the
// node's own deadline has passed on any clock that drifts less than [Margin] in a ttl.
//
// # Decisions
//
// A held slot is admitted under its own pool's lock, which is shared by nobody but connections to the same host: no
// shared lock, at the cost of a second lock order to mind. Everything else (waiting, asking, giving back) goes through one lock per node;
// it happens when the network is needed anyway.
//
// A hello proves nothing by itself: it may have been on its way for long, and be older than slots granted since, or come from a
// process that is gone. The leader releases what it does not state, or opens a session for it, only once the node has
// spoken again on the same stream. That costs a round trip at the start of a session.
//
// A request over a limit without a queue is not refused before the leader has answered that nothing is free anywhere. It
// costs a round trip per refusal, shared by all that wait at the time, and makes "refused" mean something. In a storm
// of refusals the next question waits a few milliseconds, so that a storm costs the leader a few hundred answers a second.
//
// A slot goes to a request that waits before it goes to a node whose workers were refused and may come again, also where that node
// is below its share. What a node misses that way is counted, and made up for by its next turns: shares are equal over
// a second, not at every moment.
package lease
