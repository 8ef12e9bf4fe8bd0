package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newLeaveCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Take a node out of the cluster, and wait until its process has ended",
		Long: `Drain a node, give every slot back, take it out of the Raft configuration and end its process. Use it for a node
that will not come back under its name. To restart a node, stop it with SIGTERM.

A server whose leaving would cost the quorum is refused, and runs on. The command fails as well if the process has ended
and the server may still be in the Raft configuration.`,
		Example: `  weir leave --addr http://127.0.0.1:8281`,
		Args:    noArgs,
	}
	f := addClientFlags(p, cmd)
	var w waitFlags
	w.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := w.check(cmd); err != nil {
			return err
		}
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		var node string
		ask := func(ctx context.Context, c *api.Client) (api.Started, error) {
			s, err := c.Leave(ctx)
			node = s.Node
			return s, err
		}
		started := func(s api.Started) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is leaving: %s open\n", printable(s.Node), count(s.Connections, "connection"))
			return err
		}
		if err := ask1(f, cmd, c, ask, started); err != nil || w.detach {
			return err
		}
		return waitLeft(f, cmd, c, node, w)
	}
	return cmd
}

// waitLeft polls the node until nothing, or another node, answers in its place. Whether it has left
// then is only what it has said itself: a node that could not leave ends as well.
func waitLeft(f *clientFlags, cmd *cobra.Command, c *api.Client, node string, w waitFlags) error {
	left := false
	stranded := false // a server that has never known a leader, which alone could remove it
	led := false
	done, err := poll(cmd.Context(), f.p.tick, w.timeout, func(ctx context.Context) (bool, error) {
		st, err := c.Status(ctx)
		var refused *api.Error
		switch {
		case errors.As(err, &refused):
			return false, nil // on its way out
		case err != nil:
			return true, nil
		case st.Node != node:
			return true, nil
		case !st.Leaving:
			return false, fmt.Errorf("%s is no longer leaving; its log says why", node)
		}
		led = led || st.Leader != ""
		stranded = st.Role == "server" && !led
		left = left || st.Left || st.Role == "proxy" // which is in no Raft configuration
		return false, nil
	})
	switch {
	case err != nil:
		return err
	case !done:
		return fmt.Errorf("%s still runs after %s; it goes on leaving", node, w.timeout)
	case !left && stranded:
		return fmt.Errorf("%s has stopped, but there was no leader to take it out of the Raft configuration: when there is one, weir raft remove %s", node, node)
	case !left:
		return fmt.Errorf("%s has stopped, but may still be in the Raft configuration: weir raft peers shows it on another node, and weir raft remove %s takes it out", node, node)
	case !f.json:
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has left\n", printable(node))
	}
	return err
}
