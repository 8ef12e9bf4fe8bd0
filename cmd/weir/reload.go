package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

func newReloadCommand(p *process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make a node read its config again",
		Long: `Make a node read its config files again, as SIGHUP does, and print which settings it applied and which
wait for a restart. A config with an error changes nothing: the command fails and prints the error.
The limits in the config become the cluster's config limits.`,
		Example: `  weir reload
  weir reload --addr http://127.0.0.1:8181`,
		Args: noArgs,
	}
	f := addClientFlags(p, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ask := func(ctx context.Context, c *api.Client) (api.Reloaded, error) { return c.Reload(ctx) }
		return call(f, cmd, ask, func(r api.Reloaded) error { return showReloaded(cmd.OutOrStdout(), r) })
	}
	return cmd
}

func showReloaded(w io.Writer, r api.Reloaded) error {
	var b strings.Builder
	if len(r.Applied) == 0 {
		b.WriteString("Reloaded: nothing has changed that a reload applies.\n")
	} else {
		fmt.Fprintf(&b, "Applied: %s\n", printable(strings.Join(r.Applied, ", ")))
	}
	if len(r.NeedRestart) > 0 {
		fmt.Fprintf(&b, "Need a restart: %s\n", printable(strings.Join(r.NeedRestart, ", ")))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
