// Package weir runs a node of weir inside a Go program: a forward proxy that enforces limits, and
// permits for programs that make their connections themselves.
//
//	node, err := weir.Start(ctx, weir.Config{
//		Proxy:  "127.0.0.1:0",
//		Limits: []weir.Limit{weir.HostLimit("api.example.com", 5)},
//	})
//	if err != nil {
//		return err
//	}
//	defer node.Close(ctx)
//	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(node.ProxyURL())}}
//	resp, err := client.Get("https://api.example.com/") // one of at most five connections
//
// A node is either alone or of a cluster:
//
//   - Alone, without [Config.Cluster], it keeps its state in memory, has no ports but those of the
//     proxy and the API, if it is given them, and is ready when Start returns. Its limits hold for
//     this process: all clients of its proxy, and all permits from it.
//   - In a cluster, the limits hold for all its nodes together, whether they run in Go programs or
//     as the program weir. Start returns once the node takes part; [Node.Ready] waits until it can
//     admit. A node that loses its cluster loses what it holds: see [Permit.Lost].
//
// Several nodes can run in one process. Nothing in the package is global, and a node reads neither
// the environment nor flags. After [Node.Close], no goroutine, port or open file of it is left.
//
// The package wires the others together, and decides nothing: what a limit is, is in package limit;
// the replicated state in fsm; the lease in lease and lease/leader; Raft and gossip in cluster; the
// proxy in proxy; the HTTP API in api. The program weir is this package behind flags.
package weir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
)

// Config describes a node in a Go program. The zero Config is a node that is alone and has no
// ports: it holds limits for permits.
type Config struct {
	// Name is the node's, unique in its cluster: 1 to 63 of A-Z a-z 0-9 . _ -. "" is the machine's
	// host name.
	Name string
	// Proxy is the TCP address that the proxy listens on, such as "127.0.0.1:0"; port 0 takes a free
	// one: see [Node.ProxyURL]. "" is none. Beyond loopback, Settings must say which clients may
	// use it.
	Proxy string
	// API is the TCP address of the HTTP API and its page. "" is none; [Node.Handler] serves both
	// elsewhere. Beyond loopback, Settings must set a token.
	API string
	// Limits are in force from the start. In a cluster they are its config limits, as those in a
	// node's file: give each node the same.
	Limits []Limit
	// Cluster makes the node a member of a cluster; with nil it is alone.
	Cluster *Cluster
	// Logger takes the node's log. nil discards it: what a program must know comes as an error, of a
	// call or of [Node.Err]. The handler's level decides what is logged; raft and gossip are
	// talkative below info.
	Logger *slog.Logger
	// Settings, if not nil, may change any setting before it is checked: package config says what
	// each does. It is called once, with the defaults and what the fields above say. Lines of finished
	// tunnels and requests are off by default, unlike those of the program weir.
	Settings func(*config.Config)
}

// Cluster is a node's part in a cluster. Config.Settings has the rest: TLS, gossip keys, the
// addresses that others dial.
type Cluster struct {
	// DataDir has the Raft log and the node's identity; locked while the node runs, also for other
	// nodes of the process: see [ErrDataDirInUse]. A server needs one. Without one, a node must
	// wait, when it starts again, until its former session has expired.
	DataDir string
	// Role is [config.RoleServer] or [config.RoleProxy]; "" is a server. Servers hold Raft state and
	// vote: run three or five. A node with role proxy holds none, and leases from them.
	Role config.Role
	// RPC is the TCP address for Raft and leases, Gossip the TCP and UDP address for gossip. Port 0
	// takes a free one. "" is 127.0.0.1:8082 and 127.0.0.1:8083.
	RPC, Gossip string
	// Join lists gossip addresses of other nodes, retried for ever.
	Join []string
	// BootstrapExpect is the number of servers that form the cluster together: the same on each. 0
	// is 1 if Join is empty; otherwise the node forms no cluster, and waits to be added to one.
	BootstrapExpect int
}

// Limit is one limit, with the fields that it has in the HTTP API.
type Limit = api.Limit

// Parts of a [Limit].
type (
	Rate      = api.Rate
	Bandwidth = api.Bandwidth
	Queue     = api.Queue
	Duration  = api.Duration
)

// HostLimit is a limit on open connections to a host: to each that the pattern matches, such as
// "api.example.com", "*.example.com", "10.0.0.0/8" or "*". 0 blocks it.
func HostLimit(pattern string, connections int64) Limit {
	return Limit{Pattern: pattern, Connections: &connections}
}

// KeyLimit is a limit on permits at once for a key that programs choose: for each that the pattern
// matches, such as "tenant/42", "tenant/*" or "*". 0 blocks it.
func KeyLimit(pattern string, permits int64) Limit {
	return Limit{Scope: limit.ScopeKey.String(), Pattern: pattern, Connections: &permits}
}

// ConfigError says what is wrong with a [Config].
type ConfigError struct {
	Problems config.Diagnostics
}

// Error names every problem.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Start starts a node. ctx is for the start alone: [Node.Close] ends the node. A Config that can't
// be is a [*ConfigError]; a data directory that another node has is an [ErrDataDirInUse].
//
// A node that is alone is ready when Start returns. For a member of a cluster, Start waits for no
// other node: [Node.Ready] does.
func Start(ctx context.Context, c Config) (*Node, error) {
	cfg, err := c.resolve()
	if err != nil {
		return nil, err
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	n, err := StartFrom(ctx, Source{
		Config: cfg, Log: newSlogger(logger), Lines: slogLines{logger},
		Version: ownVersion(), Commit: "unknown", alone: c.Cluster == nil,
	})
	if err != nil || c.Cluster != nil {
		return n, err
	}
	if err := n.Ready(ctx); err != nil {
		return nil, errors.Join(err, n.Close(ctx))
	}
	return n, nil
}

// resolve returns the settings in the config file's form.
func (c *Config) resolve() (*config.Config, error) {
	cfg := config.Default(c.Cluster == nil)
	cfg.Name = cmp.Or(c.Name, cfg.Name)
	cfg.Proxy.Listen, cfg.API.Listen = nil, c.API
	if c.Proxy != "" {
		cfg.Proxy.Listen = []string{c.Proxy}
	}
	cfg.Proxy.AccessLog = config.AccessLogOff
	opts := config.Options{Running: true}
	if m := c.Cluster; m != nil {
		if m.BootstrapExpect != 0 {
			opts.Given = append(opts.Given, "cluster.bootstrap_expect")
		}
		cfg.DataDir = m.DataDir
		cfg.Role = cmp.Or(m.Role, cfg.Role)
		cfg.Cluster.RPC, cfg.Cluster.Gossip = cmp.Or(m.RPC, cfg.Cluster.RPC), cmp.Or(m.Gossip, cfg.Cluster.Gossip)
		cfg.Cluster.Join = slices.Clone(m.Join)
		cfg.Cluster.BootstrapExpect = cmp.Or(m.BootstrapExpect, cfg.Cluster.BootstrapExpect)
	} else {
		cfg.Cluster.RPC, cfg.Cluster.Gossip = "", ""
	}
	var problems config.Diagnostics
	for i, l := range c.Limits {
		one, err := server.ParseLimit(l)
		if err != nil {
			problems = append(problems, config.Diagnostic{Message: fmt.Sprintf("limit %d, for %q: %v", i, l.Name(), err)})
			continue
		}
		one.Source = limit.SourceConfig
		cfg.Limits = append(cfg.Limits, config.Limit{Limit: one})
	}
	if c.Settings != nil {
		c.Settings(cfg)
	}
	if c.Cluster == nil && !isAlone(cfg) {
		problems = append(problems, config.Diagnostic{
			Message: "the settings make the node a member of a cluster, by role, cluster.rpc, cluster.gossip or cluster.join: set Config.Cluster",
		})
	}
	if problems = append(problems, cfg.Complete(opts)...); len(problems) > 0 {
		return nil, &ConfigError{Problems: problems}
	}
	return cfg, nil
}

// isAlone reports whether settings ask for no other node.
func isAlone(cfg *config.Config) bool {
	return cfg.Role == config.RoleServer && cfg.Cluster.RPC == "" && cfg.Cluster.Gossip == "" && len(cfg.Cluster.Join) == 0
}

// Source is what a node starts from that has its process to itself, as under the program weir.
type Source struct {
	// Config has the settings to start with, complete and checked, as package config loads them.
	Config *config.Config
	// Load reads the settings again, for a reload. Its error names every problem. nil: a reload
	// changes nothing.
	Load func() (*config.Config, error)
	// Log is the node's log. Its level follows log.level.
	Log hclog.Logger
	// Recent returns the log's newest n lines, oldest first, for GET /v1/logs; nil: there are none.
	Recent func(n int) []string
	// Lines is where the lines of finished tunnels and requests go when proxy.access_log names no
	// file.
	Lines io.Writer
	// Version and Commit describe the program, for operators and other nodes.
	Version, Commit string

	alone bool // it is no member of a cluster, and has no ports for one
}
