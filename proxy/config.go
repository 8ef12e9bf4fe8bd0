package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirproxy/weir/proxy/accesslog"
	"github.com/weirproxy/weir/proxy/auth"
)

// Limits without a setting. Each bounds something that a peer could otherwise make grow.
const (
	// clientIdleTimeout is how long a client may leave its connection without a request.
	clientIdleTimeout = 60 * time.Second
	// upstreamIdleTimeout is how long an upstream connection is kept for reuse. Most servers close
	// theirs after 60 s or more; with a shorter time few requests meet a connection that is being
	// closed.
	upstreamIdleTimeout = 30 * time.Second
	// unsafeIdle is the idle time after which a kept-alive connection is not used for a request
	// that can't be repeated: the upstream may be closing it.
	unsafeIdle = 2 * time.Second
	// maxIdlePerTarget and maxIdle bound the connections kept for reuse, per host and port and in
	// all.
	maxIdlePerTarget = 32
	maxIdle          = 1024
	// stallTimeout is how long writing an answer of the proxy's own may make no progress.
	stallTimeout = 60 * time.Second
	// sendGrace is how long, after the response, the last bytes of a request may take to be sent.
	// An upstream that does not read them by then is reset.
	sendGrace = 10 * time.Millisecond
	// lingerTimeout bounds the wait for a peer's FIN after ours.
	lingerTimeout = time.Second
	// contentQuiet and contentLinger replace lingerTimeout for a client that may still be sending
	// content: the longest pause between bytes, and the longest time in all.
	contentQuiet  = 5 * time.Second
	contentLinger = 30 * time.Second
	// minResetHold is the least time that a slot is kept after a reset. The RST has to arrive, and
	// a busy upstream takes a moment to process it.
	minResetHold = 10 * time.Millisecond
	// watchDelay is how long admission, dialling or a half-closed tunnel may last before the
	// sockets are watched for hang-ups. Most are over sooner and never pay for it.
	watchDelay = 5 * time.Millisecond
	// lookEvery is how often the server looks for connections older than this; for those it turns
	// on keep-alive towards the upstream.
	lookEvery = 10 * time.Second
	// sleepAfter is how often tunnels are checked for traffic. A tunnel that has carried nothing
	// since the last check may sleep.
	sleepAfter = 100 * time.Millisecond
	// maxIdleWorkers bounds the worker goroutines that wait for another client.
	maxIdleWorkers = 64
	// retryAfter is the Retry-After of refusals whose cause may pass.
	retryAfter = time.Second
)

// Config configures a [Server]. Everything but Policy is fixed for the server's life.
type Config struct {
	// Node is the node's name: the speaker in Proxy-Status.
	Node string
	// Pseudonym is the node's name in Via, until SetPseudonym changes it; "" is Node. Nodes that
	// may forward to each other need different pseudonyms, or the second one refuses the request as
	// a loop.
	Pseudonym string
	// MaxClients bounds the open connections of allowed clients, and likewise the upstream
	// connections. When all places are taken, idle clients are closed; if none is idle, new clients
	// wait in the listener's backlog. A busy client may need two file descriptors and 70 KiB, or
	// with TLS four and 150 KiB. 0 takes what the process's file descriptor limit allows; see
	// defaultMaxClients.
	MaxClients int
	// ServesTLS says that ServeTLS will be called. Then the default of MaxClients leaves room for
	// the descriptors of clients with TLS; without it, they may run out.
	ServesTLS bool
	// NodeGreeting is the first bytes of the ports that only nodes dial. A tunnel whose upstream
	// begins with them is reset before the client has seen all of them. "" turns the check off.
	NodeGreeting string
	// Lines says where the log lines of finished tunnels and requests go.
	Lines LineOutput
	// OnQueueWait is called with the time that an admission to a limited host waited for its slot;
	// refused requests are not reported. OnDial is called with the time that a successful dial
	// took. Both run on the path of every connection, many at once, so they must take no lock. nil
	// reports nothing.
	OnQueueWait, OnDial func(time.Duration)
	// Policy is the initial policy; SetPolicy replaces it.
	Policy Policy
}

// Protocols is a set of protocols that clients may speak.
type Protocols uint8

// The protocols. A connection's first byte tells them apart.
const (
	HTTP Protocols = 1 << iota
	SOCKS5
)

// User may use the proxy; see [auth.User].
type User = auth.User

// LineOutput says where and how log lines are written; see [accesslog.Output].
type LineOutput = accesslog.Output

// Policy holds the settings that can change while the server runs. New requests follow a new policy
// at once. Open tunnels keep the timeouts that they started with. Kept-alive upstream connections
// to destinations that the new policy forbids are closed.
type Policy struct {
	// Protocols are those that clients may speak; at least one. Others are refused, each in its own
	// terms.
	Protocols Protocols
	// NamesOnly refuses SOCKS5 requests for addresses, also if they are written as names. Limits on
	// names don't hold for clients that resolve names themselves.
	NamesOnly bool
	// RejectStatus answers requests over the limit: 400 to 599.
	RejectStatus int
	// DialTimeout bounds connecting, over all addresses, from the moment the slot is granted; > 0.
	// Resolving the name comes before that and has the same time of its own.
	DialTimeout time.Duration
	// HeaderTimeout bounds the arrival of a whole request head; > 0. A higher value lets slow
	// clients hold connections longer.
	HeaderTimeout time.Duration
	// TunnelIdleTimeout resets a tunnel that has carried nothing for this long; 0 turns it off.
	TunnelIdleTimeout time.Duration
	// HalfCloseTimeout resets both sides of a tunnel if nothing moves for this long (up to an
	// eighth longer) after either side's FIN; > 0. A higher value keeps slots of half-dead tunnels
	// longer.
	HalfCloseTimeout time.Duration
	// ResponseTimeout ends a plain exchange if neither side sends or takes a byte for this long (up
	// to a quarter longer); 0 turns it off. A higher value keeps slots of dead exchanges longer; a
	// lower one cuts slow answers.
	ResponseTimeout time.Duration
	// AllowClients are the addresses that may use the proxy; empty allows all.
	AllowClients []netip.Prefix
	// Users may use the proxy with name and password, from an address in AllowClients; empty turns
	// authentication off. The slice must not be changed afterwards.
	Users []User
	// ProxyProtocolFrom are the load balancers that are trusted to name their clients: their
	// connections must begin with a PROXY protocol header, others must not.
	ProxyProtocolFrom []netip.Prefix
	// DenyDestinations and AllowDestinations are matched with the resolved address when dialling.
	// Denying wins over allowing; an empty AllowDestinations allows all. Unspecified addresses
	// (0.0.0.0, ::) are always refused, because they reach loopback. An IPv6 address that a
	// translator or a tunnel turns into a denied IPv4 address is denied as well.
	DenyDestinations  []netip.Prefix
	AllowDestinations []netip.Prefix

	// PrivateConnections reuses a kept upstream connection only for the same user from the same
	// address. It costs an upstream connection, and a slot, for each of them.
	PrivateConnections bool

	roster *auth.Roster // of Users; the server's
}

// Validate reports all invalid values at once.
func (p *Policy) Validate() error {
	var errs []error
	if p.Protocols == 0 || p.Protocols&^(HTTP|SOCKS5) != 0 {
		errs = append(errs, fmt.Errorf("protocols %#b has none, or an unknown one: use HTTP, SOCKS5 or both", p.Protocols))
	}
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

// contains reports whether a prefix contains addr. Zones are ignored, and IPv4-mapped IPv6 counts
// as IPv4, in addresses and prefixes.
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
