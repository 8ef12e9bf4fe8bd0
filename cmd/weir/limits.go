package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
)

func newLimitsCommand(p *process) *cobra.Command {
	cmd := newGroup("limits", "List and change the cluster's limits")
	cmd.Long = `List and change the limits, which hold for the whole cluster. A limit is for a host, host:port, *.suffix,
*.suffix:port, an address, a CIDR, or * for every host; the most specific one counts. What is set here wins over
the same pattern in the nodes' config until it is deleted.`
	cmd.Example = `  weir limits list
  weir limits set api.example.com --connections 5
  weir limits apply limits.hcl --dry-run`
	f := addClientFlags(p, cmd)
	cmd.AddCommand(newLimitsListCommand(f), newLimitsGetCommand(f), newLimitsSetCommand(f), newLimitsDeleteCommand(f), newLimitsApplyCommand(f))
	return cmd
}

func newLimitsListCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all limits",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := func(ctx context.Context, c *api.Client) (api.Limits, error) { return c.Limits(ctx) }
			return call(f, cmd, ask, func(l api.Limits) error { return showLimits(cmd.OutOrStdout(), l.Limits) })
		},
	}
}

func newLimitsGetCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "get HOST",
		Short: "Show the limit with exactly this pattern",
		Long:  "Show the limit with exactly this pattern. To see which limit applies to a host, use weir hosts HOST.",
		Example: `  weir limits get api.example.com
  weir limits get 10.0.0.0/8`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.complete(limitPatterns),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := func(ctx context.Context, c *api.Client) (api.Limit, error) { return c.Limit(ctx, args[0]) }
			return call(f, cmd, ask, func(l api.Limit) error { return showLimits(cmd.OutOrStdout(), []api.Limit{l}) })
		},
	}
}

func newLimitsApplyCommand(f *clientFlags) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "apply FILE.hcl",
		Short: "Make the cluster's limits equal a file's",
		Long: `Make the cluster's limits equal the limits block of a file, and print the difference first. Limits that the file
does not name are deleted. FILE may be a node's whole config; its other blocks are ignored.

If somebody else changes a limit between the comparison and the write, nothing is written.`,
		Example: `  weir limits apply limits.hcl --dry-run
  weir limits apply limits.hcl`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"hcl"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the difference and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		limits, err := readLimits(cmd, args[0])
		if err != nil {
			return err
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		return applyLimits(f, cmd, c, limits, dry)
	}
	return cmd
}

// readLimits reads a file's limits in the API's form.
func readLimits(cmd *cobra.Command, path string) ([]api.Limit, error) {
	read, problems := config.LoadLimits(path, config.Options{CheckPattern: checkPattern})
	if len(problems) > 0 {
		if err := config.WriteDiagnostics(cmd.ErrOrStderr(), problems); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s has %s; nothing was changed", path, count(len(problems), "problem"))
	}
	limits := []api.Limit{}
	for _, l := range read {
		w := api.Limit{Pattern: l.Pattern, Shared: l.Shared}
		if l.Connections != config.Unlimited {
			w.Connections = &l.Connections
		}
		if l.Queue != (config.Queue{}) {
			w.Queue = &api.Queue{Timeout: api.Duration(l.Queue.Timeout), Size: l.Queue.Size}
		}
		limits = append(limits, w)
	}
	return limits, nil
}

// applyLimits compares, shows the changes, and writes exactly those. With --json only the last
// answer is printed.
func applyLimits(f *clientFlags, cmd *cobra.Command, c *api.Client, limits []api.Limit, dry bool) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*callTimeout)
	defer cancel()
	w := cmd.OutOrStdout()
	var raw strings.Builder
	diff, err := c.Tee(&raw).CompareLimits(ctx, limits)
	if err != nil {
		return explain(c, err)
	}
	if !f.json {
		if err := showChanges(w, diff.Changes, f.p.colour()); err != nil {
			return err
		}
	}
	if dry || len(diff.Changes) == 0 {
		if f.json {
			_, err := io.WriteString(w, raw.String())
			return err
		}
		return nil
	}
	write := func(ctx context.Context, c *api.Client) (api.LimitsReplaced, error) {
		return c.ReplaceLimits(ctx, limits, api.IfIndex(diff.Index))
	}
	err = ask1(f, cmd, c, write, func(done api.LimitsReplaced) error {
		_, err := fmt.Fprintf(w, "Applied %s (index %d).\n", count(len(done.Changes), "change"), done.Index)
		return err
	})
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == http.StatusPreconditionFailed {
		return errors.New("the limits were changed by somebody else meanwhile, and nothing was written: run it again to see the new difference")
	}
	return err
}

// colour reports whether standard output shows colours and NO_COLOR (https://no-color.org) is not
// set.
func (p *process) colour() bool {
	_, terminal := p.rows()
	return terminal && p.getenv("NO_COLOR") == "" && p.getenv("TERM") != "dumb"
}

func showChanges(w io.Writer, changes []api.Change, colour bool) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "Nothing to change: the cluster's limits are the file's.")
		return err
	}
	const red, green, yellow, plain = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"
	var t table
	var colours []string
	for _, c := range changes {
		switch {
		case c.Before == nil:
			t.add("+", c.Pattern, describe(*c.After))
			colours = append(colours, green)
		case c.After == nil:
			t.add("-", c.Pattern, describe(*c.Before))
			colours = append(colours, red)
		default:
			t.add("~", c.Pattern, describe(*c.Before)+" → "+describe(*c.After))
			colours = append(colours, yellow)
		}
	}
	var b strings.Builder
	if err := t.write(&b); err != nil {
		return err
	}
	text := b.String()
	if colour {
		b.Reset()
		for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			b.WriteString(colours[i] + line + plain + "\n")
		}
		text = b.String()
	}
	_, err := io.WriteString(w, text)
	return err
}

func showLimits(w io.Writer, limits []api.Limit) error {
	t := table{header: []string{"PATTERN", "-CONNECTIONS", "-QUEUE TIMEOUT", "-QUEUE SIZE", "SHARED", "SOURCE", "-INDEX"}}
	for _, l := range limits {
		timeout, size := "-", "-"
		if l.Queue != nil {
			timeout, size = l.Queue.Timeout.String(), strconv.Itoa(l.Queue.Size)
		}
		t.add(l.Pattern, connections(l.Connections), timeout, size, yesNo(l.Shared), l.Source, strconv.FormatUint(l.ModifyIndex, 10))
	}
	return t.write(w)
}

// describe says in words what a limit allows.
func describe(l api.Limit) string {
	s := "no cap"
	if l.Connections != nil {
		s = count(int(*l.Connections), "connection")
	}
	if l.Queue != nil {
		s += fmt.Sprintf(", queue of %d for %s", l.Queue.Size, l.Queue.Timeout)
	}
	if l.Shared {
		s += ", shared"
	}
	return s
}
