package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

// namedHosts bounds the hosts that limits delete names.
const namedHosts = 10

// limitFlags are the flags of limits set. A flag that is not given leaves its field as it is.
type limitFlags struct {
	connections  string
	queueTimeout time.Duration
	queueSize    int
	noQueue      bool
	shared       bool
	evict        bool
}

func newLimitsSetCommand(f *clientFlags) *cobra.Command {
	var l limitFlags
	cmd := &cobra.Command{
		Use:   "set HOST --connections N",
		Short: "Set one limit, or change part of one",
		Long: `Set one limit. If the pattern has one already, only the given settings change: its queue stays unless
--no-queue removes it, and --shared=false ends a shared count. The answer shows the limit before and after.
Lowering a limit closes nothing unless --evict is given.

If somebody else changes the limit at the same moment, the command reads it again and tries once more.`,
		Example: `  weir limits set api.example.com --connections 5
  weir limits set api.example.com --connections 5 --queue-timeout 2s --queue-size 100
  weir limits set api.example.com --no-queue
  weir limits set '*.example.org' --connections 100 --shared
  weir limits set internal.example.com --connections none
  weir limits set api.example.com --connections 0 --evict`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.complete(limitPatterns),
	}
	flags := cmd.Flags()
	flags.StringVar(&l.connections, "connections", "", "the most concurrent connections, `N`; 0 blocks the host, none sets no cap (required for a new limit)")
	flags.DurationVar(&l.queueTimeout, "queue-timeout", 0, "let requests over the limit wait, at most this `time`; a new queue needs --queue-size too")
	flags.IntVar(&l.queueSize, "queue-size", 0, "at most this `number` of requests wait on each node; a new queue needs --queue-timeout too")
	flags.BoolVar(&l.noQueue, "no-queue", false, "remove the queue: refuse requests over the limit at once")
	flags.BoolVar(&l.shared, "shared", false, "all hosts that match share one count")
	flags.BoolVar(&l.evict, "evict", false, "close connections above the new limit, on each node its newest")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := l.check(cmd); err != nil {
			return err
		}
		var before *api.Limit
		ask := func(ctx context.Context, c *api.Client) (done api.LimitWritten, err error) {
			done, before, err = l.change(ctx, cmd, c, args[0])
			return done, err
		}
		return call(f, cmd, ask, func(done api.LimitWritten) error {
			was := ""
			if before != nil {
				was = describe(*before) + " → "
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s%s (index %d)\n", printable(done.Pattern), was, describe(done.Limit), done.Index)
			return err
		})
	}
	return cmd
}

// check checks the flags, as far as possible without the present limit.
func (l limitFlags) check(cmd *cobra.Command) error {
	flags := cmd.Flags()
	queue := flags.Changed("queue-timeout") || flags.Changed("queue-size")
	if !flags.Changed("connections") && !flags.Changed("shared") && !queue && !l.noQueue {
		return usagef(cmd, "--connections is missing: give a number, or none for no cap")
	}
	if queue && l.noQueue {
		return usagef(cmd, "--no-queue removes the queue that --queue-timeout and --queue-size describe: give one or the other")
	}
	_, err := l.cap(cmd)
	return err
}

// cap returns the value of --connections; nil is no cap.
func (l limitFlags) cap(cmd *cobra.Command) (*int64, error) {
	if l.connections == "none" || !cmd.Flags().Changed("connections") {
		return nil, nil
	}
	n, err := strconv.ParseInt(l.connections, 10, 64)
	if err != nil || n < 0 {
		return nil, usagef(cmd, "--connections is a number from 0 on, or none for no cap, not %q", l.connections)
	}
	return &n, nil
}

// change reads the limit, changes the fields that the flags name, and writes it back if nobody has
// written it meanwhile. Otherwise it starts again, once. before is nil if there was no limit.
func (l limitFlags) change(ctx context.Context, cmd *cobra.Command, c *api.Client, pattern string) (done api.LimitWritten, before *api.Limit, err error) {
	for attempt := 1; ; attempt++ {
		limit := api.Limit{Pattern: pattern}
		unchanged := api.IfAbsent()
		before = nil
		now, err := c.Tee(io.Discard).Limit(ctx, pattern) // --json prints the answer to the write alone
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

// merge returns limit with the values of the flags.
func (l limitFlags) merge(cmd *cobra.Command, limit api.Limit, exists bool) (api.Limit, error) {
	flags := cmd.Flags()
	limit.Source, limit.ModifyIndex = "", 0
	switch {
	case flags.Changed("connections"):
		limit.Connections, _ = l.cap(cmd) // checked before
	case !exists:
		return limit, usagef(cmd, "--connections is missing: there is no limit for %s yet, so give a number, or none for no cap", limit.Pattern)
	}
	if flags.Changed("shared") {
		limit.Shared = l.shared
	}
	timeout, size := flags.Changed("queue-timeout"), flags.Changed("queue-size")
	switch {
	case l.noQueue:
		limit.Queue = nil
	case timeout || size:
		if limit.Queue == nil && timeout != size {
			return limit, usagef(cmd, "--queue-timeout and --queue-size go together where the limit has no queue yet")
		}
		var q api.Queue
		if limit.Queue != nil {
			q = *limit.Queue
		}
		if timeout {
			q.Timeout = api.Duration(l.queueTimeout)
		}
		if size {
			q.Size = l.queueSize
		}
		limit.Queue = &q
	}
	if limit.Queue != nil && limit.Connections == nil {
		return limit, usagef(cmd, "the limit has a queue, in which nobody can wait without a cap: add --no-queue")
	}
	return limit, nil
}

func newLimitsDeleteCommand(f *clientFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "delete HOST",
		Short: "Delete one limit",
		Long: `Delete the limit with exactly this pattern. A limit of the nodes' config with the same pattern then applies
again. A config limit can be deleted too; the next reload of a node whose config has it brings it back.
The answer names the hosts that have no cap any more.`,
		Example: `  weir limits delete api.example.com
  weir limits delete '*'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: f.complete(limitPatterns),
		RunE: func(cmd *cobra.Command, args []string) error {
			var freed []string
			ask := func(ctx context.Context, c *api.Client) (api.LimitDeleted, error) {
				if f.json {
					return c.DeleteLimit(ctx, args[0])
				}
				capped := cappedHosts(ctx, c)
				done, err := c.DeleteLimit(ctx, args[0])
				if err == nil {
					freed = freedHosts(ctx, c, capped)
				}
				return done, err
			}
			return call(f, cmd, ask, func(done api.LimitDeleted) error { return showDeleted(cmd.OutOrStdout(), done, freed) })
		},
	}
}

func showDeleted(w io.Writer, done api.LimitDeleted, freed []string) error {
	var b strings.Builder
	if done.Uncovered != nil {
		fmt.Fprintf(&b, "%s: the config's limit applies again: %s\n", printable(done.Pattern), describe(*done.Uncovered))
	} else {
		fmt.Fprintf(&b, "%s: deleted (index %d)\n", printable(done.Pattern), done.Index)
	}
	if done.Pattern == "*" && done.Uncovered == nil {
		b.WriteString("Hosts without a limit of their own have no cap now.\n")
	}
	if len(freed) > 0 {
		more := ""
		if n := len(freed) - namedHosts; n > 0 {
			more = fmt.Sprintf(", and %d more", n)
			freed = freed[:namedHosts]
		}
		fmt.Fprintf(&b, "No longer capped: %s%s\n", strings.Join(freed, ", "), more)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// busiest selects the hosts with the most connections, one page of them.
var busiest = api.HostQuery{Sort: "in_use"}

// cappedHosts returns the hosts in use that have a cap, or none if they can't be listed, which must
// not stop a deletion.
func cappedHosts(ctx context.Context, c *api.Client) map[string]bool {
	capped := map[string]bool{}
	hosts, err := c.Hosts(ctx, busiest)
	if err != nil {
		return capped
	}
	for _, h := range hosts.Hosts {
		if h.Limit != nil {
			capped[h.Host] = true
		}
	}
	return capped
}

// freedHosts returns those of the capped hosts that have no cap now, the busiest first.
func freedHosts(ctx context.Context, c *api.Client, capped map[string]bool) []string {
	if len(capped) == 0 {
		return nil
	}
	hosts, err := c.Hosts(ctx, busiest)
	if err != nil {
		return nil
	}
	var freed []string
	for _, h := range hosts.Hosts {
		if h.Limit == nil && capped[h.Host] {
			freed = append(freed, printable(h.Host))
		}
	}
	return freed
}
