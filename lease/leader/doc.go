// Package leader is the leader's side of the lease: it decides who holds how many slots and which
// parts of rates, and ends the sessions of nodes that have gone. Package lease is the node's side;
// its comment has the protocol's idea and the words for it.
//
// A rate is planned as slots are. Its units are token buckets of their own, which fill and are drawn
// from on the nodes; here they are counted, shared out and handed round, and the level that a node
// gives back goes through the log to the next. Three things differ. Nothing of a rate stays open, so
// none of it has to be covered first. Where everybody has a unit, turns last long, and units stay for
// a while with a node that may need them again: steady demand costs next to no entries, while shares
// are equal to within a unit at any moment. And a key that nobody holds is forgotten once its bucket
// must be full, since names of clients are many.
package leader
