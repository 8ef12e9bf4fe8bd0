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
// Each file begins with what is to be known of its matter.
package proxy
