package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

func newLimitsSetCommand(f *clientFlags) *cobra.Command {
	var l limitFlags
	cmd := &cobra.Command{
		Use:   "set [PATTERN]",
		Short: "Set one limit, or change part of one",
		Long: `Set one limit. If the pattern has one already, only the given settings change: its queue stays unless
--no-queue removes it, none in place of a number removes a cap, and --shared=false ends a shared count. The answer
shows the limit before and after. Lowering a limit closes nothing unless --evict is given.

If somebody else changes the limit at the same moment, the command reads it again and tries once more.`,
		Example: `  weir limits set api.example.com --connections 5
  weir limits set api.example.com --connections 5 --queue-timeout 2s --queue-size 100
  weir limits set api.example.com --no-queue
  weir limits set '*.example.org' --connections 100 --shared
  weir limits set internal.example.com --connections none
  weir limits set api.example.com --connections 0 --evict
  weir limits set '*' --scope client --requests 10/s --requests-burst 50 --mode report
  weir limits set --scope connection --download 5MB`,
		Args:              l.args,
		ValidArgsFunction: f.complete(l.patterns),
	}
	l.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pattern, err := l.pattern(cmd, args)
		if err != nil {
			return err
		}
		if err := l.check(cmd); err != nil {
			return err
		}
		var before *api.Limit
		ask := func(ctx context.Context, c *api.Client) (done api.LimitWritten, err error) {
			done, before, err = l.change(ctx, cmd, c, pattern)
			return done, err
		}
		return call(f, cmd, ask, func(done api.LimitWritten) error {
			was := ""
			if before != nil {
				was = before.Words() + " → "
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s%s (index %d)\n", printable(done.Name()), was, done.Limit.Words(), done.Index)
			return err
		})
	}
	return cmd
}

// change reads the limit, changes the fields that the flags name, and writes it back if nobody has
// written it meanwhile. Otherwise it starts again, once. before is nil if there was no limit.
func (l limitFlags) change(ctx context.Context, cmd *cobra.Command, c *api.Client, pattern string) (done api.LimitWritten, before *api.Limit, err error) {
	for attempt := 1; ; attempt++ {
		limit := api.Limit{Scope: l.scope, Pattern: pattern, Mode: api.ModeEnforce}
		unchanged := api.IfAbsent()
		before = nil
		now, err := c.Tee(io.Discard).Limit(ctx, l.scope, pattern) // --json prints the answer to the write alone
		switch {
		case err == nil:
			limit, before, unchanged = now, &now, api.IfIndex(now.ModifyIndex)
		case !hasStatus(err, http.StatusNotFound):
			return done, nil, err
		}
		if limit, err = l.merge(cmd, limit, before != nil); err != nil {
			return done, nil, err
		}
		opts := []api.WriteOption{unchanged}
		if l.evict {
			opts = append(opts, api.Evict())
		}
		done, err = c.PutLimit(ctx, limit, opts...)
		if attempt == 1 && hasStatus(err, http.StatusPreconditionFailed) {
			continue
		}
		if hasStatus(err, http.StatusPreconditionFailed) {
			err = errors.New("somebody else keeps changing this limit, and nothing was written: look at it with weir limits get, and try again")
		}
		return done, before, err
	}
}

func hasStatus(err error, status int) bool {
	var refused *api.Error
	return errors.As(err, &refused) && refused.Status == status
}

func newLimitsDeleteCommand(f *clientFlags) *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "delete [PATTERN]",
		Short: "Delete one limit",
		Long: `Delete the limit with exactly this pattern. A limit of the nodes' config with the same pattern then applies
again. A config limit can be deleted too; the next reload of a node whose config has it brings it back.
The answer names the hosts that have no cap any more, and those that have none on requests, say, any more.`,
		Example: `  weir limits delete api.example.com
  weir limits delete '*'
  weir limits delete nightly --scope user`,
		Args:              t.args,
		ValidArgsFunction: f.complete(t.patterns),
	}
	t.addFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pattern, err := t.pattern(cmd, args)
		if err != nil {
			return err
		}
		var freed freedHosts
		ask := func(ctx context.Context, c *api.Client) (api.LimitDeleted, error) {
			if f.json || t.scope != limit.ScopeHost.String() {
				return c.DeleteLimit(ctx, t.scope, pattern)
			}
			before := limitedHosts(ctx, c)
			done, err := c.DeleteLimit(ctx, t.scope, pattern)
			if err == nil {
				freed = before.without(done)
			}
			return done, err
		}
		return call(f, cmd, ask, func(done api.LimitDeleted) error { return showDeleted(cmd.OutOrStdout(), done, freed) })
	}
	return cmd
}

func showDeleted(w io.Writer, done api.LimitDeleted, freed freedHosts) error {
	var b strings.Builder
	if done.Uncovered != nil {
		fmt.Fprintf(&b, "%s: the config's limit applies again: %s\n", printable(done.Name()), done.Uncovered.Words())
	} else {
		fmt.Fprintf(&b, "%s: deleted (index %d)\n", printable(done.Name()), done.Index)
	}
	if done.Name() == "*" && done.Uncovered == nil {
		b.WriteString("Hosts without a limit of their own have no cap now.\n")
	}
	freed.write(&b)
	_, err := io.WriteString(w, b.String())
	return err
}
