package cluster

import (
	"github.com/weirproxy/weir/cluster/gossip"
	"github.com/weirproxy/weir/cluster/handshake"
)

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

// Member is gossip's knowledge of a node.
type Member = gossip.Member

// Listening holds the addresses of a node's ports.
type Listening = gossip.Listening

// Role says whether a node holds Raft state.
type Role = gossip.Role

// The roles.
const (
	RoleServer = gossip.RoleServer
	RoleProxy  = gossip.RoleProxy
)

// Health is a node's state according to gossip.
type Health = gossip.Health

// The healths.
const (
	HealthAlive   = gossip.HealthAlive
	HealthSuspect = gossip.HealthSuspect
	HealthDead    = gossip.HealthDead
	HealthLeft    = gossip.HealthLeft
)

// GossipKeys are the keys of gossip.
type GossipKeys = gossip.Keys
