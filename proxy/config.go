package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits that are not worth a setting. Each bounds something that a peer could
// otherwise make grow.
const (
	// maxHead is the longest request or response head, first line included (431).
	maxHead = 64 << 10
	// maxTrailers is the longest trailer section of a chunked body.
	maxTrailers = 16 << 10
	// maxChunkLine is the longest chunk-size line, extensions included.
	maxChunkLine = 4 << 10
	// clientIdleTimeout is how long a client may leave its connection without a request.
	clientIdleTimeout = 60 * time.Second
	// upstreamIdleTimeout is how long an upstream connection is kept for reuse: shorter than
	// the 60 s or more after which most servers close theirs, so that few requests meet a
	// connection that is just going away.
	upstreamIdleTimeout = 30 * time.Second
	// unsafeIdle is the idle time after which a kept-alive connection is not trusted with a request
	// that can't be sent twice: the upstream may be closing it just now.
	unsafeIdle = 2 * time.Second
	// maxIdlePerTarget and maxIdle bound the connections kept for reuse to one host and
	// port, and to all.
	maxIdlePerTarget = 32
	maxIdle          = 1024
	// stallTimeout is how long writing an answer of the proxy's own may make no progress at all.
	stallTimeout = 60 * time.Second
	// sendGrace is how long, after the response, the last bytes of a request may take to be sent:
	// an upstream that answers without reading them is reset.
	sendGrace = 10 * time.Millisecond
	// lingerTimeout bounds the wait for the client's end after our last response.
	lingerTimeout = time.Second
	// contentQuiet and contentLinger bound it where the client may be sending content that nobody
	// will use: without a byte, and in all.
	contentQuiet  = 5 * time.Second
	contentLinger = 30 * time.Second
	// minResetHold is how long, at least, a slot is kept after a reset: the RST is on its way, and
	// a busy upstream takes a moment to notice it.
	minResetHold = 10 * time.Millisecond
	// watchDelay is how long admission and dialling, or a half-closed tunnel, may last before
	// the sockets are watched for hang-ups: most are over sooner and never pay for it.
	watchDelay = 5 * time.Millisecond
	// lookEvery is how often connections are looked for that have lasted as long: the kernel then
	// asks their silent upstreams whether they are still there.
	lookEvery = 10 * time.Second
	// sleepAfter is how often tunnels are looked at; one that has carried nothing since the last
	// time may sleep.
	sleepAfter = 100 * time.Millisecond
	// maxIdleWorkers bounds the workers that wait for another client.
	maxIdleWorkers = 64
	// retryAfter is when a client may try again that was refused for a cause that passes.
	retryAfter = time.Second
)

// Config is what a [Server] is made of. All but Policy is fixed for its life.
type Config struct {
	// Node is the node's name: the speaker in Proxy-Status.
	Node string
	// Pseudonym is what the node is called in Via, until SetPseudonym changes it; "" is Node. Two
	// nodes that may stand behind each other need different ones, or the second refuses what the
	// first sends it as a loop.
	Pseudonym string
	// MaxClients bounds the connections of allowed clients open at a time, and upstream connections
	// likewise. Where all places are taken, idle clients give way; where none is idle, further ones
	// wait in the listener's backlog. Each may need two file descriptors and 70 KiB while it is
	// busy, with TLS four and 150 KiB. 0 takes what the process's file descriptor limit leaves; see
	// defaultMaxClients.
	MaxClients int
	// TLS is what clients speak; nil is plain HTTP. Its ALPN is set by [New].
	TLS *tls.Config
	// NodeGreeting is what the ports begin with that only nodes dial: a tunnel whose upstream's
	// first bytes are these is reset before the client has seen them all. "" looks for nothing.
	NodeGreeting string
	// Lines is where the line goes that each finished tunnel and request leaves, while the logger
	// lets info through.
	Lines LineOutput
	// OnQueueWait is told how long each admission to a limited host waited for its slot; those that
	// were refused are not told. OnDial is told how long connecting took, where that succeeded.
	// Both are called on every connection's way, many at once: they must take no lock. nil tells
	// nobody.
	OnQueueWait, OnDial func(time.Duration)
	// Policy is the first policy; SetPolicy replaces it.
	Policy Policy
}

// Policy is what can change while the server runs. New requests follow the new
// policy at once; tunnels keep the timeouts that they started with, and kept-alive upstream
// connections to destinations that it forbids are closed.
type Policy struct {
	// RejectStatus answers requests over the limit: 400 to 599.
	RejectStatus int
	// DialTimeout bounds connecting, over all addresses, from when the slot is granted. Resolving
	// the name, before that, has as much time of its own; > 0.
	DialTimeout time.Duration
	// HeaderTimeout bounds the arrival of a whole request head; > 0. Raising it lets slow
	// clients hold connections longer.
	HeaderTimeout time.Duration
	// TunnelIdleTimeout resets a tunnel that has been quiet for so long; 0 never does.
	TunnelIdleTimeout time.Duration
	// HalfCloseTimeout resets both sides when nothing has moved for so long (up to an eighth
	// longer) after either side's FIN; > 0. Raising it keeps slots of half-dead tunnels longer.
	HalfCloseTimeout time.Duration
	// ResponseTimeout ends a plain exchange in which no byte has come from either side, or been
	// taken by it, for so long (up to a quarter longer); 0 never does. Raising it keeps slots of
	// dead exchanges longer; lowering it cuts answers that take long.
	ResponseTimeout time.Duration
	// AllowClients are who may use the proxy; empty is everybody.
	AllowClients []netip.Prefix
	// Users are who may use it by name and password, beside AllowClients; empty asks for neither.
	// It must not be changed afterwards.
	Users []User
	// ProxyProtocolFrom are the load balancers whose word for a client's address is taken: their
	// connections must begin with a PROXY protocol header, others must not.
	ProxyProtocolFrom []netip.Prefix
	// DenyDestinations and AllowDestinations are matched with the resolved address at dial time. A
	// denied one is refused though it is also allowed; an empty AllowDestinations allows all.
	// Unspecified addresses (0.0.0.0, ::) are refused always: they reach loopback. An IPv6 address
	// that a translator or a tunnel turns into an IPv4 address is denied where that is.
	DenyDestinations  []netip.Prefix
	AllowDestinations []netip.Prefix

	// PrivateConnections keeps upstream connections for reuse by the same user from the same
	// address alone. It costs an upstream connection, and a slot, for each of them.
	PrivateConnections bool

	roster *roster // of Users; the server's
}

// DefaultPolicy is the policy of a configuration that says nothing.
func DefaultPolicy() Policy {
	return Policy{
		RejectStatus:     503,
		DialTimeout:      10 * time.Second,
		HeaderTimeout:    10 * time.Second,
		HalfCloseTimeout: 10 * time.Second,
		ResponseTimeout:  15 * time.Minute,
		AllowClients:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		DenyDestinations: []netip.Prefix{
			netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
			netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"),
		},
	}
}

// Validate names every impossible value at once.
func (p *Policy) Validate() error {
	var errs []error
	if p.RejectStatus < 400 || p.RejectStatus > 599 {
		errs = append(errs, fmt.Errorf("reject_status %d is not an error status: use 400 to 599, such as 503", p.RejectStatus))
	}
	positive := func(name string, d time.Duration) {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s %v is not above zero: use a duration such as \"10s\"", name, d))
		}
	}
	positive("dial_timeout", p.DialTimeout)
	positive("header_timeout", p.HeaderTimeout)
	positive("half_close_timeout", p.HalfCloseTimeout)
	if p.TunnelIdleTimeout < 0 {
		errs = append(errs, fmt.Errorf("tunnel_idle_timeout %v is below zero: use \"0s\" for never", p.TunnelIdleTimeout))
	}
	if p.ResponseTimeout < 0 {
		errs = append(errs, fmt.Errorf("response_timeout %v is below zero: use \"0s\" for never", p.ResponseTimeout))
	}
	for name, prefixes := range map[string][]netip.Prefix{
		"allow_clients": p.AllowClients, "proxy_protocol_from": p.ProxyProtocolFrom, "deny_destinations": p.DenyDestinations, "allow_destinations": p.AllowDestinations,
	} {
		for _, prefix := range prefixes {
			if !prefix.IsValid() {
				errs = append(errs, fmt.Errorf("%s holds an invalid CIDR", name))
			}
		}
	}
	return errors.Join(errs...)
}

// allowsClient reports whether a client with this address may use the proxy.
func (p *Policy) allowsClient(addr netip.Addr) bool {
	return len(p.AllowClients) == 0 || contains(p.AllowClients, addr)
}

// allowsDestination reports whether addr may be dialled.
func (p *Policy) allowsDestination(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsValid() || p.denies(addr) || addr.Is6() && p.deniesEmbedded(addr) {
		return false
	}
	return len(p.AllowDestinations) == 0 || contains(p.AllowDestinations, addr)
}

// denies reports whether addr itself is denied.
func (p *Policy) denies(addr netip.Addr) bool {
	return addr.IsUnspecified() || contains(p.DenyDestinations, addr)
}

// contains matches addr without its zone, IPv4-mapped IPv6 as IPv4; a prefix may be written
// either way too.
func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
