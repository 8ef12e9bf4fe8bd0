package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/weirproxy/weir/limit"
)

// The bounds of what can be meant. Those of limits are the limit package's.
const (
	minTTL         = time.Second
	maxTTL         = 5 * time.Minute
	minTimeout     = time.Millisecond
	maxTimeout     = 24 * time.Hour
	maxIdle        = 365 * 24 * time.Hour
	maxExpect      = 99
	maxGossipKeys  = 8
	maxMetricHosts = 10_000
	maxListen      = 64
)

// The ports of an address that is written without one.
const (
	portProxy  = 8080
	portAPI    = 8081
	portRPC    = 8082
	portGossip = 8083
)

// Field is one attribute of the reference.
type Field struct {
	Path    string // "proxy.listen"; "limits.host.connections" stands in a host block of the limits block
	Type    string // what values it takes
	Default string // as it would be written, or a description
	Doc     string // one sentence or two, without Markdown
	Reload  bool   // whether a reload applies it; otherwise it needs a restart
}

// Reference lists every attribute, in the order of the documentation.
func Reference() []Field {
	var out []Field
	defaults := Default(false)
	for _, f := range configFields() {
		out = append(out, f.reference(defaults))
	}
	noLimit := newDraft(limit.Pattern{}, Position{})
	for _, f := range limitFields() {
		out = append(out, f.reference(&noLimit))
	}
	return out
}

// field is an attribute that sets something in a T.
type field[T any] struct {
	Field
	parse func(value, *T) []fault
	same  func(a, b *T) bool
	text  func(*T) string
}

func (f field[T]) reference(defaults *T) Field {
	r := f.Field
	if r.Default == "" {
		r.Default = f.text(defaults)
	}
	return r
}

// attr ties a path to the place of its value.
func attr[T, V any](path string, typ valueType[V], at func(*T) *V, doc string) field[T] {
	return field[T]{
		Field: Field{Path: path, Type: typ.name, Doc: doc},
		parse: func(v value, t *T) []fault {
			x, faults := typ.parse(v)
			if len(faults) == 0 {
				*at(t) = x
			}
			return faults
		},
		same: func(a, b *T) bool { return reflect.DeepEqual(*at(a), *at(b)) },
		text: func(t *T) string { return render(*at(t)) },
	}
}

// live marks a field that a reload applies.
func (f field[T]) live() field[T] {
	f.Reload = true
	return f
}

// byDefault describes a default that is not one fixed value.
func (f field[T]) byDefault(s string) field[T] {
	f.Default = s
	return f
}

// shownBy sets how a value is written, where render would do it in another way.
func (f field[T]) shownBy(text func(*T) string) field[T] {
	f.text = text
	return f
}

// render writes a value as the file would have it.
func render(v any) string {
	switch v := v.(type) {
	case time.Duration:
		return fmt.Sprintf("%q", FormatDuration(v))
	case []string:
		return "[" + renderAll(v) + "]"
	case []Secret:
		return "[" + renderAll(v) + "]"
	case []Protocol:
		return "[" + renderAll(v) + "]"
	case []netip.Prefix:
		return "[" + renderAll(v) + "]"
	case int, int64, bool:
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("%q", fmt.Sprint(v))
}

func renderAll[V any](vs []V) string {
	texts := make([]string, len(vs))
	for i, v := range vs {
		texts[i] = fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return strings.Join(texts, ", ")
}

// configFields is the file's shape: every attribute outside limits.
func configFields() []field[Config] {
	return append(append(nodeFields(), clusterFields()...), append(proxyFields(), apiFields()...)...)
}

func nodeFields() []field[Config] {
	return []field[Config]{
		attr("name", nodeName(), func(c *Config) *string { return &c.Name },
			"The node's name, unique in the cluster.").byDefault("the machine's host name"),
		attr("data_dir", text(), func(c *Config) *string { return &c.DataDir },
			"Directory of the Raft log, snapshots and the node's identity; locked while the node runs. A server needs one, unless it runs with --dev. A proxy node without one must wait, when it restarts, until its former session has expired."),
		attr("role", choice(RoleServer, RoleProxy), func(c *Config) *Role { return &c.Role },
			"A server holds Raft state and votes; a proxy node holds none and leases from the servers."),

		attr("log.level", choice("trace", "debug", "info", "warn", "error"), func(c *Config) *string { return &c.Log.Level },
			"The least severe level that is logged.").live(),
		attr("log.format", choice("text", "json"), func(c *Config) *string { return &c.Log.Format },
			"text for people, json for programs."),
	}
}

func clusterFields() []field[Config] {
	return []field[Config]{
		attr("cluster.rpc", listenAddress(portRPC), func(c *Config) *string { return &c.Cluster.RPC },
			"TCP address for Raft and leases. Port 0 picks a free one."),
		attr("cluster.gossip", listenAddress(portGossip), func(c *Config) *string { return &c.Cluster.Gossip },
			"TCP and UDP address for gossip. Port 0 picks a free one."),
		attr("cluster.advertise_rpc", dialAddress(portRPC), func(c *Config) *string { return &c.Cluster.AdvertiseRPC },
			"What other nodes dial for rpc, if it differs; the port may be left out."),
		attr("cluster.advertise_gossip", dialAddress(portGossip), func(c *Config) *string { return &c.Cluster.AdvertiseGossip },
			"What other nodes dial for gossip, if it differs; the port may be left out."),
		attr("cluster.join", listOf(joinAddress(portGossip)), func(c *Config) *[]string { return &c.Cluster.Join },
			"Gossip addresses or names of other nodes, retried for ever. The default port is 8083. A node may list itself."),
		attr("cluster.bootstrap_expect", integer(1, maxExpect), func(c *Config) *int { return &c.Cluster.BootstrapExpect },
			"The number of servers to wait for before the first election; the same on all of them. Without it, a server with a join list never starts a cluster: it waits to be added to one.").
			byDefault("1 if join is empty, else none"),
		attr("cluster.gossip_key", key(), func(c *Config) *Secret { return &c.Cluster.GossipKey },
			"Encrypts gossip; the same on all nodes. weir keygen makes one. A reload can change the key, but not add or remove it.").live().byDefault(`""`),
		attr("cluster.gossip_accept_keys", listOf(key()), func(c *Config) *[]Secret { return &c.Cluster.GossipAcceptKeys },
			"Further keys for reading gossip, while gossip_key is being changed on one node after the other.").live().byDefault(`[]`),
		attr("cluster.plaintext", choice(PlainRefuse, PlainAccept, PlainSend), func(c *Config) *Plaintext { return &c.Cluster.Plaintext },
			"What to do with unencrypted traffic between nodes if tls or gossip_key is set: refuse it, accept it from others, or send it too. The last two are for moving a running cluster to encryption."),
		attr("cluster.tls.ca_file", text(), func(c *Config) *string { return &c.Cluster.TLS.CAFile },
			"The CA (PEM) that signs every node's certificate, for mutual TLS on the rpc port. It may hold several while one replaces the other. All three files are read again when they change."),
		attr("cluster.tls.cert_file", text(), func(c *Config) *string { return &c.Cluster.TLS.CertFile },
			"The node's certificate (PEM), with the DNS names node.weir and NAME.node.weir. weir tls cert NAME makes one."),
		attr("cluster.tls.key_file", text(), func(c *Config) *string { return &c.Cluster.TLS.KeyFile },
			"The private key (PEM) of cert_file."),

		attr("lease.ttl", duration(minTTL, maxTTL), func(c *Config) *time.Duration { return &c.Lease.TTL },
			"How long a silent node keeps its slots. One value for the cluster, replicated at its first start."),
		attr("lease.on_expiry", choice(OnExpiryClose, OnExpiryDrain, OnExpiryKeep), func(c *Config) *OnExpiry { return &c.Lease.OnExpiry },
			"What happens to limited connections when the node's session ends: close resets them, so the cap holds; drain only admits no new ones; keep goes on with the slots, tokens and bandwidth that the node held, although others may get them, and refuses where it held none."),
	}
}

func proxyFields() []field[Config] {
	return []field[Config]{
		attr("proxy.listen", oneOrMore(listenAddress(portProxy), maxListen), func(c *Config) *[]string { return &c.Proxy.Listen },
			"TCP address for workers, or a list of them. Beyond loopback, allow_clients (or users_file) must be set. Where only one can be shown, as in weir status, it is the first.").
			shownBy(func(c *Config) string { return renderOneOrMore(c.Proxy.Listen) }),
		attr("proxy.protocols", setOf(ProtocolHTTP, ProtocolSOCKS5), func(c *Config) *[]Protocol { return &c.Proxy.Protocols },
			"The protocols that workers may speak, on every address of listen; a connection's first byte tells them apart. The log names clients that speak another one.").live(),
		attr("proxy.socks5_names_only", boolean(), func(c *Config) *bool { return &c.Proxy.SOCKS5NamesOnly },
			"Refuses SOCKS5 requests for addresses. Clients that resolve names themselves (socks5:// in place of socks5h://) ask for addresses, so limits on names don't hold for them.").live(),
		attr("proxy.reject_status", integer(400, 599), func(c *Config) *int { return &c.Proxy.RejectStatus },
			"HTTP status of a request over a limit. 429 and 500 are common choices.").live(),
		attr("proxy.dial_timeout", duration(minTimeout, maxTimeout), func(c *Config) *time.Duration { return &c.Proxy.DialTimeout },
			"How long connecting to the upstream may take, once there is a slot. Resolving the name before that may take as long too.").live(),
		attr("proxy.dns_ttl_max", duration(0, maxTimeout), func(c *Config) *time.Duration { return &c.Proxy.DNSTTLMax },
			"The longest that a name server's answer is used, whatever its TTL. Raising it saves queries, but after a name has moved the old address is used for longer. 0s remembers nothing.").live(),
		attr("proxy.header_timeout", duration(minTimeout, maxTimeout), func(c *Config) *time.Duration { return &c.Proxy.HeaderTimeout },
			"How long a request head may take to arrive completely.").live(),
		attr("proxy.tunnel_idle_timeout", duration(0, maxIdle), func(c *Config) *time.Duration { return &c.Proxy.TunnelIdleTimeout },
			"A tunnel that has carried no byte for this long is reset; 0s: never.").live(),
		attr("proxy.half_close_timeout", duration(minTimeout, maxTimeout), func(c *Config) *time.Duration { return &c.Proxy.HalfCloseTimeout },
			"A tunnel that has carried no byte for this long after either side's FIN is reset.").live(),
		attr("proxy.response_timeout", duration(0, maxIdle), func(c *Config) *time.Duration { return &c.Proxy.ResponseTimeout },
			"A plain request is given up if for this long neither side has sent or accepted a byte: with 504 if no answer has begun, else both sides are reset. 0s: never.").live(),
		attr("proxy.drain_timeout", duration(0, maxTimeout), func(c *Config) *time.Duration { return &c.Proxy.DrainTimeout },
			"How long a stopping node waits for connections to end; 0s resets them at once.").live(),
		attr("proxy.allow_clients", listOf(network()), func(c *Config) *[]netip.Prefix { return &c.Proxy.AllowClients },
			"Networks that clients may come from.").live(),
		attr("proxy.users_file", text(), func(c *Config) *string { return &c.Proxy.UsersFile },
			"An htpasswd file with bcrypt; turns on Basic authentication. If allow_clients is not set, clients may then come from anywhere. The file is read again when it changes.").live(),
		attr("proxy.proxy_protocol_from", listOf(network()), func(c *Config) *[]netip.Prefix { return &c.Proxy.ProxyProtocolFrom },
			"Networks of load balancers that send their clients' addresses: connections from them must begin with a PROXY protocol header (version 1 or 2), others must not.").live(),
		attr("proxy.deny_destinations", listOf(network()), func(c *Config) *[]netip.Prefix { return &c.Proxy.DenyDestinations },
			"Networks that are never connected to, checked on the resolved address.").live(),
		attr("proxy.allow_destinations", listOf(network()), func(c *Config) *[]netip.Prefix { return &c.Proxy.AllowDestinations },
			"If not empty, the only networks that are connected to; deny_destinations wins.").live(),
		attr("proxy.share_kept_connections", boolean(), func(c *Config) *bool { return &c.Proxy.ShareKeptConnections },
			"Whether an upstream connection that is kept for reuse serves plain requests of all clients. If false, it serves only the same user from the same address, which costs connections at the upstream.").live(),
		attr("proxy.allow_cluster_destinations", boolean(), func(c *Config) *bool { return &c.Proxy.AllowClusterDestinations },
			"Whether clients may connect through the proxy to the nodes' APIs and to their rpc and gossip ports. These ports still do not take a client for a node, and the proxies' own ports stay out of reach.").live(),
		attr("proxy.access_log", text(), func(c *Config) *string { return &c.Proxy.AccessLog },
			"Where the line of each finished tunnel and request goes: log (the node's log, at level info), off, or the path of a separate file, which log.level does not affect. A reload (SIGHUP) opens the file again, so that it can be rotated.").live(),
		attr("proxy.tls.cert_file", text(), func(c *Config) *string { return &c.Proxy.TLS.CertFile },
			"The certificate (PEM) that the proxy shows workers, on every address of listen."),
		attr("proxy.tls.key_file", text(), func(c *Config) *string { return &c.Proxy.TLS.KeyFile },
			"The private key (PEM) of cert_file."),
	}
}

func apiFields() []field[Config] {
	return []field[Config]{
		attr("api.listen", listenAddress(portAPI), func(c *Config) *string { return &c.API.Listen },
			"TCP address of the API and its page. Beyond loopback, token_file must be set."),
		attr("api.hosts", listOf(dnsName()), func(c *Config) *[]string { return &c.API.Hosts },
			"Names that a request's Host may have, besides localhost, the node's name and address literals."),
		attr("api.token_file", text(), func(c *Config) *string { return &c.API.TokenFile },
			"File with the bearer token; a final newline is trimmed.").live(),
		attr("api.read_token_file", text(), func(c *Config) *string { return &c.API.ReadTokenFile },
			"File with a second token that can only read.").live(),
		attr("api.metrics_hosts", integer(0, maxMetricHosts), func(c *Config) *int { return &c.API.MetricsHosts },
			"How many hosts, and names in each other scope, /metrics shows: first those with a limit, then the busiest. All others are added up as other.").live(),
		attr("api.tls.cert_file", text(), func(c *Config) *string { return &c.API.TLS.CertFile },
			"The certificate (PEM) that the API shows. It and key_file are read again when they change."),
		attr("api.tls.key_file", text(), func(c *Config) *string { return &c.API.TLS.KeyFile },
			"The private key (PEM) of cert_file."),
	}
}
