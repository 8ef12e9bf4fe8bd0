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

	"github.com/weirproxy/weir/config/certs"
)

// Config says how a node takes part. Every address is "host:port"; port 0 takes a free one.
type Config struct {
	Name    string
	Role    Role
	Version string // spread by gossip, at most 64 bytes
	// Data is the node's open directory, or what stands for one. The caller closes it, after
	// Shutdown.
	Data *DataDir

	// FSM is the replicated state of a server, nil for a proxy.
	FSM raft.FSM
	// LogVersion is the newest version of the log's commands that the FSM understands; 0 is 1.
	LogVersion uint32
	// AppliedIndex answers the index that the FSM has after a snapshot was restored; nil leaves
	// WaitApplied waiting for the next entry then.
	AppliedIndex func() uint64

	RPC             string // the TCP port that Raft, gRPC and the peers' HTTP share
	AdvertiseRPC    string // what others dial, where it differs
	Gossip          string // TCP and UDP
	AdvertiseGossip string
	Join            []string // gossip addresses or names, tried for ever
	// APIAddr is what the node's HTTP API listens on, for the others to know; its host may be
	// unspecified.
	APIAddr string
	// ProxyAddrs are what the node's proxy listens on, likewise.
	ProxyAddrs []string
	// BootstrapExpect is the number of servers that form the cluster together; 0 never forms one,
	// and waits to be added. Every server of a cluster must have the same.
	BootstrapExpect int
	// TLS tells the node's certificate and CA as they are now, for mutual TLS on the rpc port; nil:
	// it is not encrypted.
	TLS func() *certs.Set
	// GossipKeys encrypt gossip with the first, and decrypt it with any; nil: gossip is not
	// encrypted.
	GossipKeys GossipKeys
	// Plaintext is what becomes of what isn't encrypted; "" is PlainRefuse. It is nothing to a node
	// without TLS and keys.
	Plaintext Plaintext
	// Label keeps gossip of other systems apart that use the same addresses; "" is "weir".
	Label        string
	ConfigDigest string // spread by gossip, at most 64 bytes

	// Multiplier stretches the timings of Raft and gossip, for slow networks and starved machines:
	// 1 (or 0) notices a dead leader within about a second, 2 takes twice as long and bears pauses
	// twice as long.
	Multiplier int

	Log hclog.Logger
	// Fatal is called, from a goroutine of its own and at most once, when the process must stop:
	// the name is taken.
	Fatal func(error)

	// OnCommit is told how long each entry took that this server proposed as the leader, from being
	// handed to Raft until it was applied here; those that failed are not told. Many may call at
	// once; it must not block. nil tells nobody.
	OnCommit func(time.Duration)

	// SessionLife says for how long a session may be alive after its leader was last confirmed (the
	// ttl, and the margin), and whether that is certain for the cluster. A server whose disk may be
	// an older copy waits for so long. nil: it is not known, and the longest that there can be
	// counts.
	SessionLife func() (life time.Duration, certain bool)

	// Tests set these.
	interfaceAddrs func() ([]net.Addr, error)
	addressesEvery time.Duration
	goneEvery      time.Duration
	wrapStore      func(logStable) logStable
	patience       time.Duration // of the watchdog: with commits
	stall          time.Duration // and with the own disk
	listen         time.Duration // before a cluster is formed alone; negative: not at all
}

// Handlers is what a node does as part of the cluster. All are optional.
type Handlers struct {
	// Services registers gRPC services on the rpc port.
	Services func(grpc.ServiceRegistrar)
	// HTTP answers the peers' requests on the rpc port.
	HTTP http.Handler
	// Lead does the leader's work in one term, from the moment that the FSM holds everything
	// committed before. It returns soon after its context has ended, which says that the term is
	// over; until then no other Lead begins.
	Lead func(ctx context.Context, term uint64)
	// MembersChanged receives the members that are new or have changed, by name. A member that
	// becomes a suspect is not reported. Calls come one at a time.
	MembersChanged func([]Member)
	// LeaderChanged is told the rpc address of a leader that this node has heard of, when it is
	// another one than before. It must not block.
	LeaderChanged func(rpcAddr string)
	// Superseded is told, once, that this server must not lead the cluster that it has formed, nor
	// use what that cluster has granted: an older cluster names it as a voter. It must not block.
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
		cfg.listen = -1 // nothing that is kept in memory can have been lost
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
	case len(cfg.Version) > maxMetaText || len(cfg.ConfigDigest) > maxMetaText:
		return fmt.Errorf("the version and the config digest may have %d bytes", maxMetaText)
	}
	return cfg.GossipKeys.check()
}
