package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirproxy/weir/config/certs"
)

const maxTokenBytes = 4096

// resolve fills in settings that follow from others.
func (l *loader) resolve() {
	c := l.cfg
	if c.Dev {
		c.DataDir = ""
	}
	if len(c.Cluster.Join) > 0 && !l.isSet("cluster.bootstrap_expect") {
		c.Cluster.BootstrapExpect = 0
	}
	if c.Proxy.UsersFile != "" && !l.isSet("proxy.allow_clients") {
		c.Proxy.AllowClients = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	c.Cluster.AdvertiseRPC = withPort(c.Cluster.AdvertiseRPC, portOf(c.Cluster.RPC))
	c.Cluster.AdvertiseGossip = withPort(c.Cluster.AdvertiseGossip, portOf(c.Cluster.Gossip))
	c.Proxy.Users = l.users("proxy.users_file", c.Proxy.UsersFile)
	c.API.Token = l.token("api.token_file", c.API.TokenFile)
	c.API.ReadToken = l.token("api.read_token_file", c.API.ReadTokenFile)
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

func (l *loader) isSet(path string) bool {
	_, ok := l.cfg.Origins[path]
	return ok
}

// at returns the place to report a problem with path: its attribute, or else its block, or else the
// first file's start.
func (l *loader) at(path string) Position {
	for p := path; p != ""; p = parent(p) {
		if at, ok := l.cfg.Origins[p]; ok {
			return at
		}
	}
	if len(l.order) > 0 {
		return l.fileStart(l.order[0])
	}
	return Position{}
}

// check checks rules that concern several attributes.
func (l *loader) check() {
	l.checkNode()
	l.checkExposure()
	l.checkGossip()
	l.checkAddresses()
	l.checkAdvertised("cluster.advertise_rpc", l.cfg.Cluster.AdvertiseRPC)
	l.checkAdvertised("cluster.advertise_gossip", l.cfg.Cluster.AdvertiseGossip)
	l.checkTLS("cluster.tls", l.cfg.Cluster.TLS, true)
	l.checkTLS("proxy.tls", l.cfg.Proxy.TLS, false)
	l.checkTLS("api.tls", l.cfg.API.TLS, false)
	l.checkProtocols()
	l.checkBalancers()
	l.checkAccessLog()
}

// checkProtocols refuses a proxy that speaks nothing, and a protocol that stands twice.
func (l *loader) checkProtocols() {
	const path = "proxy.protocols"
	all := l.cfg.Proxy.Protocols
	if l.faulty[path] {
		return
	}
	if len(all) == 0 {
		l.add(l.at(path), path+" is empty: nobody could use the proxy", `Write "http", "socks5" or both, or remove the line.`)
	}
	for i, p := range all {
		if slices.Contains(all[:i], p) {
			l.add(l.at(path), fmt.Sprintf("%s holds %q twice", path, string(p)), "Remove one of them.")
		}
	}
}

// checkAccessLog refuses a file that can't be created.
func (l *loader) checkAccessLog() {
	path := l.cfg.Proxy.AccessLog
	if path == AccessLogHere || path == AccessLogOff || l.faulty["proxy.access_log"] {
		return
	}
	const hint = `Write "log", "off", or the path of a file in a directory that exists.`
	switch info, err := os.Stat(path); {
	case path == "":
		l.add(l.at("proxy.access_log"), "proxy.access_log is empty", hint)
	case err == nil && info.IsDir():
		l.add(l.at("proxy.access_log"), fmt.Sprintf("proxy.access_log is a directory: %s", path), hint)
	case err != nil:
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			l.add(l.at("proxy.access_log"), fmt.Sprintf("proxy.access_log is in a directory that does not exist: %s", path), hint)
		}
	}
}

func (l *loader) checkNode() {
	c := l.cfg
	if c.Name == "" && !l.faulty["name"] {
		l.add(l.at("name"), "name is not set, and the machine's host name can't be a node's", `Write name = "a".`)
	}
	if c.Role == RoleServer && c.DataDir == "" && !c.Dev && !l.faulty["data_dir"] && !l.faulty["role"] {
		l.add(l.at("data_dir"), "a server needs data_dir, for its Raft log and identity", `Write data_dir = "/var/lib/weir".`)
	}
	if c.API.Token != "" && c.API.Token == c.API.ReadToken {
		l.add(l.at("api.read_token_file"), "api.read_token_file holds the same token as api.token_file", "Put another token into it: with this one, anyone who may read may also write.")
	}
}

// checkExposure refuses listeners that would be open to the world by accident.
func (l *loader) checkExposure() {
	c := l.cfg
	if !loopback(c.API.Listen) && c.API.TokenFile == "" && c.API.Token == "" && !l.faulty["api.listen"] && !l.faulty["api.token_file"] {
		l.add(l.at("api.listen"), fmt.Sprintf("api.listen is %s, which other machines can reach, and there is no token", c.API.Listen),
			`Write token_file = "…" in api { } (weir keygen > FILE makes one), or listen on 127.0.0.1.`)
	}
	open := slices.IndexFunc(c.Proxy.Listen, func(address string) bool { return !loopback(address) })
	if open >= 0 && !l.faulty["proxy.listen"] && c.Proxy.UsersFile == "" && len(c.Proxy.Users) == 0 && !l.isSet("proxy.allow_clients") {
		l.add(l.at("proxy.listen"), fmt.Sprintf("proxy.listen is %s, which other machines can reach, and allow_clients is not set", c.Proxy.Listen[open]),
			`Write allow_clients = ["10.0.0.0/8"] in proxy { }, with the networks of your workers, or listen on 127.0.0.1.`)
	}
	if l.isSet("proxy.allow_clients") && len(c.Proxy.AllowClients) == 0 && !l.faulty["proxy.allow_clients"] {
		l.add(l.at("proxy.allow_clients"), "proxy.allow_clients is empty: nobody could use the proxy",
			`Write the networks of your workers, as in ["10.0.0.0/8"], or remove the line.`)
	}
}

// listener is one address to listen on, and the attribute that names it.
type listener struct{ path, address string }

// checkAddresses refuses two listeners on one TCP port.
func (l *loader) checkAddresses() {
	c := l.cfg
	var listeners []listener
	for _, address := range c.Proxy.Listen {
		listeners = append(listeners, listener{"proxy.listen", address})
	}
	listeners = append(listeners, listener{"api.listen", c.API.Listen}, listener{"cluster.rpc", c.Cluster.RPC}, listener{"cluster.gossip", c.Cluster.Gossip})
	for i, b := range listeners {
		for _, a := range listeners[:i] {
			if collide(a.address, b.address) && !l.faulty[a.path] && !l.faulty[b.path] {
				l.samePort(a, b)
				break
			}
		}
	}
}

// samePort reports two listeners on one port, where the files set one of them.
func (l *loader) samePort(a, b listener) {
	if a.path == b.path {
		l.add(l.at(a.path), fmt.Sprintf("%s listens on the same port twice: %s and %s", a.path, a.address, b.address), "Remove one of them.")
		return
	}
	if !l.isSet(b.path) {
		a, b = b, a
	}
	l.add(l.at(b.path), fmt.Sprintf("%s and %s listen on the same port: %s and %s", b.path, a.path, b.address, a.address),
		"Give each its own port.")
}

// collide reports whether two listeners can't have these two addresses.
func collide(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" || portA == "" { // without a port, a listener is off
		return false
	}
	hostA, hostB = bound(hostA), bound(hostB)
	return hostA == hostB || unspecified(hostA) || unspecified(hostB)
}

// bound is the address that listening on a host binds. A name's is its first of IPv4, so localhost
// leaves ::1 free. Those of other names are known at the start alone. "0.0.0.0" needs no case of
// its own: as "" and "::" it stands for both families, because weir listens on "tcp", not "tcp4".
func bound(host string) string {
	if host = strings.TrimSuffix(host, "."); host == "localhost" {
		return "127.0.0.1"
	}
	return host
}

// checkAdvertised refuses an advertised address whose port would come from a listener with port 0.
func (l *loader) checkAdvertised(path, address string) {
	if portOf(address) == "0" {
		l.add(l.at(path), path+" has no port, and the one listened on is picked at the start", "Add the port that others dial.")
	}
}

// checkBalancers refuses to believe a PROXY protocol header from everybody.
func (l *loader) checkBalancers() {
	const path = "proxy.proxy_protocol_from"
	for _, p := range l.cfg.Proxy.ProxyProtocolFrom {
		if p.Bits() == 0 {
			l.add(l.at(path), fmt.Sprintf("%s holds %s: any client could claim any address", path, p),
				`Write the addresses of your load balancers, as in ["10.0.0.5/32"].`)
		}
	}
}

// checkReadable checks that a named file can be read and is not empty.
func (l *loader) checkReadable(path, name string) (ok bool) {
	if name == "" {
		return false
	}
	src, err := certs.ReadFile(name, maxFileBytes)
	switch {
	case err != nil:
		l.add(l.at(path), fmt.Sprintf("%s: %q can't be read: %s", path, name, certs.Reason(err)), "Relative paths start at weir's working directory.")
	case len(src) == 0:
		l.add(l.at(path), fmt.Sprintf("%s: %q is empty", path, name), "")
	default:
		return true
	}
	return false
}

// token reads a token file. The token must be valid in an Authorization header (RFC 6750, section
// 2.1).
func (l *loader) token(path, name string) Secret {
	const hint = "Make one with `weir keygen > FILE`."
	if name == "" {
		return ""
	}
	src, err := certs.ReadFile(name, maxTokenBytes)
	if err != nil {
		l.add(l.at(path), fmt.Sprintf("%s: %q can't be read: %s", path, name, certs.Reason(err)), hint)
		return ""
	}
	token := strings.TrimSuffix(strings.TrimSuffix(string(src), "\n"), "\r")
	switch {
	case token == "":
		l.add(l.at(path), fmt.Sprintf("%s: %q is empty", path, name), hint)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		l.add(l.at(path), fmt.Sprintf("%s: %q holds more than one token: spaces, line ends or characters that a header can't carry", path, name), hint)
	}
	return Secret(token)
}
