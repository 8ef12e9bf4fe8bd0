package main

import (
	"bytes"
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
)

func newHostsCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hosts [HOST]",
		Short: "Show the live use of hosts",
		Long: `Show how many connections to each host are open, granted to nodes and waited for, over the whole cluster.
With a HOST, show it for each node, and the limit that applies, also when nobody uses the host yet.

With --watch the table is refreshed in place every second; where standard output is no terminal, each one is
printed below the last. Ctrl-C ends it.`,
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
	cmd.Flags().BoolVar(&watch, "watch", false, "go on showing it, once a second")
	cmd.Flags().StringVar(&q.Prefix, "prefix", "", "only hosts that begin with this `text`")
	cmd.Flags().StringVar(&q.Sort, "sort", "", "by `field`: host, in_use, granted, waiting, admitted_total or rejected_total (default host)")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "show at most this `number` (default 1000)")
	cmd.Flags().StringVar(&q.After, "after", "", "go on behind the `host` that an earlier list ended with")
	orders := []string{"host", "in_use", "granted", "waiting", "admitted_total", "rejected_total"}
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(orders, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.Sort != "" && !slices.Contains(orders, q.Sort) {
			return usagef(cmd, "--sort is one of %s, not %q", strings.Join(orders, ", "), q.Sort)
		}
		if q.Limit < 0 {
			return usagef(cmd, "--limit is above 0, not %d", q.Limit)
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
		return watchHosts(ctx, p, cmd.OutOrStdout(), f.json, show)
	}
	return cmd
}

// showHosts asks once and prints one table, or the answer as it is.
func showHosts(f *clientFlags, cmd *cobra.Command, c *api.Client, q api.HostQuery, args []string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	asked := c
	if f.json {
		asked = c.Tee(w)
	}
	if len(args) == 1 {
		h, err := asked.Host(ctx, args[0])
		if err != nil || f.json {
			return explain(c, err)
		}
		return writeHost(w, h)
	}
	hosts, err := asked.Hosts(ctx, q)
	if err != nil || f.json {
		return explain(c, err)
	}
	return writeHosts(w, hosts)
}

// watchHosts shows again and again until ctx ends. A node that doesn't answer may come back, so that is shown too.
func watchHosts(ctx context.Context, p *process, w io.Writer, raw bool, show func(io.Writer) error) error {
	rows, inPlace := p.rows()
	inPlace = inPlace && !raw
	for first := true; ; first = false {
		var b bytes.Buffer
		err := show(&b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && first {
			return err
		}
		if err != nil {
			fmt.Fprintf(&b, "Error: %s\n", printable(err.Error()))
		}
		switch {
		case inPlace:
			err = redraw(w, b.String(), rows, first)
		case raw:
			_, err = w.Write(b.Bytes())
		default:
			_, err = fmt.Fprintf(w, "%s\n%s\n", time.Now().Format(time.TimeOnly), b.String())
		}
		if err != nil {
			return err
		}
		t := time.NewTimer(p.tick)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// redraw writes text over the screen, line by line, so that nothing flickers; what doesn't fit is left out.
func redraw(w io.Writer, text string, rows int, first bool) error {
	const home, clear, clearLine, clearBelow = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"
	var b strings.Builder
	if first {
		b.WriteString(clear)
	}
	b.WriteString(home)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows > 1 && len(lines) > rows-1 {
		lines = lines[:rows-1]
	}
	for _, line := range lines {
		b.WriteString(line + clearLine + "\n")
	}
	b.WriteString(clearBelow)
	_, err := io.WriteString(w, b.String())
	return err
}

func useHeader(first string) []string {
	return []string{first, "-LIMIT", "-IN USE", "-GRANTED", "-WAITING", "-ADMITTED", "-REJECTED"}
}

func useRow(first string, u api.Use) []string {
	return []string{
		first, connections(u.Limit), strconv.FormatInt(u.InUse, 10), strconv.FormatInt(u.Granted, 10),
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
		fmt.Fprintf(w, "There are more: go on with --after %s\n", printable(hosts.Next))
	}
	return writeUnreachable(w, hosts.Unreachable)
}

func writeHost(w io.Writer, h api.Host) error {
	t := table{header: useHeader("NODE")}
	for _, node := range slices.Sorted(maps.Keys(h.Nodes)) {
		t.add(useRow(node, h.Nodes[node])...)
	}
	t.add(useRow("all", h.Use)...)
	fmt.Fprintf(w, "%s\n", printable(h.Host))
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

// connections is a limit's number as people write it.
func connections(n *int64) string {
	if n == nil {
		return "none"
	}
	return strconv.FormatInt(*n, 10)
}
