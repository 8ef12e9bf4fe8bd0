// Package leasepb is the stream between a node and the leader: the messages of lease.proto, and
// what both sides must agree on. The node's side is package lease, the leader's lease/leader.
package leasepb
