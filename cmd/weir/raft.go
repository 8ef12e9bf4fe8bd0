package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newRaftCommand(p *process) *cobra.Command {
	cmd := newGroup("raft", "Operate the consensus group")
	cmd.Example = `  weir raft peers
  weir raft transfer b`
	f := addClientFlags(p, cmd)
	cmd.AddCommand(newRaftPeersCommand(f), newRaftRemoveCommand(f), newRaftTransferCommand(f), newRaftRecoverCommand())
	return cmd
}

func newRaftPeersCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List the members of the consensus group",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c *api.Client) (api.RaftPeers, error) { return c.RaftPeers(ctx) }
			return call(f, cmd, ask, func(ps api.RaftPeers) error { return showPeers(cmd.OutOrStdout(), ps.Peers) })
		},
	}
}

func showPeers(w io.Writer, peers []api.RaftPeer) error {
	t := table{header: []string{"NAME", "ADDRESS", "VOTER", "LEADER", "ID"}}
	for _, p := range peers {
		leader := "-"
		if p.Leader {
			leader = "leader"
		}
		t.add(p.Name, p.Address, yesNo(p.Voter), leader, p.ID)
	}
	return t.write(w)
}

func newRaftRemoveCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a server that will not come back",
		Long: `Remove a server that is lost and will not come back from the consensus group: it counts towards the majority until
then. For a server that still runs, use weir leave on it.`,
		Example:           `  weir raft remove c`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.complete(peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := func(ctx context.Context, c *api.Client) (api.RaftPeerRemoved, error) {
				return c.RemoveRaftPeer(ctx, args[0])
			}
			return call(f, cmd, ask, func(r api.RaftPeerRemoved) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is removed\n", printable(r.Removed))
				return err
			})
		},
	}
}

func newRaftTransferCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "transfer [NAME]",
		Short: "Hand leadership to another server",
		Example: `  weir raft transfer
  weir raft transfer b`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: f.complete(peerNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := ""
			if len(args) > 0 {
				to = args[0]
			}
			ask := func(ctx context.Context, c *api.Client) (api.RaftTransferred, error) {
				return c.TransferLeadership(ctx, to)
			}
			return call(f, cmd, ask, func(t api.RaftTransferred) error {
				if t.From == t.To {
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s leads already\n", printable(t.From))
					return err
				}
				whom := "another server"
				if t.To != "" {
					whom = printable(t.To)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has handed leadership to %s\n", printable(t.From), whom)
				return err
			})
		},
	}
}
