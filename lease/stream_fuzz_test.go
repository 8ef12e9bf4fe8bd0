package lease

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
	"github.com/weirproxy/weir/limit"
)

// script is what a fuzz target does, byte by byte.
type script []byte

func (s *script) byte() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

// message takes a message behind its length; false says that there is none.
func (s *script) message(m proto.Message) bool {
	n, size := binary.Uvarint(*s)
	if size <= 0 || n > uint64(len(*s)-size) {
		*s = nil
		return false
	}
	b := (*s)[size : size+int(n)]
	*s = (*s)[size+int(n):]
	return proto.Unmarshal(b, m) == nil
}

// step appends to a script: what to do, and with which byte or message.
func step(b []byte, what byte, with any) []byte {
	b = append(slices.Clip(b), what) // others may go on from b
	switch with := with.(type) {
	case int:
		b = append(b, byte(with))
	case proto.Message:
		raw, err := proto.Marshal(with)
		if err != nil {
			panic(err)
		}
		b = append(binary.AppendUvarint(b, uint64(len(raw))), raw...)
	}
	return b
}

const maxSteps = 200

// What a nodeScript does.
const (
	nodeHears = iota
	nodeTicks
	nodeAcquires
	nodeReleases
	nodeParks
	nodeUnparks
	nodeSays
	nodeLosesStream
	nodeGivesUp
	nodeSteps
)

// nodeScript plays a node, and whoever calls itself its leader.
type nodeScript struct {
	t       *testing.T
	n       *Node
	now     time.Duration
	up      bool
	slots   []*Slot
	waiters []*Waiter
}

// Now makes the script a clock.
func (p *nodeScript) Now() time.Duration { return p.now }

// Wall is the same clock.
func (p *nodeScript) Wall() time.Duration { return p.now }

func (p *nodeScript) play(s script) {
	for steps := 0; len(s) > 0 && steps < maxSteps; steps++ {
		p.do(&s)
		p.sever()
		if err := p.n.Check(); err != nil {
			p.t.Fatal(err)
		}
	}
	p.finish()
}

func (p *nodeScript) do(s *script) {
	n := p.n
	switch s.byte() % nodeSteps {
	case nodeHears:
		var m leasepb.LeaderMessage
		if s.message(&m) && p.up && n.Receive(p.now, &m) != nil {
			p.lose() // the shell closes a stream that speaks nonsense
		}
	case nodeTicks:
		p.now += time.Duration(s.byte()) * 25 * time.Millisecond
		n.Tick(p.now, p.now)
	case nodeAcquires:
		p.acquire([]string{"up", "x.org", "free"}[s.byte()%3])
	case nodeReleases:
		p.release(int(s.byte()))
	case nodeParks:
		if slot := p.slot(s.byte()); slot != nil && n.Park(slot) {
			n.Parked(p.now, slot)
		}
	case nodeUnparks:
		if slot := p.slot(s.byte()); slot != nil && n.Unpark(slot, p) && slot.guarded.Load() && !n.gate.admitsAt(p.now) {
			p.t.Fatal("a parked connection was taken into use without a lease")
		}
	case nodeSays:
		if p.up {
			p.say()
		}
	case nodeLosesStream:
		if p.up {
			p.lose()
		} else {
			p.up = true
			n.StreamUp(p.now)
		}
	case nodeGivesUp:
		cancel := s.byte()%2 == 0
		if len(p.waiters) == 0 {
			return
		}
		w := p.waiters[0]
		p.waiters = p.waiters[1:]
		if cancel {
			n.Cancel(w)
		} else {
			n.Expire(p.now, w)
		}
	}
}

func (p *nodeScript) lose() {
	p.up = false
	p.n.StreamDown(p.now)
}

func (p *nodeScript) slot(i byte) *Slot {
	if len(p.slots) == 0 {
		return nil
	}
	return p.slots[int(i)%len(p.slots)]
}

func (p *nodeScript) acquire(host string) {
	s := NewSlot(limit.Target{Host: host, Port: 443}, newHolder())
	ok, err := p.n.TryAcquire(s, p)
	if !ok && err == nil {
		var w *Waiter
		if w, err = p.n.Acquire(p.now, s, func(err error) {
			if err == nil {
				p.admitted(s)
			}
		}); w != nil {
			p.waiters = append(p.waiters, w)
			return
		}
		ok = err == nil
	}
	if ok {
		p.admitted(s)
	}
}

// admitted is where a node could break its word: with a limit, no connection may be admitted beyond
// the grant, or without a lease.
func (p *nodeScript) admitted(s *Slot) {
	pool := s.part.Load().pool
	if l := pool.limit; l.Capped() && (pool.open > pool.granted || !p.n.gate.admitsAt(p.now) || l.Connections == 0) {
		p.t.Errorf("admitted to %s: %d open, %d granted, limit %d, lease %v", pool.key, pool.open, pool.granted, l.Connections, p.n.gate.admitsAt(p.now))
	}
	p.slots = append(p.slots, s)
}

func (p *nodeScript) release(i int) {
	if len(p.slots) == 0 {
		return
	}
	i %= len(p.slots)
	s := p.slots[i]
	p.slots = append(p.slots[:i:i], p.slots[i+1:]...)
	if !p.n.TryRelease(s) {
		p.n.Release(p.now, s)
	}
}

// say looks at what the node sends: it gives nothing back that is in use.
func (p *nodeScript) say() {
	for _, m := range p.n.Outgoing(p.now) {
		if _, err := proto.Marshal(m); err != nil {
			p.t.Fatalf("%v: %v", m, err)
		}
		for _, r := range m.GetUpdate().GetReleases() {
			if r.GetSlots() <= 0 {
				p.t.Fatalf("gives back %v", r)
			}
		}
		for _, d := range m.GetUpdate().GetDemands() {
			if d.GetHeld() < 0 || d.GetInUse() < 0 || d.GetWaiting() < 0 || d.GetParked() < 0 || d.GetRefused() < 0 {
				p.t.Fatalf("asks for %v", d)
			}
		}
	}
}

// sever does what holders do.
func (p *nodeScript) sever() {
	for _, v := range p.n.TakeSevers() {
		for i, s := range p.slots {
			if s == v.Slot {
				p.release(i)
				break
			}
		}
	}
}

// finish lets all go, after which nothing is left in use.
func (p *nodeScript) finish() {
	for _, w := range p.waiters {
		p.n.Cancel(w)
	}
	for len(p.slots) > 0 {
		p.release(0)
		p.sever()
	}
	if open := p.n.inUse(); open != 0 {
		p.t.Fatalf("%d connections are left", open)
	}
	if err := p.n.Check(); err != nil {
		p.t.Fatal(err)
	}
}

// FuzzNodeStream: whatever a leader says, and whatever happens meanwhile, the node does not
// contradict itself, and admits nothing beyond what it was granted, or without a lease.
func FuzzNodeStream(f *testing.F) {
	up := fsmpb.KeyOf(limit.HostConnections("up"))
	leader := func(m *leasepb.LeaderMessage) *leasepb.LeaderMessage { return m }
	welcome := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Term: 1, TtlNs: 10e9}}})
	limits := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Limits{Limits: &leasepb.Limits{Index: 9, ShapeIndex: 9, Limits: []*fsmpb.Limit{
		{Pattern: "up", Connections: proto.Int64(2), Source: fsmpb.Source_SOURCE_API}, {Pattern: "*.org", Connections: proto.Int64(1), Shared: true, Source: fsmpb.Source_SOURCE_API},
	}}}})
	grant := func(n int64) *leasepb.LeaderMessage {
		return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{Grants: []*leasepb.Holding{{Key: up, Slots: n}}}}}
	}
	target := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
		Targets: []*leasepb.Target{{Key: up, Seq: 1, Slots: 0, Contended: true, Evict: true}}, Answers: []*leasepb.Answer{{Key: up, Ask: 1}}}}})
	ack := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: 1}}})
	closed := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Closed{Closed: &leasepb.Closed{}}})
	resumed := leader(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Term: 2, TtlNs: 10e9, Resumed: true,
		Corrected: []*leasepb.Holding{{Key: up, Slots: 1}}}}})

	begin := step(step(step([]byte{byte(ExpiryClose)}, nodeLosesStream, nil), nodeSays, nil), nodeHears, welcome)
	begin = step(step(begin, nodeSays, nil), nodeHears, ack)
	served := step(step(step(step(begin, nodeAcquires, 0), nodeAcquires, 0), nodeSays, nil), nodeHears, grant(2))
	f.Add(step(step(step(step(served, nodeAcquires, 0), nodeHears, target), nodeReleases, 0), nodeSays, nil))
	f.Add(step(step(step(step(step(served, nodeParks, 0), nodeAcquires, 0), nodeUnparks, 0), nodeTicks, 255), nodeTicks, 255))
	f.Add(step(step(step(step(step(served, nodeHears, limits), nodeAcquires, 1), nodeSays, nil), nodeHears, grant(-1)), nodeGivesUp, 1))
	f.Add(step(step(step(step(step(served, nodeLosesStream, nil), nodeLosesStream, nil), nodeSays, nil), nodeHears, resumed), nodeAcquires, 0))
	keeps := slices.Clone(served)
	keeps[0] = byte(ExpiryKeep)
	f.Add(step(step(step(step(keeps, nodeTicks, 255), nodeTicks, 255), nodeAcquires, 2), nodeReleases, 0))
	waits := step(step(step(step(served, nodeAcquires, 0), nodeAcquires, 0), nodeSays, nil), nodeTicks, 41)
	f.Add(step(step(step(step(step(waits, nodeHears, target), nodeGivesUp, 1), nodeTicks, 20), nodeTicks, 20), nodeSays, nil))
	f.Add(step(step(step(served, nodeHears, closed), nodeAcquires, 0), nodeSays, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := script(b)
		n := NewNode("a", "1", Expiry(s.byte()%3), limit.NewTable(1, 1, []limit.Limit{configLimit(t, "up", 3, limit.Queue{Timeout: time.Second, Size: 5})}))
		(&nodeScript{t: t, n: n}).play(s)
	})
}

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
	p.apply(&fsm.Init{ClusterID: "c", TTL: 10 * time.Second, Limits: []limit.Limit{configLimit(t, "up", 3, limit.Queue{})}})
	p.apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "1"})
	p.a = NewAllocator(0, 1, p.st)
	return p
}

func (p *leaderScript) apply(c fsm.Command) fsm.Result {
	p.index++
	return p.st.Apply(p.index, 1, c)
}

func (p *leaderScript) play(s script) {
	for steps := 0; len(s) > 0 && steps < maxSteps; steps++ {
		p.do(&s)
		for _, o := range p.a.Take() {
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

func (p *leaderScript) do(s *script) {
	switch s.byte() % leaderSteps {
	case leaderHears:
		p.hear(p.conns-uint64(s.byte()%4), s)
	case leaderTicks:
		p.now += time.Duration(s.byte()) * 50 * time.Millisecond
		p.a.Tick(p.now)
	case leaderProposes:
		if p.inflight == nil {
			p.inflight, p.moved = p.a.Next(p.now, p.st), false
		}
	case leaderApplies:
		p.commit()
	case leaderVerifies:
		if leads := s.byte()%8 != 0; p.a.Verify() {
			p.a.Verified(p.now, p.st, leads)
		}
	case leaderLosesStream:
		p.lose(p.conns - uint64(s.byte()%4))
	case leaderLimits:
		l := configLimit(p.t, "up", int64(s.byte()%6), limit.Queue{})
		l.Source = limit.SourceAPI
		p.apply(&fsm.PutLimit{Limit: l})
		p.moved = true
		p.a.LimitsChanged(p.st)
	case leaderGossips:
		b := s.byte()
		p.a.Health(string('a'+rune(b%3)), b&4 != 0)
	}
}

// hear keeps the server's rule: hello comes first, and once.
func (p *leaderScript) hear(conn uint64, s *script) {
	var m leasepb.NodeMessage
	if !s.message(&m) || p.gone[conn] {
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
	hello := func(node, identity string, session uint64, held ...*leasepb.Holding) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: protocolVersion, Node: node, Identity: identity, Session: session, Holdings: held}}}
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
		return step(step(step(step(b, leaderVerifies, 1), leaderProposes, nil), leaderApplies, nil), leaderTicks, 2)
	}
	two := round(round(say(round(say(say(nil, 0, hello("a", "1", 2)), 1, hello("b", "2", 0))), 1, proof)))
	both := round(say(say(two, 0, wants(2)), 1, wants(3)))
	f.Add(round(round(say(both, 0, wants(0, &leasepb.Holding{Key: up, Slots: 1})))))
	f.Add(round(say(round(step(both, leaderLimits, 1)), 1, keepAlive)))
	f.Add(round(say(round(say(both, 0, bye)), 2, hello("b", "2", 4, &leasepb.Holding{Key: up, Slots: 9}))))
	f.Add(round(step(round(step(step(both, leaderLosesStream, 0), leaderTicks, 255)), leaderGossips, 5)))
	f.Add(round(say(round(say(both, 2, hello("a", "9", 0))), 3, hello("a", "1", 1))))
	f.Add(round(say(both, 1, wants(-1, &leasepb.Holding{Key: up, Slots: -5}, nil, &leasepb.Holding{Key: up, Slots: 1 << 62}))))
	f.Add(round(say(round(say(two, 0, lies(1<<62))), 1, wants(3))))
	f.Add(round(say(round(say(two, 0, lies(math.MaxInt64))), 1, wants(3))))
	f.Add(round(say(round(say(two, 0, lies(math.MinInt64))), 1, wants(3))))
	f.Fuzz(func(t *testing.T, b []byte) { newLeaderScript(t).play(b) })
}
