// Package leader is the leader's side of the lease: it decides who holds how many slots, and ends
// the sessions of nodes that have gone. Package lease is the node's side; its comment has the
// protocol's idea and the words for it.
package leader
