package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/spf13/cobra"
)

const gossipKeyBytes = 32 // AES-256

func newKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "Make a gossip key",
		Long: `Print a new random key of 32 bytes, in base64, for gossip_key in the cluster block.
All nodes of a cluster need the same key. Such a key can also be used as an API token.`,
		Example: `  weir keygen
  weir keygen > /etc/weir/token`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := make([]byte, gossipKeyBytes)
			_, _ = rand.Read(key) // never fails: it stops the program instead
			_, err := fmt.Fprintln(cmd.OutOrStdout(), base64.StdEncoding.EncodeToString(key))
			return err
		},
	}
}
