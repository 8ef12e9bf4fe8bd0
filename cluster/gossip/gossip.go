// Package gossip tells this node of the others: who is there, at which addresses, and what each
// says of itself. It is memberlist, on a transport that begins each stream with the handshake of
// package handshake, marks each packet with the cluster, bounds strangers and everything they can
// make this node unpack or log, and encrypts with keys that may change while it runs. It keeps the
// members as an immutable sorted list that is shared by all readers, joins the configured addresses
// for ever, and spreads this node's metadata. What gossip says is a hint: it decides nothing, and
// knows nothing of Raft.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	metaTimeout      = time.Second
	leaveTimeout     = time.Second
	goodbyeServers   = 8
	conflictsPending = 4
)

// Config is the part of the node's configuration that gossip needs.
type Config struct {
	Name string
	Bind string // host:port, for TCP and UDP; port 0 takes a free one
	// Advertise is the address that others dial, if it differs. With "", others dial the bound one.
	Advertise string
	Join      []string // addresses or names, retried for ever
	// Keys: the first key encrypts, and any of them decrypts. With none, gossip is not encrypted.
	Keys      Keys
	Plaintext handshake.Plaintext // with keys
	// Label separates this gossip from that of other systems at the same addresses.
	Label string
	// Multiplier stretches the timings. At 1 a dead node is noticed within two to four seconds.
	Multiplier int
	Log        hclog.Logger
	Door       *handshake.Doorkeeper
	// Conflict is called if another live node has the same name. Run waits for it.
	Conflict func(other Member)
	// Fatal is called when the node must stop: Join names members of two clusters.
	Fatal func(error)
}

// Gossip is this node's part in gossip.
type Gossip struct {
	cfg        Config
	advertised netip.AddrPort // from Config.Advertise; zero without one
	transport  *transport
	log        *log.Logger            // memberlist's
	ring       *keyRing               // nil: not encrypted
	list       *memberlist.Memberlist // nil until Start
	members    *members
	born       time.Time
	addr       netip.AddrPort // advertised; set by Start

	metaMu  sync.Mutex
	meta    *clusterpb.Meta
	encoded []byte
	dirty   chan struct{} // of capacity 1

	spreading sync.Mutex // memberlist takes one new metadata at a time

	heardMu sync.Mutex
	heardOf map[string]bool // by gossip address of members that have dialled this node, for one without Config.Join: whether it was joined
	news    chan struct{}   // of capacity 1: there may be somebody to join

	conflicts  chan Member
	conflicted atomic.Int64 // time of the last one, in unix nanoseconds
	udpChecked bool
}

// Listen binds the port, and takes nothing from it yet. An error is one line that names the
// setting.
func Listen(cfg Config) (*Gossip, error) {
	g := &Gossip{
		cfg:       cfg,
		dirty:     make(chan struct{}, 1),
		heardOf:   make(map[string]bool),
		news:      make(chan struct{}, 1),
		conflicts: make(chan Member, conflictsPending),
	}
	g.members = newMembers(cfg.Name, func(alive int) time.Duration {
		// In each probe interval, one of the others is probed, in turn.
		return time.Duration(max(alive-1, 1)+2) * g.probeInterval()
	})
	if cfg.Advertise != "" {
		ip, port, err := resolveBind(cfg.Advertise)
		if err != nil {
			return nil, fmt.Errorf("cluster.advertise_gossip: %w", err)
		}
		g.advertised = netip.AddrPortFrom(ip, uint16(port))
	}
	var err error
	if g.ring, err = newKeyRing(cfg.Keys); err != nil {
		return nil, err
	}
	strangers := lognoise.Strangers() // all that they cause here is one count
	refusals := &refusals{log: cfg.Log, said: strangers}
	g.log = newQuietLogger(cfg.Log, strangers)
	if g.transport, err = listen(cfg.Bind, g.log, cfg.Door, refusals.note); err != nil {
		return nil, err
	}
	g.transport.places = handshake.NewPlaces("connections to the gossip port", cfg.Log, handshake.GossipPlaces())
	g.transport.places.Members = g.Machines
	return g, nil
}

// Start makes this node a member, with its first metadata, though it is alone until Accept and Run.
// After an error, only Close may be called.
func (g *Gossip) Start(meta *clusterpb.Meta) error {
	encoded, err := encodeMeta(meta)
	if err != nil {
		return err
	}
	g.meta, g.encoded, g.born = meta, encoded, time.Now()
	conf := g.config()
	if err := g.advertiseIn(conf); err != nil {
		return err
	}
	list, err := memberlist.Create(conf)
	if err != nil {
		return fmt.Errorf("gossip can't start: %w", err)
	}
	g.list = list
	local := list.LocalNode()
	ip, _ := netip.AddrFromSlice(local.Addr)
	g.addr = netip.AddrPortFrom(ip.Unmap(), local.Port)
	return nil
}

func (g *Gossip) probeInterval() time.Duration {
	return 500 * time.Millisecond * time.Duration(g.cfg.Multiplier)
}

// config makes memberlist's configuration for a LAN: failures are noticed within two to four
// seconds.
func (g *Gossip) config() *memberlist.Config {
	mult := time.Duration(g.cfg.Multiplier)
	conf := memberlist.DefaultLANConfig()
	conf.Name = g.cfg.Name
	conf.Transport = g.transport
	conf.Label = g.cfg.Label
	if g.ring != nil {
		conf.Keyring = g.ring.Keyring
		conf.GossipVerifyIncoming = g.cfg.Plaintext == handshake.PlainRefuse
		conf.GossipVerifyOutgoing = g.cfg.Plaintext != handshake.PlainSend
	}
	conf.ProbeInterval = g.probeInterval()
	conf.ProbeTimeout = 300 * time.Millisecond * mult
	conf.TCPTimeout = 3 * time.Second * mult
	conf.PushPullInterval = 15 * time.Second
	// A dead node's name may return at a new address at once. Whether the old node is really gone
	// is found out by asking it.
	conf.DeadNodeReclaimTime = time.Second
	conf.Logger = g.log
	d := (*delegate)(g)
	conf.Delegate, conf.Events, conf.Conflict, conf.Alive, conf.Ping = d, d, d, d, d
	return conf
}

func (g *Gossip) advertiseIn(conf *memberlist.Config) error {
	switch {
	case g.advertised.IsValid():
		conf.AdvertiseAddr, conf.AdvertisePort = g.advertised.Addr().String(), int(g.advertised.Port())
		if conf.AdvertisePort == 0 {
			conf.AdvertisePort = g.transport.GetAutoBindPort()
		}
	case g.transport.everywhere:
		return errors.New("cluster.advertise_gossip: set it: this node listens on every IPv6 address, and which one others reach can't be guessed")
	}
	return nil
}

// Accept begins to take streams and packets. Start must have returned.
func (g *Gossip) Accept() { g.transport.start() }

// Run joins, spreads the metadata and settles name conflicts, until the context ends.
func (g *Gossip) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { g.joinForever(ctx) })
	wg.Go(func() { g.spreadMeta(ctx) })
	for {
		select {
		case other := <-g.conflicts:
			g.cfg.Conflict(other)
		case <-ctx.Done():
			wg.Wait()
			return
		}
	}
}

// HangUp ends every dial and every connection that this node dialled. Some of Run waits for them.
func (g *Gossip) HangUp() { g.transport.cancel() }

// Close ends everything and frees the port, wherever a start has failed. Run must have returned.
func (g *Gossip) Close() {
	end := g.transport.Shutdown
	if g.list != nil {
		end = g.list.Shutdown
	}
	if err := end(); err != nil {
		g.cfg.Log.Error("gossip did not stop cleanly", "error", err)
	}
}

// Bound returns the address that the port is bound to.
func (g *Gossip) Bound() netip.AddrPort { return g.transport.bound }

// Addr returns the address that other nodes join, after Start.
func (g *Gossip) Addr() netip.AddrPort { return g.addr }

// AdvertiseIP returns the address of this machine that others dial: the configured one, or the one
// that follows from the bound address. It may be unspecified.
func (g *Gossip) AdvertiseIP() (net.IP, error) {
	ip := ""
	if g.advertised.IsValid() {
		ip = g.advertised.Addr().String()
	}
	found, _, err := g.transport.FinalAdvertiseAddr(ip, int(g.advertised.Port()))
	return found, err
}

// HealthScore is memberlist's measure of this node's health, after Start; 0 is best.
func (g *Gossip) HealthScore() int { return g.list.GetHealthScore() }

// Members lists every node that gossip knows, this one too, by name. The slice is shared: callers
// must not change it.
func (g *Gossip) Members() []Member { return g.members.list(time.Now()) }

// Member returns one node.
func (g *Gossip) Member(name string) (Member, bool) { return g.members.get(name, time.Now()) }

// Leader returns the live server that claims to lead in the highest term; zero without one.
func (g *Gossip) Leader() Member { return g.members.look(time.Now()).leader }

// Detach keeps a server out of the Raft configuration until its process starts again.
func (g *Gossip) Detach(serverID string) { g.members.detach(serverID) }

// Reattach undoes Detach, for a server whose removal has failed.
func (g *Gossip) Reattach(serverID string) { g.members.reattach(serverID) }

// Follow passes on changes of the membership until the context ends: the members that are new or
// have changed, and all of them, each by name. Changes that have piled up go into one call: while a
// cluster of hundreds starts, work over all members for each change would be quadratic.
func (g *Gossip) Follow(ctx context.Context, changed func(changed, all []Member)) {
	for {
		select {
		case <-g.members.kick:
			changed(g.members.changes(time.Now()))
		case <-ctx.Done():
			return
		}
	}
}

// Machines returns the addresses at which members are dialled.
func (g *Gossip) Machines() map[netip.Addr]struct{} {
	machines := make(map[netip.Addr]struct{})
	for _, m := range g.Members() {
		for _, text := range []string{m.RPCAddr, m.GossipAddr} {
			if at, err := netip.ParseAddrPort(text); err == nil {
				machines[at.Addr().Unmap().WithZone("")] = struct{}{}
			}
		}
	}
	return machines
}
