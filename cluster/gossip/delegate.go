package gossip

import (
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// delegate is Gossip as memberlist sees it.
type delegate Gossip

// NodeMeta implements [memberlist.Delegate].
func (g *delegate) NodeMeta(int) []byte {
	g.metaMu.Lock()
	defer g.metaMu.Unlock()
	return g.encoded
}

// NotifyMsg implements [memberlist.Delegate]: the only message is a goodbye.
func (g *delegate) NotifyMsg(raw []byte) {
	goodbye := &clusterpb.Goodbye{}
	if err := proto.Unmarshal(raw, goodbye); err != nil || len(goodbye.GetMeta().GetIdentity()) != handshake.IdentityBytes {
		g.cfg.Log.Debug("ignored a message that is none of ours")
		return
	}
	g.members.goodbye(goodbye.GetName(), goodbye.GetMeta())
}

// GetBroadcasts implements [memberlist.Delegate].
func (g *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements [memberlist.Delegate].
func (g *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements [memberlist.Delegate].
func (g *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements [memberlist.AliveDelegate]. It keeps out nodes whose metadata can't be
// read, and members of other clusters. Only a node that has yet to find its own cluster, or that
// runs an older version, can mention such members.
func (g *delegate) NotifyAlive(n *memberlist.Node) error {
	meta, err := decodeMeta(n.Meta)
	if err != nil {
		return err
	}
	mine := g.cfg.Door.Of.Cluster()
	if mine != "" && meta.GetCluster() != "" && meta.GetCluster() != mine {
		return handshake.OtherCluster(&clusterpb.Introduction{Node: n.Name, Cluster: meta.GetCluster()}, n.Address(), mine)
	}
	return nil
}

// NotifyJoin implements [memberlist.EventDelegate].
func (g *delegate) NotifyJoin(n *memberlist.Node) { g.noteHere(n, true) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (g *delegate) NotifyUpdate(n *memberlist.Node) { g.noteHere(n, false) }

// NotifyLeave implements [memberlist.EventDelegate].
func (g *delegate) NotifyLeave(n *memberlist.Node) { g.members.gone(n.Name, time.Now()) }

// NotifyPingComplete implements [memberlist.PingDelegate].
func (g *delegate) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	g.members.heard(n.Name, time.Now())
}

// AckPayload implements [memberlist.PingDelegate].
func (g *delegate) AckPayload() []byte { return nil }

// NotifyConflict implements [memberlist.ConflictDelegate]. It must not block: memberlist holds its
// lock.
func (g *delegate) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name != g.cfg.Name {
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

func (g *delegate) noteHere(n *memberlist.Node, joined bool) {
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
