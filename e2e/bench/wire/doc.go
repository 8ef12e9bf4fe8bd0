// Package wire is both ends of a benchmark: [Driver], the clients, and [Upstream], the server that
// they reach through a proxy. Each is one thread around one epoll set, with everything that it
// sends prepared beforehand, and allocates nothing while it runs: beside a proxy written in Go both
// together cost little, and what they cost is the same for every proxy.
//
// Decisions: system calls are made directly, since the runtime's poller would switch goroutines for
// each. Events are edge-triggered and asked for once for each connection. A connection's slot is
// told from an earlier one's by a generation in the event. It ties the benchmark to Linux.
package wire
