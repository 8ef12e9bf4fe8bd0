package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
)

func newLimitsCommand(p *process) *cobra.Command {
	cmd := newGroup("limits", "List and change the cluster's limits")
	cmd.Long = `List and change the limits, which hold for the whole cluster. A limit is of a scope, host unless --scope says
otherwise: of host for a host, host:port, *.suffix, *.suffix:port, an address, a CIDR, or * for every host; of client
for an address, a CIDR or *; of user for a name or *; of key for a name, prefix* or *. The scopes total and connection
have one limit each, without a pattern. In each scope the most specific pattern counts, as a whole. What is set here
wins over the same pattern in the nodes' config until it is deleted.`
	cmd.Example = `  weir limits list
  weir limits set api.example.com --connections 5
  weir limits set --scope client '*' --requests 10/s --download 10MB
  weir limits set --scope total --connections 20000
  weir limits apply limits.hcl --dry-run`
	f := addClientFlags(p, cmd)
	cmd.AddCommand(newLimitsListCommand(f), newLimitsGetCommand(f), newLimitsSetCommand(f), newLimitsDeleteCommand(f), newLimitsApplyCommand(f), newLimitsImportCommand())
	return cmd
}

func newLimitsListCommand(f *clientFlags) *cobra.Command {
	var scope string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all limits",
		Long:  "List all limits, or those of one scope. --json prints the API's answer, which has them all.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := parseScope(cmd, scope); scope != "" && err != nil {
				return err
			}
			ask := func(ctx context.Context, c *api.Client) (api.Limits, error) { return c.Limits(ctx) }
			return call(f, cmd, ask, func(all api.Limits) error {
				shown := slices.DeleteFunc(all.Limits, func(l api.Limit) bool { return scope != "" && l.Scope != scope })
				return showLimits(cmd.OutOrStdout(), shown)
			})
		},
	}
	addScopeFlag(cmd, &scope, "", "only the limits of this `scope`")
	return cmd
}

// addScopeFlag adds --scope, with what it completes to.
func addScopeFlag(cmd *cobra.Command, scope *string, def, usage string) {
	cmd.Flags().StringVar(scope, "scope", def, usage+": host, client, user, total, key or connection")
	var words []string
	for _, s := range limit.Scopes {
		words = append(words, s.String())
	}
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

func parseScope(cmd *cobra.Command, word string) (limit.Scope, error) {
	for _, s := range limit.Scopes {
		if s.String() == word {
			return s, nil
		}
	}
	return 0, usagef(cmd, "--scope is host, client, user, total, key or connection, not %q", word)
}

// target is which limit a command is about.
type target struct{ scope string }

func (t *target) addFlag(cmd *cobra.Command) {
	addScopeFlag(cmd, &t.scope, limit.ScopeHost.String(), "the limit's `scope`")
}

// pattern is the command's argument, which the scopes total and connection don't take.
func (t *target) pattern(cmd *cobra.Command, args []string) (string, error) {
	scope, err := parseScope(cmd, t.scope)
	switch {
	case err != nil:
		return "", err
	case scope.Bare() && len(args) > 0:
		return "", usagef(cmd, "scope %s has one limit, without a pattern: leave %q out", scope, args[0])
	case scope.Bare():
		return "", nil
	case len(args) != 1:
		return "", usagef(cmd, "give one pattern (%s)", scope.PatternForms())
	}
	return args[0], nil
}

// args is pattern as a check of the arguments.
func (t *target) args(cmd *cobra.Command, args []string) error {
	_, err := t.pattern(cmd, args)
	return err
}

// patterns completes pattern: those of the limits of the scope.
func (t *target) patterns(ctx context.Context, c *api.Client, _ string) []string {
	limits, err := c.Limits(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, l := range limits.Limits {
		if l.Pattern != "" && l.Scope == t.scope {
			names = append(names, l.Pattern)
		}
	}
	return names
}

func newLimitsGetCommand(f *clientFlags) *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "get [PATTERN]",
		Short: "Show the limit with exactly this pattern",
		Long:  "Show the limit with exactly this pattern. To see which limits apply to a connection, use weir explain HOST.",
		Example: `  weir limits get api.example.com
  weir limits get 10.0.0.0/8 --scope client
  weir limits get --scope total`,
		Args:              t.args,
		ValidArgsFunction: f.complete(t.patterns),
	}
	t.addFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pattern, err := t.pattern(cmd, args)
		if err != nil {
			return err
		}
		ask := func(ctx context.Context, c *api.Client) (api.Limit, error) { return c.Limit(ctx, t.scope, pattern) }
		return call(f, cmd, ask, func(l api.Limit) error { return showLimits(cmd.OutOrStdout(), []api.Limit{l}) })
	}
	return cmd
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
	read, problems := config.LoadLimits(path, config.Options{})
	if len(problems) > 0 {
		if err := config.WriteDiagnostics(cmd.ErrOrStderr(), problems); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s has %s; nothing was changed", path, count(len(problems), "problem"))
	}
	limits := []api.Limit{}
	for _, l := range read {
		w := api.LimitOf(&l.Limit)
		w.Source = "" // the API's, once they are written
		limits = append(limits, w)
	}
	return limits, nil
}

// applyLimits compares, shows the changes, and writes exactly those. With --json only the last
// answer is printed. That is the answer to the write, also where it has nothing to change: what
// --json prints tells by dry_run whether the limits are the file's now.
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
	switch {
	case dry && f.json:
		_, err := io.WriteString(w, raw.String())
		return err
	case dry, len(diff.Changes) == 0 && !f.json:
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
			t.add("+", c.Name(), c.After.Words())
			colours = append(colours, green)
		case c.After == nil:
			t.add("-", c.Name(), c.Before.Words())
			colours = append(colours, red)
		default:
			t.add("~", c.Name(), c.Before.Words()+" → "+c.After.Words())
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
	t := table{header: []string{"SCOPE", "PATTERN", "-CONNECTIONS", "-REQUESTS", "-BURST", "-UPLOAD", "-DOWNLOAD", "-BYTE BURST", "-QUEUE TIMEOUT", "-QUEUE SIZE", "SHARED", "MODE", "SOURCE", "-INDEX"}}
	for _, l := range limits {
		rate, burst := "-", "-"
		if r := l.Requests; r != nil {
			rate, burst = r.Rate, strconv.FormatInt(r.Burst, 10)
		}
		var b api.Bandwidth
		if l.Bandwidth != nil {
			b = *l.Bandwidth
		}
		timeout, size := "-", "-"
		if l.Queue != nil {
			timeout, size = l.Queue.Timeout.String(), strconv.Itoa(l.Queue.Size)
		}
		t.add(l.Scope, cmp.Or(l.Pattern, "-"), connections(l.Connections), rate, burst, cmp.Or(b.Upload, "-"), cmp.Or(b.Download, "-"), cmp.Or(b.Burst, "-"),
			timeout, size, yesNo(l.Shared), l.Mode, l.Source, strconv.FormatUint(l.ModifyIndex, 10))
	}
	return t.write(w)
}
