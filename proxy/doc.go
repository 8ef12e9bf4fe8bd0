// Package proxy is weir's forward proxy: CONNECT tunnels and absolute-form HTTP/1.x requests, each
// upstream connection on a slot that it asks an [Admitter] for and gives back only when the
// upstream has seen the connection's end.
//
// A connection's way, in the order of the files: listen.go and server.go accept, front.go ends TLS
// and balancer.go reads who a load balancer's client is, client.go reads request heads and answers
// them, users.go knows who may, admit.go has the name resolved (package resolve) and asks for the
// slot, dial.go connects, but not to what own.go has, failed.go remembers which addresses failed,
// tunnel.go, splice.go and sleep.go relay, opening.go looks at a tunnel's first bytes; request.go
// and exchange.go do the same for plain requests, vigil.go looks after those that last, ahead.go
// asks clients whether they are still there, idle.go keeps upstream connections. flow.go is the
// slot and its connection, whoever uses it. refuse.go is every answer of the proxy's own.
//
// What the kernel is asked in its own way is apart, by the files' names: events_linux.go and
// events_darwin.go hear of many sockets at once (epoll, kqueue), tcp_linux.go and tcp_darwin.go ask
// about one connection, system_linux.go and splice_linux.go save system calls and copies.
// system_portable.go and splice_portable.go do without, also on Linux with the build tag portable,
// which is how they are tested there.
//
// # Rules
//
//  1. One slot, one upstream connection at a time: addresses are dialled one after the other.
//  2. A slot is released after both FINs have gone and the upstream has acknowledged ours, or some time after a
//     reset was sent (twice the round trip, 5 ms at least), or at once after the upstream's own reset.
//  3. Every read and write of a flow's sockets first waits for readiness and then asks whether the slot is
//     still live, so a process that was frozen past its lease touches no further byte.
//  4. Only a flow's owner finishes it; all others make what the owner waits for fail.
//  5. Whatever two HTTP parsers could read differently is refused.
//
// # Decisions
//
// Heads are parsed here and not by net/http: a request costs one pooled buffer, and refusals of
// malformed ones carry Proxy-Status. The cost is a parser to keep right; it is fuzzed against
// net/http's.
//
// A peer's hang-up while nobody reads its socket (a client in the queue, a tunnel stuck in a write,
// a kept-alive upstream) is told by one set of events, which costs no goroutine per connection and
// hears a FIN behind unread bytes. Sockets join it only once a wait has lasted 5 ms, the client of
// a plain request within 10. It ties the package to Linux and macOS.
//
// A tunnel that has been quiet for 100 ms, longer where it has woken before, holds no goroutine:
// its two directions end theirs and wait in a second set of events. Waking costs some microseconds.
// On Linux, what carries much is spliced through a pipe, which is held only while it does.
//
// Sockets are the runtime poller's, without package net: neither options nor addresses are asked
// for that most connections don't need. The cost is connecting by hand.
//
// A client's FIN is the same whether it has closed its connection or only ended its sending side.
// Before an answer has begun, the answer's first bytes tell: "HTTP/1.1 " is sent at once. A closed
// connection answers it with a reset, and the request is given up; otherwise the answer goes on
// behind it. The cost: a client that gets no answer may get a part of a status line. Once an answer
// has begun, its own bytes do the same. Until the upstream sends some, the slot of a client that
// has closed is held until the client's kernel answers a keep-alive with a reset (75 s on Linux),
// or for response_timeout: cutting answers that are waited for would lose more. A FIN behind
// content that nobody reads yet can't be seen at all. In a tunnel, a FIN is passed on and starts
// half_close_timeout.
//
// A plain exchange has one bound, response_timeout without a byte in either direction;
// docs/architecture.md lists its states and how each ends. Reads and writes don't pay for it: the
// kernel's byte counts are looked at now and then, of exchanges that last.
//
// A refused CONNECT ends the client's connection: bytes that the client sent early, for the tunnel,
// must never be read as a request. Other refused requests leave it open, unless they have content;
// so does a 407, whatever was asked for, unless bytes lie behind the CONNECT: what is still to come
// can't carry the credentials without which it is refused too.
//
// Credentials that have passed are remembered, as a MAC, since a bcrypt check costs a core tens of
// milliseconds. So a password that is changed or withdrawn in the file counts from the next request
// on, and open tunnels are left alone. Checks are few at a time and an address that fails often is
// answered 429 unchecked, which hits who shares it with somebody that guesses, until his own
// password has passed once.
//
// TLS ends in front of a pair of sockets, whose other end is the client's to all the rest: one
// implementation of ends, resets and hang-ups. The cost is two goroutines and three descriptors for
// each client, no splicing towards it, and one more copy.
//
// A name is resolved before its slot is asked for, so that a slow name server holds no slot. The
// answer in hand is dialled, or a fresher one where it has expired in the queue. Addresses that
// failed in the last 30 s are tried last. Each has a short time at first, and those that did not
// answer divide the rest: a living address is found behind several dead ones, and a slow one is
// still found.
//
// The cluster's own ports are known by address and port when dialling. Ports that listen on all
// addresses of this machine cost a question to the kernel, which alone knows what is local; other
// destinations don't. A proxy port is a loop: nested tunnels would multiply one client's
// descriptors, and a client could write a PROXY header to a node that trusts this one.
//
// No list is complete, so a tunnel's first bytes are looked at too. A node's own ports begin with a
// greeting that the client would have to answer, and never sees whole. A proxy's own answers carry
// a mark of the cluster. The mark is not put into upstreams' responses, so a client that nests a
// plain request before its CONNECT is not found by it.
//
// Refusals are sampled in the log, ten a second for each reason; what is left out is counted there,
// and all are in the metrics.
//
// A sever while dialling is answered with 503 (fenced) or reject_status (evicted): there is nothing
// to reset yet, and the client learns why. From then on both sides are reset.
//
// A kept-alive upstream connection serves one target (host and port) again within 30 s, most
// recently used first, at most 32 to a target and 1024 in all. A request without content and with
// an idempotent method is sent again, once, on a fresh connection when a kept-alive one ends
// without an answer, yields a 408, or sends what is no answer. Others take no connection that has
// been idle for over 2 s. A connection whose upstream has announced content where there can be none
// is not kept.
//
// Before a request without content goes out on a kept-alive connection, the read that would wait
// for the answer is tried: an upstream that has closed, or has sent something unasked, is found
// without a further system call, and the request goes on another connection. A whole response that
// is sent unasked and crosses with the request can't be told from its answer. Where one client of
// an upstream could cause that to another, share_kept_connections = false keeps them apart, at a
// connection for each.
//
// The line that a finished tunnel or request leaves goes past the logger, in the logger's format,
// up to 5 ms late: it may stand behind a later line of the logger's, and a process that is killed
// loses the last ones. A reader of the log that is too slow loses lines, beyond 4 MiB of them,
// rather than holding clients up; the log counts them.
//
// A request head has header_timeout, the first from the connection's beginning: 408 where bytes
// have come, else the connection is closed without a word. An idle client is closed after 60 s. A
// client that is answered while it may still be sending content is read for up to 30 s more, 5 s
// without a byte, so that the answer reaches it. Client connections are bounded by
// [Config].MaxClients: where all places are taken, clients that have been idle for a second give
// way, and where none is, the others wait in the backlog. Clients that allow_clients refuses have a
// few places of their own, and are closed once answered. Unsupported transfer codings and versions
// are answered 400 like other malformed messages; Max-Forwards 0 too. h2c is not upgraded to.
package proxy
