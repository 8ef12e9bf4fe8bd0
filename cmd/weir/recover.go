package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
)

// recoverMargin is added to the ttl, as a leader does before it takes a silent node's slots.
const recoverMargin = 500 * time.Millisecond

func newRaftRecoverCommand() *cobra.Command {
	var paths []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover --config PATH",
		Short: "Make a stopped server the only one, after a majority is lost for good",
		Long: `Make this server the only one of its cluster, when so many servers are lost for good that the others can't elect a leader.
Run it on one stopped server only; if several are left, on the one with the longest log. Afterwards all other servers must
start with an empty data_dir; they join by themselves, and the cluster keeps its limits.

Entries that only the lost servers had are gone. If those servers ever ran again with their old data, there would be two
clusters, and twice the connections.

The command waits for as long as a silent node may keep its slots, so that no node still uses a slot that this server
might grant to another.`,
		Example: `  weir raft recover --config /etc/weir/weir.hcl`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usagef(cmd, "say where the node's config is: --config PATH")
			}
			cfg, err := source{paths: paths}.load()
			if err != nil {
				return err
			}
			return recoverServer(cmd, cfg, yes)
		},
	}
	cmd.Flags().StringArrayVar(&paths, "config", nil, "the `path` of the node's config file, or of its directory of *.hcl; may be repeated")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}

func recoverServer(cmd *cobra.Command, cfg *config.Config, yes bool) (err error) {
	if cfg.Role != config.RoleServer {
		return fmt.Errorf("node %s has the role %s: it holds no Raft state to recover", cfg.Name, cfg.Role)
	}
	data, err := cluster.OpenServerData(cfg.DataDir, cfg.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	var fatal error
	newState := func() *fsm.Store {
		return fsm.NewStore(hclog.NewNullLogger(), func(err error) { fatal = err })
	}
	state := newState()
	r, err := cluster.OpenRecovery(data, state, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if fatal != nil {
		return fatal
	}
	var found recovered
	state.Read(found.take)
	if err := showRecovery(cmd.OutOrStdout(), data, r, found); err != nil {
		return err
	}
	if !yes {
		if err := confirm(cmd, cfg.Name); err != nil {
			return err
		}
	}
	if err := waitOut(cmd, found.ttl+recoverMargin); err != nil {
		return err
	}
	if err := r.Run(newState()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is the only server now. Start it; then start the others, each with an empty data_dir.\n", printable(cfg.Name))
	return err
}

// recovered describes a server's state.
type recovered struct {
	limits int
	nodes  []string // with sessions
	ttl    time.Duration
}

func (f *recovered) take(s *fsm.State) {
	f.limits, f.ttl = len(s.Table().Limits()), s.TTL()
	for _, session := range s.Sessions() {
		f.nodes = append(f.nodes, session.Node)
	}
}

func showRecovery(w io.Writer, data *cluster.DataDir, r *cluster.Recovery, found recovered) error {
	var lost []string
	servers := table{header: []string{"SERVER", "ADDRESS", "VOTER", "AFTERWARDS"}}
	for _, s := range r.Servers {
		then := "the only server"
		if s.ID != data.ServerID() {
			then = "no server"
			lost = append(lost, s.Name)
		}
		servers.add(s.Name, s.Address, yesNo(s.Voter), then)
	}
	if err := servers.write(w); err != nil {
		return err
	}
	sessions := "of no node"
	if len(found.nodes) > 0 {
		sessions = "of " + strings.Join(found.nodes, ", ")
	}
	_, err := fmt.Fprintf(w, `
The log of %s ends at entry %d of term %d. It holds %s, and sessions %s.
What only the other servers had is lost. None of them may run again with its present data_dir: %s.

`, printable(data.Name()), r.LastIndex, r.LastTerm, count(found.limits, "limit"), printable(sessions), orDash(printable(strings.Join(lost, ", "))))
	return err
}

// confirm asks for the node's name.
func confirm(cmd *cobra.Command, name string) error {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "Type the node's name to go on: "); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != name {
		return errors.New("not confirmed: nothing has been changed (--yes goes on without asking)")
	}
	return nil
}

// waitOut waits until no node can hold slots any more. Each gives them up a ttl after it last heard
// from a leader, and since this server was stopped there has been none.
func waitOut(cmd *cobra.Command, d time.Duration) error {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "Waiting %v, until nodes that still run have let go of their slots …\n", d); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), d)
	defer cancel()
	<-ctx.Done()
	return cmd.Context().Err()
}
