// Package lease holds connection slots on lease.
//
// A node admits connections to a limited host from slots that the cluster has granted it. [Manager]
// is the node's side: it holds the slots, admits from them in memory, queues who must wait, and
// fences when the node can no longer prove that its session is live. [Server] is the leader's side:
// it decides who holds how many, and ends the sessions of nodes that have gone. Between them runs
// one stream per node (package leasepb).
//
// Both sides are a deciding core without goroutines, clocks or I/O, and a shell around it. The
// cores take the time as an argument and messages as values, so that a simulation can drive the
// code that runs in production:
//
//	Manager  (goroutines, stream, timers)  ──▶ Node       ──▶ pool, session
//	Server   (goroutines, Raft, timers)    ──▶ Allocator  ──▶ divide (max-min shares), turns
//
// # Why the cap holds
//
// Slots in use ≤ slots that the node believes it holds ≤ its grants in the log, as long as its
// session is open; and the log keeps the sum of the grants ≤ the limit. The node counts a slot as
// its own only once the leader has said that it is committed, and stops using one before it says
// so. The leader ends a session without its consent only when the node's own deadline has passed on
// any clock that drifts less than [leasepb.Margin] in a ttl.
//
// # Decisions
//
// Admitting from a held slot takes one lock, that of the key's pool. Connections to different hosts
// share no lock, at the cost of a second lock order to mind. Everything else (waiting, asking,
// giving back) goes through one lock per node; it happens when the network is needed anyway.
//
// A hello proves nothing by itself. It may have been delayed, and be older than slots granted
// since, or come from a process that is gone. The leader releases what a hello does not state, or
// opens a session for it, only once the node has sent another message on the same stream. That
// costs a round trip at the start of a session.
//
// A request over a limit without a queue is refused only once the leader has answered that nothing
// is free anywhere. That costs a round trip per refusal, shared by all requests that wait at the
// time, and makes "refused" mean something. In a storm of refusals the next ask waits a few
// milliseconds, so that a storm costs the leader a few hundred answers a second.
//
// A slot goes to a waiting request before it goes to a node whose workers were refused and may come
// back, also where that node is below its share. The node is owed that slot-time, and gets it with
// its next turns: shares are equal over a second, not at every moment.
//
// A node keeps a pool for each key that it was asked for, in a book that is bounded: names come
// from clients, who may make up as many as they like. What concerns every pool (a fence, a new
// stream) is done a page at a time, so that keep-alives never wait for a million pools; a pool that
// has not been visited catches up when it is locked.
//
// # Glossary
//
//	session    a node's right to hold slots, opened and ended in the log; it has an id
//	stream     the connection between a node and the leader; a session outlives it
//	key        what a limit counts: a host, a host with a port, or a pattern that is shared
//	slot       one connection's unit of a key
//	grant      slots of a key that the log gives a session
//	held       granted slots, as the node knows them; in use or free
//	parked     in use by a kept-alive connection without a request
//	taken      in use by a connection that is closing: free in a moment
//	demand     what a node reports of a key: held, in use, waiting, refused
//	ask        the question whether a slot is free anywhere, for requests without a queue
//	target     the number of slots that the leader asks a node to come down to
//	share      a node's fair part of a limit (max-min)
//	turn       how long a node keeps a slot above its share while others wait
//	owed       slot-time that a node got below its share, to be made up for
//	headroom   slots beyond the demand, so that the next connection costs no round trip
//	gate       the deadline up to which the fast path may admit
//	fence      the node's stop when it can't prove its session in time
//	sever      the end of a connection whose slot is gone
package lease
