package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
)

const (
	callTimeout       = 20 * time.Second // longer than a node takes to search for a leader
	completionTimeout = time.Second
)

// clientFlags are the flags of every command that calls a node.
type clientFlags struct {
	p     *process
	addr  string
	token string
	ca    string
	json  bool
}

// addClientFlags adds the flags to cmd and its subcommands.
func addClientFlags(p *process, cmd *cobra.Command) *clientFlags {
	f := &clientFlags{p: p}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.addr, "addr", "", "the node's API `URL` (WEIR_ADDR; default "+api.DefaultAddr+")")
	flags.StringVar(&f.token, "token", "", "the API's `token` (WEIR_TOKEN)")
	flags.StringVar(&f.ca, "ca-file", "", "the CA (PEM `file`) that has signed the certificate of an https API (WEIR_CA_FILE; default the system's CAs)")
	flags.BoolVar(&f.json, "json", false, "print exactly what the API returns")
	return f
}

// client makes the client that flags and environment describe.
func (f *clientFlags) client(cmd *cobra.Command) (*api.Client, error) {
	addr, token := f.addr, f.token
	if addr == "" {
		addr = f.p.getenv("WEIR_ADDR")
	}
	if token == "" {
		token = f.p.getenv("WEIR_TOKEN")
	}
	transport, err := f.transport()
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(addr, token, transport)
	if err != nil {
		return nil, &usageError{command: cmd.CommandPath(), err: err}
	}
	return c, nil
}

// call runs the calls of a command whose arguments are all that it sends: if the node finds fault
// with them, so should whoever wrote the command line. With --json it prints the answers as they
// are, and does not call show.
func call[T any](f *clientFlags, cmd *cobra.Command, ask func(context.Context, *api.Client) (T, error), show func(T) error) error {
	c, err := f.client(cmd)
	if err != nil {
		return err
	}
	defer c.CloseIdle()
	return argumentsRefused(cmd, ask1(f, cmd, c, ask, show))
}

// argumentsRefused makes a node's answer that a value is impossible a usage error. It is not for
// commands that send a file.
func argumentsRefused(cmd *cobra.Command, err error) error {
	var refused *api.Error
	if errors.As(err, &refused) && (refused.Code == "invalid" || refused.Code == "malformed") {
		return &usageError{command: cmd.CommandPath(), err: err}
	}
	return err
}

func ask1[T any](f *clientFlags, cmd *cobra.Command, c *api.Client, ask func(context.Context, *api.Client) (T, error), show func(T) error) error {
	return askWithin(callTimeout, f, cmd, c, ask, show)
}

// askWithin makes a call that may take longer than others.
func askWithin[T any](most time.Duration, f *clientFlags, cmd *cobra.Command, c *api.Client,
	ask func(context.Context, *api.Client) (T, error), show func(T) error,
) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), most)
	defer cancel()
	asked := c
	if f.json {
		asked = c.Tee(cmd.OutOrStdout())
	}
	v, err := ask(ctx, asked)
	if err != nil {
		return explain(c, err)
	}
	if f.json {
		return nil
	}
	return show(v)
}

// commands puts the command in place of a call that an answer tells the reader to make.
var commands = strings.NewReplacer(
	"GET "+api.PathLimits+" lists", "weir limits list shows",
	"GET "+api.PathNodes+" lists", "weir nodes lists",
	"GET "+api.PathUsage+"/", "weir usage ",
)

// explain turns a failed connection into one line that says what to try, and an answer of the API
// into the words of the command line.
func explain(c *api.Client, err error) error {
	var refused *api.Error
	var conn *url.Error
	if wrong := explainTLS(c.Addr(), err); wrong != nil {
		return wrong
	}
	switch {
	case errors.As(err, &refused):
		said := *refused
		said.Detail = commands.Replace(said.Detail)
		return &said
	case errors.As(err, &conn):
		return fmt.Errorf("no node answers at %s (%w): is the agent running there? Set another address with --addr or WEIR_ADDR", c.Addr(), conn.Err)
	}
	return err
}

// complete makes the shell complete a command's first argument with names from the node.
func (f *clientFlags) complete(names func(context.Context, *api.Client, string) []string) cobra.CompletionFunc {
	flag := f.completeFlag(names)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return flag(cmd, args, begun)
	}
}

// completeFlag makes the shell complete a flag with names from the node, quickly or not at all.
func (f *clientFlags) completeFlag(names func(context.Context, *api.Client, string) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		c, err := f.client(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.CloseIdle()
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		return names(ctx, c, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

func hostNames(ctx context.Context, c *api.Client, begun string) []string {
	hosts, err := c.Hosts(ctx, api.HostQuery{Prefix: begun, Limit: 100})
	if err != nil {
		return nil
	}
	var names []string
	for _, h := range hosts.Hosts {
		names = append(names, h.Host)
	}
	return names
}

func nodeNames(ctx context.Context, c *api.Client, _ string) []string {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range nodes.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func peerNames(ctx context.Context, c *api.Client, _ string) []string {
	peers, err := c.RaftPeers(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range peers.Peers {
		names = append(names, p.Name)
	}
	return names
}
