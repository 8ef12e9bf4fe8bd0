// Package proxy is weir's forward proxy: CONNECT tunnels, absolute-form HTTP/1.x requests, and
// SOCKS5. Each request needs claims from an [Admitter], and each upstream connection a slot, which
// it gives back only when the upstream has seen the connection's end.
//
// # Files
//
// In the order in which a connection passes through them:
//
//	config.go          configuration, policy, fixed limits
//	descriptors.go     how many clients the file descriptors allow
//	server.go          start, drain, close
//	accept.go          accepted clients get a place and a worker
//	newcomer.go        clients of a listener with TLS, up to the end of their handshake
//	proxyheader.go     load balancers name their clients
//	conn.go            a client's connection, whatever is spoken on it
//	greeting.go        what is spoken: the first byte tells, and names what is not spoken here
//	protocol.go        what a protocol has to do
//	httpclient.go      HTTP: its requests, one after the other
//	socks.go           SOCKS5: one request, for a tunnel
//	ahead.go           finding out whether a client that sent a FIN is still there
//	resolving.go       SOCKS5 clients that ask for addresses, where limits count names
//
//	flow.go            a slot and its upstream connection: states, abort, end
//	claims.go          a request in hand and its claims
//	admit.go           resolving the name, acquiring the slot, dialling
//	dial.go            connecting to one of the addresses
//	destinations.go    the cluster's own ports, which are out of reach
//	embedded.go        IPv4 addresses inside IPv6 addresses
//	failed.go          addresses that failed lately
//	exhausted.go       errors for want of ports or descriptors
//	dialled.go         recognising connections that this proxy made
//
//	tunnel.go          relaying in both directions
//	opening.go         the upstream's first bytes: nested proxies
//	sleep.go           idle tunnels without goroutines
//	slumber.go         which direction sleeps, and for want of what
//	pace.go            bandwidth: what a read may take
//	timeouts.go        idle and half-closed tunnels
//	request.go         plain requests: targets and the heads to forward
//	exchange.go        a plain request and its response
//	unfinished.go      the end of one that comes to no whole response
//	plain.go           what it needs of an upstream connection beside the flow
//	reuse.go           finding its connection: a kept-alive or a new one
//	vigil.go           exchanges that last or stall
//	park.go            keeping an upstream connection, closing it gracefully
//	idle.go            the pool of kept connections
//
//	refuse.go          reasons to turn a request away
//	refusehttp.go      a refusal as an HTTP answer
//	refusesocks.go     a refusal as a SOCKS5 reply
//	phrase.go          its reason phrase
//	counters.go        refusals and bytes in the metrics
//	log.go             a line for each finished tunnel and request; refusals, sampled
//	registry.go        the open connections
//
// # Rooms
//
// What stands on the ground is in packages of its own, which import nothing of this one: bytes to
// HTTP heads and bodies in http1, messages of SOCKS5 in socks5, users and the PROXY protocol in
// auth, sockets in sock, the TLS of clients in clienttls, log lines in accesslog, names in resolve.
// Only sock has files named for a system.
//
// # Rules
//
//  1. One slot, one upstream connection at a time: addresses are dialled one after the other.
//  2. A slot is released after both FINs, once the upstream has acknowledged ours; or some time
//     after we sent a reset (two round trips, at least 10 ms); or at once after the upstream's
//     reset.
//  3. Every read and write of a flow's sockets first waits for readiness and then checks that the
//     slot and the request's claims are still live, which is also checked before each attempt to
//     connect. So a process that was frozen past its lease touches no further byte, and begins no
//     connection.
//  4. Only a flow's owner finishes it. Everything else makes the owner's wait fail.
//  5. The request holds the claims of scope total, client and user, the flow holds the host's slot.
//     Claims are taken first, then the slot, then the request's token, once; whoever waits for one
//     holds those before it.
//  6. Whatever two HTTP parsers could read differently is refused.
//
// # Parsing
//
// Package http1 parses heads, without net/http. A request costs one pooled buffer, and
// malformed ones get a Proxy-Status. The cost is a parser to keep right; it is fuzzed against
// net/http's. Unsupported transfer codings and versions are malformed (400), and so is Max-Forwards
// 0. There is no upgrade to h2c.
//
// A head has header_timeout to arrive; the first one's begins with the connection. If some of it
// has come by then, the answer is 408; otherwise the connection is closed without one.
//
// SOCKS5 is told by its first byte, which begins no HTTP message. A client may send greeting,
// credentials, request and bytes for the tunnel in any pieces; answers are collected and sent
// before the node waits for the client. So one that sends everything at once costs one read and one
// write, as a CONNECT does. A reply has no room for a text or a loop mark: the log has
// the reason, and a nested tunnel by SOCKS5 is found by its destination alone.
//
// # Sockets and hang-ups
//
// Sockets belong to the runtime's poller, without package net, which saves options and addresses
// that most connections don't need. The cost is connecting by hand.
//
// One event set watches for peers that hang up while nothing reads their socket: clients in the
// queue, tunnels stuck in a write, kept-alive upstreams. It costs no goroutine per connection and
// sees a FIN behind unread bytes. Most waits are short, so a socket joins the set only after a wait
// of 5 ms, the client of a plain request within 10 ms. The set ties the package to Linux and macOS.
//
// # Clients
//
// [Config].MaxClients bounds client connections. If all places are taken, clients that have been
// idle for a second are closed; if none is idle, new ones wait in the backlog. Clients that
// allow_clients refuses have a few places of their own. An idle client is closed after 60 s. After
// an answer to a client that may still be sending content, the proxy reads on, so that the answer
// arrives: for up to 30 s, or until 5 s pass without a byte.
//
// TLS belongs to the listener, and ends in front of a socket pair: this package sees the pair's
// other end as the client's socket. So ends, resets and hang-ups have one implementation. The cost
// is two goroutines, three descriptors and one more copy per client, and no splicing to it.
//
// Accepted credentials are remembered, as a MAC, because a bcrypt check costs a core tens of
// milliseconds. A password that is changed or removed in the file counts from the next request on;
// open tunnels stay. Few checks run at a time, and an address that fails often gets 429 without a
// check. That also hits others behind the same address, until their own password has passed once.
//
// # Half-closed clients
//
// A FIN may mean that the client has closed, or that it has only finished sending. Before an answer
// begins, the proxy finds out by sending its first bytes, "HTTP/1.1 " or SOCKS5's version: a closed
// connection answers with a reset, and the request is given up. Otherwise the answer continues
// behind them. The cost: a client that gets no answer may get a part of a status line.
//
// Once an answer has begun, its own bytes do the same. While the upstream is silent, a closed
// client's slot is held until the client's kernel answers a keep-alive with a reset (75 s on
// Linux), or for response_timeout; cutting sooner would break answers that are awaited. A FIN
// behind unread content can't be seen. In a tunnel, a FIN is passed on and starts
// half_close_timeout.
//
// # Dialling
//
// A name is resolved before anything is acquired, so that a slow name server holds no slot. If the
// answer expires in the queue, a fresher one is used if known. Addresses that failed in the last
// 30 s come last. Each address gets a short time at first; those that did not answer divide the
// rest. So a living address is found behind several dead ones, and a slow one is found too.
//
// The lease may end while dialling. Then the answer is 503 (fenced) or reject_status (evicted),
// because there is no connection to reset yet. Later, both sides are reset.
//
// # Loops and the cluster's own ports
//
// The cluster's ports are refused by address and port. For a port that listens on all addresses,
// the kernel is asked whether the destination is local; other destinations cost nothing. A proxy's
// port is a loop: nested tunnels would multiply one client's descriptors, and a client could write
// a PROXY header to a node that trusts this one.
//
// No list of addresses is complete, so a tunnel's first bytes are checked as well. Ports that only
// nodes dial begin with a greeting that the client would have to answer, and never sees whole. A
// proxy's own answers carry a mark of the cluster. Responses of upstreams do not, so a client that
// nests a plain request before its CONNECT is not detected.
//
// # Tunnels
//
// A tunnel that is idle for 100 ms, or longer if it has woken before, holds no goroutine: an event
// set wakes it within microseconds. On Linux, bulk data is spliced through a pipe, which is held
// only while data flows.
//
// # Bandwidth
//
// Each direction has a meter. A read first takes bytes from it, reads at most so many, and puts
// back the rest, so an idle connection holds none. If there are none, the direction of a tunnel
// sleeps until the meter wakes it; for a plain message, the goroutine that it has anyway waits. A
// paced flow is alive: none of the timeouts for idle, half-closed or stalled connections ends it.
//
// The meter is asked before the kernel, because asking the kernel first would cost a system call
// for each read. So a direction without bytes may wait for its meter once. While it does, its FIN
// is not passed on; a reset is noticed at once.
//
// # Plain requests
//
// An exchange has one bound: response_timeout without a byte in either direction.
// docs/architecture.md lists its states and how each ends. Reads and writes pay nothing for it: the
// kernel's byte counts of lasting exchanges are sampled.
//
// A request that meets a kept connection waits for its token with the connection unparked, and
// parks it again if the token does not come.
//
// A kept-alive upstream connection is reused for its target (host and port) within 30 s, the most
// recently used first; at most 32 are kept per target and 1024 in all. A request without content
// and with an idempotent method is repeated once, on a fresh connection, if a kept-alive one ends
// without an answer, answers 408, or sends something that is no response. Other requests use no
// connection that has been idle for more than 2 s. A connection is not kept after a response that
// announces content where none is allowed.
//
// Before a request without content is written to a kept-alive connection, one read is tried. It
// finds an upstream that has closed, or has sent something unasked, without an extra system call;
// then another connection is used. A whole unasked response that crosses with the request can't be
// told from its answer. If one client of an upstream could do that to another,
// share_kept_connections = false separates them, at the cost of a connection for each.
//
// # Refusals
//
// A refused CONNECT ends the client's connection, because bytes sent early for the tunnel must not
// be read as a request. Other refused requests leave it open, unless they have content. A 407 keeps
// the connection open so that the client can retry with credentials, unless bytes follow the
// CONNECT: those were sent without credentials.
//
// # Logs
//
// The log shows ten refusals a second for each reason, ten a minute for reasons that strangers can
// cause, and the number of the others. The metrics count all.
//
// The line for a finished tunnel or request bypasses the logger, in the logger's format, and is
// written up to 5 ms late. It may come after later lines of the logger, and a killed process loses
// the last ones. If the log's reader is too slow, lines beyond 4 MiB are dropped and counted, so
// that clients are not held up.
package proxy
