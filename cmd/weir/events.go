package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

// eventTypes are the default of weir events: real events, without the states that the stream
// repeats once a second.
var eventTypes = []string{"leader", "member", "limit", "reclaim", "fence", "drain"}

func newEventsCommand(p *process) *cobra.Command {
	var types []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens in the cluster",
		Long: `Print the events that the node remembers, oldest first, and then each new one as it happens: changes of the
leader, the members and the limits, slots reclaimed from a node that is gone, fences, and draining. Ctrl-C ends it.

With --json each event is one line, as the API sends it. If the connection is lost, the command connects again
and continues after the last event that it printed.`,
		Example: `  weir events
  weir events --types limit,fence
  weir events --json`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	cmd.Flags().StringSliceVar(&types, "types", eventTypes, "only events of these `types`")
	// Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("types", cobra.FixedCompletions(eventTypes, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, t := range types {
			if !slices.Contains(eventTypes, t) {
				return usagef(cmd, "there are no events of type %q: write some of %s", t, strings.Join(eventTypes, ", "))
			}
		}
		c, stream, err := f.eventsClient(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		return followEvents(ctx, f, cmd, c, stream, api.EventQuery{Types: types})
	}
	return cmd
}

// eventStream is a transport that remembers whether a node has ever begun a stream of events. The
// events themselves do not tell: on a quiet cluster none comes for hours.
type eventStream struct {
	*http.Transport
	begun bool
}

func (s *eventStream) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := s.Transport.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), api.MediaEvents) {
		s.begun = true
	}
	return res, err
}

// eventsClient is client with an eventStream.
func (f *clientFlags) eventsClient(cmd *cobra.Command) (*api.Client, *eventStream, error) {
	plain, err := f.client(cmd)
	if err != nil {
		return nil, nil, err
	}
	transport, err := f.transport()
	if err != nil {
		return nil, nil, err
	}
	stream := &eventStream{Transport: &http.Transport{}} // ignores proxy settings, as the client's own
	if t, ok := transport.(*http.Transport); ok {
		stream.Transport = t
	}
	c, err := api.NewClient(plain.Addr(), cmp.Or(f.token, f.p.getenv("WEIR_TOKEN")), stream)
	return c, stream, err
}

// followEvents prints events until ctx ends. The first connection must succeed; a lost one is made
// again, also while the node or a balancer before it answers 5xx, as during a restart.
func followEvents(ctx context.Context, f *clientFlags, cmd *cobra.Command, c *api.Client, stream *eventStream, q api.EventQuery) error {
	for {
		var lost error
		for n, err := range c.Events(ctx, q) {
			if err != nil {
				lost = err
				break
			}
			if n.Event == nil {
				continue
			}
			if err := showEvent(cmd.OutOrStdout(), *n.Event, f.json); err != nil {
				return err
			}
			q.After = n.ID
		}
		var refused *api.Error
		switch {
		case ctx.Err() != nil:
			return nil
		case !stream.begun, errors.As(lost, &refused) && refused.Status < http.StatusInternalServerError:
			return explain(c, lost)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "The connection is lost (%s); connecting again.\n", printable(lost.Error()))
		if !pause(ctx, f.p.tick) {
			return nil
		}
	}
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func showEvent(w io.Writer, e api.Event, asJSON bool) error {
	if asJSON {
		return writeJSON(w, e)
	}
	_, err := fmt.Fprintf(w, "%s  %-7s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05"), printable(e.Type), printable(e.Text))
	return err
}
