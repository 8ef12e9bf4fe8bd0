package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/config"
)

func newValidateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate PATH…",
		Short: "Check config files",
		Long: `Check config as weir agent would read it with the same paths: each PATH is a file or a directory
of *.hcl, and all of them together are one node's config. Every problem is written to standard error with
its file:line,col, the source line and what to write instead. Warnings go there too, and leave the exit code 0.

If several files in a directory set name, they are the files of several nodes. Each is then checked by itself,
together with the files that set none. Give weir agent one of them, not the directory.`,
		Example: `  weir validate /etc/weir
  weir validate a.hcl limits.hcl
  weir validate examples/three-nodes`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if named, shared := severalNodes(paths); named != nil {
				return validateEach(cmd, paths[0], named, shared)
			}
			return validate(cmd, paths)
		},
	}
}

// validate checks paths as one node's config.
func validate(cmd *cobra.Command, paths []string) error {
	c, problems := config.Load(paths, config.Options{})
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
}

// severalNodes returns the files that name a node, and the other files, if paths is one directory
// in which several files name a node: such files can't be one config. Otherwise it returns none.
func severalNodes(paths []string) (named, shared []string) {
	if len(paths) != 1 {
		return nil, nil
	}
	if info, err := os.Stat(paths[0]); err != nil || !info.IsDir() {
		return nil, nil
	}
	if named, shared = config.NodeFiles(paths); len(named) < 2 {
		return nil, nil
	}
	return named, shared
}

// validateEach checks each node's file by itself, together with the files that name no node.
func validateEach(cmd *cobra.Command, dir string, named, shared []string) error {
	with := ""
	if len(shared) > 0 {
		with = " together with " + strings.Join(shared, ", ")
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s holds the files of %s; each is checked by itself%s. Start an agent with one of them, not with the directory.\n",
		printable(dir), count(len(named), "node"), printable(with)); err != nil {
		return err
	}
	bad := 0
	for _, file := range named {
		if err := validate(cmd, append(slices.Clone(shared), file)); err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", printable(file), err)
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %s have problems", bad, count(len(named), "node file"))
	}
	return nil
}

// count returns "1 limit" or "2 limits".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
