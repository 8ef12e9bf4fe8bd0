package proxy

// protocol is what a client speaks on the proxy's port. Its first byte tells which.
type protocol interface {
	// serve answers the requests of the connection, until it is over or a tunnel has taken it over.
	serve()
	// accepted returns the answer to a request for a tunnel that is open. It begins with the bytes
	// that begin every answer, see [ahead].
	accepted() []byte
	// refuse answers a request for a tunnel with a refusal, and ends the connection.
	refuse(r *refusal)
}

// worker is what one goroutine needs to serve connections one after another, whatever they speak.
// Nothing of it is used any more once the connection that it serves has become a tunnel.
type worker struct {
	http  httpClient
	socks socksClient
}
