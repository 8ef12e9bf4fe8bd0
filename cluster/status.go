package cluster

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/gossip"
	"github.com/weirproxy/weir/cluster/handshake"
)

// RaftStatus describes this server's Raft. A proxy's State is "none".
type RaftStatus struct {
	State        string // leader, follower, candidate, shutdown, none
	Term         uint64
	LastIndex    uint64
	CommitIndex  uint64
	AppliedIndex uint64
	DiskFull     bool // or read-only
	DiskStalled  bool // the present write takes too long
}

// Peer is a server of the Raft configuration.
type Peer struct {
	ID      string
	Name    string
	Address string
	Voter   bool
	Leader  bool
	Health  Health // dead, if gossip does not know it
}

// RPCAddr returns the address at which other nodes dial this node's rpc port.
func (c *Cluster) RPCAddr() string { return c.port.Self() }

// Listening returns the addresses that the rpc and gossip ports are bound to. An unspecified
// address stands for all of the machine's.
func (c *Cluster) Listening() (rpc, gossip netip.AddrPort) {
	return c.port.Bound(), c.gossip.Bound()
}

// GossipAddr returns the address that other nodes join, after Start.
func (c *Cluster) GossipAddr() string { return c.gossip.Addr().String() }

// Members lists every node that gossip knows, this one too, by name. The slice is shared: callers
// must not change it.
func (c *Cluster) Members() []Member { return c.gossip.Members() }

// Member returns one node.
func (c *Cluster) Member(name string) (Member, bool) { return c.gossip.Member(name) }

// Servers lists the members that are servers.
func (c *Cluster) Servers() []Member {
	var servers []Member
	for _, m := range c.Members() {
		if m.IsServer() {
			servers = append(servers, m)
		}
	}
	return servers
}

// Leader returns the present leader's name and rpc address, or "" if none is known. A proxy goes by
// the leaders' own claims in gossip, and believes the highest term. So does a server whose Raft has
// not reached that term: it may be waiting for its disk, and believe that it still leads; and one
// that is in no Raft configuration any more, to which no leader speaks.
func (c *Cluster) Leader() (name, rpcAddr string) {
	m := c.gossip.Leader()
	if c.raft == nil || m.LeadsTerm > c.raft.CurrentTerm() {
		return m.Name, m.RPCAddr
	}
	addr, id := c.raft.LeaderWithID()
	switch {
	case id == "" && c.self().Detached:
		return m.Name, m.RPCAddr
	case id == "":
		return "", ""
	}
	if known, ok := c.addressOf(id); ok {
		return handshake.NameOf(string(id)), known
	}
	return handshake.NameOf(string(id)), plainAddress(addr)
}

// RaftStatus returns the status of this server's Raft.
func (c *Cluster) RaftStatus() RaftStatus {
	if c.raft == nil {
		return RaftStatus{State: "none"}
	}
	return RaftStatus{
		State:        strings.ToLower(c.raft.State().String()),
		Term:         c.raft.CurrentTerm(),
		LastIndex:    c.raft.LastIndex(),
		CommitIndex:  c.raft.CommitIndex(),
		AppliedIndex: c.raft.AppliedIndex(),
		DiskFull:     c.stores.disk.isFull(),
		DiskStalled:  c.stores.disk.busyFor() >= c.cfg.stall,
	}
}

// Peers lists the Raft configuration that this server has; nil on a proxy.
func (c *Cluster) Peers() []Peer {
	if c.raft == nil {
		return nil
	}
	leader, _ := c.Leader()
	var peers []Peer
	for _, s := range c.configuration().Servers {
		p := Peer{ID: string(s.ID), Name: handshake.NameOf(string(s.ID)), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Health: HealthDead}
		if m, ok := c.Member(p.Name); ok && m.ServerID() == p.ID {
			p.Health = m.Health
			p.Leader = p.Name == leader
		}
		peers = append(peers, p)
	}
	return peers
}

// SetConfigDigest spreads the digest of this node's config in gossip, cut to 64 bytes.
func (c *Cluster) SetConfigDigest(digest string) {
	c.setMeta(func(m *clusterpb.Meta) { m.ConfigDigest = digest[:min(len(digest), gossip.MaxText)] })
}

// SetClusterDigest spreads in gossip which config digest agrees with this server's log, cut to 32
// bytes.
func (c *Cluster) SetClusterDigest(digest string) {
	c.setMeta(func(m *clusterpb.Meta) { m.ClusterDigest = digest[:min(len(digest), gossip.MaxClusterDigest)] })
}

// SetDraining spreads in gossip whether this node's proxy refuses new work.
func (c *Cluster) SetDraining(draining bool) {
	c.setMeta(func(m *clusterpb.Meta) { m.Draining = draining })
}

// SetSessionLeft spreads in gossip which session this node has returned. Call it before Shutdown,
// once the node uses none of its slots.
func (c *Cluster) SetSessionLeft(session uint64) {
	c.setMeta(func(m *clusterpb.Meta) { m.SessionLeft = session })
}

// SetClusterID adopts the id of this node's cluster, from the log or from the node's first session,
// and stores it in the data directory before it returns. A node belongs to one cluster for good:
// another id is an error that wraps [ErrOtherCluster].
func (c *Cluster) SetClusterID(id string) error { return c.of.Settle(id) }

// GRPCConn returns this node's connection to the gRPC services at an rpc address. It is shared,
// reconnects by itself, and must not be closed: it closes when no member has the address any more.
func (c *Cluster) GRPCConn(addr string) (*grpc.ClientConn, error) { return c.port.GRPCConn(addr) }

// RoundTripper sends HTTP requests to the peer handler at an rpc address, whatever the host in
// their URL.
func (c *Cluster) RoundTripper(addr string) http.RoundTripper { return c.port.RoundTripper(addr) }

// SetGossipKeys changes the keys of gossip while it runs. It fails if gossip was not encrypted at
// the start, or would no longer be.
func (c *Cluster) SetGossipKeys(keys GossipKeys) error { return c.gossip.SetKeys(keys) }
