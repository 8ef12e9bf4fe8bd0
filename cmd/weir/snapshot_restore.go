package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
)

func newSnapshotRestoreCommand(f *clientFlags) *cobra.Command {
	var dry, yes bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the cluster's limits those of a snapshot",
		Long: `Make the cluster's limits those of the snapshot in FILE: those that were set through the API, and those of the
config until the next reload. Nothing else changes: sessions, grants and settings such as the ttl stay as they are.

On a terminal the command shows the difference and asks first; --yes skips the question. If standard input is no
terminal, as in a script, it does not ask. --dry-run shows the difference and changes nothing.`,
		Example: `  weir snapshot restore /var/backups/weir.snap --dry-run
  weir snapshot restore /var/backups/weir.snap`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the difference and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file, summary, err := openSnapshot(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		c, err := f.client(cmd)
		if err != nil {
			return err
		}
		defer c.CloseIdle()
		asks := !yes && f.p.asks != nil && f.p.asks()
		if dry || asks {
			changes, err := restoreChanges(cmd.Context(), c, summary)
			if err != nil {
				return err
			}
			if dry && f.json {
				return writeJSON(cmd.OutOrStdout(), api.LimitsReplaced{DryRun: true, Changes: changes})
			}
			w := cmd.OutOrStdout()
			if !dry {
				w = cmd.ErrOrStderr() // the question's side; what is restored is the output
			}
			if err := showRestore(w, changes, f.p.colour()); err != nil || dry {
				return err
			}
			if ok, err := f.p.confirm(cmd.ErrOrStderr(), "Restore these limits?"); err != nil || !ok {
				return cmp.Or(err, errors.New("nothing was changed"))
			}
		}
		ask := func(ctx context.Context, c *api.Client) (api.SnapshotRestored, error) {
			return c.RestoreSnapshot(ctx, file)
		}
		return askWithin(snapshotTimeout, f, cmd, c, ask, func(r api.SnapshotRestored) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Restored %s at index %d: %d added, %d changed, %d removed.\n",
				count(r.Limits, "limit"), r.Index, r.Added, r.Changed, r.Removed)
			return err
		})
	}
	return cmd
}

// restoreChanges returns the changes that a restore would make to the limits in force.
func restoreChanges(ctx context.Context, c *api.Client, s *fsm.Summary) ([]api.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := c.Limits(ctx)
	if err != nil {
		return nil, explain(c, err)
	}
	var then []api.Limit
	for _, l := range fsm.Effective(s.Limits) {
		then = append(then, api.LimitOf(&l))
	}
	return limitChanges(now.Limits, then), nil
}

// limitChanges compares two lists of limits by what they allow, and ignores their source. The
// result is sorted by name.
func limitChanges(before, after []api.Limit) []api.Change {
	changes := []api.Change{}
	was := make(map[string]*api.Limit, len(before))
	for i := range before {
		was[before[i].Scope+" "+before[i].Pattern] = &before[i]
	}
	for i := range after {
		l := &after[i]
		old, ok := was[l.Scope+" "+l.Pattern]
		delete(was, l.Scope+" "+l.Pattern)
		switch {
		case !ok:
			changes = append(changes, api.Change{Action: "add", Scope: l.Scope, Pattern: l.Pattern, After: l})
		case old.Words() != l.Words():
			changes = append(changes, api.Change{Action: "change", Scope: l.Scope, Pattern: l.Pattern, Before: old, After: l})
		}
	}
	for _, old := range was {
		changes = append(changes, api.Change{Action: "remove", Scope: old.Scope, Pattern: old.Pattern, Before: old})
	}
	slices.SortFunc(changes, func(a, b api.Change) int { return strings.Compare(a.Name(), b.Name()) })
	return changes
}

func showRestore(w io.Writer, changes []api.Change, colour bool) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(w, "Nothing to change: the cluster's limits are the snapshot's.")
		return err
	}
	return showChanges(w, changes, colour)
}

// confirm asks a question; any answer but yes is no.
func (p *process) confirm(w io.Writer, question string) (bool, error) {
	if _, err := fmt.Fprintf(w, "%s [y/N] ", question); err != nil {
		return false, err
	}
	in := p.stdin
	if in == nil {
		in = os.Stdin
	}
	line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}
