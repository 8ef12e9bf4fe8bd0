package config

import (
	"fmt"
	"os"
	"time"

	"github.com/weirproxy/weir/config/certs"
)

// checkTLS checks a tls block: complete, with readable files that match each other and, for the rpc
// port, belong to this node. An expired certificate is a problem for weir validate only: a node
// that starts with one can do more than a node that does not start.
func (l *loader) checkTLS(path string, t TLS, withCA bool) {
	if !l.isSet(path) {
		return
	}
	files := certs.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}
	if !l.checkComplete(path, files, withCA) {
		return
	}
	set, problems := certs.Read(files, time.Now())
	if set != nil && withCA && l.cfg.Name != "" && !l.faulty["name"] {
		problems = append(problems, set.CheckNode(files, l.cfg.Name)...)
	}
	for _, p := range problems {
		if p.Expired && l.opts.Running {
			continue
		}
		at := join(path, p.File)
		l.add(l.at(at), fmt.Sprintf("%s: %q %s", at, p.Path, p.What), p.Hint)
	}
}

// checkComplete reports whether a tls block names all its files. If not, the named ones must still
// be readable.
func (l *loader) checkComplete(path string, files certs.Files, withCA bool) bool {
	complete := true
	names := []struct{ name, file string }{{certs.CAFile, files.CA}, {certs.CertFile, files.Cert}, {certs.KeyFile, files.Key}}
	if !withCA {
		names = names[1:]
	}
	for _, f := range names {
		p := join(path, f.name)
		if f.file != "" && !l.faulty[p] {
			continue
		}
		complete = false
		if !l.faulty[p] {
			l.add(l.at(p), fmt.Sprintf("%s is not set", p), fmt.Sprintf(`Write %s = "….pem", or remove the tls block.`, f.name))
		}
	}
	if !complete {
		for _, f := range names {
			l.checkReadable(join(path, f.name), f.file)
		}
	}
	return complete
}

// checkGossip checks the gossip keys.
func (l *loader) checkGossip() {
	const path = "cluster.gossip_accept_keys"
	c := l.cfg.Cluster
	if l.faulty[path] || l.faulty["cluster.gossip_key"] {
		return
	}
	if len(c.GossipAcceptKeys) > 0 && c.GossipKey == "" {
		l.add(l.at(path), path+" is set, and gossip_key is not: gossip is not encrypted", "Set gossip_key too; to turn encryption on in a running cluster, see plaintext.")
	}
	if len(c.GossipAcceptKeys) > maxGossipKeys {
		l.add(l.at(path), fmt.Sprintf("%s holds %d keys, and may hold %d", path, len(c.GossipAcceptKeys), maxGossipKeys), "Remove those that no node uses any more.")
	}
	for _, key := range c.GossipAcceptKeys {
		if key == "" {
			l.add(l.at(path), path+" holds an empty key", "Remove it.")
		}
	}
	if c.Plaintext != PlainRefuse && c.GossipKey == "" && !c.TLS.Enabled() && !l.isSet("cluster.tls") {
		l.add(l.at("cluster.plaintext"), "cluster.plaintext is set, and nothing is encrypted that could be sent without", "Set gossip_key or tls, or remove the line.")
	}
}

// Warnings lists problems with which a node may still run, but that its operator should know: ports
// that are open to the network, and secrets that every user of the machine can read.
func Warnings(c *Config) Diagnostics {
	var out Diagnostics
	warn := func(path, message, hint string) {
		at := c.Origins[path]
		for p := path; at == (Position{}) && p != ""; p = parent(p) {
			at = c.Origins[p]
		}
		out = append(out, Diagnostic{At: at, Message: message, Hint: hint, Warning: true})
	}
	if !loopback(c.Cluster.RPC) && !c.Cluster.TLS.Enabled() {
		warn("cluster.rpc", fmt.Sprintf("cluster.rpc is %s without TLS: anyone who reaches that port is trusted like a node, and can change limits and read all traffic between nodes", c.Cluster.RPC),
			"Set cluster { tls { … } } (weir tls ca, weir tls cert NAME), or let only nodes reach the port.")
	}
	if !loopback(c.Cluster.Gossip) && c.Cluster.GossipKey == "" {
		warn("cluster.gossip", fmt.Sprintf("cluster.gossip is %s without a key: anyone who reaches that port can join, and have nodes taken for dead", c.Cluster.Gossip),
			"Set gossip_key (weir keygen), or let only nodes reach the port.")
	}
	switch alone := len(c.Cluster.Join) == 0; {
	case alone && c.Role == RoleProxy:
		warn("cluster.join", "cluster.join is empty on a proxy: it finds no server to lease from unless one of the others names it in its own join",
			"Set it to the gossip addresses of the servers.")
	case alone && c.Cluster.BootstrapExpect > 1:
		warn("cluster.join", fmt.Sprintf("cluster.join is empty, and bootstrap_expect is %d: the server waits until the others have found it", c.Cluster.BootstrapExpect),
			"Set it to the gossip addresses of the other servers.")
	case alone && c.DataDir != "":
		warn("cluster.join", "cluster.join is empty on a server: where it loses its data_dir, it forms a cluster of its own unless the others reach it within its first seconds",
			"Set it to the gossip addresses of the other servers; where this is the only server, let it be.")
	}
	if c.Cluster.Plaintext != PlainRefuse {
		warn("cluster.plaintext", fmt.Sprintf("cluster.plaintext is %q: traffic between nodes may be unencrypted", c.Cluster.Plaintext),
			"Remove the line once all nodes have cluster.tls and gossip_key.")
	}
	if !loopback(c.API.Listen) && !c.API.TLS.Enabled() {
		warn("api.listen", fmt.Sprintf("api.listen is %s without TLS: the token goes over the network in the clear", c.API.Listen),
			"Set api { tls { … } }, or reach the API through something that encrypts.")
	}
	for _, f := range []struct{ path, file string }{
		{"cluster.tls.key_file", c.Cluster.TLS.KeyFile}, {"proxy.tls.key_file", c.Proxy.TLS.KeyFile}, {"api.tls.key_file", c.API.TLS.KeyFile},
		{"api.token_file", c.API.TokenFile}, {"api.read_token_file", c.API.ReadTokenFile},
	} {
		if info, err := os.Stat(f.file); f.file != "" && err == nil && info.Mode().IsRegular() && info.Mode()&0o004 != 0 {
			warn(f.path, fmt.Sprintf("%s: every user of this machine can read %q", f.path, f.file), "chmod 600 it, as the user that weir runs as.")
		}
	}
	return out
}
