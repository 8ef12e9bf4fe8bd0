package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cmd/weir/top"
)

// tableSorts is what a node sorts a table by besides what weir top can.
var tableSorts = []string{"would_reject_total", "requests", "upload", "download"}

func newHostsCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hosts [HOST]",
		Short: "Show the live use of hosts",
		Long: `Show, for each host and over the whole cluster, the connections in use and how many of them are idle (kept for
reuse), the slots granted to nodes, and the requests that wait. With a HOST, show them for each node, and the limit
that applies, even if the host has not been used yet.

With --watch the terminal shows the list as weir top does, until q is pressed. If standard output is no terminal,
or TERM is dumb, one table after the other is printed until Ctrl-C.`,
		Example: `  weir hosts
  weir hosts api.example.com
  weir hosts --watch --sort in_use --limit 20
  weir hosts --prefix api.`,
		Args: cobra.MaximumNArgs(1),
	}
	f := addClientFlags(p, cmd)
	cmd.ValidArgsFunction = f.complete(hostNames)
	var q api.HostQuery
	var watch bool
	var interval time.Duration
	cmd.Flags().BoolVar(&watch, "watch", false, "keep showing the list, refreshed in place")
	addIntervalFlag(p, cmd, &interval)
	cmd.Flags().StringVar(&q.Prefix, "prefix", "", "only hosts that begin with this `text`")
	cmd.Flags().StringVar(&q.Sort, "sort", "", "by `field`: host, in_use, granted, waiting, admitted_total or rejected_total; a table also by would_reject_total, requests, upload or download (default host)")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "show at most this `number` (default 1000)")
	cmd.Flags().StringVar(&q.After, "after", "", "continue after the `host` that an earlier list ended with")
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(slices.Concat(top.Sorts(), tableSorts), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := top.Options{HostList: true, Prefix: q.Prefix, Sort: cmp.Or(q.Sort, "host"), Limit: q.Limit, Interval: interval}
		draws := watch && !f.json && p.draws()
		sorts := top.Sorts()
		if !draws {
			sorts = slices.Concat(sorts, tableSorts)
		}
		if err := checkView(cmd, o, sorts); err != nil {
			return err
		}
		if q.Limit < 0 {
			return usagef(cmd, "--limit is above 0, not %d", q.Limit)
		}
		if draws {
			if q.After != "" {
				return usagef(cmd, "--after is for one table: what --watch shows scrolls")
			}
			o.Host = strings.Join(args, "")
			return showTop(f, cmd, o)
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		show := func(w io.Writer) error { return showHosts(f, cmd, c, q, args, w) }
		if !watch {
			return show(cmd.OutOrStdout())
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		cmd.SetContext(ctx)
		errs := cmd.OutOrStdout()
		if f.json {
			errs = cmd.ErrOrStderr()
		}
		return watchHosts(ctx, interval, cmd.OutOrStdout(), errs, f.json, show)
	}
	return cmd
}

// showHosts asks once and prints one table, or the raw answer.
func showHosts(f *clientFlags, cmd *cobra.Command, c *api.Client, q api.HostQuery, args []string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	asked := c
	if f.json {
		asked = c.Tee(w)
	}
	if len(args) == 1 {
		h, err := asked.Host(ctx, args[0])
		if err != nil {
			return argumentsRefused(cmd, explain(c, err))
		}
		if f.json {
			return nil
		}
		return writeHost(w, h)
	}
	hosts, err := asked.Hosts(ctx, q)
	if err != nil {
		return argumentsRefused(cmd, explain(c, err))
	}
	if f.json {
		return nil
	}
	return writeHosts(w, hosts)
}

// watchHosts prints repeatedly until ctx ends. It also prints failures and goes on, because the
// node may come back.
func watchHosts(ctx context.Context, interval time.Duration, w, errs io.Writer, raw bool, show func(io.Writer) error) error {
	for first := true; ; first = false {
		var b bytes.Buffer
		err := show(&b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		switch {
		case err != nil:
			_, err = fmt.Fprintf(errs, "%s Error: %s\n", time.Now().Format(time.TimeOnly), printable(err.Error()))
		case raw:
			_, err = w.Write(b.Bytes())
		default:
			_, err = fmt.Fprintf(w, "%s\n%s\n", time.Now().Format(time.TimeOnly), b.String())
		}
		if err != nil {
			return err
		}
		t := time.NewTimer(interval)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

func useHeader(first string) []string {
	return []string{first, "-LIMIT", "-IN USE", "-IDLE", "-GRANTED", "-WAITING", "-ADMITTED", "-REFUSED"}
}

func useRow(first string, u api.Use) []string {
	return []string{
		first, connections(u.Limit), strconv.FormatInt(u.InUse, 10), strconv.FormatInt(u.Idle, 10), strconv.FormatInt(u.Granted, 10),
		strconv.FormatInt(u.Waiting, 10), strconv.FormatUint(u.Admitted, 10), strconv.FormatUint(u.Rejected, 10),
	}
}

func writeHosts(w io.Writer, hosts api.Hosts) error {
	t := table{header: useHeader("HOST")}
	for _, h := range hosts.Hosts {
		t.add(useRow(h.Host, h.Use)...)
	}
	if err := t.write(w); err != nil {
		return err
	}
	if hosts.Next != "" {
		fmt.Fprintf(w, "There are more: continue with --after %s\n", printable(hosts.Next))
	}
	return writeUnreachable(w, hosts.Unreachable)
}

func writeHost(w io.Writer, h api.Host) error {
	t := table{header: useHeader("NODE")}
	for _, node := range slices.Sorted(maps.Keys(h.Nodes)) {
		t.add(useRow(node, h.Nodes[node])...)
	}
	t.add(useRow("all", h.Use)...)
	governs := "no limit"
	if h.Pattern != "" {
		governs = "limit of " + h.Pattern
	}
	fmt.Fprintf(w, "%s (%s)\n", printable(h.Host), printable(governs))
	if err := t.write(w); err != nil {
		return err
	}
	return writeUnreachable(w, h.Unreachable)
}

func writeUnreachable(w io.Writer, nodes []api.Unreachable) error {
	for _, n := range nodes {
		if _, err := fmt.Fprintf(w, "Not included: node %s (%s)\n", printable(n.Node), printable(n.Error)); err != nil {
			return err
		}
	}
	return nil
}

// connections formats a limit's number for people.
func connections(n *int64) string {
	if n == nil {
		return "none"
	}
	return strconv.FormatInt(*n, 10)
}
