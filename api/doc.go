// Package api is weir's HTTP API: the server that every node runs, the handler that nodes serve to
// each other, and the typed [Client] that the command line and the end-to-end tests use.
//
// There is one file per noun (limits, hosts, connections, …). Each noun's wire types stand at the
// top of its file, are shared by server and client, and are the documentation of its JSON.
// Everything that a noun needs from the node comes through a narrow interface declared beside it;
// [Deps] collects them.
//
// A request passes the guard (Host, token), the router, the media type check, and then an endpoint.
// A write is first understood on the node that took it, so that nonsense is refused without a
// leader, and then delivered: committed here if this node leads, otherwise sent on to the leader's
// peer handler.
//
// # Decisions
//
// Reads are answered from this node's own view: they work without a leader, and may be a moment
// old. A write waits until the node that took it has seen it, so that a client reads its own writes
// there; the cost is one more follower round trip per write.
//
// A request is forwarded once at most. A node that is asked as the leader and isn't says so, and
// the node that asked tries again for a bounded time. A write whose outcome is unknown is repeated
// only where repeating it is harmless.
//
// Unknown fields, unknown query parameters, duplicate keys and differently cased names are errors:
// a misspelt dry_run must not become a write. The cost is that a newer client can't talk down to an
// older server.
//
// Who follows the events gets the state of the whole cluster once a second: its first frame whole,
// and after that what has changed. The node asks the others once for all who follow. One that
// doesn't read for some seconds is let go, and comes back.
//
// The client follows the events as an iterator that doesn't reconnect: how long to wait, what to
// show meanwhile, and whether the same node is still the one to ask, its caller knows better. Where
// to go on is a field of the last event.
//
// A snapshot is no JSON and may be large, so it goes through as a stream, and what is sent is
// checked as it comes. The node that takes one to restore sends the leader its limits alone, as the
// log entry that they become: a gigabyte crosses the network once, and no node holds it. Its one
// content type can't be sent by a page either.
//
// Every other successful answer has a JSON body, also to DELETE, and status 200; 202 says that
// something was started.
package api
