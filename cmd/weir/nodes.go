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
		Long: `List every node: its role, whether it leads, its health as gossip sees it, its session with the cluster,
and, for one whose slots are being taken back, the time until others can have them.`,
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
	t := table{header: []string{"NODE", "ROLE", "LEADER", "HEALTH", "SESSION", "-RECLAIM IN", "VERSION", "RPC", "GOSSIP"}}
	for _, n := range nodes.Nodes {
		reclaim := "-"
		if n.ReclaimIn != nil {
			reclaim = n.ReclaimIn.String()
		}
		leader := "-"
		if n.Leader {
			leader = "leader"
		}
		t.add(n.Name, n.Role, leader, n.Health, n.Session, reclaim, orDash(n.Version), orDash(n.Addresses.RPC), orDash(n.Addresses.Gossip))
	}
	return t.write(w)
}
