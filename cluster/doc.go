// Package cluster keeps a node in its cluster: Raft and its stores, the one TCP port that Raft,
// gRPC and the nodes' HTTP share, gossip and its metadata, joining and the first bootstrap,
// raft-autopilot, the leader's life, and the data directory's lock and identity. It decides nothing
// about slots: it is given a [raft.FSM] and calls back with a term to lead in.
//
// A node opens its [DataDir], calls [New], which binds the ports and opens the stores, and then
// [Cluster.Start]. [Cluster.Shutdown] ends the process's part and leaves the server a Raft peer
// that may come back; [Cluster.Leave], before it, also takes the server out of the Raft
// configuration.
//
// # Decisions
//
// A connection to the rpc port or the gossip port starts with a handshake. The preface names its
// kind, who opens it, of which cluster, and, for Raft, the server it is meant for. A server that
// was wiped and listens on its old address is thus never taken for the one whose votes and log it
// has lost, and two clusters whose addresses meet refuse each other. The answer carries a nonce
// that is to be sent back: a client of a proxy that stops at the [Greeting] never has it. This
// costs a round trip for each connection.
//
// A node is of one cluster for good. It trusts its own configuration, the log and its first session
// to say which; gossip, an address and a name are hints. A node that has reached no member yet
// refuses members who dial it, at the cost of a start that waits for its own join to succeed.
//
// Over TLS, the certificate says that its holder is a node, and for Raft which one. Every node is
// fully trusted, so nothing more is checked. If one end lacks a certificate or key, both ends log
// the cause and the setting to change: a plain end answers TLS, and a TLS end plain, with an alert
// that no library sends by itself.
//
// A server's Raft id carries the identity made with its data directory: a wiped server is a new
// server, and autopilot retires the old one.
//
// Leadership is verified by our own account of heartbeats, on top of Raft's: Raft also counts the
// answer to a heartbeat that was sent before the question was asked, which a process that was
// stopped for a while finds in its socket buffer. A lease must not be renewed on such an answer.
//
// The first configuration is written by one server, after every server in it has pledged, durably,
// to take part in no other. A pledge does not expire: where its holder has died in between, the
// others wait for it, because they can't know whether it has written the configuration. This costs
// availability in a window of milliseconds at the very first start, and buys that two clusters are
// never formed.
//
// Log entries and votes carry a checksum on disk, checked when they are read: bbolt has none for
// its pages.
//
// A server that would form a cluster alone listens first: it may have lost the directory of a
// server that its cluster still counts on. The first start of a lone server takes two seconds
// longer for it.
//
// A full disk is waited out: Raft would stop the process where a vote can't be written.
package cluster
