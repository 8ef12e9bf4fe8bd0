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
	cmd.Flags().BoolVar(&w.detach, "detach", false, "start it and don't wait for its end")
	cmd.Flags().DurationVar(&w.timeout, "timeout", waitDefault, "wait at most this `time`; it goes on all the same")
}

func newDrainCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Make a node refuse new work, and wait until its connections have ended",
		Long: `Make a node refuse new work and let the connections that it has end. The command waits for the last one.
The node stays in the cluster; stop or restart it afterwards.`,
		Example: `  weir drain
  weir drain --detach --addr http://127.0.0.1:8181`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	var w waitFlags
	w.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
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

// waitDrained looks at the node until its last connection has ended, and tells when their number changes.
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
		last = st.Connections
		return st.Connections == 0, nil
	})
	switch {
	case err != nil:
		return err
	case !done:
		return fmt.Errorf("%s still open after %s; the node goes on draining", count(last, "connection"), timeout)
	case !f.json:
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "drained")
	}
	return err
}

// poll calls look, with pauses, until it reports true or fails, or the time is over: then false.
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
