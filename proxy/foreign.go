package proxy

// Clients of other protocols are recognised by their first byte, which no HTTP message begins with,
// and answered in their own protocol.

var (
	refuseTLS    = *badRequest("the client began with TLS, and this port speaks plain HTTP: use http:// in the proxy's URL")
	refuseSOCKS4 = *badRequest("the client began with SOCKS4, and this port speaks HTTP: use http:// in the proxy's URL")
	refuseSOCKS5 = *badRequest("the client began with SOCKS5, and this port speaks HTTP: use http:// in the proxy's URL")

	socks4Rejected = []byte{0, 0x5b, 0, 0, 0, 0, 0, 0}
	socks5Rejected = []byte{5, 0xff} // no acceptable authentication method (RFC 1928 §3)
)

// The first bytes of other protocols.
const (
	firstTLS    = 0x16 // a handshake record
	firstSOCKS4 = 0x04
	firstSOCKS5 = 0x05
)

// foreign returns the refusal for a connection that begins with a byte which no HTTP message begins
// with.
func foreign(first byte) *refusal {
	switch first {
	case firstTLS:
		return &refuseTLS
	case firstSOCKS4:
		return &refuseSOCKS4
	case firstSOCKS5:
		return &refuseSOCKS5
	}
	return badRequest(string(errNotHTTP))
}

// foreignAnswer returns the answer for a SOCKS client. A TLS client gets the HTTP answer: TLS
// libraries recognise it and report it as such.
func (r *refusal) foreignAnswer() []byte {
	switch r {
	case &refuseSOCKS4:
		return socks4Rejected
	case &refuseSOCKS5:
		return socks5Rejected
	}
	return nil
}

// refuseForeign answers a client that begins with a byte which no HTTP message begins with, and
// ends its connection.
func (c *client) refuseForeign(first byte) {
	r := foreign(first)
	answer := r.foreignAnswer()
	if answer == nil {
		c.refuse(r, keepAlive{})
		return
	}
	c.noteRefusal(r)
	c.in.release()
	c.sock.guard(nil, nil)
	c.sock.stall = stallTimeout
	if c.sock.write(answer, nil, nil) == nil {
		c.linger(false)
	}
}
