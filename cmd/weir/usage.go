package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

func newUsageCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "usage SCOPE [NAME]",
		Short: "Show the live use of clients, users, keys, hosts or all together",
		Long: `Show, for each name of a scope and over the whole cluster, what is in use, granted to nodes and waiting, and the
rates now where a limit caps them; in scope connection what has passed in all. Connections and requests in hand are
always counted for hosts, and elsewhere only where a limit caps connections. SCOPE is host, client, user, total, key or
connection. With a NAME, show it for each node, even if it has not been used yet; the name of a shared limit is its
pattern.`,
		Example: `  weir usage client --sort in_use --limit 20
  weir usage client 10.0.0.7
  weir usage user
  weir usage total`,
		Args: cobra.RangeArgs(1, 2),
	}
	f := addClientFlags(p, cmd)
	var q api.HostQuery
	cmd.Flags().StringVar(&q.Prefix, "prefix", "", "only names that begin with this `text`")
	cmd.Flags().StringVar(&q.Sort, "sort", "", "by `field`: name, in_use, granted, waiting, admitted_total, rejected_total, would_reject_total, requests, upload or download (default name)")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "show at most this `number` (default 1000)")
	cmd.Flags().StringVar(&q.After, "after", "", "continue after the `name` that an earlier list ended with")
	var words []string
	for _, s := range limit.Scopes {
		words = append(words, s.String())
	}
	cmd.ValidArgsFunction = cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(words, args[0]) {
			return usagef(cmd, "SCOPE is host, client, user, total, key or connection, not %q", args[0])
		}
		w := cmd.OutOrStdout()
		if len(args) == 2 {
			ask := func(ctx context.Context, c *api.Client) (api.Usage, error) { return c.UsageOf(ctx, args[0], args[1]) }
			return call(f, cmd, ask, func(u api.Usage) error { return writeUsage(w, u) })
		}
		ask := func(ctx context.Context, c *api.Client) (api.Usages, error) { return c.Usage(ctx, args[0], q) }
		return call(f, cmd, ask, func(u api.Usages) error { return writeUsages(w, u) })
	}
	return cmd
}

func writeUsages(w io.Writer, all api.Usages) error {
	t := table{header: usageHeader("NAME")}
	for _, u := range all.Usage {
		t.add(usageRow(cmp.Or(u.Name, u.Scope), u.Scope, u.Use)...)
	}
	if err := t.write(w); err != nil {
		return err
	}
	if all.Next != "" {
		fmt.Fprintf(w, "There are more: continue with --after %s\n", printable(all.Next))
	}
	return writeUnreachable(w, all.Unreachable)
}

func writeUsage(w io.Writer, u api.Usage) error {
	governs := "no limit"
	if u.Pattern != "" {
		governs = "limit of " + u.Pattern
	}
	fmt.Fprintf(w, "%s %s (%s)\n", u.Scope, printable(u.Name), printable(governs))
	t := table{header: usageHeader("NODE")}
	for _, node := range slices.Sorted(maps.Keys(u.Nodes)) {
		t.add(usageRow(node, u.Scope, u.Nodes[node])...)
	}
	t.add(usageRow("all", u.Scope, u.Use)...)
	if err := t.write(w); err != nil {
		return err
	}
	return writeUnreachable(w, u.Unreachable)
}

func usageHeader(first string) []string {
	return append(useHeader(first), "-WOULD REFUSE", "-REQUESTS", "-OF", "-UPLOAD", "-OF", "-DOWNLOAD", "-OF")
}

func usageRow(first, scope string, u api.Use) []string {
	row := append(useRow(first, u), strconv.FormatUint(u.WouldReject, 10))
	if !countsConnections(scope, u.Limit, u.InUse) {
		for i := 2; i <= 6; i++ { // in use, idle, granted, waiting, admitted
			row[i] = "-"
		}
	}
	pair := func(r *api.RateUse, text func(float64) string) {
		switch {
		case r == nil:
			row = append(row, "-", "-")
		case scope == limit.ScopeConnection.String(): // each has a rate of its own: there are only totals
			row = append(row, byteCount(float64(r.Admitted))+" in all", text(r.Rate))
		default:
			row = append(row, text(r.Now), text(r.Rate))
		}
	}
	pair(u.Requests, requestRate)
	var b api.BandwidthUse
	if u.Bandwidth != nil {
		b = *u.Bandwidth
	}
	pair(b.Upload, byteRate)
	pair(b.Download, byteRate)
	return row
}

// countsConnections reports whether a use says how many connections or requests are in hand. Those of
// a host are always counted, others under a limit on connections, until they end.
func countsConnections(scope string, most *int64, inUse int64) bool {
	return scope == limit.ScopeHost.String() || most != nil || inUse > 0
}

// rate is a number of requests a second, to a tenth where it is small.
func rate(n float64) string {
	if n < 100 {
		return strconv.FormatFloat(float64(int64(n*10+0.5))/10, 'f', -1, 64)
	}
	return strconv.FormatInt(int64(n+0.5), 10)
}

// requestRate is a number of requests a second, a slow one by the minute or hour.
func requestRate(n float64) string {
	switch {
	case n <= 0 || n >= 0.1:
		return rate(n) + "/s"
	case n*60 >= 0.95:
		return rate(n*60) + "/m"
	}
	return rate(n*3600) + "/h"
}

// byteRate is a number of bytes a second.
func byteRate(n float64) string { return byteCount(n) + "/s" }

// byteCount is a number of bytes, in the unit that leaves at most three digits before the point.
func byteCount(n float64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for n >= 999.95 && i < len(units)-1 {
		n, i = n/1000, i+1
	}
	return rate(n) + units[i]
}
