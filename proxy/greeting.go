package proxy

import (
	"bytes"
	"errors"

	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
	"github.com/weirproxy/weir/proxy/socks5"
)

// The first byte of a client's connection tells which protocol it speaks. One that is not spoken on
// the port is named, and its client is answered in its own terms.

// The first bytes of protocols. No HTTP message begins with one of them.
const (
	firstTLS    = 0x16 // a handshake record
	firstSOCKS4 = 0x04
	firstSOCKS5 = socks5.Version
)

// protocol returns what is spoken on a connection that begins with the given byte. Whatever is not
// known, or not spoken here, is answered as HTTP.
func (w *worker) protocol(c *conn, first byte) protocol {
	if first == firstSOCKS5 && c.srv.policy.Load().Protocols&SOCKS5 != 0 {
		return w.socks.answer(c)
	}
	return w.http.answer(c)
}

// errForeign means that a client speaks neither TLS nor HTTP, but a protocol that is recognised.
var errForeign = errors.New("the client speaks another protocol than TLS")

// expectTLS waits for the first byte of a connection that should begin with TLS; the byte stays in
// hand. It recognises SOCKS, whose first message is shorter than what the TLS handshake waits for.
func expectTLS(in *sock.Reader) error {
	if in.Len() == 0 {
		if err := in.Fill(); err != nil {
			return err
		}
	}
	if foreignOf(in.Bytes()[0]).overTLS != nil {
		return errForeign
	}
	return nil
}

// looksLikeHTTP reports whether the bytes could be the beginning of a request.
func looksLikeHTTP(start [5]byte) bool {
	method, _, _ := bytes.Cut(start[:], []byte(" "))
	return http1.IsToken(method)
}

// looksLikeProxyHeader reports whether the bytes could be the beginning of a PROXY header.
func looksLikeProxyHeader(start [5]byte) bool {
	_, _, err := auth.ParseProxyHeader(start[:])
	return err == nil // more bytes are needed
}

// foreign is a protocol that is recognised, but not spoken.
type foreign struct {
	refusal *refusal // where plain HTTP is expected
	overTLS *refusal // where TLS is expected
	// answer is the protocol's own for "no"; nil: clients get the HTTP answer. Its second byte is
	// the code, which the log has as field, beside the protocol's name as the method.
	answer      []byte
	name, field string
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
		name:    "SOCKS4", field: "reply",
	}
	foreignSOCKS5 = foreign{
		refusal: badRequest("the client began with SOCKS5, which proxy.protocols leaves out: use http:// in the proxy's URL"),
		overTLS: refuseSOCKS,
		answer:  []byte{5, 0xff}, // no acceptable authentication method (RFC 1928 §3)
		name:    "SOCKS5", field: "choice",
	}
	foreignOther = foreign{refusal: badRequest(string(http1.ErrNotHTTP))}

	// refusePlain is for clients that speak HTTP where TLS is expected.
	refusePlain    = badRequest("the client began with plain HTTP, and this port speaks TLS: use https:// in the proxy's URL")
	refuseBalancer = *badRequest("the client began with a PROXY protocol header: list its address in proxy.proxy_protocol_from, or let it send none")
	refuseSOCKS    = badRequest("the client began with SOCKS, and this port speaks TLS first: use https:// in the proxy's URL")
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
	c.noteForeign(p, p.refusal)
	c.in.Release()
	c.sock.Guard(nil, nil)
	c.sock.Stall = stallTimeout
	if c.sock.Write(p.answer, nil, nil) == nil {
		c.linger(false)
	}
}

// noteForeign counts and logs a refusal whose answer is the protocol's own.
func (c *conn) noteForeign(p *foreign, r *refusal) {
	c.method = p.name
	c.srv.counters.refused(r)
	c.logRefusal("request refused", r, p.field, int(p.answer[1]))
}
