// Command weir runs a node of a weir cluster, and asks and changes a running one.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), thisProcess(), os.Args[1:], os.Stdout, os.Stderr,
		newAgentCommand(), newValidateCommand(), newKeygenCommand()))
}
