package proxy

import "github.com/weirproxy/weir/proxy/http1"

// Clients of other protocols are recognised by their first byte, which no HTTP message begins with,
// and answered in their own protocol.

// The first bytes of other protocols.
const (
	firstTLS    = 0x16 // a handshake record
	firstSOCKS4 = 0x04
	firstSOCKS5 = 0x05
)

// foreign is a protocol that is recognised, but not spoken.
type foreign struct {
	refusal *refusal // where plain HTTP is expected
	overTLS *refusal // where TLS is expected
	// answer is the protocol's own for "no"; nil: clients get the HTTP answer.
	answer []byte
}

var (
	// TLS libraries recognise an HTTP answer and report it as such.
	foreignTLS = foreign{
		refusal: badRequest("the client began with TLS, and this port speaks plain HTTP: use http:// in the proxy's URL"),
	}
	foreignSOCKS4 = foreign{
		refusal: badRequest("the client began with SOCKS4, which this port does not speak: use socks5h:// or http:// in the proxy's URL"),
		overTLS: refuseSOCKS,
		answer:  []byte{0, 0x5b, 0, 0, 0, 0, 0, 0},
	}
	foreignSOCKS5 = foreign{
		refusal: badRequest("the client began with SOCKS5, which proxy.protocols leaves out: use http:// in the proxy's URL"),
		overTLS: refuseSOCKS,
		answer:  []byte{5, 0xff}, // no acceptable authentication method (RFC 1928 §3)
	}
	foreignOther = foreign{refusal: badRequest(string(http1.ErrNotHTTP))}

	refuseSOCKS = badRequest("the client began with SOCKS, and this port speaks TLS first: use https:// in the proxy's URL")
)

// foreignOf returns the protocol whose connections begin with a byte which no HTTP message begins
// with.
func foreignOf(first byte) *foreign {
	switch first {
	case firstTLS:
		return &foreignTLS
	case firstSOCKS4:
		return &foreignSOCKS4
	case firstSOCKS5:
		return &foreignSOCKS5
	}
	return &foreignOther
}

// refuseForeign answers a client that begins with a byte which no HTTP message begins with, and
// ends its connection.
func (c *httpClient) refuseForeign(first byte) {
	p := foreignOf(first)
	if p.answer == nil {
		c.refuse(p.refusal)
		return
	}
	c.noteRefusal(p.refusal)
	c.in.Release()
	c.sock.Guard(nil, nil)
	c.sock.Stall = stallTimeout
	if c.sock.Write(p.answer, nil, nil) == nil {
		c.linger(false)
	}
}
