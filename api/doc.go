// Package api is the contract of weir's HTTP API, and a client for it: the paths, the types of the
// bodies, the errors, and the typed [Client] that the command line and the package weir use. The
// server is package api/server.
//
// There is one file per noun (limits, hosts, connections, …). Its types document its JSON, and are
// what the server encodes and the client decodes.
//
// # Decisions
//
// The package imports nothing of weir's but package limit, so that a program which only calls nodes
// links neither the state machine nor Raft nor the metrics. The cost is that what the server does
// with a type is a function there, not a method here.
//
// The client offers the events as an iterator that does not reconnect: its caller knows better how
// long to wait, what to show meanwhile, and which node to ask. The last event's ID says where to
// continue.
package api
