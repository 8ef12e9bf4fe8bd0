package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	resolveTimeout   = 3 * time.Second
	joinFirst        = 250 * time.Millisecond // between attempts, growing
	joinLast         = 2 * time.Second
	probeTimeout     = time.Second
	maxHeardOf       = 8
	joinCheck        = 10 * time.Second // once every configured address is a member
	joinRemind       = time.Minute
	joinRepeats      = 3
	joinsAtOnce      = 16
	joinSettle       = 5 * time.Second
	conflictHold     = 10 * time.Second // joining is repeated for this long after a name conflict
	metaTimeout      = time.Second
	leaveTimeout     = time.Second
	goodbyeServers   = 8
	udpTries         = 3
	udpPeers         = 3
	conflictsPending = 4
)

// gossipConfig is the part of the node's configuration that gossip needs.
type gossipConfig struct {
	name       string
	advertise  string // host:port, or "" for the bound address
	everywhere bool   // bound to every IPv6 address, from which no address to advertise follows
	join       []string
	keys       GossipKeys
	plaintext  Plaintext
	label      string
	mult       int
	log        hclog.Logger
	// conflict is called, in a goroutine of its own, if another live node has the same name.
	conflict func(other Member)
	// fatal is called when the node must stop: its cluster.join names members of two clusters.
	fatal func(error)
}

// gossip is this node's part in memberlist.
type gossip struct {
	cfg       gossipConfig
	transport *gossipTransport
	ring      *keyRing // nil: not encrypted
	list      *memberlist.Memberlist
	members   *members
	born      time.Time
	gossipIP  netip.AddrPort // advertised

	metaMu  sync.Mutex
	meta    *clusterpb.Meta
	encoded []byte
	dirty   chan struct{} // of capacity 1

	spreading sync.Mutex // memberlist takes one new metadata at a time

	heardMu sync.Mutex
	heardOf []string // gossip addresses of members that have dialled this node, for one without cluster.join

	conflicts  chan Member
	conflicted atomic.Int64 // time of the last one, in unix nanoseconds
	udpChecked bool
}

func newGossip(cfg gossipConfig, transport *gossipTransport, meta *clusterpb.Meta) (*gossip, error) {
	encoded, err := encodeMeta(meta)
	if err != nil {
		return nil, err
	}
	g := &gossip{
		cfg: cfg, transport: transport, meta: meta, encoded: encoded, born: time.Now(),
		dirty:     make(chan struct{}, 1),
		conflicts: make(chan Member, conflictsPending),
	}
	if g.ring, err = newKeyRing(cfg.keys); err != nil {
		return nil, err
	}
	conf := g.config()
	g.members = newMembers(cfg.name, func(alive int) time.Duration {
		// In each probe interval, one of the others is probed, in turn.
		return time.Duration(max(alive-1, 1)+2) * conf.ProbeInterval
	})
	if err := g.advertiseIn(conf); err != nil {
		return nil, err
	}
	if g.list, err = memberlist.Create(conf); err != nil {
		return nil, fmt.Errorf("gossip can't start: %w", err)
	}
	local := g.list.LocalNode()
	ip, _ := netip.AddrFromSlice(local.Addr)
	g.gossipIP = netip.AddrPortFrom(ip.Unmap(), local.Port)
	return g, nil
}

// config makes memberlist's configuration for a LAN: failures are noticed within two to four
// seconds.
func (g *gossip) config() *memberlist.Config {
	mult := time.Duration(g.cfg.mult)
	conf := memberlist.DefaultLANConfig()
	conf.Name = g.cfg.name
	conf.Transport = g.transport
	conf.Label = g.cfg.label
	if g.ring != nil {
		conf.Keyring = g.ring.Keyring
		conf.GossipVerifyIncoming = g.cfg.plaintext == PlainRefuse
		conf.GossipVerifyOutgoing = g.cfg.plaintext != PlainSend
	}
	conf.ProbeInterval = 500 * time.Millisecond * mult
	conf.ProbeTimeout = 300 * time.Millisecond * mult
	conf.TCPTimeout = 3 * time.Second * mult
	conf.PushPullInterval = 15 * time.Second
	// A dead node's name may return at a new address at once. Whether the old node is really gone
	// is found out by asking it.
	conf.DeadNodeReclaimTime = time.Second
	conf.Logger = newQuietStandardLogger(g.cfg.log)
	conf.Delegate, conf.Events, conf.Conflict, conf.Alive, conf.Ping = g, g, g, g, g
	return conf
}

func (g *gossip) advertiseIn(conf *memberlist.Config) error {
	if g.cfg.advertise == "" {
		if g.cfg.everywhere {
			return errors.New("cluster.advertise_gossip: set it: this node listens on every IPv6 address, and which one others reach can't be guessed")
		}
		return nil
	}
	ip, port, err := resolveBind(g.cfg.advertise)
	if err != nil {
		return fmt.Errorf("cluster.advertise_gossip: %w", err)
	}
	if port == 0 {
		port = g.transport.GetAutoBindPort()
	}
	conf.AdvertiseAddr, conf.AdvertisePort = ip.String(), port
	return nil
}

// run joins, spreads the metadata and settles name conflicts, until the context ends.
func (g *gossip) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { g.joinForever(ctx) })
	wg.Go(func() { g.spreadMeta(ctx) })
	for {
		select {
		case other := <-g.conflicts:
			g.cfg.conflict(other)
		case <-ctx.Done():
			wg.Wait()
			return
		}
	}
}

// update changes the metadata, which spreads soon after.
func (g *gossip) update(change func(*clusterpb.Meta)) error {
	g.metaMu.Lock()
	defer g.metaMu.Unlock()
	next := proto.Clone(g.meta).(*clusterpb.Meta)
	change(next)
	if proto.Equal(next, g.meta) {
		return nil
	}
	encoded, err := encodeMeta(next)
	if err != nil {
		return err
	}
	g.meta, g.encoded = next, encoded
	select {
	case g.dirty <- struct{}{}:
	default:
	}
	return nil
}

func (g *gossip) spreadMeta(ctx context.Context) {
	for {
		select {
		case <-g.dirty:
			g.spread()
		case <-ctx.Done():
			return
		}
	}
}

func (g *gossip) spread() {
	g.spreading.Lock()
	defer g.spreading.Unlock()
	if err := g.list.UpdateNode(metaTimeout); err != nil {
		g.cfg.log.Debug("the metadata is slow to spread", "error", err)
	}
}

// leave says goodbye with the final metadata: to the servers over TCP, to all others by gossip. It
// takes about a second, and some more if others don't answer.
func (g *gossip) leave(ctx context.Context, final func(*clusterpb.Meta)) {
	if err := g.update(func(m *clusterpb.Meta) { final(m); m.Leaving = true }); err != nil {
		g.cfg.log.Error("the last metadata can't be set", "error", err)
	}
	g.sayGoodbye(ctx)
	g.spread()
	if ctx.Err() != nil {
		return
	}
	if err := g.list.Leave(leaveTimeout); err != nil {
		g.cfg.log.Debug("the goodbye may not have spread", "error", err)
	}
}

func (g *gossip) sayGoodbye(ctx context.Context) {
	g.metaMu.Lock()
	goodbye := &clusterpb.Goodbye{Name: g.cfg.name, Meta: proto.CloneOf(g.meta)}
	g.metaMu.Unlock()
	raw, err := proto.Marshal(goodbye)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	sent := 0
	for _, m := range g.members.list(time.Now()) {
		to, err := netip.ParseAddrPort(m.GossipAddr)
		if err != nil || m.Name == g.cfg.name || !m.server() || !m.Alive() || sent == goodbyeServers {
			continue
		}
		sent++
		wg.Go(func() {
			node := &memberlist.Node{Name: m.Name, Addr: to.Addr().AsSlice(), Port: to.Port()}
			if err := g.list.SendReliable(node, raw); err != nil {
				g.cfg.log.Debug("could not say goodbye", "to", m.Name, "error", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(leaveTimeout):
	}
}

// close ends memberlist. run must have returned.
func (g *gossip) close() {
	if err := g.list.Shutdown(); err != nil {
		g.cfg.log.Error("gossip did not stop cleanly", "error", err)
	}
}

// NodeMeta implements [memberlist.Delegate].
func (g *gossip) NodeMeta(int) []byte {
	g.metaMu.Lock()
	defer g.metaMu.Unlock()
	return g.encoded
}

// NotifyMsg implements [memberlist.Delegate]: the only message is a goodbye.
func (g *gossip) NotifyMsg(raw []byte) {
	goodbye := &clusterpb.Goodbye{}
	if err := proto.Unmarshal(raw, goodbye); err != nil || len(goodbye.GetMeta().GetIdentity()) != handshake.IdentityBytes {
		g.cfg.log.Debug("ignored a message that is none of ours")
		return
	}
	g.members.goodbye(goodbye.GetName(), goodbye.GetMeta())
}

// GetBroadcasts implements [memberlist.Delegate].
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements [memberlist.Delegate].
func (g *gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState implements [memberlist.Delegate].
func (g *gossip) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements [memberlist.AliveDelegate]. It keeps out nodes whose metadata can't be
// read, and members of other clusters. Only a node that has yet to find its own cluster, or that
// runs an older version, can mention such members.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	mine := g.transport.door.Of.Cluster()
	if mine != "" && meta.GetCluster() != "" && meta.GetCluster() != mine {
		return handshake.OtherCluster(&clusterpb.Introduction{Node: n.Name, Cluster: meta.GetCluster()}, n.Address(), mine)
	}
	return nil
}

// NotifyJoin implements [memberlist.EventDelegate].
func (g *gossip) NotifyJoin(n *memberlist.Node) { g.noteHere(n, true) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.noteHere(n, false) }

// NotifyLeave implements [memberlist.EventDelegate].
func (g *gossip) NotifyLeave(n *memberlist.Node) { g.members.gone(n.Name, time.Now()) }

// NotifyPingComplete implements [memberlist.PingDelegate].
func (g *gossip) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	g.members.heard(n.Name, time.Now())
}

// AckPayload implements [memberlist.PingDelegate].
func (g *gossip) AckPayload() []byte { return nil }

// NotifyConflict implements [memberlist.ConflictDelegate]. It must not block: memberlist holds its
// lock.
func (g *gossip) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name != g.cfg.name {
		return
	}
	g.conflicted.Store(time.Now().UnixNano())
	meta, err := decodeMeta(other.Meta)
	if err != nil {
		return
	}
	m := Member{Name: other.Name, GossipAddr: nodeAddr(other)}
	m.describe(meta)
	select {
	case g.conflicts <- m:
	default: // another conflict waits to be settled
	}
}

func (g *gossip) noteHere(n *memberlist.Node, joined bool) {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return // NotifyAlive has refused such nodes
	}
	g.members.here(n.Name, nodeAddr(n), meta, joined, time.Now())
}

func nodeAddr(n *memberlist.Node) string {
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return n.Address()
	}
	return netip.AddrPortFrom(ip.Unmap(), n.Port).String()
}

// oneLine returns an error's text without the line breaks and bullets that libraries add.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
