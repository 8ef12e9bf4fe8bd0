package gossip

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// MaxText bounds each text of the metadata, in bytes.
const MaxText = 64

// MaxClusterDigest bounds a ClusterDigest, in bytes: beside the other texts, no more has room.
const MaxClusterDigest = 32

// Role says whether a node holds Raft state.
type Role string

// The roles.
const (
	RoleServer Role = "server" // a Raft voter and a proxy
	RoleProxy  Role = "proxy"  // no Raft state
)

// Health is a node's state according to gossip.
type Health string

// The healths. A suspect does not answer this node's probes, but gossip has not declared it dead
// yet.
const (
	HealthAlive   Health = "alive"
	HealthSuspect Health = "suspect"
	HealthDead    Health = "dead"
	HealthLeft    Health = "left"
)

// Member is gossip's knowledge of a node.
type Member struct {
	Name         string
	Identity     string // 32 hexadecimal digits
	Role         Role
	RPCAddr      string // the address that others dial
	GossipAddr   string
	APIAddr      string // the listen address of its HTTP API; the host may be unspecified
	Health       Health
	Since        time.Time // when Health last changed, by this node's clock
	Version      string
	ConfigDigest string
	// ClusterDigest is what a ConfigDigest that agrees with the cluster is, by this server's log; ""
	// of a proxy, of a server that does not know it yet, and of an older version.
	ClusterDigest string

	LeadsTerm   uint64 // > 0: it claims to lead in this term
	SessionLeft uint64 // the session that it returned before it left
	Cluster     string // the cluster's id, if it knows it
	Draining    bool   // its proxy takes no new work
	Listening   Listening

	// These are for servers.
	Expect     int    // its bootstrap_expect
	HasState   bool   // it has been part of a cluster
	Detached   bool   // it is to be in no Raft configuration
	LogVersion uint32 // the newest version of the log that it understands
}

// ServerID is the member's id in the Raft configuration, if it is a server.
func (m Member) ServerID() string { return handshake.ServerID(m.Name, m.Identity) }

// Alive reports whether the member takes part: suspects do.
func (m Member) Alive() bool { return m.Health == HealthAlive || m.Health == HealthSuspect }

// IsServer reports whether the member holds Raft state.
func (m Member) IsServer() bool { return m.Role == RoleServer }

// decodeMeta reads gossip metadata.
func decodeMeta(raw []byte) (*clusterpb.Meta, error) {
	meta := &clusterpb.Meta{}
	if err := proto.Unmarshal(raw, meta); err != nil {
		return nil, fmt.Errorf("the gossip metadata can't be read: %w", err)
	}
	if len(meta.GetIdentity()) != handshake.IdentityBytes {
		return nil, fmt.Errorf("the gossip metadata carries an identity of %d bytes instead of %d", len(meta.GetIdentity()), handshake.IdentityBytes)
	}
	return meta, nil
}

// encodeMeta encodes gossip metadata. Each text has a bound that keeps the whole within
// memberlist's limit; addresses get the remaining room.
func encodeMeta(meta *clusterpb.Meta) ([]byte, error) {
	raw, err := fit(meta, memberlist.MetaMaxSize)
	if err != nil {
		return nil, err
	}
	if len(raw) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("the gossip metadata has %d bytes, more than %d: shorten cluster.advertise_rpc", len(raw), memberlist.MetaMaxSize)
	}
	return raw, nil
}

// describe fills a member from its metadata.
func (m *Member) describe(meta *clusterpb.Meta) {
	m.Identity = hex.EncodeToString(meta.GetIdentity())
	m.Role = RoleProxy
	if meta.GetRole() == clusterpb.Role_ROLE_SERVER {
		m.Role = RoleServer
	}
	m.RPCAddr = meta.GetRpcAddr()
	m.APIAddr = meta.GetApiAddr()
	m.Version = meta.GetVersion()
	m.ConfigDigest = meta.GetConfigDigest()
	m.ClusterDigest = meta.GetClusterDigest()
	m.LeadsTerm = meta.GetLeadsTerm()
	m.SessionLeft = meta.GetSessionLeft()
	m.Cluster = meta.GetCluster()
	m.Draining = meta.GetDraining()
	m.Listening = decodeListening(meta.GetListening())
	m.Expect = int(meta.GetBootstrapExpect())
	m.HasState = meta.GetHasState()
	m.Detached = meta.GetDetached()
	m.LogVersion = max(meta.GetLogVersion(), 1)
}
