package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newConnectionsCommand(p *process) *cobra.Command {
	var q api.ConnectionQuery
	cmd := &cobra.Command{
		Use:   "connections [HOST]",
		Short: "List open upstream connections, or close one",
		Long: `List the open upstream connections of all nodes, or of one with --node, the oldest first. With a HOST, list only
the connections to it. A connection that is kept for reuse is of kind idle and has no client.`,
		Example: `  weir connections
  weir connections api.example.com --node b
  weir connections close 17 --node b`,
		Args: cobra.MaximumNArgs(1),
	}
	f := addClientFlags(p, cmd)
	cmd.ValidArgsFunction = f.complete(hostNames)
	cmd.Flags().StringVar(&q.Node, "node", "*", "only those of the node with this `name`")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "show at most this `number` (default 10000)")
	cmd.Flags().StringVar(&q.After, "after", "", "continue after the `place` that an earlier list ended with")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.Limit < 0 {
			return usagef(cmd, "--limit is above 0, not %d", q.Limit)
		}
		q.Host = strings.Join(args, "")
		ask := func(ctx context.Context, c *api.Client) (api.ConnectionList, error) { return c.Connections(ctx, q) }
		return call(f, cmd, ask, func(l api.ConnectionList) error { return showConnections(cmd.OutOrStdout(), l) })
	}
	cmd.AddCommand(newConnectionsCloseCommand(f))
	return cmd
}

func newConnectionsCloseCommand(f *clientFlags) *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "close ID",
		Short: "Close one connection",
		Long: `Close one connection: both sides are reset, or a plain request that has no answer yet is
answered 502. Its slot is free then. IDs are unique on one node, so give --node the node that weir
connections shows beside it; the default is the node at --addr.`,
		Example: `  weir connections close 17 --node b`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&node, "node", "", "the `name` of the node that has the connection")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := func(ctx context.Context, c *api.Client) (api.ConnectionClosed, error) {
			return c.CloseConnection(ctx, node, args[0])
		}
		return call(f, cmd, ask, func(done api.ConnectionClosed) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is being closed\n", printable(done.Closed))
			return err
		})
	}
	return cmd
}

func showConnections(w io.Writer, l api.ConnectionList) error {
	t := table{header: []string{"ID", "NODE", "KIND", "CLIENT", "USER", "UPSTREAM", "-AGE", "-BYTES OUT", "-BYTES IN"}}
	for _, c := range l.Connections {
		t.add(c.ID, c.Node, c.Kind, orDash(c.Client), orDash(c.User), net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
			c.Age.String(), strconv.FormatUint(c.BytesOut, 10), strconv.FormatUint(c.BytesIn, 10))
	}
	if err := t.write(w); err != nil {
		return err
	}
	var b strings.Builder
	if l.Next != "" {
		fmt.Fprintf(&b, "There are more: continue with --after %s\n", printable(l.Next))
	}
	for _, u := range l.Unreachable {
		fmt.Fprintf(&b, "Not included: node %s (%s)\n", printable(u.Node), printable(u.Error))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
