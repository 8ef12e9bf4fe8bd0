// Package leader is the leader's side of the lease: it decides who holds how many slots and which
// parts of rates, and ends the sessions of nodes that have gone. [Server] is a shell (goroutines,
// streams, Raft) around a deciding core, [Allocator], which has no goroutine, no clock and no I/O.
// It holds soft state only, in five parts: the handshake of streams, the roster of sessions, what
// nodes demand, the schedule of what is planned when, and which keys of rates lie vacant. The plan
// for one key is plan.go. The node's side is package lease, whose comment has the words for all
// this and the reason why the cap holds.
//
// # Rates
//
// A rate is planned as slots are. Its units are token buckets of their own, which fill and are
// drawn from on the nodes; here they are counted, shared out and handed round, and the level that a
// node gives back goes through the log to the next. Three things differ. Nothing of a rate stays
// open, so none of it has to be covered first. Where everybody has a unit, turns last long, and
// units stay for a while with a node that may need them again. And a key that nobody holds is
// forgotten once its bucket must be full, since names of clients are many.
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
//
// Nodes that ask have equal shares, however many requests are behind each; but a bandwidth is
// shared by the connections that would move more than they get, which are the ones that should be
// equal.
//
// Steady demand for a rate costs next to no entries. In return, parts of a rate are equal to within
// a unit at any moment, and to more than that only over some turns of ten seconds or longer; and
// where units are few, a node with rare requests may keep one that it draws little from.
package leader
