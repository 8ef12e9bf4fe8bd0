package weir

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/config/certs"
)

// certificates holds the certificates of the listeners with TLS; nil for the others.
type certificates struct{ rpc, api, proxy *certs.Source }

// openCertificates reads the files in the config.
func openCertificates(c *config.Config, log hclog.Logger) (out certificates, err error) {
	for _, l := range []struct {
		name string
		node string
		tls  config.TLS
		to   **certs.Source
	}{
		{"rpc", c.Name, c.Cluster.TLS, &out.rpc},
		{"api", "", c.API.TLS, &out.api},
		{"proxy", "", c.Proxy.TLS, &out.proxy},
	} {
		if !l.tls.Enabled() {
			continue
		}
		*l.to, err = certs.Open(certs.SourceConfig{
			Listener: l.name, Node: l.node, Log: log.Named("tls"),
			Files: certs.Files{CA: l.tls.CAFile, Cert: l.tls.CertFile, Key: l.tls.KeyFile},
		})
		if err != nil {
			return certificates{}, err
		}
	}
	return out, nil
}

// each calls f for every listener with TLS.
func (c certificates) each(f func(listener string, s *certs.Source)) {
	for _, l := range []struct {
		name   string
		source *certs.Source
	}{{"rpc", c.rpc}, {"api", c.api}, {"proxy", c.proxy}} {
		if l.source != nil {
			f(l.name, l.source)
		}
	}
}

// run reloads changed files until the context ends.
func (c certificates) run(ctx context.Context) {
	var wg sync.WaitGroup
	c.each(func(_ string, s *certs.Source) { wg.Go(func() { s.Run(ctx) }) })
	wg.Wait()
}

// read reads the files at once; take puts in force what has changed. The error names every listener
// whose files are broken; nothing is taken then.
func (c certificates) read() (take func(), err error) {
	var takes []func()
	var errs []error
	c.each(func(_ string, s *certs.Source) {
		take, err := s.Read()
		takes, errs = append(takes, take), append(errs, err)
	})
	take = func() {
		for _, take := range takes {
			take()
		}
	}
	return take, errors.Join(errs...)
}

// ends returns the expiry of each listener's certificate.
func (c certificates) ends() map[string]time.Time {
	ends := map[string]time.Time{}
	c.each(func(listener string, s *certs.Source) { ends[listener] = s.Current().NotAfter })
	return ends
}

// rpcTLS returns the source of the rpc port's certificates; nil without TLS.
func (c certificates) rpcTLS() func() *certs.Set {
	if c.rpc == nil {
		return nil
	}
	return c.rpc.Current
}

// apiTLS returns the API listener's configuration; nil without TLS.
func (c certificates) apiTLS() *tls.Config {
	if c.api == nil {
		return nil
	}
	return c.api.ServerConfig()
}

// serveProxy serves the proxy's clients on one of its listeners.
func (n *Node) serveProxy(l net.Listener) error {
	if n.certs.proxy == nil {
		return n.proxy.Serve(l)
	}
	return n.proxy.ServeTLS(l, n.certs.proxy.ServerConfig())
}

// gossipKeys returns a config's gossip keys; the first encrypts.
func gossipKeys(c *config.Config) cluster.GossipKeys {
	if c.Cluster.GossipKey == "" {
		return nil
	}
	keys := cluster.GossipKeys{[]byte(c.Cluster.GossipKey)}
	for _, key := range c.Cluster.GossipAcceptKeys {
		keys = append(keys, []byte(key))
	}
	return keys
}
