package config

import (
	"net/netip"
	"os"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Role says what a node is to the cluster.
type Role string

// The roles. A server holds Raft state and votes; a proxy holds none and leases from the servers.
const (
	RoleServer Role = "server"
	RoleProxy  Role = "proxy"
)

// OnExpiry says how a node treats limited connections when its session with the cluster ends.
type OnExpiry string

// The choices. Only OnExpiryClose keeps the cap in every failure.
const (
	OnExpiryClose OnExpiry = "close" // reset them: the cap holds, connections are lost in a partition
	OnExpiryDrain OnExpiry = "drain" // let them end, admit no new ones: the cap may be passed by those still open
	// OnExpiryKeep lets them go on, and admits new ones with the slots, tokens and bandwidth that the
	// node held: availability first. The cluster gives the same to other nodes once the session is
	// closed, so the cap does not hold meanwhile. Where the node holds none it refuses, with no
	// lease; a node that was started without the cluster holds nothing.
	OnExpiryKeep OnExpiry = "keep"
)

// Plaintext says how unencrypted traffic between nodes is treated, if this node could encrypt.
type Plaintext string

// The choices. All but PlainRefuse are for moving a running cluster to encryption.
const (
	PlainRefuse Plaintext = "refuse" // refuse it
	PlainAccept Plaintext = "accept" // send encrypted, accept unencrypted
	PlainSend   Plaintext = "send"   // send unencrypted, accept both
)

// Protocol is one that workers may speak on the proxy's port.
type Protocol string

// The protocols.
const (
	ProtocolHTTP   Protocol = "http"
	ProtocolSOCKS5 Protocol = "socks5"
)

// Config is one node's configuration: resolved, checked, and with every default filled in. It must
// not change once it is in use; a reload makes a new one.
type Config struct {
	// Name is the node's name, unique in the cluster: 1 to 63 of A-Z a-z 0-9 . _ -
	Name string
	// DataDir holds the Raft log, snapshots and the node's identity. Empty keeps everything in
	// memory: right for a proxy (which after a restart waits until its former session has expired)
	// and for Dev, refused for a server.
	DataDir string
	// Role is the node's role in the cluster. Servers vote, and every write waits for a majority of
	// them: run three or five.
	Role Role
	// Dev is a single node that keeps everything in memory; DataDir is then always empty.
	Dev bool

	Log     Log
	Cluster Cluster
	Lease   Lease
	Proxy   Proxy
	API     API

	// Limits are the cluster-wide limits in this node's files, sorted by scope and pattern.
	Limits []Limit

	// Origins holds the position of each attribute in the files, by its path ("proxy.listen"), and
	// of each block's first opening ("proxy.tls"). Attributes with their default are not in it, nor
	// those of a running node whose new value in the files waits for a restart.
	Origins map[string]Position
}

// Log configures the node's log.
type Log struct {
	// Level is the lowest level that is written: trace, debug, info, warn, error. Below info, a
	// busy proxy writes several lines for each connection.
	Level string
	// Format is "text" for people or "json" for machines.
	Format string
}

// Cluster configures the connections to other nodes.
type Cluster struct {
	// RPC is the TCP address to listen on for Raft and leases. Port 0 picks a free one.
	RPC string
	// Gossip is the TCP and UDP address to listen on for gossip. Port 0 picks a free one.
	Gossip string
	// AdvertiseRPC and AdvertiseGossip are the addresses that others dial, host:port. Empty means
	// the address listened on.
	AdvertiseRPC    string
	AdvertiseGossip string
	// Join lists gossip addresses, host:port, of other nodes, retried for ever. A node may list
	// itself. With more entries, this node can start while more of the others are down. Names are
	// resolved at each attempt.
	Join []string
	// BootstrapExpect is the number of servers that must meet before the first election, the same
	// on all of them. With 1, a node forms a cluster of its own at once. With 0 (join set,
	// bootstrap_expect absent), the server never forms one, and waits until another server adds it.
	// Set too low, two halves of a new fleet could each form a cluster; too high, none ever forms.
	BootstrapExpect int
	// GossipKey encrypts gossip: 16, 24 or 32 bytes, the same on all nodes. Empty sends gossip
	// unencrypted.
	GossipKey Secret
	// GossipAcceptKeys also decrypt gossip, while GossipKey is changed node by node. Each is tried
	// on every message that the keys before it can't decrypt.
	GossipAcceptKeys []Secret
	// Plaintext says how unencrypted traffic between nodes is treated, if TLS or GossipKey is set.
	Plaintext Plaintext
	// TLS is mutual TLS on the rpc port.
	TLS TLS
}

// Lease is the node's session with the cluster.
type Lease struct {
	// TTL is how long a silent node keeps its slots, 1 s to 5 min. One value for the cluster,
	// replicated at its first start. Raising it rides out longer partitions and leaves a dead
	// node's slots unused for as long; lowering it frees them sooner and fences nodes at shorter
	// interruptions.
	TTL time.Duration
	// OnExpiry says how limited connections are treated at the session's end.
	OnExpiry OnExpiry
}

// Proxy is the listeners for workers.
type Proxy struct {
	// Listen holds the TCP addresses for workers, at least one. With one of them beyond loopback,
	// AllowClients must have been set in the file (or users_file). The first is shown where there is
	// room for one only.
	Listen []string
	// Protocols are those that workers may speak, on all addresses, at least one. A connection's
	// first byte tells them apart.
	Protocols []Protocol
	// SOCKS5NamesOnly refuses SOCKS5 requests for addresses. Clients that resolve names themselves
	// ask for addresses, so limits on names don't hold for them; they then have to change.
	SOCKS5NamesOnly bool
	// RejectStatus answers a request over the limit: 400 to 599. 503 makes most clients retry; 429
	// tells those that know it to slow down.
	RejectStatus int
	// DialTimeout bounds connecting, and before that, on its own, resolving the name. Raising it
	// waits longer for slow upstreams, and holds a slot for as long; no slot is held while the name
	// is resolved.
	DialTimeout time.Duration
	// DNSTTLMax is how long a name server's answer is used at most, whatever its TTL; 0 uses it
	// only for those that wait for it. Raising it spares the name servers queries, and connects to
	// a former address for longer after a name has moved.
	DNSTTLMax time.Duration
	// HeaderTimeout bounds the arrival of a whole request head. Raising it lets slow clients hold a
	// connection longer.
	HeaderTimeout time.Duration
	// TunnelIdleTimeout resets a tunnel in which nothing has moved for so long; 0 never does.
	// Lowering it frees slots that forgotten tunnels hold, and cuts those that are quiet on
	// purpose.
	TunnelIdleTimeout time.Duration
	// HalfCloseTimeout resets a tunnel in which nothing has moved for so long after either side's
	// FIN. Raising it tolerates upstreams that think long after the end of a request; the slot is
	// held meanwhile.
	HalfCloseTimeout time.Duration
	// ResponseTimeout ends a plain exchange in which no byte has come from either side, or been
	// accepted by it, for so long; 0 never does. Lowering it frees slots of dead exchanges sooner,
	// and cuts slow answers.
	ResponseTimeout time.Duration
	// DrainTimeout is how long a stopping node lets connections end by themselves; 0 resets them at
	// once. Keep a service manager's own stop timeout above it.
	DrainTimeout time.Duration
	// AllowClients are the networks that clients may come from. IPv4 networks are never written in
	// their IPv6 form.
	AllowClients []netip.Prefix
	// UsersFile is a htpasswd file (bcrypt) that turns on Basic authentication; empty turns it off.
	// Users is its content.
	UsersFile string
	Users     []User
	// ProxyProtocolFrom lists load balancers that name their clients in a PROXY protocol header.
	// The headers are believed, so the balancers must be under the same control as the node.
	ProxyProtocolFrom []netip.Prefix
	// DenyDestinations are networks never connected to, judged on the resolved address.
	DenyDestinations []netip.Prefix
	// AllowDestinations, where not empty, are the only networks connected to. Deny wins.
	AllowDestinations []netip.Prefix
	// AccessLog is the destination of the line for each finished tunnel and request: AccessLogHere,
	// AccessLogOff, or the path of a file. A file gets them whatever the log's level.
	AccessLog string
	// ShareKeptConnections lets an upstream connection that is kept for reuse serve anybody;
	// otherwise it serves the same user from the same address alone. Turning it off costs
	// connections, and slots, at the upstream.
	ShareKeptConnections bool
	// AllowClusterDestinations lets clients connect to the nodes' APIs, rpc and gossip ports
	// through the proxy, but not to proxies.
	AllowClusterDestinations bool
	// TLS makes the listeners speak TLS to workers.
	TLS TLS
}

// Values of AccessLog other than a file.
const (
	AccessLogHere = "log" // among the node's own lines, at level info
	AccessLogOff  = "off"
)

// API is the listener for operators.
type API struct {
	// Listen is the TCP address of the API and its page. Beyond loopback, a token is required.
	Listen string
	// Hosts are names that a request's Host may carry beyond localhost, the node's name and
	// addresses: lower case, without port. Each is a name that a hostile page could bind to this
	// address.
	Hosts []string
	// TokenFile names the file with the bearer token; Token is its content.
	TokenFile string
	Token     Secret
	// ReadTokenFile names the file with a second token that can only read; ReadToken is its
	// content.
	ReadTokenFile string
	ReadToken     Secret
	// MetricsHosts is the number of hosts that /metrics names, 0 to 10,000; all others share one
	// name. Each name is six time series per node: with a hundred names, a fleet of a hundred nodes
	// has 60,000.
	MetricsHosts int
	// TLS makes the listener speak TLS.
	TLS TLS
}

// TLS names the PEM files of one listener. The zero TLS is none.
type TLS struct {
	CAFile   string // the CA that signs the peers' certificates; only for Cluster
	CertFile string
	KeyFile  string
}

// Enabled reports whether the files have a tls block.
func (t TLS) Enabled() bool { return t != TLS{} }

// Limit is one block of a limits block. Its Source is always the config, and it has no index yet.
type Limit struct {
	limit.Limit
	// At is the position of the pattern, or of the block if its scope has none.
	At Position
}

// ClusterLimits are the limits without the places where they are written.
func (c *Config) ClusterLimits() []limit.Limit {
	all := make([]limit.Limit, len(c.Limits))
	for i := range c.Limits {
		all[i] = c.Limits[i].Limit
	}
	return all
}

// Default returns the config of a node whose files set nothing. Its name is the machine's host name
// if that is valid as one, else "". With dev it is the whole config of `weir agent --dev`, which
// always has a name.
func Default(dev bool) *Config {
	name := hostName()
	if name == "" && dev {
		name = "dev"
	}
	return &Config{
		Name: name,
		Role: RoleServer,
		Dev:  dev,
		Log:  Log{Level: "info", Format: "text"},
		Cluster: Cluster{
			RPC:             "127.0.0.1:8082",
			Gossip:          "127.0.0.1:8083",
			BootstrapExpect: 1,
			Plaintext:       PlainRefuse,
		},
		Lease: Lease{TTL: 10 * time.Second, OnExpiry: OnExpiryClose},
		Proxy: Proxy{
			Listen:               []string{"127.0.0.1:8080"},
			Protocols:            []Protocol{ProtocolHTTP, ProtocolSOCKS5},
			RejectStatus:         503,
			DialTimeout:          10 * time.Second,
			DNSTTLMax:            60 * time.Second,
			HeaderTimeout:        10 * time.Second,
			HalfCloseTimeout:     10 * time.Second,
			ResponseTimeout:      15 * time.Minute,
			ShareKeptConnections: true,
			DrainTimeout:         30 * time.Second,
			AccessLog:            AccessLogHere,
			AllowClients:         []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
			DenyDestinations: []netip.Prefix{
				netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), // link-local
				netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"), // metadata of AWS and Google Cloud
			},
		},
		API:     API{Listen: "127.0.0.1:8081", MetricsHosts: 100},
		Origins: map[string]Position{},
	}
}

// hostName returns the machine's name if it is valid as a node's, else "".
func hostName() string {
	name, err := os.Hostname()
	if err != nil || !UsableName(name) {
		return ""
	}
	return name
}

// Secret is a key or token. It prints as "(hidden)" whatever the verb, so that it can't slip into a
// log.
type Secret string
