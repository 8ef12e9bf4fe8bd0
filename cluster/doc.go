// Package cluster keeps a node in its cluster: Raft and its stores, the first bootstrap,
// raft-autopilot, the leader's life, and the data directory's lock and identity. It decides nothing
// about slots: it is given a [raft.FSM] and calls back with a term to lead in. Who else is there is
// package gossip, the port that Raft, gRPC and the nodes' HTTP share is package rpcport, and the
// beginning of every connection is package handshake.
//
// A node opens its [DataDir], calls [New], which binds the ports and opens the stores, and then
// [Cluster.Start]. [Cluster.Shutdown] ends the process's part and leaves the server a Raft peer
// that may come back; [Cluster.Leave], before it, also takes the server out of the Raft
// configuration.
//
// # Decisions
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
// A follower looks soon after the election timeout whether its leader is silent; Raft by itself may
// look two timeouts later. A dead leader of three is replaced within 0.7 to 1.1 s instead of 0.8 to
// 1.9 s. Looking at about the same time costs a split vote now and then, and thus another second.
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
