package leader

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// What a leaderScript does.
const (
	leaderHears = iota
	leaderTicks
	leaderProposes
	leaderApplies
	leaderVerifies
	leaderLosesStream
	leaderLimits
	leaderGossips
	leaderSteps
)

// leaderScript plays a leader, its log, and whoever calls itself a node.
type leaderScript struct {
	t        *testing.T
	a        *Allocator
	st       *fsm.State
	now      time.Duration
	index    uint64
	inflight fsm.Command
	moved    bool // the limits have changed since it was proposed
	said     map[uint64]bool
	gone     map[uint64]bool
	conns    uint64 // the newest stream; it and the three before it may be spoken on
}

func newLeaderScript(t *testing.T) *leaderScript {
	p := &leaderScript{t: t, st: fsm.NewState(), said: map[uint64]bool{}, gone: map[uint64]bool{}, conns: 4}
	p.apply(&fsm.Init{ClusterID: "c", TTL: 10 * time.Second, Limits: []limit.Limit{kit.Limit(t, "up", 3, limit.Queue{}), rated(t)}})
	p.apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "1"})
	p.a = NewAllocator(0, 1, p.st)
	return p
}

// rated limits the requests of all.
func rated(t *testing.T) limit.Limit {
	t.Helper()
	p, err := limit.ScopeTotal.ParsePattern("")
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: limit.Unlimited, Requests: limit.Rate{Thousandths: 10_000, Per: time.Second, Burst: 4}, Source: limit.SourceConfig}
}

// checkLevels: whatever nodes give back, no more lies in the log, or goes out, than the burst.
func (p *leaderScript) checkLevels(out []Outbound) {
	p.st.Kept(func(key limit.Key) bool {
		if level, most := p.st.FreeLevel(key), p.st.Table().Governing(key).BurstGrains(key.Resource); level < 0 || level > most {
			p.t.Fatalf("%d grains of %s lie in the log, its burst is %d", level, key, most)
		}
		return true
	})
	for _, o := range out {
		for _, g := range o.Msg.GetAssign().GetGrants() {
			if g.Level < 0 || g.Level > 4*limit.TokenGrains {
				p.t.Fatalf("a node is told %v", g)
			}
		}
	}
}

func (p *leaderScript) apply(c fsm.Command) fsm.Result {
	p.index++
	return p.st.Apply(p.index, 1, c)
}

func (p *leaderScript) play(s kit.Script) {
	for steps := 0; len(s) > 0 && steps < kit.MaxSteps; steps++ {
		p.do(&s)
		out := p.a.Take()
		p.checkLevels(out)
		for _, o := range out {
			if _, err := proto.Marshal(o.Msg); err != nil {
				p.t.Fatalf("%v: %v", o.Msg, err)
			}
		}
		if err := p.a.Check(); err != nil {
			p.t.Fatal(err)
		}
		p.checkBelief()
	}
}

// checkBelief: whatever a node has said of itself, sums of it can't overflow, nor be negative.
func (p *leaderScript) checkBelief() {
	for key, c := range p.a.keys {
		for _, d := range c.demands {
			for _, n := range []int64{d.held, d.inUse, d.parked, d.waiting, d.refused, d.headroom, d.releasing} {
				if n < 0 || n > maxReported {
					p.t.Fatalf("of %s node %s is believed to have %d", key, d.peer.Node, n)
				}
			}
		}
	}
}

func (p *leaderScript) do(s *kit.Script) {
	switch s.Byte() % leaderSteps {
	case leaderHears:
		p.hear(p.conns-uint64(s.Byte()%4), s)
	case leaderTicks:
		p.now += time.Duration(s.Byte()) * 50 * time.Millisecond
		p.a.Tick(p.now)
	case leaderProposes:
		if p.inflight == nil {
			p.inflight, p.moved = p.a.Next(p.now, p.st), false
		}
	case leaderApplies:
		p.commit()
	case leaderVerifies:
		if leads := s.Byte()%8 != 0; p.a.Verify() {
			p.a.Verified(p.now, p.st, leads)
		}
	case leaderLosesStream:
		p.lose(p.conns - uint64(s.Byte()%4))
	case leaderLimits:
		l := kit.Limit(p.t, "up", int64(s.Byte()%6), limit.Queue{})
		l.Source = limit.SourceAPI
		p.apply(&fsm.PutLimit{Limit: l})
		p.moved = true
		p.a.LimitsChanged(p.now, p.st)
	case leaderGossips:
		b := s.Byte()
		p.a.Health(string('a'+rune(b%3)), b&4 != 0)
	}
}

// hear keeps the server's rule: hello comes first, and once.
func (p *leaderScript) hear(conn uint64, s *kit.Script) {
	var m leasepb.NodeMessage
	if !s.Message(&m) || p.gone[conn] {
		return
	}
	if (m.GetHello() != nil) == p.said[conn] {
		p.lose(conn)
		return
	}
	p.said[conn] = true
	p.a.Receive(p.now, conn, &m, p.now)
}

// lose ends a stream; there is always another.
func (p *leaderScript) lose(conn uint64) {
	if p.gone[conn] {
		return
	}
	p.gone[conn] = true
	p.conns++
	p.a.Gone(conn)
}

// commit is where a leader could break its word: it gives out nothing that the log would have to
// cut. (What nodes say that they give back is theirs to know: there the log's word is final.)
func (p *leaderScript) commit() {
	cmd := p.inflight
	if cmd == nil {
		return
	}
	p.inflight = nil
	res := p.apply(cmd)
	if c, ok := cmd.(*fsm.Adjust); ok && !p.moved {
		for i, a := range res.Adjusted {
			if asked := c.Adjustments[i].Delta; asked > 0 && a.Delta != asked || asked == math.MinInt64 {
				p.t.Fatalf("proposed %v, of which the log took %v", c.Adjustments, res.Adjusted)
			}
		}
	}
	p.a.Applied(p.now, p.st, res)
	if err := p.st.Check(); err != nil {
		p.t.Fatal(err)
	}
}

// FuzzLeaderStream: whatever nodes say, in whatever order, the leader does not contradict itself,
// and gives out nothing that the log would have to cut.
func FuzzLeaderStream(f *testing.F) {
	up := fsmpb.KeyOf(limit.HostConnections("up"))
	rate := fsmpb.KeyOf(limit.Key{Scope: limit.ScopeTotal, Resource: limit.Requests})
	hello := func(node, identity string, session uint64, held ...*leasepb.Holding) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: leasepb.Version, Node: node, Identity: identity, Session: session, Holdings: held}}}
	}
	wants := func(n int64, released ...*leasepb.Holding) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: released, Demands: []*leasepb.Demand{{Key: up, Waiting: n, Ask: 1}}, LimitsIndex: 1}}}
	}
	lies := func(n int64) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: up, Slots: n}, {Key: up, Slots: n}, {Key: up, Slots: n}}, LimitsIndex: 1,
			Demands: []*leasepb.Demand{{Key: up, Held: n, InUse: n, Waiting: n, Refused: n, Headroom: n, Parked: n, Ask: 1}}}}}
	}
	draws := func(n int64, released ...*leasepb.Holding) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: released, Demands: []*leasepb.Demand{{Key: rate, InUse: n, Waiting: n, Refused: n, Headroom: n, Ask: 1}}, LimitsIndex: 1}}}
	}
	keepAlive := &leasepb.NodeMessage{Message: &leasepb.NodeMessage_KeepAlive{KeepAlive: &leasepb.KeepAlive{Seq: 1}}}
	proof := &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Proof{Proof: &leasepb.Proof{}}}
	bye := &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Bye{Bye: &leasepb.Bye{}}}
	say := func(b []byte, conn byte, m proto.Message) []byte {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.AppendUvarint(append(slices.Clip(b), leaderHears, conn), uint64(len(raw))), raw...)
	}
	round := func(b []byte) []byte {
		return kit.Step(kit.Step(kit.Step(kit.Step(b, leaderVerifies, 1), leaderProposes, nil), leaderApplies, nil), leaderTicks, 2)
	}
	two := round(round(say(round(say(say(nil, 0, hello("a", "1", 2)), 1, hello("b", "2", 0))), 1, proof)))
	both := round(say(say(two, 0, wants(2)), 1, wants(3)))
	drawn := round(say(round(say(two, 0, draws(250_000))), 1, draws(500_000)))
	for _, level := range []int64{0, 2_000_000, -1, math.MaxInt64, math.MinInt64} {
		back := &leasepb.Holding{Key: rate, Slots: 250_000, Level: level}
		f.Add(round(say(round(say(drawn, 0, draws(0, back, back))), 1, draws(1_000_000, back))))
		f.Add(round(kit.Step(round(say(kit.Step(drawn, leaderLosesStream, 1), 0, draws(0, back))), leaderTicks, 255)))
	}
	f.Add(round(say(drawn, 1, draws(-250_000, &leasepb.Holding{Key: rate, Slots: 1, Level: 1}))))
	f.Add(round(round(say(both, 0, wants(0, &leasepb.Holding{Key: up, Slots: 1})))))
	f.Add(round(say(round(kit.Step(both, leaderLimits, 1)), 1, keepAlive)))
	f.Add(round(say(round(say(both, 0, bye)), 2, hello("b", "2", 4, &leasepb.Holding{Key: up, Slots: 9}))))
	f.Add(round(kit.Step(round(kit.Step(kit.Step(both, leaderLosesStream, 0), leaderTicks, 255)), leaderGossips, 5)))
	f.Add(round(say(round(say(both, 2, hello("a", "9", 0))), 3, hello("a", "1", 1))))
	f.Add(round(say(both, 1, wants(-1, &leasepb.Holding{Key: up, Slots: -5}, nil, &leasepb.Holding{Key: up, Slots: 1 << 62}))))
	f.Add(round(say(round(say(two, 0, lies(1<<62))), 1, wants(3))))
	f.Add(round(say(round(say(two, 0, lies(math.MaxInt64))), 1, wants(3))))
	f.Add(round(say(round(say(two, 0, lies(math.MinInt64))), 1, wants(3))))
	f.Fuzz(func(t *testing.T, b []byte) { newLeaderScript(t).play(b) })
}
