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
		Long: `List the open upstream connections of the node at --addr, the oldest first; --node NAME lists those of another
node, and --node '*' those of all. IDs are unique on one node. With a HOST, which may have a port, list only the
connections to it; with --client or --user, only those of a worker or a user. A connection that is kept for reuse has
the protocol idle and has no client.`,
		Example: `  weir connections
  weir connections api.example.com --node '*'
  weir connections --client 10.1.0.0/16 --user nightly
  weir connections close 17 --node b`,
		Args: cobra.MaximumNArgs(1),
	}
	f := addClientFlags(p, cmd)
	cmd.ValidArgsFunction = f.complete(hostNames)
	cmd.Flags().StringVar(&q.Client, "client", "", "only those of the workers at this `address`, or in this network, such as 10.1.0.0/16")
	cmd.Flags().StringVar(&q.User, "user", "", "only those of the user with this `name`")
	cmd.Flags().StringVar(&q.Node, "node", "", "those of the node with this `name`, or with '*' of all nodes (default the node at --addr)")
	_ = cmd.RegisterFlagCompletionFunc("node", f.completeFlag(nodeNames))
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "show at most this `number` (default 10000)")
	cmd.Flags().StringVar(&q.After, "after", "", "continue after the `place` that an earlier list ended with")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.Limit < 0 {
			return usagef(cmd, "--limit is above 0, not %d", q.Limit)
		}
		q.Host = strings.Join(args, "")
		var unknown []string
		ask := func(ctx context.Context, c *api.Client) (api.ConnectionList, error) {
			l, err := c.Connections(ctx, q)
			if err == nil && len(l.Connections) == 0 && q.After == "" && !f.json {
				unknown = unknownNames(ctx, c, q)
			}
			return l, err
		}
		return call(f, cmd, ask, func(l api.ConnectionList) error { return showConnections(cmd.OutOrStdout(), q, l, unknown) })
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
	_ = cmd.RegisterFlagCompletionFunc("node", f.completeFlag(nodeNames))
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

// unknownNames says of which names of a query, to which nothing is open, nothing else is known
// either: they may be misspelt.
func unknownNames(ctx context.Context, c *api.Client, q api.ConnectionQuery) (lines []string) {
	for _, of := range []struct{ scope, name string }{{"host", q.Host}, {"client", q.Client}, {"user", q.User}} {
		if of.name == "" || strings.Contains(of.name, "/") { // of a network nothing is counted, unless it shares a limit
			continue
		}
		u, err := c.UsageOf(ctx, of.scope, of.name)
		if err != nil || usedLately(&u) || u.Pattern == of.name {
			continue
		}
		why := "no connection to it has been asked for lately"
		switch {
		case of.scope == "host":
		case u.Pattern == "":
			why = "no limit counts it"
		default:
			why = "it has asked for nothing lately"
		}
		lines = append(lines, fmt.Sprintf("Nothing else is known of %s %s: %s.", of.scope, of.name, why))
	}
	return lines
}

// usedLately reports whether a name has been counted by any node.
func usedLately(u *api.Usage) bool {
	totals := u.Admitted + u.Rejected + u.WouldReject
	if r := u.Requests; r != nil {
		totals += r.Admitted
	}
	return totals > 0 || u.Granted+u.InUse+u.Waiting > 0
}

// selected is what a query selects, in words.
func selected(q api.ConnectionQuery) string {
	var b strings.Builder
	for _, part := range []struct{ word, value string }{{"to", q.Host}, {"of client", q.Client}, {"of user", q.User}} {
		if part.value != "" {
			fmt.Fprintf(&b, " %s %s", part.word, part.value)
		}
	}
	switch q.Node {
	case "":
		b.WriteString(" on this node")
	case "*":
		b.WriteString(" on any node")
	default:
		fmt.Fprintf(&b, " on node %s", q.Node)
	}
	return b.String()
}

func showConnections(w io.Writer, q api.ConnectionQuery, l api.ConnectionList, unknown []string) error {
	var b strings.Builder
	switch {
	case len(l.Connections) > 0:
		if err := connectionTable(l.Connections).write(w); err != nil {
			return err
		}
	case q.After != "":
		b.WriteString("No more connections.\n")
	default:
		fmt.Fprintf(&b, "No open connections%s.\n", printable(selected(q)))
		if q.Node == "" {
			b.WriteString("Those of all nodes: --node '*'\n")
		}
	}
	for _, line := range unknown {
		b.WriteString(printable(line) + "\n")
	}
	if l.Next != "" {
		fmt.Fprintf(&b, "There are more: continue with --after %s\n", printable(l.Next))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return writeUnreachable(w, l.Unreachable)
}

func connectionTable(list []api.Connection) *table {
	t := &table{header: []string{"ID", "NODE", "PROTOCOL", "CLIENT", "USER", "UPSTREAM", "-AGE", "-BYTES OUT", "-BYTES IN"}}
	for _, c := range list {
		t.add(c.ID, c.Node, c.Protocol, orDash(c.Client), orDash(c.User), net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
			c.Age.String(), strconv.FormatUint(c.BytesOut, 10), strconv.FormatUint(c.BytesIn, 10))
	}
	return t
}
