package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newStatusCommand(p *process) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show a node, and the cluster as it sees it",
		Example: `  weir status
  weir status --addr http://127.0.0.1:8181 --json
  weir status --ready`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	cmd.Flags().BoolVar(&ready, "ready", false, "only check whether the node can admit connections; needs no token. If not: exit code 1 and the reason")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if ready {
			return askReady(f, cmd)
		}
		ask := func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) }
		return call(f, cmd, ask, func(st api.Status) error { return showStatus(cmd.OutOrStdout(), st) })
	}
	return cmd
}

// askReady asks the question of load balancers and container health checks.
func askReady(f *clientFlags, cmd *cobra.Command) error {
	ask := func(ctx context.Context, c *api.Client) (struct{}, error) { return struct{}{}, c.Ready(ctx) }
	return call(f, cmd, ask, func(struct{}) error {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "ready")
		return err
	})
}

func showStatus(w io.Writer, st api.Status) error {
	var t table
	t.add("Node", fmt.Sprintf("%s (%s, %s)", st.Node, st.Role, st.Version))
	leader := st.Leader
	if leader == "" {
		leader = "nobody"
	}
	t.add("Leader", leader)
	t.add("Ready", yesNo(st.Ready))
	session := st.Session.State
	if st.Session.ID != 0 {
		session = fmt.Sprintf("%s, %d, expires in %s", st.Session.State, st.Session.ID, st.Session.ExpiresIn)
	}
	t.add("Session", session)
	if st.Raft.State == "none" {
		t.add("Raft", "none: the node's role is proxy")
	} else {
		t.add("Raft", fmt.Sprintf("%s in term %d; last entry %d, committed %d, applied %d",
			st.Raft.State, st.Raft.Term, st.Raft.LastIndex, st.Raft.CommitIndex, st.Raft.AppliedIndex))
	}
	if st.Cluster != "" {
		t.add("Cluster", st.Cluster)
	}
	if st.ProxyAddr != "" {
		t.add("Proxy", proxyLine(st))
	}
	t.add("Connections", fmt.Sprint(st.Connections))
	switch {
	case st.Left:
		t.add("State", "has left the cluster; its process ends")
	case st.Leaving:
		t.add("State", "leaving the cluster")
	case st.Draining:
		t.add("State", "draining")
	}
	switch {
	case st.DiskFull:
		t.add("Disk", "full or read-only, as the log says: the node writes again when its data directory takes it")
	case st.DiskStalled:
		t.add("Disk", "stalled: a write takes too long; the node votes and leads again when it ends")
	}
	if len(st.ConfigDisagreements) > 0 {
		t.add("Config", "lease.ttl or limits differ on "+strings.Join(st.ConfigDisagreements, ", "))
	}
	if len(st.ResolvingClients) > 0 {
		t.add("SOCKS5", resolvingLine(st.ResolvingClients))
	}
	return t.write(w)
}

// proxyLine says where workers reach the proxy, and what they may speak if that is not everything.
func proxyLine(st api.Status) string {
	line := st.ProxyAddr
	if len(st.ProxyAddrs) > 1 {
		line = strings.Join(st.ProxyAddrs, ", ")
	}
	if len(st.ProxyProtocols) == 1 {
		line += " (" + st.ProxyProtocols[0] + " only)"
	}
	return line
}

// resolvingLine names a few clients that resolve names themselves.
func resolvingLine(clients []api.ResolvingClient) string {
	const shown = 3
	var names []string
	for _, c := range clients[:min(len(clients), shown)] {
		names = append(names, c.Client)
	}
	line := strings.Join(names, ", ")
	if more := len(clients) - len(names); more > 0 {
		line += fmt.Sprintf(" and %d more", more)
	}
	return line + " ask for addresses: limits on names don't hold for clients that resolve names themselves (write socks5h://)"
}
