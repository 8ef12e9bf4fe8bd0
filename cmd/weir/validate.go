package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
)

func newValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate PATH…",
		Short: "Check config files",
		Long: `Check config as weir agent would read it with the same paths: each PATH is a file or a directory
of *.hcl, and all of them together are one node's config. Every problem is written to standard error with
its file:line,col, the source line and what to write instead. So is what a node runs with, but its operator should know: the exit
code is 0 then.`,
		Example: `  weir validate /etc/weir
  weir validate a.hcl limits.hcl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			c, problems := config.Load(paths, config.Options{CheckPattern: checkPattern})
			if len(problems) == 0 {
				if err := config.WriteDiagnostics(cmd.ErrOrStderr(), config.Warnings(c)); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "The config of node %q is valid: %s.\n", c.Name, count(len(c.Limits), "limit"))
				return err
			}
			if err := config.WriteDiagnostics(cmd.ErrOrStderr(), problems); err != nil {
				return err
			}
			return errors.New("the config has " + count(len(problems), "problem"))
		},
	}
}

// checkPattern is how the config package judges limit patterns, here and in the agent.
func checkPattern(s string) (string, error) {
	p, err := fsm.ParsePattern(s)
	return p.String(), err
}

// count is "1 limit", "2 limits".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
