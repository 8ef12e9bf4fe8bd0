package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that can't be understood.
type usageError struct {
	command string // whose help explains it
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), err: fmt.Errorf(format, args...)}
}

// process is what commands use of the process that they run in; tests have their own.
type process struct {
	getenv  func(string) string
	environ func() []string
	// exec replaces the process, and returns only when it can't.
	exec func(path string, argv, env []string) error
	// stdin is where keys come from; nil: from standard input, or, where that is no terminal, from
	// the one that controls the process.
	stdin io.Reader
	// asks reports whether somebody can answer a question: standard input is a terminal. nil:
	// nobody can.
	asks func() bool
	// rows is the height of the terminal on standard output; not ok where that is none.
	rows func() (n int, ok bool)
	// tick is the pause between two looks at something that is awaited or watched.
	tick time.Duration
}

func thisProcess() *process {
	return &process{
		getenv:  os.Getenv,
		environ: os.Environ,
		exec:    syscall.Exec,
		asks:    func() bool { return term.IsTerminal(int(os.Stdin.Fd())) },
		rows: func() (int, bool) {
			_, rows, err := term.GetSize(int(os.Stdout.Fd()))
			return rows, err == nil
		},
		tick: time.Second,
	}
}

// run runs one command line and returns its exit code. The error, if any, is one message on stderr.
func run(ctx context.Context, p *process, args []string, stdout, stderr io.Writer, node ...*cobra.Command) int {
	root := newRootCommand(p, node...)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.InitDefaultCompletionCmd() // after SetOut, which it keeps
	root.InitDefaultHelpCmd()
	checkHelpTopics(root)
	checkShells(root)
	markUsage(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "Error: %s\n", printable(err.Error()))
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "See %s --help.\n", usage.command)
		return exitUsage
	}
	return exitFailed
}

const (
	groupNode    = "node"
	groupCluster = "cluster"
)

// newRootCommand puts the commands together; node are those that run or prepare a node.
func newRootCommand(p *process, node ...*cobra.Command) *cobra.Command {
	root := newGroup("weir", "A cluster of forward proxies that enforces limits across all its nodes")
	root.Long = `weir is a cluster of forward proxies. However many nodes there are, and whichever of them a worker goes
through, an upstream never sees more connections, requests and bytes than its limit allows.

Exit codes: 0 done, 1 failed, 2 wrong usage.`
	root.Example = `  weir agent --dev
  weir limits set api.example.com --connections 5
  weir exec -- curl https://api.example.com/
  weir hosts --watch`
	root.SilenceUsage = true
	root.SilenceErrors = true
	root.AddGroup(
		&cobra.Group{ID: groupNode, Title: "Run a node:"},
		&cobra.Group{ID: groupCluster, Title: "Inspect and change a running cluster:"},
	)
	for _, cmd := range node {
		cmd.GroupID = groupNode
	}
	cluster := []*cobra.Command{
		newStatusCommand(p), newNodesCommand(p), newHostsCommand(p), newUsageCommand(p), newExplainCommand(p), newTopCommand(p), newConnectionsCommand(p), newEventsCommand(p), newLimitsCommand(p), newReloadCommand(p), newDrainCommand(p),
		newLeaveCommand(p), newRaftCommand(p), newSnapshotCommand(p), newDebugCommand(p), newExecCommand(p),
	}
	for _, cmd := range cluster {
		cmd.GroupID = groupCluster
	}
	root.AddCommand(node...)
	root.AddCommand(cluster...)
	root.AddCommand(newVersionCommand())
	return root
}

// newGroup makes a command that only has commands under it; without one of them it is a usage
// error.
func newGroup(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,

		SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				cmd.SetOut(cmd.ErrOrStderr())
				_ = cmd.Help()
				return usagef(cmd, "%s needs a command", cmd.CommandPath())
			}
			hint := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef(cmd, "%s has no command %q%s", cmd.CommandPath(), args[0], hint)
		},
	}
}

// checkHelpTopics makes help on a command that isn't there an error.
func checkHelpTopics(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" {
			continue
		}
		cmd.Args = func(_ *cobra.Command, args []string) error {
			if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
				return fmt.Errorf("there is no command %q to explain", strings.Join(args, " "))
			}
			return nil
		}
	}
}

// checkShells makes completion for a shell that isn't known an error.
func checkShells(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			return usagef(cmd, "completion is for one of bash, zsh, fish and powershell, not %q", strings.Join(args, " "))
		}
	}
}

// noArgs refuses arguments, for commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, and not %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// notEmpty refuses an empty argument, which is most often a shell's variable that is not set: the
// command would do less, or more, than was meant.
func notEmpty(args []string) error {
	if slices.Contains(args, "") {
		return errors.New("an argument is empty")
	}
	return nil
}

// markUsage makes every complaint about flags and arguments, of all commands under cmd, a usage
// error.
func markUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{command: c.CommandPath(), err: err} })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if err == nil && c.Name() != "exec" { // whose arguments are another program's
				err = notEmpty(args)
			}
			if err != nil {
				return &usageError{command: c.CommandPath(), err: fmt.Errorf("%w: write %s", err, c.UseLine())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}
