package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cmd/weir/top"
)

// The bounds of --interval.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
)

func newTopCommand(p *process) *cobra.Command {
	o := top.Options{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster: nodes, hosts and their use",
		Long: `Watch the cluster on the terminal: its nodes, and its hosts with their use as bars, coloured by node. Enter shows a
host's nodes and connections; s goes to the use of clients, users, the total and keys, with their rates and bandwidth;
? shows all keys. If the node becomes unreachable, the last picture stays on screen while
top retries.

If standard output is no terminal, or TERM is dumb, one picture is printed, with the rates of one interval.
NO_COLOR turns colours off.`,
		Example: `  weir top
  weir top --sort waiting --interval 5s
  weir top --addr http://127.0.0.1:8181`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	_ = cmd.PersistentFlags().MarkHidden("json") // there is no one answer to print; fails only for a flag that isn't there
	cmd.Flags().StringVar(&o.Sort, "sort", "", "by `field` at first: "+strings.Join(top.Sorts(), ", ")+" (default in_use)")
	cmd.Flags().StringVar(&o.Prefix, "prefix", "", "only hosts that begin with this `text`")
	addIntervalFlag(p, cmd, &o.Interval)
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(top.Sorts(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.json {
			return usagef(cmd, "weir top prints no JSON: use weir nodes --json and weir hosts --json")
		}
		if err := checkView(cmd, o, top.Sorts()); err != nil {
			return err
		}
		return showTop(f, cmd, o)
	}
	return cmd
}

func addIntervalFlag(p *process, cmd *cobra.Command, at *time.Duration) {
	cmd.Flags().DurationVar(at, "interval", p.tick, "the `time` between two refreshes")
}

// checkView checks the flags of the view, which can be sorted by sorts.
func checkView(cmd *cobra.Command, o top.Options, sorts []string) error {
	if o.Sort != "" && !slices.Contains(sorts, o.Sort) {
		return usagef(cmd, "--sort is one of %s, not %q", strings.Join(sorts, ", "), o.Sort)
	}
	if cmd.Flags().Changed("interval") && (o.Interval < minInterval || o.Interval > maxInterval) {
		return usagef(cmd, "--interval is from %s to %s, not %s", minInterval, "1h", o.Interval)
	}
	return nil
}

// showTop shows the cluster on the terminal until a key ends it. Without a terminal, it prints it
// once.
func showTop(f *clientFlags, cmd *cobra.Command, o top.Options) error {
	c, err := f.client(cmd)
	if err != nil {
		return err
	}
	defer c.CloseIdle()
	// If the first call fails, the command fails, instead of showing the error on a screen.
	ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
	defer cancel()
	if o.Host != "" {
		h, err := c.Host(ctx, o.Host)
		if err != nil {
			return argumentsRefused(cmd, explain(c, err))
		}
		o.Host = h.Host
	} else if _, err := c.Status(ctx); err != nil {
		return explain(c, err)
	}
	o.Addr = c.Addr()
	if !f.p.draws() {
		return printTop(cmd.Context(), c, cmd.OutOrStdout(), o)
	}
	o.Colour, o.Unicode = f.p.colour(), f.p.unicode()
	return runScreen(cmd.Context(), f.p, c, cmd.OutOrStdout(), o)
}

// printTop prints one picture, as soon as it has rates.
func printTop(ctx context.Context, c *api.Client, w io.Writer, o top.Options) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+o.Interval)
	defer cancel()
	m := top.New(o)
	var begin time.Time
	for n, err := range c.Events(ctx, api.EventQuery{Types: []string{"status", "nodes", "use"}}) {
		if err != nil {
			return explain(c, err)
		}
		m.Take(time.Now(), n)
		if n.Use == nil {
			continue
		}
		if begin.IsZero() {
			begin = n.Use.Time
		}
		// Frames come roughly every second.
		if n.Use.Time.Sub(begin) < o.Interval-minInterval {
			continue
		}
		if m.Refresh(); m.Rated() {
			break
		}
	}
	nodes, hosts := m.Tables(time.Now())
	for i, rows := range [][][]string{nodes, hosts} {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := (&table{header: rows[0], rows: rows[1:]}).write(w); err != nil {
			return err
		}
	}
	return nil
}
