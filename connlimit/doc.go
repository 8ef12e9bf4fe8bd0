// Package connlimit limits what a server's clients have open at once: connections, and requests, of
// each address, IPv6 prefix or network, and in all.
//
//	limiter, err := connlimit.New(connlimit.Config{
//		Connections: connlimit.Limits{Total: connlimit.AtMost(10_000), PerClient: connlimit.AtMost(100)},
//		Requests:    connlimit.Limits{PerClient: connlimit.AtMost(20)},
//	})
//	…
//	server := &http.Server{Addr: ":8443", Handler: limiter.Handler(mux)}
//	limiter.Guard(server)
//	log.Fatal(server.ListenAndServeTLS("cert.pem", "key.pem"))
//
// There are several ways in, which all count the same connections:
//
//   - [Limiter.Guard], for an http.Server, answers what is over a limit with 429 or 503 and
//     Retry-After, also over TLS and HTTP/2.
//   - [Limiter.Listener], for a server of any protocol, closes it, answers it, or lets it wait.
//   - [Limiter.ConnState], for an http.Server, closes it.
//   - [Limiter.Accept] and [Limiter.Admit] leave everything to the caller.
//
// [Limiter.Handler] limits requests at once, which matters where one connection carries many, or a
// proxy forwards those of many clients: [Config.TrustedProxies].
//
// With a node of package weir in the same process as [Config.Cluster], the cluster's limits of
// scope client and key also hold, over a fleet of servers.
//
// # Decisions
//
// No limit is ever exceeded, under any interleaving, and nothing is refused while there is room. A
// connection is counted until it has been closed, also after it was hijacked. Not covered are the
// refused connections that are open only to be answered, which [Config.MaxAnswers] bounds, and
// those whose client is not known yet, because a header of the PROXY protocol has to be read first.
//
// Clients are spread over shards by their hash, which a client can't foresee. Each shard has a lock
// of its own, and some spare units of the total, so that connections of different clients touch no
// common memory. When the total runs low, the spare units are gathered before anything is refused;
// from then on all shards share one number. So a connection costs more while the server is nearly
// full. A client for which many cores compete, such as a proxy in front, is counted in the same
// way: spread over the shards, until its own limit runs low.
//
// Goroutines exist only for what waits: connections in the queue, for their address or for the
// cluster, answers, and one goroutine that watches hijacked connections while there are any. In
// return, the goroutine that frees a slot also hands it to the next in the queue.
package connlimit
