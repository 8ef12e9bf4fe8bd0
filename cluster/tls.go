package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/weirproxy/weir/config/certs"
)

// Plaintext says how unencrypted traffic is treated, on the rpc port and in gossip, if there is a
// certificate or key to encrypt with. All values but PlainRefuse are for moving a running cluster
// from one to the other.
type Plaintext string

const (
	PlainRefuse Plaintext = "refuse" // unencrypted traffic is refused
	PlainAccept Plaintext = "accept" // this node encrypts, and accepts unencrypted traffic
	PlainSend   Plaintext = "send"   // this node does not encrypt, and accepts encrypted traffic
)

const (
	// rpcProtocol distinguishes, in ALPN (RFC 7301), the rpc port from other ports with TLS.
	rpcProtocol             = "weir/1"
	handshakeRecord    byte = 0x16 // the first byte of a connection that begins with TLS
	alertRecord        byte = 0x15
	closeNotifyTimeout      = 250 * time.Millisecond
)

// mismatch is a TLS record (RFC 8446, section 6) with the fatal alert access_denied, which no TLS
// library sends by itself. It informs the dialling end that only one of the two uses TLS.
var mismatch = [...]byte{alertRecord, 3, 3, 0, 2, 2, 49}

// security encrypts the rpc port. A nil *security does not.
type security struct {
	current   func() *certs.Set
	plaintext Plaintext
}

func newSecurity(cfg *Config) *security {
	if cfg.TLS == nil {
		return nil
	}
	return &security{current: cfg.TLS, plaintext: cfg.Plaintext}
}

// encrypts reports whether this node dials with TLS.
func (s *security) encrypts() bool { return s != nil && s.plaintext != PlainSend }

// hearsPlain reports whether connections without TLS are accepted.
func (s *security) hearsPlain() bool { return s == nil || s.plaintext != PlainRefuse }

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
	name := certs.NodeName(NameOf(target))
	if err := state.PeerCertificates[0].VerifyHostname(name); err != nil {
		return fmt.Errorf("%w: it is meant for %s, and the certificate does not name it", errWrongServer, name)
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

// misfit says why two nodes can't talk and how to mend it: somebody has to change a file.
type misfit struct {
	what, do string
	cause    error
	is       error // also matched by errors.Is
}

// Is implements the interface of [errors.Is].
func (m *misfit) Is(target error) bool { return m.is != nil && target == m.is }

func (m *misfit) Error() string {
	text := m.what
	if m.cause != nil {
		text += " (" + oneLine(m.cause) + ")"
	}
	return text + ": " + m.do
}

func (m *misfit) Unwrap() error { return m.cause }

// kind is equal for all misfits of one cause, whichever nodes they concern.
func (m *misfit) kind() string {
	if m.is != nil {
		return m.is.Error()
	}
	return m.what
}

var (
	errPeerWantsTLS = &misfit{
		what: "the other node takes only TLS, and this one has none",
		do:   "set cluster.tls here, with a certificate of the same CA",
	}
	errPeerHasTLS = &misfit{
		what: "the other node speaks TLS, and this one has none",
		do:   "set cluster.tls here, with a certificate of the same CA",
	}
	errPeerWantsPlain = &misfit{
		what: "the other node has no TLS, and this one takes nothing else",
		do:   "set cluster.tls there, with a certificate of the same CA",
	}
)

// Alerts of the other end, by crypto/tls's name, and what they mean for this node.
var alerts = map[string]*misfit{
	"tls: unknown certificate authority": {what: "the other node does not know the CA of this node's certificate", do: "give all nodes certificates of one CA, and its certificate as cluster.tls.ca_file"},
	"tls: expired certificate":           {what: "the other node finds this node's certificate expired", do: "make a new one with weir tls cert, and check the clocks of both machines"},
	"tls: bad certificate":               {what: "the other node refuses this node's certificate", do: "make one with weir tls cert; the other node's log says why"},
	"tls: certificate required":          {what: "the other node has got no certificate from this one", do: "set cluster.tls.cert_file"},
	"tls: no application protocol":       {what: "the other end speaks TLS for something else than weir's rpc port", do: "check what listens at that address"},
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
		return &misfit{what: "the other node's certificate is of a CA that this one does not know", do: "give all nodes certificates of one CA, and its certificate as cluster.tls.ca_file"}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &misfit{what: "the other node's certificate has expired", do: "make a new one for it with weir tls cert, and check the clocks of both machines", cause: err}
	case errors.As(err, &invalid):
		return &misfit{what: "the other node's certificate is not valid here", do: "make one for it with weir tls cert", cause: err}
	case errors.As(err, &name):
		return &misfit{what: "the other end's certificate is not a node's", do: "it must have the DNS name " + certs.ClusterName + ", as those of weir tls cert"}
	case errors.Is(err, errNoRPC):
		return &misfit{what: errNoRPC.Error(), do: "check what listens at that address"}
	case strings.Contains(err.Error(), "client didn't provide a certificate"):
		return &misfit{what: "the other end shows no certificate", do: "only nodes may connect to the rpc port; a node needs cluster.tls"}
	case strings.Contains(err.Error(), "unsupported application protocols"), strings.Contains(err.Error(), "unsupported versions"):
		return &misfit{what: "the other end is not a node", do: "only nodes may connect to the rpc port", cause: err}
	}
	return err
}
