package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newNodesCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the cluster's nodes",
		Long: `List every node: its role, whether it leads, its health as gossip sees it, whether it is draining, its
session with the cluster and, if its slots are being reclaimed, the time until other nodes can have them.

A node that is left has ended with a goodbye: it was stopped, or has left for good. Of a stopped server, weir raft peers
still has the name.`,
		Example: `  weir nodes`,
		Args:    noArgs,
	}
	f := addClientFlags(p, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ask := func(ctx context.Context, c *api.Client) (api.Nodes, error) { return c.Nodes(ctx) }
		return call(f, cmd, ask, func(n api.Nodes) error { return showNodes(cmd.OutOrStdout(), n) })
	}
	return cmd
}

func showNodes(w io.Writer, nodes api.Nodes) error {
	t := table{header: []string{"NODE", "ROLE", "LEADER", "HEALTH", "DRAINING", "SESSION", "-RECLAIM IN", "VERSION", "RPC", "GOSSIP"}}
	for _, n := range nodes.Nodes {
		reclaim := "-"
		if n.ReclaimIn != nil {
			reclaim = n.ReclaimIn.String()
		}
		leader := "-"
		if n.Leader {
			leader = "leader"
		}
		draining := "-"
		if n.Draining {
			draining = "draining"
		}
		t.add(n.Name, orDash(n.Role), leader, n.Health, draining, n.Session, reclaim, orDash(n.Version), orDash(n.Addresses.RPC), orDash(n.Addresses.Gossip))
	}
	return t.write(w)
}
