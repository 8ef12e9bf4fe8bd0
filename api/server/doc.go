// Package server serves weir's HTTP API: the handler for clients that every node runs, and the one
// that nodes serve to each other. Package api has the types of the bodies, and the client.
//
// There is one file per noun (limits, hosts, connections, …). A noun gets everything it needs from
// the node through a narrow interface declared beside it; [Deps] collects them.
//
// A request passes the guard (Host, token), the router, the media type check, and then an endpoint.
// The node that took a write parses it first, so that a malformed one is refused without a leader.
// Then it delivers the write: it commits it here if this node leads, and otherwise forwards it to
// the leader's peer handler.
//
// # Decisions
//
// Reads are answered from this node's own view: they work without a leader, and may be a moment
// old. A write waits until the node that took it has seen it, so that a client reads its own writes
// there; the cost is one more follower round trip per write.
//
// A request is forwarded once at most. A node that is asked as the leader but does not lead says
// so, and the asking node retries for a bounded time. A write whose outcome is unknown is repeated
// only if repeating it is harmless.
//
// Unknown fields, unknown query parameters, duplicate keys and differently cased names are errors:
// a misspelt dry_run must not become a write. The cost is that a newer client can't talk down to an
// older server.
//
// A client of the event stream gets the state of the whole cluster once a second: first all of it,
// then the changes. The node asks the others once for all such clients. A client that does not read
// for some seconds is disconnected, and can reconnect.
//
// A snapshot may be large and is not JSON, so it is streamed, and checked as it arrives. The node
// that restores one sends the leader only the limits, as the log entry that they become: a gigabyte
// crosses the network once, and no node holds it. A page can't send its content type without a
// preflight either.
//
// Every other successful answer has a JSON body, even to DELETE, and status 200; 202 means that
// something was started.
package server
