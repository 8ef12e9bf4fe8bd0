// Package fsm is weir's replicated state: limits, sessions and grants, as a pure
// function of the Raft log.
//
// Two servers that have applied the same entries hold the same state and have
// answered the same results, so nothing here reads a clock, draws a random number,
// starts a goroutine or depends on the order of a map. The package also owns the
// nouns that every other package speaks in: [Key], [Target], [Pattern], [Limit].
//
// # Invariants
//
//  1. An increase never lifts the sum of a key's grants above its limit: it is cut
//     to what is free.
//  2. An increase for a session that is not open is void.
//  3. A decrease never goes below zero; closing a session frees all its grants in
//     the same step.
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
package fsm
