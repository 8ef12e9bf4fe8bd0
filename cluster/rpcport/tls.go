package rpcport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/config/certs"
)

const (
	// rpcProtocol distinguishes, in ALPN (RFC 7301), the rpc port from other ports with TLS.
	rpcProtocol        = "weir/1"
	closeNotifyTimeout = 250 * time.Millisecond
)

// mismatch is a TLS record (RFC 8446, section 6) with the fatal alert access_denied, which no TLS
// library sends by itself. It informs the dialling end that only one of the two uses TLS.
var mismatch = [...]byte{handshake.TLSAlert, 3, 3, 0, 2, 2, 49}

// security encrypts the rpc port. A nil *security does not.
type security struct {
	current   func() *certs.Set
	plaintext handshake.Plaintext
}

func newSecurity(current func() *certs.Set, plaintext handshake.Plaintext) *security {
	if current == nil {
		return nil
	}
	return &security{current: current, plaintext: plaintext}
}

// encrypts reports whether this node dials with TLS.
func (s *security) encrypts() bool { return s != nil && s.plaintext != handshake.PlainSend }

// hearsPlain reports whether connections without TLS are accepted.
func (s *security) hearsPlain() bool { return s == nil || s.plaintext != handshake.PlainRefuse }

// base returns the common settings of both ends. Session tickets are off, so that every connection
// is judged by the present CA.
func (s *security) base() (*tls.Config, *certs.Set) {
	set := s.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{rpcProtocol}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{set.Certificate},
	}, set
}

func (s *security) server() *tls.Config {
	conf, set := s.base()
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, set.Roots
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		if err := speaksRPC(state); err != nil {
			return err
		}
		return state.PeerCertificates[0].VerifyHostname(certs.ClusterName)
	}
	return conf
}

func (s *security) client() *tls.Config {
	conf, set := s.base()
	conf.RootCAs, conf.ServerName = set.Roots, certs.ClusterName
	conf.VerifyConnection = speaksRPC
	return conf
}

func speaksRPC(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != rpcProtocol {
		return errNoRPC
	}
	return nil
}

// errNoRPC says that the other end speaks TLS, but is not an rpc port.
var errNoRPC = errors.New("the other end speaks TLS for something else than weir's rpc port")

// open does the TLS handshake on a connection that was just dialled; the caller has set its
// deadline. In TLS 1.3 the dialling end finishes before its certificate has been judged: only the
// answer to the preface shows that it was accepted.
func (s *security) open(ctx context.Context, held *trackedConn, target string) (net.Conn, error) {
	conn := &secureConn{Conn: tls.Client(held, s.client()), held: held}
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, explainTLS(err)
	}
	return conn, isServer(conn.ConnectionState(), target)
}

// isServer checks that a Raft server's certificate belongs to the target node.
func isServer(state tls.ConnectionState, target string) error {
	if target == "" {
		return nil
	}
	name := certs.NodeName(handshake.NameOf(target))
	if err := state.PeerCertificates[0].VerifyHostname(name); err != nil {
		return fmt.Errorf("%w: it is meant for %s, and the certificate does not name it", handshake.ErrWrongServer, name)
	}
	return nil
}

// secureConn is a TLS connection whose close is bounded.
type secureConn struct {
	*tls.Conn
	held *trackedConn
}

// Close sends TLS's close_notify, but waits only briefly for a peer that reads nothing.
func (c *secureConn) Close() error {
	stop := time.AfterFunc(closeNotifyTimeout, func() { _ = c.held.Close() })
	defer stop.Stop()
	return c.Conn.Close()
}

// rewound is a connection whose first byte has been read, and is read again.
type rewound struct {
	*trackedConn
	first []byte
}

func (c *rewound) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.trackedConn.Read(b)
}

var (
	errPeerHasTLS = &handshake.Misfit{
		What: "the other node speaks TLS, and this one has none",
		Do:   "set cluster.tls here, with a certificate of the same CA",
	}
	errPeerWantsPlain = &handshake.Misfit{
		What: "the other node has no TLS, and this one takes nothing else",
		Do:   "set cluster.tls there, with a certificate of the same CA",
	}
)

// Alerts of the other end, by crypto/tls's name, and what they mean for this node.
var alerts = map[string]*handshake.Misfit{
	"tls: unknown certificate authority": {What: "the other node does not know the CA of this node's certificate", Do: "give all nodes certificates of one CA, and its certificate as cluster.tls.ca_file"},
	"tls: expired certificate":           {What: "the other node finds this node's certificate expired", Do: "make a new one with weir tls cert, and check the clocks of both machines"},
	"tls: bad certificate":               {What: "the other node refuses this node's certificate", Do: "make one with weir tls cert; the other node's log says why"},
	"tls: certificate required":          {What: "the other node has got no certificate from this one", Do: "set cluster.tls.cert_file"},
	"tls: no application protocol":       {What: "the other end speaks TLS for something else than weir's rpc port", Do: "check what listens at that address"},
	"tls: access denied":                 errPeerWantsPlain,
}

// explainTLS replaces a handshake's error by a misfit if a person has to mend the cause.
func explainTLS(err error) error {
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &op) && op.Op == "remote error":
		if known, ok := alerts[op.Err.Error()]; ok {
			return known
		}
	case errors.As(err, &unknown):
		return &handshake.Misfit{What: "the other node's certificate is of a CA that this one does not know", Do: "give all nodes certificates of one CA, and its certificate as cluster.tls.ca_file"}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &handshake.Misfit{What: "the other node's certificate has expired", Do: "make a new one for it with weir tls cert, and check the clocks of both machines", Cause: err}
	case errors.As(err, &invalid):
		return &handshake.Misfit{What: "the other node's certificate is not valid here", Do: "make one for it with weir tls cert", Cause: err}
	case errors.As(err, &name):
		return &handshake.Misfit{What: "the other end's certificate is not a node's", Do: "it must have the DNS name " + certs.ClusterName + ", as those of weir tls cert"}
	case errors.Is(err, errNoRPC):
		return &handshake.Misfit{What: errNoRPC.Error(), Do: "check what listens at that address"}
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		return &handshake.Misfit{What: "the other end shows no certificate", Do: "only nodes may connect to the rpc port; a node needs cluster.tls"}
	case strings.Contains(err.Error(), "unsupported application protocols"), strings.Contains(err.Error(), "unsupported versions"):
		return &handshake.Misfit{What: "the other end is not a node", Do: "only nodes may connect to the rpc port", Cause: err}
	}
	return err
}
