package weir

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
)

// reloader takes a changed config from the files to the cluster, one reload at a time. Two at once
// could publish the digest of one file in gossip and give the cluster the limits of the other:
// every node would then seem to disagree with it.
type reloader struct {
	settings func() (file *config.Config, _ api.Reloaded, _ error) // reads the files, applies the node's own settings
	digest   func(string)                                          // publishes it in gossip
	limits   func(context.Context, []limit.Limit) (changed bool, err error)

	// turn, of capacity 1, is taken from reading the files to the cluster's limits, before
	// Node.applying.
	turn chan struct{}
}

func (r *reloader) reload(ctx context.Context) (api.Reloaded, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return api.Reloaded{}, fmt.Errorf("another reload is still under way: %w", ctx.Err())
	}
	file, reloaded, err := r.settings()
	if err != nil {
		return api.Reloaded{}, err
	}
	r.digest(config.Digest(file.Lease.TTL, file.ClusterLimits()))
	changed, err := r.limits(ctx, file.ClusterLimits())
	if err != nil {
		reloaded.Applied = slices.DeleteFunc(reloaded.Applied, func(path string) bool { return path == "limits" })
		return reloaded, fmt.Errorf("%w: %w", server.ErrPartlyReloaded, err)
	}
	if changed && !slices.Contains(reloaded.Applied, "limits") { // the cluster had other limits, from another node
		reloaded.Applied = append(reloaded.Applied, "limits")
	}
	return reloaded, nil
}

// Reload reads the settings again, and applies those that need no restart. Limits in them become
// the cluster's config limits. An error in the settings changes nothing. If only the limits can't
// be written, the error is [server.ErrPartlyReloaded], and what is applied is returned all the same.
// After [Node.Close] the error is [ErrClosed].
func (n *Node) Reload(ctx context.Context) (api.Reloaded, error) {
	if n.life.Err() != nil { // an access log that was opened anew would stay open
		return api.Reloaded{}, ErrClosed
	}
	n.reloading.Add(1)
	reloaded, err := n.reloader.reload(ctx)
	n.reloading.Add(-1)
	n.checkAgreement()
	if err != nil {
		return reloaded, err
	}
	n.log.Info("reloaded", "applied", reloaded.Applied, "need_restart", reloaded.NeedRestart)
	return reloaded, nil
}

// reloadSettings applies the node's own settings. It returns the files' settings, also where they
// wait for a restart.
func (n *Node) reloadSettings() (*config.Config, api.Reloaded, error) {
	n.applying.Lock()
	defer n.applying.Unlock()
	next, err := n.load()
	if err != nil {
		return nil, api.Reloaded{}, fmt.Errorf("%w:\n%w", server.ErrInvalidConfig, err)
	}
	before := n.cfg.Load()
	live, restart := config.Diff(before, next)
	cfg := *before // settings that need a restart keep their running values
	cfg.Log.Level, cfg.Limits, cfg.Origins = next.Log.Level, next.Limits, maps.Clone(next.Origins)
	for _, path := range restart {
		delete(cfg.Origins, path) // another value stands there now
	}
	cfg.API.MetricsHosts = next.API.MetricsHosts
	if config.TokensCanChange(before, next) {
		cfg.API.TokenFile, cfg.API.Token = next.API.TokenFile, next.API.Token
		cfg.API.ReadTokenFile, cfg.API.ReadToken = next.API.ReadTokenFile, next.API.ReadToken
	}
	if (cfg.Cluster.GossipKey == "") == (next.Cluster.GossipKey == "") {
		cfg.Cluster.GossipKey, cfg.Cluster.GossipAcceptKeys = next.Cluster.GossipKey, next.Cluster.GossipAcceptKeys
	}
	running := cfg.Proxy
	cfg.Proxy = next.Proxy
	cfg.Proxy.Listen, cfg.Proxy.TLS = running.Listen, running.TLS
	if err := n.apply(&cfg); err != nil {
		return nil, api.Reloaded{}, fmt.Errorf("%w: %w", server.ErrInvalidConfig, err)
	}
	return next, api.Reloaded{Applied: live, NeedRestart: restart}, nil
}

// apply puts the settings in force. What can fail comes first: an error changes nothing.
func (n *Node) apply(cfg *config.Config) error {
	takeCertificates, err := n.certs.read()
	if err != nil {
		return err
	}
	rules := policy(cfg)
	if err := rules.Validate(); err != nil {
		return err
	}
	lines, err := n.access.prepare(cfg)
	if err != nil {
		return err
	}
	if keys := gossipKeys(cfg); keys != nil {
		if err := n.members.SetGossipKeys(keys); err != nil {
			lines.discard()
			return err
		}
	}

	takeCertificates()
	if err := n.access.use(lines, n.proxy.SetLines); err != nil {
		n.log.Error("the former access log can't be closed: lines may be lost", "error", err)
	}
	_ = n.proxy.SetPolicy(rules) // which are valid
	n.resolver.SetTTLMax(cfg.Proxy.DNSTTLMax)
	n.log.SetLevel(hclog.LevelFromString(cfg.Log.Level))
	n.api.SetMetricsHosts(cfg.API.MetricsHosts)
	n.api.SetTokens(string(cfg.API.Token), string(cfg.API.ReadToken))
	n.cfg.Store(cfg)
	n.warn(cfg)
	n.checkOwnPorts()
	return nil
}

// warn logs what the operator should know of settings that are put in force.
func (n *Node) warn(cfg *config.Config) {
	for _, w := range config.Warnings(cfg) {
		n.log.Warn(w.Message, "at", w.At.String(), "hint", w.Hint)
	}
}

// load reads the settings again, if they can be read.
func (n *Node) load() (*config.Config, error) {
	if n.source.Load != nil {
		return n.source.Load()
	}
	return n.cfg.Load(), nil
}
