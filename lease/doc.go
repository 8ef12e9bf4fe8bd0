// Package lease is the node's side of the lease: a node admits connections to a limited host from
// slots that the cluster has granted it. [Manager] holds the slots, admits from them in memory,
// queues who must wait, and fences when the node can no longer prove that its session is live. It
// is a shell (goroutines, a stream, timers) around a deciding core, [Node], which has no
// goroutine, no clock and no I/O: it takes the time as an argument and messages as values, and
// answers with [Effects], so that a simulation (leasetest) can drive the code that runs in
// production. The leader's side is package lease/leader, cut in the same way; the stream between
// them is leasepb.
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
// A request over a limit without a queue is refused only once the leader has answered that nothing
// is free anywhere. That costs a round trip per refusal, shared by all requests that wait at the
// time, and makes "refused" mean something. In a storm of refusals the next ask waits a few
// milliseconds, so that a storm costs the leader a few hundred answers a second.
//
// A connection may need units of several keys. Each is a claim of its own, and there are two kinds
// of holder: a [Request] in hand holds the slots of scope total, client, user and key, the upstream
// connection the host's, also while it is kept for reuse. So all take their claims in one order,
// which is why nobody waits in a circle: whoever waits for a later one holds the earlier ones, and
// gives them back if it is refused. Tokens come last, and all at the moment when the request begins
// ([Draw]): what counts is how many begin in a window of time, not how many are let through one of
// several waits. The same holds for a connection's bytes ([Meter]): a flow takes a piece of each
// limit at one moment. Where it is its turn before that, the piece is kept for it in the bucket.
//
// A rate is leased as slots are: the log counts shares of it, and a node's whole units are one
// token bucket ([bucket]) that never fills by being granted, moved or changed. A token goes back
// only as far as the bucket would have had room for it all the time: otherwise it could be used
// twice in one window. Waiting for time to pass costs one timer for all keys.
//
// A limit that only reports (mode "report") admits at once. The request then waits on as a ghost,
// and is counted if the leader answers that nothing is free.
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
//	key        what a limit counts: a scope, a resource, and a name or a pattern that is shared
//	slot       one connection's or request's unit of a key of connections
//	share      a millionth of a rate, as the log counts it
//	unit       a slot; of a rate, the shares whose bucket holds a token or more
//	token      the right to begin one request; of bytes, a grain is one byte
//	piece      what a flow takes at once of a rate of bytes
//	level      what lies in the bucket of some shares, and goes with them
//	claim      one unit that a request or connection holds
//	grant      units of a key that the log gives a session
//	held       granted units, as the node knows them; in use or free
//	parked     in use by a kept-alive connection without a request
//	taken      in use by a connection that is closing: free in a moment
//	demand     what a node reports of a key: held, in use, waiting, refused
//	ask        the question whether a slot is free anywhere, for requests without a queue
//	target     the number of slots that the leader asks a node to come down to
//	fair share a node's part of a limit while it is contended (max-min)
//	hungry     a flow that has to wait for bytes: a bandwidth is shared by how many are
//	turn       how long a node keeps a unit above its fair share while others wait
//	ghost      a request that a limit in mode report has admitted, and that waits on to be judged
//	meter      what paces one direction of a connection's bytes
//	owed       slot-time that a node got below its fair share, to be made up for
//	headroom   slots beyond the demand, so that the next connection costs no round trip
//	gate       the deadline up to which the fast path may admit
//	fence      the node's stop when it can't prove its session in time
//	sever      the end of a connection whose slot is gone
package lease
