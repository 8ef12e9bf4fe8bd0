package cluster

import "github.com/weirproxy/weir/cluster/handshake"

// Greeting begins every answer on a node's rpc and gossip port. A node's proxy closes a tunnel
// whose upstream begins with it, so that no client of a proxy can take part as a node.
const Greeting = handshake.Greeting

// Plaintext says how unencrypted traffic is treated, on the rpc port and in gossip, if there is a
// certificate or key to encrypt with.
type Plaintext = handshake.Plaintext

// The treatments of unencrypted traffic.
const (
	PlainRefuse = handshake.PlainRefuse
	PlainAccept = handshake.PlainAccept
	PlainSend   = handshake.PlainSend
)
