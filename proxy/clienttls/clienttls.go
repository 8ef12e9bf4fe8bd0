// Package clienttls is the TLS of a client's connection, from the server's side: what a listener
// puts between a client and the proxy, which knows nothing of it.
//
// A [Terminator] belongs to a listener. Its Handshake makes a [Conn], which carries a client's
// bytes to and from one end of a socket pair. To the proxy the other end is the client's socket,
// subject to the same rules as one without TLS. Ends are carried too: close_notify becomes a FIN on
// the pair, and the reverse; a broken connection or TLS session becomes a reset. Many clients close
// without close_notify; their FIN counts as a close.
//
// The cost is two goroutines, three descriptors and one more copy for each client.
package clienttls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

// alpn is the only protocol that is spoken inside. A client that offers only others is refused (RFC
// 7301).
const alpn = "http/1.1"

// Terminator ends the TLS of a listener's clients. Make one with [New].
type Terminator struct {
	config  *tls.Config
	buffers *sock.Buffers
	hangups *sock.Hangups
}

// New returns a Terminator with a copy of config, whose ALPN it sets. Large pieces go through
// buffers; hangups watches the clients' connections.
func New(config *tls.Config, buffers *sock.Buffers, hangups *sock.Hangups) *Terminator {
	config = config.Clone()
	config.NextProtos = []string{alpn}
	return &Terminator{config: config, buffers: buffers, hangups: hangups}
}

// NotTLSError means that a client began with something that is no TLS record.
type NotTLSError struct {
	Start [5]byte // what stands where the record's header should be
}

// Error implements error.
func (e *NotTLSError) Error() string {
	return fmt.Sprintf("the client does not speak TLS: it began with %q", e.Start[:])
}

// Handshake does the server's side of the handshake with the client at addr, whose connection wire
// reads; it may have bytes in hand. The handshake fails at the deadline, with
// [os.ErrDeadlineExceeded]. After an error the connection still belongs to the caller. The error is
// a [*NotTLSError], that of the socket, or what crypto/tls has to say.
func (t *Terminator) Handshake(wire *sock.Reader, addr netip.AddrPort, deadline time.Time) (*Conn, error) {
	if err := wire.Conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	c := &Conn{buffers: t.buffers, hangups: t.hangups, wire: wire}
	c.tls = tls.Server(records{c.wire, addr}, t.config)
	if err := c.tls.Handshake(); err != nil {
		var header tls.RecordHeaderError
		if errors.As(err, &header) && header.Conn != nil { // the first record's, and nothing has been answered
			return nil, &NotTLSError{header.RecordHeader}
		}
		return nil, err
	}
	if err := wire.Conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	ours, theirs, err := sock.NewPair()
	if err != nil {
		return nil, err
	}
	c.inner, c.socket = sock.New(ours, t.buffers), sock.New(theirs, t.buffers)
	c.socket.SetFront(c)
	return c, nil
}

// records is the client's connection as crypto/tls uses it. Deadlines are not crypto/tls's to set:
// its own are too short for slow clients.
type records struct {
	wire *sock.Reader
	addr netip.AddrPort
}

// Read implements [net.Conn].
func (r records) Read(b []byte) (int, error) {
	if r.wire.Len() > 0 {
		n := copy(b, r.wire.Bytes())
		r.wire.Skip(n)
		return n, nil
	}
	_, n, err := r.wire.Conn.Read(b)
	return n, err
}

// Write implements [net.Conn].
func (r records) Write(b []byte) (int, error) {
	if err := r.wire.Conn.Write(b, nil, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements [net.Conn].
func (r records) Close() error {
	r.wire.Conn.Close()
	return nil
}

// LocalAddr implements [net.Conn]; it is never used.
func (r records) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements [net.Conn].
func (r records) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(r.addr) }

// SetDeadline implements [net.Conn] and does nothing, like the other two.
func (records) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (records) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (records) SetWriteDeadline(time.Time) error { return nil }
