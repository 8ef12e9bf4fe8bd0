// Package fsm is weir's replicated state: limits, sessions and grants, as a pure
// function of the Raft log.
//
// Two servers that have applied the same entries hold the same state and have
// answered the same results, so nothing here reads a clock, draws a random number,
// starts a goroutine or depends on the order of a map. What a limit is, package
// limit says.
//
// # Invariants
//
//  1. An increase never lifts the sum of a key's grants above its limit: it is cut
//     to what is free.
//  2. An increase for a session that is not open is void.
//  3. A decrease never goes below zero; closing a session frees all its grants in
//     the same step.
//  4. The level of a rate only moves: an increase takes as much of what is free along as its shares
//     hold, a decrease brings back at most that. Only a key that has never been leased, or was
//     forgotten, counts as full; a session that is closed frees its shares empty; no change of a
//     limit adds anything.
//
// [State.Check] verifies them and is run after every step in tests.
//
// # Decisions
//
// Every command that a leader proposes by its own judgement carries the term in
// which it judged, and is void if the log stored it in another: a deposed leader's
// goroutine that wakes up after a re-election can't close a session or free a slot
// on stale knowledge. An Adjust also carries a batch number, so that applying the
// same entry twice frees nothing twice. The cost is sixteen bytes an entry.
//
// Reading is strict. An entry or snapshot with a version, command, field or number
// that is unknown here stops the server, rather than be half understood; servers
// must therefore be upgraded before anything new is written. Values that are known
// but out of bounds are refused when applied, on all servers alike, so the bounds
// are part of the encoding: to move one is to make a new version.
//
// What an entry says decides which version of the log it needs, not its kind: an upgrade in place
// goes on writing what it always wrote. What the state holds already, all servers have understood,
// so that no server need be asked about more of it.
//
// Of a rate the log counts shares, a fixed number whatever the limit says, so that a change of rate
// or burst moves no grant. Nodes are granted whole units of them, and the level is counted by
// units: shares that make none hold nothing.
//
// A limit that is lowered cuts a free level where the next Adjust touches its key, where a session
// that held some of it is closed, and for whoever reads it. So one that is raised again before has
// taken nothing away, and has added nothing either: the level is what was left in the bucket. The
// entry of a rate stays when nobody holds any
// of it, since what was taken is to be remembered; the leader has it forgotten once it must be
// full. It must be so by the largest burst under which it was held, or raising the burst again would
// find a full one: so the entry knows that burst.
//
// Grants are one map entry a key, below 300 bytes with three holders. Closing a session and
// changing a limit walk them all, which is rare and costs milliseconds.
//
// A snapshot is copied while raft waits and encoded after that, twice: once for
// the length and checksum in its header, once to write, so that memory holds one
// copy of the grants, not their encoding as well.
package fsm
