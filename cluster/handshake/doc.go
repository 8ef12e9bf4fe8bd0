// Package handshake holds how a connection between two nodes begins, on whichever port: the preface
// and its answer, the cluster that a node belongs to and whom it therefore refuses, and the places
// that bound the connections of strangers. It listens on nothing and dials nothing: the packages of
// the two ports, rpcport and gossip, give it connections.
//
// # Decisions
//
// The preface names the connection's kind, who opens it, of which cluster, and, for Raft, the
// server it is meant for. A server that was wiped and listens on its old address is thus never
// taken for the one whose votes and log it has lost, and two clusters whose addresses meet refuse
// each other. The answer carries a nonce that is to be sent back: a client of a proxy that stops at
// the [Greeting] never has it. This costs a round trip for each connection.
//
// A node is of one cluster for good. It trusts its own configuration, the log and its first session
// to say which; gossip, an address and a name are hints. A node that has reached no member yet
// refuses members who dial it, at the cost of a start that waits for its own join to succeed.
package handshake
