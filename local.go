package weir

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
)

// membership is a node's part in its cluster: a [cluster.Cluster], or that of a node that is alone.
type membership interface {
	lease.Affiliation

	Start(cluster.Handlers) error
	CheckLeave() error
	Leave(context.Context) error
	Shutdown(context.Context) error

	Members() []cluster.Member
	Member(name string) (cluster.Member, bool)
	Servers() []cluster.Member
	Leader() (name, rpcAddr string)
	GRPCConn(addr string) (*grpc.ClientConn, error)
	RoundTripper(addr string) http.RoundTripper

	RPCAddr() string
	GossipAddr() string
	Listening() (rpc, gossip netip.AddrPort)
	SetConfigDigest(string)
	SetClusterDigest(string)
	SetDraining(bool)
	SetSessionLeft(uint64)
	SetGossipKeys(cluster.GossipKeys) error

	VerifyLeader(context.Context) error
	RaftStatus() cluster.RaftStatus
	Peers() []cluster.Peer
	RemovePeer(ctx context.Context, name string) (index uint64, err error)
	Transfer(ctx context.Context, to string) error
	GrantHold() time.Duration
	Measures() cluster.Measures
}

// aloneAddr stands for the rpc address of a node that is alone, which has no such port.
const aloneAddr = "alone"

// errAlone is the failure of what needs other nodes.
var errAlone = errors.New("this node is alone: it has no other nodes")

// alone is the cluster of a node that is its only member, without ports and without Raft: it leads
// from its start to its end. Its id is that of the state, which begins anew at each start.
type alone struct {
	name, version string
	log           *leader.Local
	since         time.Time
	end           context.CancelFunc
	leading       sync.WaitGroup

	mu       sync.Mutex
	cluster  string
	digest   string
	draining bool
}

// Start leads.
func (a *alone) Start(h cluster.Handlers) error {
	ctx, end := context.WithCancel(context.Background())
	a.end = end
	a.leading.Go(func() { h.Lead(ctx, leader.LocalTerm) })
	h.LeaderChanged(aloneAddr)
	return nil
}

// CheckLeave always succeeds.
func (a *alone) CheckLeave() error { return nil }

// Leave has nothing to do: nobody else is there.
func (a *alone) Leave(context.Context) error { return nil }

// Shutdown ends leading, and waits for its end.
func (a *alone) Shutdown(context.Context) error {
	if a.end != nil {
		a.end()
	}
	a.leading.Wait()
	return nil
}

// Members lists the node itself.
func (a *alone) Members() []cluster.Member {
	a.mu.Lock()
	defer a.mu.Unlock()
	return []cluster.Member{{
		Name: a.name, Role: cluster.RoleServer, Health: cluster.HealthAlive, Since: a.since, Version: a.version,
		ConfigDigest: a.digest, LeadsTerm: leader.LocalTerm, Cluster: a.cluster, Draining: a.draining,
	}}
}

// Member returns the node itself.
func (a *alone) Member(name string) (cluster.Member, bool) {
	if name != a.name {
		return cluster.Member{}, false
	}
	return a.Members()[0], true
}

// Servers lists the node itself.
func (a *alone) Servers() []cluster.Member { return a.Members() }

// Leader is the node itself.
func (a *alone) Leader() (name, rpcAddr string) { return a.name, aloneAddr }

// GRPCConn fails: there is nobody to call.
func (a *alone) GRPCConn(string) (*grpc.ClientConn, error) { return nil, errAlone }

// RoundTripper returns nil: there is nobody to call.
func (a *alone) RoundTripper(string) http.RoundTripper { return nil }

// RPCAddr is empty: there is no such port.
func (a *alone) RPCAddr() string { return "" }

// GossipAddr is empty: there is no such port.
func (a *alone) GossipAddr() string { return "" }

// Listening returns no ports.
func (a *alone) Listening() (rpc, gossip netip.AddrPort) { return rpc, gossip }

// SetConfigDigest changes what Members says.
func (a *alone) SetConfigDigest(digest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.digest = digest
}

// SetClusterDigest changes nothing: nobody else is there to compare with it.
func (a *alone) SetClusterDigest(string) {}

// SetDraining changes what Members says.
func (a *alone) SetDraining(draining bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = draining
}

// SetSessionLeft has nobody to tell.
func (a *alone) SetSessionLeft(uint64) {}

// SetGossipKeys has no gossip to encrypt.
func (a *alone) SetGossipKeys(cluster.GossipKeys) error { return nil }

// ClusterID implements [lease.Affiliation].
func (a *alone) ClusterID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cluster
}

// SetClusterID implements [lease.Affiliation].
func (a *alone) SetClusterID(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cluster = id
	return nil
}

// VerifyLeader always succeeds.
func (a *alone) VerifyLeader(context.Context) error { return nil }

// RaftStatus describes the log, as if it were Raft's.
func (a *alone) RaftStatus() cluster.RaftStatus {
	index := a.log.Index()
	return cluster.RaftStatus{State: "leader", Term: leader.LocalTerm, LastIndex: index, CommitIndex: index, AppliedIndex: index}
}

// Peers lists the node itself.
func (a *alone) Peers() []cluster.Peer {
	return []cluster.Peer{{ID: a.name, Name: a.name, Voter: true, Leader: true, Health: cluster.HealthAlive}}
}

// RemovePeer fails.
func (a *alone) RemovePeer(context.Context, string) (uint64, error) { return 0, cluster.ErrNoRaft }

// Transfer fails: nobody else could lead.
func (a *alone) Transfer(context.Context, string) error { return cluster.ErrNoRaft }

// GrantHold is 0: no session of a former process can be alive.
func (a *alone) GrantHold() time.Duration { return 0 }

// Measures counts the node as the only voter.
func (a *alone) Measures() cluster.Measures { return cluster.Measures{Voters: 1} }
