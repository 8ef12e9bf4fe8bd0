// Package leasetest runs a whole cluster from one seed: the real deciding cores of nodes and
// leaders ([lease.Node], [leader.Allocator]) and the real replicated state ([fsm.State]) on a
// virtual clock and network, in one goroutine, with an upstream that counts its connections and
// judges. A seed makes a [Plan]: who is there, what they do, and what goes wrong when. The same
// plan gives the same run, event by event; it can be printed, kept, run again and shrunk.
//
//	go test ./lease/leasetest -run World -seed N -v              one seed, told event by event
//	go test ./lease/leasetest -run World -seed N -break RULE -v  the same with a rule broken
//	go test ./lease/leasetest -run World -plan FILE -v           a kept plan
//	make sim SEEDS=1000000                                       a long run, with figures
//
// # What is simulated
//
// Streams between nodes and leaders, on which nothing overtakes; what is on its way when one breaks
// is lost, or arrives late, also after what a newer stream brought, and a leader may hear of the
// end long after. One-way and full cuts between any sets of nodes, of streams, of Raft, or of both.
// Leaders that lose their quorum or are deposed, and do not know for a while, of which there may be
// several; elections, in which nobody leads; entries whose fate is unknown, of which the next
// leader may or may not commit the last; slow disks. Servers have a replica each, which applies
// what is committed when it comes to lead, or goes on from a snapshot; in a quarter of the plans
// every command goes through its encoding.
//
// Processes that are killed and restart at once or later, with and without their data; that are
// stopped (clocks run on), on machines that are suspended (the leader's clock stands still, the
// node's does not) or frozen (both stand still, and the wall clock tells); whose clocks drift as
// far apart as the margin covers; whose wall clock is set. Others that use a node's name. Nodes
// that drain, say goodbye and come back, of which gossip tells late; gossip that calls the living
// dead and the dead alive.
//
// Limits that are raised, lowered, removed, set on open connections, and change their shape, with
// and without evict. In a third of the plans but those in which a log is put back, all limits are
// written anew, up to five times within a few seconds, once the faults are over: they come, go, are
// merged and split while requests hold and wait. Requests that wait, time out and give up;
// connections that are kept alive and used again, or half closed for a while. The upstream accepts and sees ends after a delay: 60 ms
// at most, and up to 250 ms after a process was killed.
//
// In half of the plans, limits of the other scopes too, on requests in hand and on how many begin
// by time, and limits that only report: set, removed and changed while requests hold and wait for
// claims. A request takes its claims and tokens through the core's own sequence ([lease.Request],
// [lease.Draw]), also on a connection that is used again, and gives all back when it is refused,
// leaves or is severed.
//
// In an eighth of the plans, limits on bandwidth, up or down or both, and connections under up to
// four of them at once, and in half of these under one of scope connection too, which move bytes in
// one direction or, like a tunnel, in both. Each direction moves bytes for a while and is idle for
// a while, longer than its node remembers pools. Connections end while they wait, are late when it
// is their turn, and give back what was not there to be moved; their limits are raised, lowered,
// removed and set again while they flow.
//
// In a twelfth of the plans, one server, whose log is put back to an older copy, under nodes that
// use what it has forgotten and are cut off or not; its indexes and terms come again. Limits don't
// change in those, since the judge goes by the limits that are committed.
//
// More hostile than Raft: entries that were judged in a former term come again as of this one, and
// entries of this term come twice; a buggy leader adds adjustments that nobody asked for; the log
// takes a grant from a session without telling anybody.
//
// # What is checked
//
// Whenever a connection opens: no more are open than the limit, or, where it was lowered, than were
// open or granted at any moment since, those included that a killed process's kernel has yet to
// close. A slot that was granted before is the node's until it has heard, at most a second where it
// can hear. Connections that were open before the limit counted them are not counted while anything
// may go wrong. From when nothing has for long, they are: nothing is opened before the count has
// come down, but by nodes that have not heard of the limit yet. Nor are those of a process that is
// stopped past its lease, until it has had time to reset them when it goes on (12 ms, and what the
// upstream needs to hear of it). Such a process must not move another byte on them. With on_expiry
// drain or keep, only connections count whose session is open and is granted what they use.
//
// Whenever a request has all that it needs, the same of the requests in hand of its client, its
// user and in all. Whenever a token is taken: in no window of time that begins with a token are
// there more than the rate brings in it, and the burst, in true time, plus what a clock that runs
// fast makes of it. A limit that was changed is in force until all nodes with a session have heard
// of it, and a window is judged by the largest that was in force within it. What counts is when the
// request begins, for all its limits alike. The same of bytes, at the moment when they are moved,
// and for a limit of scope connection of those of each connection alone, by the limits that its
// node knows; no fault excuses it. A limit that only reports refuses nobody and severs nothing.
//
// With every entry: the state machine's rules, and that no node believes to hold more than the log
// grants it. Every 64 events, and in one plan of sixteen after each, an eighth as often where there
// are flows: that everything agrees with itself ([lease.Node.Check], [leader.Allocator.Check],
// [fsm.State.Check]) and replicas with each other.
//
// When the faults have ended, within a ttl and a few seconds: every node has a session; no request
// waits, or is refused, while a slot has been free for about one and a half seconds, unless it may
// have been on its way for a request that had left; no slots go from node to node again and again
// without being used; where requests queue, every node that asks is served within the rounds that
// it takes; no requests wait for each other; while requests wait for tokens at least half of the
// rate is used, of theirs or of another that they are under, and everybody has a turn. Of a
// bandwidth that flows wait for, 95 % is used; or half, where units go round, or follow flows that
// come and go. Every flow has its turn, also one that is under no limit any more, and none waits
// for long while all units are where nobody has bytes to move. When the work ends, within ten
// seconds, nothing is left: no grant in the log, nothing in the memory of nodes or of the leader.
// Then levels are handed on: what one node's bucket gathered before its units went back is there at
// once for the next node that asks.
//
// # How it can fail
//
// [Rules] can be broken, one at a time, at the boundary of the real code: in the times, messages
// and results that it is handed and in the commands that the state machine is handed. No production
// code knows of it. For each rule a test finds a breach within a bounded number of seeds of the
// ordinary mix, of a kind that the rule is there to prevent, and a kept plan shows it. The clause
// that a slot counts as free only once its release is committed has no switch: the leader's opinion
// of what is free does not count, since the state machine cuts each increase to what is free in the
// log, so that breaking the clause alone can only make it propose in vain. That switch would be the
// one that breaks the cutting.
//
// # What is not simulated
//
// The goroutines around the cores, gRPC, Raft itself (its promises are assumed, not its code),
// memberlist, sockets: those have tests of their own, with real ones. Clocks that drift further
// than the margin in a ttl. A freeze of all clocks is noticed here the moment that the process goes
// on; a real one takes up to a quarter of a second to look, in which it may still admit. It covers
// no machine whose kernel counts its suspension. A session that is opened twice by one entry: no
// code proposes an entry again that may have been appended.
package leasetest
