// Package weir runs a node of weir. It wires the other packages together, and decides nothing: a
// distributed limiter's state is in package fsm, its lease in lease and lease/leader, Raft and
// gossip in cluster, the proxy in proxy, the HTTP API in api.
package weir

import (
	"io"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/config"
)

// Source is what a node needs that has its process to itself, as under the program weir.
type Source struct {
	// Config has the settings to start with.
	Config *config.Config
	// Load reads the settings again, for a reload. Its error names every problem.
	Load func() (*config.Config, error)
	// Log is the node's log. Its level follows log.level.
	Log hclog.Logger
	// Recent returns the log's newest n lines, oldest first, for GET /v1/debug; nil: there are none.
	Recent func(n int) []string
	// Lines is where the lines of finished tunnels and requests go when proxy.access_log names no
	// file.
	Lines io.Writer
	// Version and Commit describe the program, for operators and other nodes.
	Version, Commit string
}
