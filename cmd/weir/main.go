// Command weir runs a node of a weir cluster, and asks and changes a running one.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), thisProcess(), os.Args[1:], os.Stdout, os.Stderr, nodeCommands()...))
}

// nodeCommands are those that run or prepare a node.
func nodeCommands() []*cobra.Command {
	return []*cobra.Command{newAgentCommand(), newValidateCommand(), newKeygenCommand(), newTLSCommand()}
}
