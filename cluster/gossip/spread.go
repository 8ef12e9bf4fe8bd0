package gossip

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// Update changes the metadata, which spreads soon after. Start must have returned.
func (g *Gossip) Update(change func(*clusterpb.Meta)) error {
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
	signal(g.dirty)
	return nil
}

// signal makes whoever waits for a channel of capacity 1 look again.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (g *Gossip) spreadMeta(ctx context.Context) {
	for {
		select {
		case <-g.dirty:
			g.spread()
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gossip) spread() {
	g.spreading.Lock()
	defer g.spreading.Unlock()
	if err := g.list.UpdateNode(metaTimeout); err != nil {
		g.cfg.Log.Debug("the metadata is slow to spread", "error", err)
	}
	g.metaMu.Lock()
	defer g.metaMu.Unlock()
	// memberlist drops an update that is overtaken by the refutation of what others say of this node.
	if !bytes.Equal(g.list.LocalNode().Meta, g.encoded) {
		signal(g.dirty)
	}
}

// Leave says goodbye with the final metadata: to the servers over TCP, to all others by gossip. It
// takes about a second, and some more if others don't answer. Before Start it does nothing.
func (g *Gossip) Leave(ctx context.Context, final func(*clusterpb.Meta)) {
	if g.list == nil {
		return
	}
	if err := g.Update(func(m *clusterpb.Meta) { final(m); m.Leaving = true }); err != nil {
		g.cfg.Log.Error("the last metadata can't be set", "error", err)
	}
	g.sayGoodbye(ctx)
	g.spread()
	if ctx.Err() != nil {
		return
	}
	if err := g.list.Leave(leaveTimeout); err != nil {
		g.cfg.Log.Debug("the goodbye may not have spread", "error", err)
	}
}

func (g *Gossip) sayGoodbye(ctx context.Context) {
	g.metaMu.Lock()
	goodbye := &clusterpb.Goodbye{Name: g.cfg.Name, Meta: proto.CloneOf(g.meta)}
	g.metaMu.Unlock()
	raw, err := proto.Marshal(goodbye)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	sent := 0
	for _, m := range g.members.list(time.Now()) {
		to, err := netip.ParseAddrPort(m.GossipAddr)
		if err != nil || m.Name == g.cfg.Name || !m.IsServer() || !m.Alive() || sent == goodbyeServers {
			continue
		}
		sent++
		wg.Go(func() {
			node := &memberlist.Node{Name: m.Name, Addr: to.Addr().AsSlice(), Port: to.Port()}
			if err := g.list.SendReliable(node, raw); err != nil {
				g.cfg.Log.Debug("could not say goodbye", "to", m.Name, "error", err)
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
