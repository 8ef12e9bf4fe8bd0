package cluster

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// RaftStatus is how this server's Raft is. A proxy's State is "none".
type RaftStatus struct {
	State        string // leader, follower, candidate, shutdown, none
	Term         uint64
	LastIndex    uint64
	CommitIndex  uint64
	AppliedIndex uint64
	DiskFull     bool // it takes no more, or is read-only
	DiskStalled  bool // the write under way takes too long
}

// Peer is a server of the Raft configuration.
type Peer struct {
	ID      string
	Name    string
	Address string
	Voter   bool
	Leader  bool
	Health  Health // dead, where gossip does not know it
}

// RPCAddr is what others dial to reach this node's rpc port.
func (c *Cluster) RPCAddr() string { return c.mux.self }

// Listening is what the node's rpc and gossip ports are bound to; an unspecified address is every
// one of the machine's.
func (c *Cluster) Listening() (rpc, gossip netip.AddrPort) {
	rpc, _ = netip.ParseAddrPort(c.mux.listener.Addr().String()) // the zero value is no TCP listener, of which tests alone have any
	return netip.AddrPortFrom(rpc.Addr().Unmap(), rpc.Port()), c.transport.bound
}

// GossipAddr is what others join, after Start.
func (c *Cluster) GossipAddr() string { return c.gossip.gossipIP.String() }

// Members lists every node that gossip knows, this one too, by name. The slice is shared: callers
// must not change it.
func (c *Cluster) Members() []Member { return c.gossip.members.list(time.Now()) }

// Member returns one node.
func (c *Cluster) Member(name string) (Member, bool) { return c.gossip.members.get(name, time.Now()) }

// Servers lists the members that are servers.
func (c *Cluster) Servers() []Member {
	var servers []Member
	for _, m := range c.Members() {
		if m.server() {
			servers = append(servers, m)
		}
	}
	return servers
}

// Leader returns the present leader's name and rpc address, or "" where none is known. A proxy goes
// by what the leaders say of themselves in gossip, and believes the highest term. So does a server
// whose Raft is behind that term: it may be waiting for its disk, and believe that it still leads.
func (c *Cluster) Leader() (name, rpcAddr string) {
	if m := c.gossip.members.look(time.Now()).leader; c.raft == nil || m.LeadsTerm > c.raft.CurrentTerm() {
		return m.Name, m.RPCAddr
	}
	addr, id := c.raft.LeaderWithID()
	if id == "" {
		return "", ""
	}
	if known, ok := c.addressOf(id); ok {
		return NameOf(string(id)), known
	}
	return NameOf(string(id)), plainAddress(addr)
}

// RaftStatus returns how this server's Raft is.
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

// Peers lists the Raft configuration as this server knows it; nil on a proxy.
func (c *Cluster) Peers() []Peer {
	if c.raft == nil {
		return nil
	}
	leader, _ := c.Leader()
	var peers []Peer
	for _, s := range c.configuration().Servers {
		p := Peer{ID: string(s.ID), Name: NameOf(string(s.ID)), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Health: HealthDead}
		if m, ok := c.Member(p.Name); ok && m.ServerID() == p.ID {
			p.Health = m.Health
			p.Leader = p.Name == leader
		}
		peers = append(peers, p)
	}
	return peers
}

// SetConfigDigest changes what gossip says of this node's configuration. It is cut to 64 bytes.
func (c *Cluster) SetConfigDigest(digest string) {
	c.setMeta(func(m *clusterpb.Meta) { m.ConfigDigest = digest[:min(len(digest), maxMetaText)] })
}

// SetDraining says in gossip whether this node's proxy takes no new work.
func (c *Cluster) SetDraining(draining bool) {
	c.setMeta(func(m *clusterpb.Meta) { m.Draining = draining })
}

// SetSessionLeft says in gossip which session this node has given back. It is called before
// Shutdown, once the node uses none of its slots.
func (c *Cluster) SetSessionLeft(session uint64) {
	c.setMeta(func(m *clusterpb.Meta) { m.SessionLeft = session })
}

// SetClusterID takes the id of this node's cluster, as the log or the node's first session has it,
// and keeps it in the data directory before it returns. A node is of one cluster for good: another
// id is an error that wraps [ErrOtherCluster].
func (c *Cluster) SetClusterID(id string) error { return c.of.settle(id) }

// GRPCConn returns this node's connection to the gRPC services at an rpc address. It is shared,
// connects and reconnects by itself, and must not be closed; it closes when no member has the
// address any more.
func (c *Cluster) GRPCConn(addr string) (*grpc.ClientConn, error) { return c.peers.grpcConn(addr) }

// RoundTripper sends HTTP requests to the peers' handler at an rpc address, whatever host their URL
// names.
func (c *Cluster) RoundTripper(addr string) http.RoundTripper { return c.peers.roundTripper(addr) }
