package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/gossip"
	"github.com/weirproxy/weir/config/certs"
)

// Config describes a node's part in the cluster. Every address is "host:port"; port 0 takes a free
// one.
type Config struct {
	Name    string
	Role    Role
	Version string // spread by gossip, at most 64 bytes
	// Data is the node's open directory, or one from MemoryDataDir. The caller closes it after
	// Shutdown.
	Data *DataDir

	// FSM is the replicated state of a server, nil for a proxy.
	FSM raft.FSM
	// LogVersion is the newest version of the log's commands that the FSM understands; 0 is 1.
	LogVersion uint32

	RPC             string // the TCP port that Raft, gRPC and the peers' HTTP share
	AdvertiseRPC    string // the address that others dial, if it differs
	Gossip          string // TCP and UDP
	AdvertiseGossip string
	Join            []string // gossip addresses or names, retried for ever
	// APIAddr is the listen address of the node's HTTP API, spread by gossip. Its host may be
	// unspecified.
	APIAddr string
	// ProxyAddrs are the listen addresses of the node's proxy, spread by gossip.
	ProxyAddrs []string
	// BootstrapExpect is the number of servers that form the cluster together. With 0 this server
	// forms none and waits to be added. Every server of a cluster must have the same value.
	BootstrapExpect int
	// TLS returns the node's present certificate and CA, for mutual TLS on the rpc port. With nil,
	// the port is not encrypted.
	TLS func() *certs.Set
	// GossipKeys: the first key encrypts gossip, and any of them decrypts it. With nil, gossip is
	// not encrypted.
	GossipKeys GossipKeys
	// Plaintext says whether unencrypted traffic is accepted or sent; "" is PlainRefuse. Without
	// TLS and keys it has no effect.
	Plaintext Plaintext
	// Label separates this gossip from that of other systems at the same addresses; "" is "weir".
	Label        string
	ConfigDigest string // spread by gossip, at most 64 bytes

	// Multiplier stretches the timings of Raft and gossip, for slow networks and overloaded
	// machines. At 1 (or 0) a dead leader is noticed within about a second. At 2 that takes twice
	// as long, and pauses may be twice as long.
	Multiplier int

	Log hclog.Logger
	// Fatal is called at most once, from a goroutine of its own, when the process must stop: its
	// name is taken, for example.
	Fatal func(error)

	// OnCommit receives the time that each entry took which this server proposed as the leader,
	// from handing it to Raft until it was applied here. Failed entries are left out. Calls may be
	// concurrent, and must not block. It may be nil.
	OnCommit func(time.Duration)

	// SessionLife returns how long a session may stay alive after its leader was last confirmed
	// (the ttl and the margin), and whether that value is certain for the cluster. A server whose
	// disk may be an older copy waits that long. With nil, it waits for the longest life that is
	// possible.
	SessionLife func() (life time.Duration, certain bool)

	// Tests set these.
	interfaceAddrs func() ([]net.Addr, error)
	addressesEvery time.Duration
	goneEvery      time.Duration
	wrapStore      func(logStable) logStable
	patience       time.Duration // the watchdog's, with commits
	stall          time.Duration // the watchdog's, with the own disk
	listen         time.Duration // before a cluster is formed alone; negative: not at all
}

// Handlers are called by the cluster. All are optional.
type Handlers struct {
	// Services registers gRPC services on the rpc port.
	Services func(grpc.ServiceRegistrar)
	// HTTP answers the peers' requests on the rpc port.
	HTTP http.Handler
	// Lead does the leader's work of one term. It is called once the FSM holds everything committed
	// before. When its context ends, the term is over and Lead must return soon: no other Lead
	// begins before.
	Lead func(ctx context.Context, term uint64)
	// MembersChanged receives the members that are new or have changed, by name. A member that
	// becomes a suspect is not reported. Calls come one at a time.
	MembersChanged func([]Member)
	// LeaderChanged receives the rpc address of a leader, each time this node learns of a new one.
	// It must not block.
	LeaderChanged func(rpcAddr string)
	// Superseded is called, once, if an older cluster names this server as a voter: the server must
	// not lead the cluster that it has formed, nor use grants from it. It must not block.
	Superseded func(error)
}

func (cfg *Config) normalise() error {
	cfg.Multiplier = max(cfg.Multiplier, 1)
	if cfg.patience == 0 {
		cfg.patience = watchdogLimit * time.Duration(cfg.Multiplier)
	}
	if cfg.stall == 0 {
		cfg.stall = stallLimit * time.Duration(cfg.Multiplier)
	}
	switch {
	case cfg.listen == 0 && (cfg.Data == nil || cfg.Data.Path() == ""):
		cfg.listen = -1 // a directory in memory can't have been lost
	case cfg.listen == 0:
		cfg.listen = listenFirst * time.Duration(cfg.Multiplier)
	}
	if cfg.interfaceAddrs == nil {
		cfg.interfaceAddrs = net.InterfaceAddrs
	}
	cfg.addressesEvery = cmp.Or(cfg.addressesEvery, addressesEvery)
	cfg.goneEvery = cmp.Or(cfg.goneEvery, goneEvery)
	if cfg.Label == "" {
		cfg.Label = defaultLabel
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	cfg.Plaintext = cmp.Or(cfg.Plaintext, PlainRefuse)
	if cfg.OnCommit == nil {
		cfg.OnCommit = func(time.Duration) {}
	}
	switch {
	case cfg.Data == nil:
		return errors.New("a node needs a data directory, or MemoryDataDir")
	case cfg.Data.Name() != cfg.Name:
		return fmt.Errorf("the data directory belongs to node %q, not %q", cfg.Data.Name(), cfg.Name)
	case cfg.Role != RoleServer && cfg.Role != RoleProxy:
		return fmt.Errorf("unknown role %q: it is \"server\" or \"proxy\"", cfg.Role)
	case cfg.Role == RoleServer && cfg.FSM == nil:
		return errors.New("a server needs an FSM")
	case cfg.Plaintext != PlainRefuse && cfg.Plaintext != PlainAccept && cfg.Plaintext != PlainSend:
		return fmt.Errorf("cluster.plaintext: %q is not refuse, accept or send", cfg.Plaintext)
	case len(cfg.Version) > gossip.MaxText || len(cfg.ConfigDigest) > gossip.MaxText:
		return fmt.Errorf("the version and the config digest may have %d bytes", gossip.MaxText)
	}
	return cfg.GossipKeys.Check()
}
