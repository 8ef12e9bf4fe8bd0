// Package leader is the leader's side of the lease: it decides who holds how many slots, and ends
// the sessions of nodes that have gone. [Server] is a shell (goroutines, streams, Raft) around a
// deciding core, [Allocator], which has no goroutine, no clock and no I/O. It holds soft state
// only, in four parts: the handshake of streams, the roster of sessions, what nodes demand, and
// the schedule of what is planned when. The plan for one key is plan.go. The node's side is
// package lease, whose comment has the words for all this and the reason why the cap holds.
//
// # Decisions
//
// A hello proves nothing by itself. It may have been delayed, and be older than slots granted
// since, or come from a process that is gone. The leader releases what a hello does not state, or
// opens a session for it, only once the node has sent another message on the same stream. That
// costs a round trip at the start of a session.
//
// A slot goes to a waiting request before it goes to a node whose workers were refused and may come
// back, also where that node is below its share. The node is owed that slot-time, and gets it with
// its next turns: shares are equal over a second, not at every moment.
package leader
