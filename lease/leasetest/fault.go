package leasetest

import (
	"fmt"
	"slices"
	"time"
)

// Fault is one thing that goes wrong. What its numbers mean depends on the kind.
type Fault struct {
	At   Duration `json:"at"`
	Kind Kind     `json:"kind"`
	// Node is whom it strikes; -1: whoever leads then.
	Node int      `json:"node"`
	For  Duration `json:"for,omitempty"`
	// Set, in bits, is the part of the nodes that a cut parts from the rest.
	Set   uint16   `json:"set,omitempty"`
	Late  Duration `json:"late,omitempty"`
	N     int      `json:"n,omitempty"`
	Limit *Limit   `json:"limit,omitempty"`
}

// Kind is a kind of fault.
type Kind uint8

// The kinds. A file names them by their names.
const (
	// FaultCrash kills a process; For later it starts again, with N = 1 without its data.
	FaultCrash Kind = iota
	// FaultCut parts Set from the rest for For. N says which messages are lost: both ways, out of
	// Set, into Set.
	FaultCut
	// FaultRaftCut parts servers only from each other: streams go on.
	FaultRaftCut
	// FaultStreamCut loses only what streams carry: Raft goes on.
	FaultStreamCut
	// FaultStream breaks a node's stream.
	FaultStream
	// FaultDepose makes another server lead after For. The former one does not know for Late.
	FaultDepose
	// FaultStop stops a process for For.
	FaultStop
	// FaultSuspend suspends a machine for For: only some clocks run.
	FaultSuspend
	// FaultFreeze is a virtual machine that stands still for For: all clocks stop, and then the
	// wall clock is set right.
	FaultFreeze
	// FaultLag delays by up to Late, for For, what leaders say to a node, or (N = 1) what it says
	// to them.
	FaultLag
	// FaultLeave drains a node and ends it; it comes back after For.
	FaultLeave
	// FaultLimit writes a limit.
	FaultLimit
	// FaultDisk makes a commit take Late, for For.
	FaultDisk
	// FaultGossip says for For that a node is dead (N = 0) or that a dead one is alive (N = 1).
	FaultGossip
	// FaultTwin starts another process by a node's name for For.
	FaultTwin
	// FaultReplay puts into the log what is there already (N = 0: of the present term), or what was
	// judged in an earlier term (N = 1).
	FaultReplay
	// FaultWild adds to the leader's entries, for For, what it has no reason for.
	FaultWild
	// FaultLoss takes a grant from a session without telling anybody, as a log that was recovered
	// from an older copy would, and breaks the stream.
	FaultLoss
	// FaultSnapshot lets a server go on from a snapshot of the state.
	FaultSnapshot
	// FaultUnknown leaves the leader without an answer to its next proposal, and deposes it after
	// For.
	FaultUnknown
	// FaultWall sets a node's wall clock by Late, backwards if N = 1.
	FaultWall
	// FaultPutBack kills the only server, takes its log back to an older copy, which lacks N
	// entries, and starts it again For later.
	FaultPutBack
	// FaultStray leads a node's next N dials to the leader of another cluster, and breaks its
	// stream.
	FaultStray
	// FaultLostSeed kills a server that has nobody to join; For later it starts again without its
	// disk.
	FaultLostSeed
	// FaultHush lets nobody ask for anything for For.
	FaultHush

	kinds
)

var kindNames = [kinds]string{
	"crash", "cut", "raft-cut", "stream-cut", "stream", "depose", "stop", "suspend", "freeze", "lag", "leave", "limit",
	"disk", "gossip", "twin", "replay", "wild", "loss", "snapshot", "unknown", "wall", "put-back", "stray", "lost-seed", "hush",
}

// String is the kind's name.
func (k Kind) String() string { return kindNames[k] }

// MarshalText implements [encoding.TextMarshaler].
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *Kind) UnmarshalText(b []byte) error {
	at := slices.Index(kindNames[:], string(b))
	if at < 0 {
		return fmt.Errorf("no kind of fault is called %q", b)
	}
	*k = Kind(at)
	return nil
}

// String is the fault as traces show it.
func (f Fault) String() string { return string(mustJSON(f)) }

// faults fills the plan with what goes wrong.
func (g *generator) faults() {
	g.p.Length = Duration(g.between(5*second, 14*second))
	var only []func(time.Duration)
	all := g.scenarios()
	if g.one(3) {
		only = append(only, all[g.below(len(all))])
		if g.one(2) {
			only = append(only, all[g.below(len(all))])
		}
	} else {
		only = all
	}
	n := 2 + g.below(10)
	for range n {
		only[g.below(len(only))](g.upTo(g.p.Length.D()))
	}
	slices.SortStableFunc(g.p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}

func (g *generator) add(at time.Duration, f Fault) {
	f.For = min(f.For, g.p.Length)
	f.At = min(Duration(at), g.p.Length-f.For) // all is over when the faults are to end
	g.p.Faults = append(g.p.Faults, f)
}

// node is one of them, often whoever leads.
func (g *generator) node() int {
	if g.one(4) {
		return -1
	}
	return g.below(g.p.Nodes)
}

// long is a duration around the ttl: the faults that matter last about as long as a lease.
func (g *generator) long() time.Duration {
	ttl := g.p.TTL.D()
	if g.one(3) {
		return g.upTo(ttl / 2)
	}
	return g.between(ttl/2, 2*ttl+second)
}

// scenarios are the ways in which faults come: alone, or several together.
func (g *generator) scenarios() []func(time.Duration) {
	return []func(time.Duration){
		g.crash, g.crash, g.lostData, g.cut, g.cut, g.otherCut, g.stream, g.depose, g.depose, g.stop, g.stop, g.suspend, g.lag,
		g.leave, g.limitChange, g.limitChange, g.disk, g.gossip, g.twin, g.replay, g.wild, g.loss, g.snapshot, g.unknown, g.wall,
		g.oldHello, g.oldHello, g.pair, g.hopping, g.slowDisk, g.quickRestart,
	}
}

func (g *generator) crash(at time.Duration) {
	f := Fault{Kind: FaultCrash, Node: g.node()}
	if g.one(2) {
		f.For = Duration(g.long())
	} else {
		f.For = Duration(g.upTo(20 * ms))
	}
	g.add(at, f)
}

func (g *generator) lostData(at time.Duration) {
	g.add(at, Fault{Kind: FaultCrash, Node: g.node(), N: 1, For: Duration(g.upTo(200 * ms))})
}

func (g *generator) cut(at time.Duration) {
	g.add(at, Fault{Kind: FaultCut, Node: g.node(), Set: g.set(), N: g.below(3), For: Duration(g.long())})
}

func (g *generator) otherCut(at time.Duration) {
	g.add(at, Fault{Kind: pick(&g.dice, FaultRaftCut, FaultStreamCut), Node: g.node(), Set: g.set(), N: g.below(3), For: Duration(g.long())})
}

// set is a part of the nodes; 0 stands for the fault's node alone.
func (g *generator) set() uint16 {
	if g.one(2) {
		return 0
	}
	return uint16(g.below(1 << g.p.Nodes))
}

func (g *generator) stream(at time.Duration) {
	for range 1 + g.below(3) {
		g.add(at, Fault{Kind: FaultStream, Node: g.below(g.p.Nodes)})
		at += g.upTo(300 * ms)
	}
}

func (g *generator) depose(at time.Duration) {
	f := Fault{Kind: FaultDepose, Late: Duration(g.upTo(2 * g.p.TTL.D()))}
	if g.one(2) {
		f.For = Duration(g.long())
	} else {
		f.For = Duration(g.upTo(20 * ms))
	}
	if g.one(3) {
		f.Late = 0
	}
	g.add(at, f)
}

func (g *generator) stop(at time.Duration) {
	g.add(at, Fault{Kind: FaultStop, Node: g.node(), For: Duration(g.long())})
}

func (g *generator) suspend(at time.Duration) {
	f := Fault{Kind: FaultSuspend, Node: g.node(), For: Duration(g.long())}
	// A frozen clock eats into the margin until the wall clock tells; where clocks also drift,
	// there is none left.
	if g.one(3) && len(g.p.Drift) == 0 {
		f.Kind, f.Node = FaultFreeze, g.below(g.p.Nodes)
		for _, other := range g.p.Faults {
			if other.Kind == FaultWall || other.Kind == FaultFreeze {
				return // two of them together may hide from the wall clock
			}
		}
	}
	g.add(at, f)
}

// lag is a node that hears late and then is not heard any more: what it hears last is about a time
// long gone. Then it may be cut off altogether.
func (g *generator) lag(at time.Duration) {
	ttl := g.p.TTL.D()
	node := g.below(g.p.Nodes)
	g.add(at, Fault{Kind: FaultLag, Node: node, For: Duration(3 * ttl), Late: Duration(g.between(ttl/2, ttl*3/2))})
	at += ttl/4 + g.upTo(ttl)
	g.add(at, Fault{Kind: FaultCut, Node: node, N: 1, For: Duration(g.between(ttl, 3*ttl))})
	if g.one(2) {
		at += g.upTo(ttl)
		g.add(at, Fault{Kind: FaultCut, Node: node, For: Duration(g.between(ttl/2, 2*ttl))})
	}
}

func (g *generator) leave(at time.Duration) {
	g.add(at, Fault{Kind: FaultLeave, Node: g.node(), For: Duration(g.upTo(3 * second)), Late: Duration(g.upTo(4 * second))})
}

func (g *generator) limitChange(at time.Duration) {
	l := g.p.Limits[g.below(len(g.p.Limits))]
	switch {
	case g.one(6) && len(g.hosts) > 1:
		l = Limit{Pattern: g.hosts[len(g.hosts)-1], Connections: 1 + int64(g.below(3))}
	case g.one(6):
		l = Limit{Pattern: l.Pattern, Delete: true}
	case l.Pattern[0] == '*' && g.one(2):
		l.Shared = !l.Shared
	default:
		l = g.anyLimit(l.Pattern, int64(g.below(6)))
		l.Shared = l.Pattern[0] == '*' && g.one(2)
	}
	l.Evict = !l.Delete && g.one(3)
	g.add(at, Fault{Kind: FaultLimit, Limit: &l})
	if l.Delete || l.Connections == 0 { // it comes back
		g.limitBack(at+g.upTo(2*second), l)
	}
}

func (g *generator) limitBack(at time.Duration, l Limit) {
	back := g.anyLimit(l.Pattern, 1+int64(g.below(4)))
	back.Shared = l.Shared
	g.add(at, Fault{Kind: FaultLimit, Limit: &back})
}

func (g *generator) disk(at time.Duration) {
	g.add(at, Fault{Kind: FaultDisk, Late: Duration(g.scale(10*ms, second)), For: Duration(g.long())})
}

func (g *generator) gossip(at time.Duration) {
	g.add(at, Fault{Kind: FaultGossip, Node: g.node(), N: g.below(2), For: Duration(g.long())})
}

func (g *generator) twin(at time.Duration) {
	node := g.below(g.p.Nodes)
	g.add(at, Fault{Kind: FaultTwin, Node: node, For: Duration(g.long() + second)})
	switch g.below(3) {
	case 0:
		g.add(at+g.upTo(second), Fault{Kind: FaultCut, Node: node, For: Duration(g.long())})
	case 1:
		g.add(at, Fault{Kind: FaultCrash, Node: node, For: Duration(g.upTo(second))})
	}
}

func (g *generator) replay(at time.Duration) {
	if g.one(2) {
		g.add(at, Fault{Kind: FaultDepose, For: Duration(g.upTo(20 * ms)), Late: Duration(g.upTo(second))})
		at += g.upTo(second)
	}
	for range 1 + g.below(3) {
		g.add(at, Fault{Kind: FaultReplay, N: g.below(2)})
		at += g.upTo(200 * ms)
	}
}

func (g *generator) wild(at time.Duration) {
	g.add(at, Fault{Kind: FaultWild, For: Duration(g.upTo(2 * second))})
}

func (g *generator) loss(at time.Duration) {
	g.add(at, Fault{Kind: FaultLoss, Node: g.below(g.p.Nodes)})
}

func (g *generator) snapshot(at time.Duration) {
	g.add(at, Fault{Kind: FaultSnapshot, Node: g.below(g.p.Servers)})
}

func (g *generator) unknown(at time.Duration) {
	g.add(at, Fault{Kind: FaultUnknown, For: Duration(g.upTo(2 * second))})
}

func (g *generator) wall(at time.Duration) {
	for _, f := range g.p.Faults {
		if f.Kind == FaultFreeze {
			return
		}
	}
	g.add(at, Fault{Kind: FaultWall, Node: g.node(), Late: Duration(g.scale(100*ms, time.Hour)), N: g.below(2)})
}

// oldHello breaks a stream, or restarts a process, on a bad link: the hello on the next stream is
// so long on its way that it comes after that of the one after.
func (g *generator) oldHello(at time.Duration) {
	node := g.below(g.p.Nodes)
	if g.one(2) {
		g.add(at, Fault{Kind: FaultStream, Node: node})
	} else {
		g.add(at, Fault{Kind: FaultCrash, Node: node, For: Duration(g.upTo(10 * ms))})
	}
	g.add(at, Fault{Kind: FaultLag, Node: node, N: 1, For: Duration(g.between(60*ms, 200*ms)), Late: Duration(g.between(400*ms, 2*second))})
	at += g.between(500*ms, 1200*ms)
	switch g.below(4) {
	case 0:
		g.add(at, Fault{Kind: FaultCrash, Node: node, For: Duration(g.upTo(100 * ms))})
	case 1: // it does not hear what the leader makes of that
		g.add(at, Fault{Kind: FaultCut, Node: node, N: 2, For: Duration(g.between(500*ms, 2*second))})
	case 2:
		g.add(at, Fault{Kind: FaultLag, Node: node, For: Duration(second), Late: Duration(second)})
	}
}

// slowDisk lets streams break while entries are long on their way.
func (g *generator) slowDisk(at time.Duration) {
	g.add(at, Fault{Kind: FaultDisk, Late: Duration(g.between(100*ms, 800*ms)), For: Duration(g.between(second, 3*second))})
	for range 2 + g.below(4) {
		at += g.upTo(600 * ms)
		g.add(at, Fault{Kind: FaultStream, Node: g.below(g.p.Nodes)})
	}
}

// quickRestart changes the leader just after a restarted process has taken its session over.
func (g *generator) quickRestart(at time.Duration) {
	g.add(at, Fault{Kind: FaultCrash, Node: g.node(), For: Duration(g.upTo(5 * ms))})
	g.add(at+g.between(30*ms, 160*ms), Fault{Kind: FaultDepose, For: Duration(g.upTo(10 * ms)), Late: Duration(g.upTo(second))})
}

// pair lets a leader change while something else fails.
func (g *generator) pair(at time.Duration) {
	g.depose(at)
	at += g.upTo(200 * ms)
	switch g.below(4) {
	case 0:
		g.crash(at)
	case 1:
		g.cut(at)
	case 2:
		g.stop(at)
	default:
		g.stream(at)
	}
}

// hopping changes the leader several times in a short while.
func (g *generator) hopping(at time.Duration) {
	for range 2 + g.below(2) {
		g.add(at, Fault{Kind: FaultDepose, For: Duration(g.upTo(50 * ms)), Late: Duration(g.upTo(3 * second))})
		at += g.between(50*ms, second)
	}
}

// putBack leaves one server, and puts its log back to an older copy while nodes hold slots; some of
// them are cut off then. What changes limits, or bends the log in other ways, is left out: the
// judge goes by the limits that are committed.
func (g *generator) putBack(d *dice) {
	p := g.p
	p.Servers = 1
	p.Faults = slices.DeleteFunc(p.Faults, func(f Fault) bool {
		switch f.Kind {
		case FaultLimit, FaultLoss, FaultWild, FaultReplay, FaultUnknown, FaultSnapshot, FaultTwin:
			return true
		}
		return f.Kind == FaultCrash && f.N == 1
	})
	ttl := p.TTL.D()
	for range 1 + d.below(2) {
		at := d.between(second, p.Length.D()-second)
		if d.one(2) {
			g.add(max(0, at-d.upTo(ttl/2)), Fault{Kind: FaultStreamCut, Set: uint16(1 + d.below(1<<p.Nodes-1)), For: Duration(d.between(ttl/2, ttl))})
		}
		g.add(at, Fault{Kind: FaultPutBack, N: 1 + d.below(40), For: Duration(d.upTo(ttl / 2))})
	}
	slices.SortStableFunc(p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}

// strays leads nodes to another cluster's leader, at times when they look for their own, and takes
// disks from servers.
func (g *generator) strays(d *dice) {
	for range 1 + d.below(3) {
		at, node := d.upTo(g.p.Length.D()), d.below(g.p.Nodes)
		if d.one(3) {
			g.add(at, Fault{Kind: FaultLostSeed, Node: d.below(g.p.Servers), N: 1, For: Duration(d.upTo(200 * ms))})
			continue
		}
		if d.one(2) {
			g.add(at, Fault{Kind: FaultCrash, Node: node, For: Duration(d.upTo(100 * ms))})
		}
		g.add(at+d.upTo(50*ms), Fault{Kind: FaultStray, Node: node, N: 1 + d.below(4)})
	}
	slices.SortStableFunc(g.p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}
