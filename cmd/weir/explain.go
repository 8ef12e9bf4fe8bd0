package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

func newExplainCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [HOST]",
		Short: "Show which limits a connection is under, and why",
		Long: `Show which limits a connection is under, in the order in which they are asked: of each scope the most specific
pattern, why it wins, and the use now, of all nodes; and whether the connection would be let in now, without waiting.
HOST may have a port: without one, limits that name a port do not count. With --key alone a permit is explained,
which passes no proxy. Only limits are looked at, not which clients and destinations the proxy allows.`,
		Example: `  weir explain api.example.com:443
  weir explain api.example.com:443 --client 10.0.0.7 --user nightly
  weir explain --key tenant/42`,
		Args: cobra.MaximumNArgs(1),
	}
	f := addClientFlags(p, cmd)
	cmd.ValidArgsFunction = f.complete(hostNames)
	var q api.ExplainQuery
	cmd.Flags().StringVar(&q.Client, "client", "", "the worker's `address`")
	cmd.Flags().StringVar(&q.User, "user", "", "the worker's user, a `name` of users_file")
	cmd.Flags().StringVar(&q.Key, "key", "", "the `name` that a program chooses")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			q.Host = args[0]
		}
		if q == (api.ExplainQuery{}) {
			return usagef(cmd, "say what to explain: HOST, --client, --user or --key")
		}
		ask := func(ctx context.Context, c *api.Client) (api.Explanation, error) { return c.Explain(ctx, q) }
		return call(f, cmd, ask, func(e api.Explanation) error { return writeExplanation(cmd.OutOrStdout(), e) })
	}
	return cmd
}

func writeExplanation(w io.Writer, e api.Explanation) error {
	verdict := "It would be let in now."
	switch {
	case e.Reason != "":
		verdict = "It would not be let in now: " + e.Reason + "."
	case !e.Admitted && waits(e.Limits):
		verdict = "It would not be let in now without waiting."
	case !e.Admitted:
		verdict = "It would not be let in now."
	case len(e.Limits) == 0:
		verdict = "No limit is in its way."
	}
	if len(e.Limits) == 0 {
		fmt.Fprintln(w, verdict)
		return writeUnreachable(w, e.Unreachable)
	}
	t := table{header: []string{"SCOPE", "PATTERN", "COUNTED AS", "ALLOWS", "IN USE", "WHY", "NOW"}}
	for _, g := range e.Limits {
		now := "let in"
		switch {
		case !g.Admitted:
			now = g.Reason
		case g.Mode == api.ModeReport:
			now = "let in: report only"
		}
		allows := api.Limit{Connections: g.Connections, Requests: g.Requests, Bandwidth: g.Bandwidth, Queue: g.Queue}
		t.add(g.Scope, cmp.Or(g.Pattern, "-"), cmp.Or(g.Key, "-"), allows.Words(), usedNow(g), g.Why, now)
	}
	if err := t.write(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w, verdict); err != nil {
		return err
	}
	return writeUnreachable(w, e.Unreachable)
}

// waits reports whether all limits that are in the way let a request wait. A node of an older
// version does not say so.
func waits(limits []api.Governing) bool {
	return !slices.ContainsFunc(limits, func(g api.Governing) bool { return !g.Admitted && !g.Waits })
}

// usedNow is the use of what a limit caps, in short.
func usedNow(g api.Governing) string {
	u := g.Use
	own := g.Scope == limit.ScopeConnection.String() // of each connection: nothing is in use of all
	switch {
	case u == nil, own && g.Mode != api.ModeReport:
		return "-"
	case own:
		return fmt.Sprintf("%d times above it", u.WouldReject)
	}
	var parts []string
	if countsConnections(g.Scope, g.Connections, u.InUse) {
		text := fmt.Sprint(u.InUse)
		if u.Idle > 0 {
			text += fmt.Sprintf(" (%d idle)", u.Idle)
		}
		parts = append(parts, text)
	}
	if r := u.Requests; r != nil {
		parts = append(parts, requestRate(r.Now))
	}
	if b := u.Bandwidth; b != nil && b.Upload != nil {
		parts = append(parts, byteRate(b.Upload.Now)+" up")
	}
	if b := u.Bandwidth; b != nil && b.Download != nil {
		parts = append(parts, byteRate(b.Download.Now)+" down")
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}
