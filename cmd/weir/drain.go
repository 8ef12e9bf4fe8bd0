package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

const waitDefault = 10 * time.Minute

// waitFlags are the flags of commands that start something and wait for its end.
type waitFlags struct {
	detach  bool
	timeout time.Duration
}

func (w *waitFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.detach, "detach", false, "return at once, without waiting for the end")
	cmd.Flags().DurationVar(&w.timeout, "timeout", waitDefault, "wait at most this `time`; the node goes on afterwards")
}

// check is to be called before anything is started.
func (w *waitFlags) check(cmd *cobra.Command) error {
	if w.timeout <= 0 {
		return usagef(cmd, "--timeout is above 0, not %s; --detach waits for nothing", w.timeout)
	}
	return nil
}

func newDrainCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Make a node refuse new work, and wait until its connections have ended",
		Long: `Make a node refuse new work, also requests that wait for a slot, and let its open
connections end. The command waits for the last one. The node stays in the cluster. Stop or restart
it afterwards, or make it take new work again with --undo.`,
		Example: `  weir drain
  weir drain --detach --addr http://127.0.0.1:8181
  weir drain --undo`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	var w waitFlags
	w.add(cmd)
	undo := cmd.Flags().Bool("undo", false, "take new work again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch waits := cmd.Flags().Changed("detach") || cmd.Flags().Changed("timeout"); {
		case *undo && waits:
			return usagef(cmd, "--undo waits for nothing: leave out --detach and --timeout")
		case *undo:
			return undrain(f, cmd)
		}
		if err := w.check(cmd); err != nil {
			return err
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		ask := func(ctx context.Context, c *api.Client) (api.Started, error) { return c.Drain(ctx) }
		started := func(s api.Started) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is draining: %s open\n", printable(s.Node), count(s.Connections, "connection"))
			return err
		}
		if err := ask1(f, cmd, c, ask, started); err != nil || w.detach {
			return err
		}
		return waitDrained(f, cmd, c, w.timeout)
	}
	return cmd
}

func undrain(f *clientFlags, cmd *cobra.Command) error {
	ask := func(ctx context.Context, c *api.Client) (api.Started, error) { return c.Undrain(ctx) }
	return call(f, cmd, ask, func(s api.Started) error {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s takes new work: %s open\n", printable(s.Node), count(s.Connections, "connection"))
		return err
	})
}

// waitDrained polls the node until its last connection has ended, and prints when their number
// changes.
func waitDrained(f *clientFlags, cmd *cobra.Command, c *api.Client, timeout time.Duration) error {
	last := -1
	done, err := poll(cmd.Context(), f.p.tick, timeout, func(ctx context.Context) (bool, error) {
		st, err := c.Status(ctx)
		if err != nil {
			return false, explain(c, err)
		}
		if !f.json && st.Connections != last && last >= 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "%s open\n", count(st.Connections, "connection"))
		}
		if !st.Draining {
			return false, fmt.Errorf("%s is no longer draining: somebody made it take new work again", printable(st.Node))
		}
		last = st.Connections
		return st.Connections == 0, nil
	})
	switch {
	case err != nil:
		return err
	case !done:
		return fmt.Errorf("%s still open after %s; the node goes on draining (weir drain --undo ends that)", count(last, "connection"), timeout)
	case !f.json:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "drained")
	}
	return err
}

// poll calls look, with pauses, until it reports true or fails. It reports false once the time is
// over.
func poll(ctx context.Context, pause, timeout time.Duration, look func(context.Context) (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		done, err := look(ctx)
		if ctx.Err() != nil {
			return false, nil
		}
		if done || err != nil {
			return done, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false, nil
		}
	}
}
