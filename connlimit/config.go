package connlimit

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The defaults of a Config.
const (
	// DefaultIPv6Prefix is what one subscriber usually gets: a host with one address of a /64 can use
	// all of them.
	DefaultIPv6Prefix     = 64
	DefaultRetryAfter     = time.Second
	DefaultMaxWaiting     = 1024
	DefaultMaxAnswers     = 128
	DefaultAnswerTimeout  = 5 * time.Second
	DefaultClusterTimeout = 5 * time.Second
)

// Limit is how many there may be at once. The zero Limit is no cap at all; a limit of 0, which
// blocks, is AtMost(0).
type Limit struct {
	capped bool
	n      int
}

// AtMost is a limit of n, from 0 to 2³¹−1. AtMost(0) blocks.
func AtMost(n int) Limit { return Limit{capped: true, n: n} }

// Cap returns the limit's number, and false where there is no cap.
func (l Limit) Cap() (n int, capped bool) { return l.n, l.capped }

// String returns the number, or "no cap".
func (l Limit) String() string {
	if !l.capped {
		return "no cap"
	}
	return strconv.Itoa(l.n)
}

func (l Limit) reached(n int) bool { return l.capped && n >= l.n }

// Network gives a network its own limits.
type Network struct {
	Prefix netip.Prefix
	// PerClient holds for each client in the network, in place of Limits.PerClient. The zero Limit
	// means that its clients have no cap of their own.
	PerClient Limit
	// Total holds for all clients of the network together.
	Total Limit
}

// Limits are the caps on one kind of thing: connections, or requests.
type Limits struct {
	// Total holds for all clients together.
	Total Limit
	// PerClient holds for each client: an IPv4 address or an IPv6 prefix, see Config.IPv6Prefix.
	// Connections without an IP address, such as those of a Unix socket, are under Total alone.
	PerClient Limit
	// Networks have limits of their own. The longest that contains an address governs it, alone. A
	// network that is smaller than a client (a /128, say, where clients are /64s) is a client, or
	// several, of its own.
	Networks []Network
	// Wait is how long what is over a limit waits for its turn before it is refused: first come,
	// first served, where the limit that is in the way allows. 0 refuses at once, and so does a limit
	// of 0, which no waiting helps. Of connections, only those of a Listener wait.
	Wait time.Duration
	// MaxWaiting is how many wait at once; more are refused. Each costs a goroutine. Default
	// DefaultMaxWaiting.
	MaxWaiting int
}

// Config is what a Limiter enforces. Its zero value counts, and limits nothing.
type Config struct {
	// Connections are the limits of Accept, Admit, Listener, ConnState and Guard.
	Connections Limits
	// Requests are the limits of Handler: requests at once, of whatever protocol.
	Requests Limits

	// IPv4Prefix and IPv6Prefix are how many bits of an address make a client. Default 32, and
	// DefaultIPv6Prefix. Link-local addresses are always taken whole, with their zone: the hosts of
	// a link share their prefix.
	IPv4Prefix, IPv6Prefix int

	// TrustedProxies are the proxies whose ForwardedHeader Handler believes. It believes no more than
	// the last address that is not one of them. The proxies' own connections carry requests of many
	// clients, so Connections.PerClient does not hold for them; a Network does. Nor do limits of scope
	// client in Cluster hold for the proxies' connections.
	TrustedProxies []netip.Prefix
	// TrustUnix makes a peer without an IP address, such as one on a Unix socket, a trusted proxy. Set
	// it only if nobody else can reach the socket: any peer on it may then say who its client is. By
	// default all such requests are of one client, which is under Requests.Total alone.
	TrustUnix bool
	// ForwardedHeader is the header that the proxies set: X-Forwarded-For (the default), Forwarded
	// (RFC 7239), or any other that holds addresses. It is one alone, because a proxy that sets one
	// passes on what a client has written into another.
	ForwardedHeader string

	// Status answers a refused request. Default 429 where the client or its network is over a limit,
	// and 503 where the server is.
	Status int
	// RetryAfter is the Retry-After of a refusal, rounded up to seconds. Default DefaultRetryAfter,
	// and none if the limit is 0, because waiting does not help there. If set, every refusal has it.
	RetryAfter time.Duration
	// ErrorHandler answers a refused request in place of the default, which is one line of text.
	// errors.As finds an *Error in err where a limit refused.
	ErrorHandler func(w http.ResponseWriter, r *http.Request, err error)

	// Answer, if set, writes to a connection that a Listener refuses, before the Listener closes it;
	// AnswerHTTP is one. It has a goroutine of its own, and AnswerTimeout. Guard needs none, and is
	// the one for an http.Server with TLS: see Listener.
	Answer func(conn net.Conn, err error)
	// MaxAnswers is how many refused connections may be open at once, beyond the limits, only to be
	// answered; more are closed at once. It holds for Answer and for Guard, each for itself. Default
	// DefaultMaxAnswers.
	MaxAnswers int
	// AnswerTimeout is how long a refused connection may stay open for its answer. Default
	// DefaultAnswerTimeout.
	AnswerTimeout time.Duration

	// Cluster, if set, holds a slot in it for each connection that is within the limits above, before
	// it is served; but ConnState can't keep a server from serving a connection until the cluster has
	// refused it.
	//
	// A client of the cluster's limits is what counts as one here: the cluster gets the first address
	// of its prefix. So a limit there on a network that is smaller than IPv4Prefix or IPv6Prefix does
	// not find its clients, unless Networks has that network, too.
	Cluster Cluster
	// ClusterKey is the name under which slots of scope key are held, of 1 to 255 printable
	// characters; "" for none.
	ClusterKey string
	// ClusterRequests holds slots for the requests of Handler, not for connections.
	ClusterRequests bool
	// ClusterTimeout is how long the cluster may take, its queue included: whoever waits in the queue
	// of a limit for so long is over the limit. Default DefaultClusterTimeout.
	ClusterTimeout time.Duration
	// ClusterOptional admits while the cluster can't answer, also where it says nothing within
	// ClusterTimeout: the limits above still hold, those of the cluster may be exceeded. By default
	// such connections are refused. What is over a limit is refused either way.
	ClusterOptional bool
}

// Validate returns an error that names each problem and its remedy, or nil.
func (c *Config) Validate() error {
	var problems []error
	report := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	c.Connections.validate("Connections", report)
	c.Requests.validate("Requests", report)
	if c.IPv4Prefix < 0 || c.IPv4Prefix > 32 {
		report("IPv4Prefix is %d: use 1 to 32, or 0 for 32", c.IPv4Prefix)
	}
	if c.IPv6Prefix < 0 || c.IPv6Prefix > 128 {
		report("IPv6Prefix is %d: use 1 to 128, or 0 for %d", c.IPv6Prefix, DefaultIPv6Prefix)
	}
	for i, p := range c.TrustedProxies {
		if why := badPrefix(p); why != "" {
			report("TrustedProxies[%d] %s", i, why)
		}
	}
	if !isToken(c.ForwardedHeader) {
		report("ForwardedHeader is %q, which no header is called: use X-Forwarded-For, say", c.ForwardedHeader)
	}
	if c.Status != 0 && (c.Status < 400 || c.Status > 599) {
		report("Status is %d: a refusal needs one from 400 to 599; 0 is 429 or 503", c.Status)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"RetryAfter", c.RetryAfter}, {"AnswerTimeout", c.AnswerTimeout}, {"ClusterTimeout", c.ClusterTimeout}} {
		if d.value < 0 {
			report("%s is %v: use a positive duration, or 0 for the default", d.name, d.value)
		}
	}
	if c.MaxAnswers < 0 {
		report("MaxAnswers is %d: use a positive number, or 0 for %d", c.MaxAnswers, DefaultMaxAnswers)
	}
	if c.Cluster == nil && (c.ClusterKey != "" || c.ClusterRequests || c.ClusterOptional) {
		report("ClusterKey, ClusterRequests or ClusterOptional is set without Cluster: set Cluster, or none of them")
	}
	if why := badKey(c.ClusterKey); why != "" {
		report("ClusterKey %s: use 1 to %d printable characters, or none", why, maxKey)
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("connlimit: invalid Config: %w", errors.Join(problems...))
}

func (l *Limits) validate(name string, report func(string, ...any)) {
	check := func(field string, limit Limit) {
		if limit.capped && (limit.n < 0 || limit.n > math.MaxInt32) {
			report("%s.%s is AtMost(%d): use 0, which blocks, to %d; leave it out for no cap", name, field, limit.n, math.MaxInt32)
		}
	}
	check("Total", l.Total)
	check("PerClient", l.PerClient)
	seen := map[netip.Prefix]bool{}
	for i, n := range l.Networks {
		field := fmt.Sprintf("Networks[%d]", i)
		if why := badPrefix(n.Prefix); why != "" {
			report("%s.%s.Prefix %s", name, field, why)
		} else if seen[n.Prefix] {
			report("%s.%s: %v is there twice: keep one", name, field, n.Prefix)
		}
		seen[n.Prefix] = true
		check(field+".PerClient", n.PerClient)
		check(field+".Total", n.Total)
	}
	if l.Wait < 0 {
		report("%s.Wait is %v: use a positive duration, or 0 to refuse at once", name, l.Wait)
	}
	if l.MaxWaiting < 0 {
		report("%s.MaxWaiting is %d: use a positive number, or 0 for %d", name, l.MaxWaiting, DefaultMaxWaiting)
	}
}

// isToken reports whether a header can have this name (RFC 9110, section 5.6.2), or name is "".
func isToken(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// maxKey bounds a ClusterKey, in characters.
const maxKey = 255

// badKey says what is wrong with a ClusterKey, if anything: what the cluster would refuse for every
// connection, which ClusterOptional takes for a cluster that can't answer.
func badKey(key string) string {
	for _, r := range key {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r == 0x2028 || r == 0x2029 {
			return fmt.Sprintf("is %.40q, with a character that can't be printed", key)
		}
	}
	if n := utf8.RuneCountInString(key); n > maxKey {
		return fmt.Sprintf("has %d characters", n)
	}
	return ""
}

// badPrefix says what is wrong with p, if anything.
func badPrefix(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "is not a network: use netip.MustParsePrefix(\"192.0.2.0/24\"), say"
	case p.Addr().Is4In6():
		return fmt.Sprintf("is %v: write it as IPv4; clients that connect over IPv6 sockets are counted as IPv4 too", p)
	case p != p.Masked():
		return fmt.Sprintf("is %v, which has bits beyond its length: write %v", p, p.Masked())
	}
	return ""
}

// withDefaults returns a copy of c that shares no slice with it and has the defaults put in.
func (c Config) withDefaults() Config {
	orElse(&c.IPv4Prefix, 32)
	orElse(&c.IPv6Prefix, DefaultIPv6Prefix)
	orElse(&c.Connections.MaxWaiting, DefaultMaxWaiting)
	orElse(&c.Requests.MaxWaiting, DefaultMaxWaiting)
	orElse(&c.ForwardedHeader, "X-Forwarded-For")
	orElse(&c.MaxAnswers, DefaultMaxAnswers)
	orElse(&c.AnswerTimeout, DefaultAnswerTimeout)
	orElse(&c.ClusterTimeout, DefaultClusterTimeout)
	c.ForwardedHeader = http.CanonicalHeaderKey(c.ForwardedHeader)
	c.Connections.Networks = slices.Clone(c.Connections.Networks)
	c.Requests.Networks = slices.Clone(c.Requests.Networks)
	c.TrustedProxies = slices.Clone(c.TrustedProxies)
	return c
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
