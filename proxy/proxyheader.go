package proxy

import (
	"io"
	"net/netip"

	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/sock"
)

// A load balancer's connection begins with a PROXY header, before anything else, TLS included.

// identify reads the load balancer's header, which names the client.
func (c *conn) identify() error {
	if !c.setIdle(true) {
		return errShutdown
	}
	c.in.Before = c
	client, err := readProxyHeader(&c.in)
	c.in.Before = nil
	c.setIdle(false)
	if err == nil && client.IsValid() {
		c.addr = client
	}
	return err
}

// readProxyHeader reads and consumes a header. It returns the client's address, or an invalid one
// if the header names none: the connection is the balancer's own, or has another kind of address.
// io.EOF means that nothing came.
func readProxyHeader(in *sock.Reader) (netip.AddrPort, error) {
	for {
		client, n, err := auth.ParseProxyHeader(in.Bytes())
		if err != nil {
			return client, err
		}
		if n > 0 {
			in.Skip(n)
			return client, nil
		}
		if err := in.Fill(); err != nil {
			if err == io.EOF && in.Len() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return client, err
		}
	}
}
