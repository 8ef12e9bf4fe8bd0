package lease

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

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
	nodeBegins
	nodeEnds
	nodeTakes
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
	draws   []*Draw
	// requests in hand, and those that wait for a slot, or for tokens.
	requests []*Request
}

// Now makes the script a clock.
func (p *nodeScript) Now() time.Duration { return p.now }

// Wall is the same clock.
func (p *nodeScript) Wall() time.Duration { return p.now }

func (p *nodeScript) play(s kit.Script) {
	for steps := 0; len(s) > 0 && steps < kit.MaxSteps; steps++ {
		p.do(&s)
		p.sever()
		if err := p.n.Check(); err != nil {
			p.t.Fatal(err)
		}
		p.checkBuckets()
	}
	p.finish()
}

func (p *nodeScript) do(s *kit.Script) {
	n := p.n
	switch s.Byte() % nodeSteps {
	case nodeHears:
		var m leasepb.LeaderMessage
		if s.Message(&m) && p.up && n.Receive(p.now, &m) != nil {
			p.lose() // the shell closes a stream that speaks nonsense
		}
	case nodeTicks:
		p.now += time.Duration(s.Byte()) * 25 * time.Millisecond
		n.Tick(p.now, p.now)
	case nodeAcquires:
		p.acquire([]string{"up", "x.org", "free"}[s.Byte()%3])
	case nodeReleases:
		p.release(int(s.Byte()))
	case nodeParks:
		if slot := p.slot(s.Byte()); slot != nil && n.Park(slot) {
			n.Parked(p.now, slot)
		}
	case nodeUnparks:
		if slot := p.slot(s.Byte()); slot != nil && n.Unpark(slot, p) && slot.guarded.Load() && !n.gate.admitsAt(p.now) {
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
	case nodeBegins:
		p.begin(s.Byte())
	case nodeEnds:
		if len(p.requests) > 0 {
			p.end(int(s.Byte()) % len(p.requests))
		}
	case nodeTakes:
		p.take(scriptSubject(s.Byte()))
	case nodeGivesUp:
		cancel := s.Byte()%2 == 0
		if len(p.waiters) == 0 {
			return
		}
		w := p.waiters[0]
		p.waiters = p.waiters[1:]
		if cancel {
			n.Cancel(p.now, w)
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
	p.mayServe(s)
	p.slots = append(p.slots, s)
}

func (p *nodeScript) mayServe(s *Slot) {
	pool := s.part.Load().pool
	if l := pool.limit; l.Capped() && !l.Report && (pool.open > pool.granted || !p.n.gate.admitsAt(p.now) || l.Connections == 0) {
		p.t.Errorf("admitted to %s: %d open, %d granted, limit %d, lease %v", pool.key, pool.open, pool.granted, l.Connections, p.n.gate.admitsAt(p.now))
	}
}

func scriptSubject(b byte) *limit.Subject {
	return &limit.Subject{
		Host: limit.Target{Host: "up", Port: 443}, User: []string{"u", ""}[b%2],
		Client: limit.ClientOf(netip.AddrFrom4([4]byte{10, 0, 0, b % 3})),
	}
}

// begin takes a request in hand, whose slots may come later.
func (p *nodeScript) begin(b byte) {
	r := NewRequest(scriptSubject(b), newHolder())
	p.n.Enter(r)
	p.requests = append(p.requests, r)
	p.goOn(r)
}

func (p *nodeScript) goOn(r *Request) {
	for s := r.Next(); s != nil; s = r.Next() {
		got := func(err error) {
			if err == nil {
				p.mayServe(s)
				r.Got(s)
			}
		}
		ok, err := p.n.TryAcquire(s, p)
		if !ok && err == nil {
			var w *Waiter
			if w, err = p.n.Acquire(p.now, s, got); w != nil {
				p.waiters = append(p.waiters, w)
				return // it goes no further here
			}
		}
		if got(err); err != nil {
			return
		}
	}
}

func (p *nodeScript) end(i int) {
	r := p.requests[i]
	p.requests = slices.Delete(p.requests, i, i+1)
	p.waiters = slices.DeleteFunc(p.waiters, func(w *Waiter) bool {
		return w.slot != nil && w.slot.request == r && (p.n.Cancel(p.now, w) || true)
	})
	for _, s := range r.Leave() {
		if s != nil && !p.n.TryRelease(s) {
			p.n.Release(p.now, s)
		}
	}
}

// take takes tokens; no token may come without a lease, or from a bucket that holds none.
func (p *nodeScript) take(s *limit.Subject) {
	d := NewDraw(s, 0)
	for !d.Taken() && (d.begun || !p.n.TryTake(s, p)) {
		w, err := p.n.Take(p.now, d, func(error) {})
		if w != nil {
			p.waiters, p.draws = append(p.waiters, w), append(p.draws, d)
			return
		}
		if err != nil {
			p.n.Forsake(p.now, d)
			return
		}
	}
	for _, scope := range tokenScopes {
		_, name := p.n.Table().Find(scope, s)
		pool := p.n.lookup(limit.Key{Scope: scope, Resource: limit.Requests, Name: name})
		if pool != nil && pool.enforced() && (!p.n.gate.admitsAt(p.now) || pool.bucket.size < oneRequest-slack) {
			p.t.Errorf("a token of %s was taken: %d shares, lease %v", pool.key, pool.granted, p.n.gate.admitsAt(p.now))
		}
	}
}

// checkBuckets: whatever the leader says, a bucket holds between nothing and its size.
func (p *nodeScript) checkBuckets() {
	for _, pool := range p.n.all {
		if !pool.key.Resource.IsRate() {
			continue
		}
		if b := pool.bucket; b.level < -slack || b.level > b.size || b.size > float64(pool.limit.BurstGrains(pool.key.Resource)) {
			p.t.Fatalf("the bucket of %s holds %v of %v", pool.key, b.level, b.size)
		}
	}
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
			if r.GetSlots() <= 0 || r.GetLevel() < 0 || r.GetLevel() > limit.MaxRequests*limit.TokenGrains {
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
	for _, v := range p.n.Effects(p.now).Severs {
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
		p.n.Cancel(p.now, w)
	}
	for _, d := range p.draws {
		p.n.Forsake(p.now, d)
	}
	for len(p.requests) > 0 {
		p.end(0)
		p.sever()
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

// scopedScripts are scripts with limits of all scopes, and levels that come with units, more than
// they hold too.
func scopedScripts(begin []byte, limits, target *leasepb.LeaderMessage) (all [][]byte) {
	var grants []*leasepb.Holding
	for _, key := range []limit.Key{
		{Scope: limit.ScopeTotal, Resource: limit.Connections}, {Scope: limit.ScopeClient, Resource: limit.Connections, Name: "10.0.0.1"},
		{Scope: limit.ScopeUser, Resource: limit.Connections, Name: "u"},
	} {
		grants = append(grants, &leasepb.Holding{Key: fsmpb.KeyOf(key), Slots: 1})
	}
	rate := fsmpb.KeyOf(limit.Key{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"})
	assign := func(level int64, targets ...*leasepb.Target) *leasepb.LeaderMessage {
		return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
			Grants: append(grants, &leasepb.Holding{Key: rate, Slots: 500_000, Level: level}), Targets: targets}}}
	}
	for _, level := range []int64{0, 1_500_000, math.MaxInt64, math.MinInt64} {
		b := kit.Step(kit.Step(kit.Step(begin, nodeHears, assign(level)), nodeTakes, 0), nodeTakes, 1)
		b = kit.Step(kit.Step(kit.Step(kit.Step(b, nodeBegins, 1), nodeBegins, 3), nodeTicks, 10), nodeTakes, 2)
		b = kit.Step(kit.Step(b, nodeHears, assign(0, &leasepb.Target{Key: rate, Seq: 2, Slots: 250_000, Contended: true})), nodeSays, nil)
		all = append(all, kit.Step(kit.Step(b, nodeEnds, 0), nodeSays, nil),
			kit.Step(kit.Step(kit.Step(b, nodeHears, limits), nodeTakes, 1), nodeSays, nil),
			kit.Step(kit.Step(kit.Step(b, nodeHears, target), nodeGivesUp, 0), nodeGivesUp, 1))
	}
	return all
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

	begin := kit.Step(kit.Step(kit.Step([]byte{byte(ExpiryClose)}, nodeLosesStream, nil), nodeSays, nil), nodeHears, welcome)
	begin = kit.Step(kit.Step(begin, nodeSays, nil), nodeHears, ack)
	served := kit.Step(kit.Step(kit.Step(kit.Step(begin, nodeAcquires, 0), nodeAcquires, 0), nodeSays, nil), nodeHears, grant(2))
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(served, nodeAcquires, 0), nodeHears, target), nodeReleases, 0), nodeSays, nil))
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(kit.Step(served, nodeParks, 0), nodeAcquires, 0), nodeUnparks, 0), nodeTicks, 255), nodeTicks, 255))
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(kit.Step(served, nodeHears, limits), nodeAcquires, 1), nodeSays, nil), nodeHears, grant(-1)), nodeGivesUp, 1))
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(kit.Step(served, nodeLosesStream, nil), nodeLosesStream, nil), nodeSays, nil), nodeHears, resumed), nodeAcquires, 0))
	keeps := slices.Clone(served)
	keeps[0] = byte(ExpiryKeep)
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(keeps, nodeTicks, 255), nodeTicks, 255), nodeAcquires, 2), nodeReleases, 0))
	waits := kit.Step(kit.Step(kit.Step(kit.Step(served, nodeAcquires, 0), nodeAcquires, 0), nodeSays, nil), nodeTicks, 41)
	f.Add(kit.Step(kit.Step(kit.Step(kit.Step(kit.Step(waits, nodeHears, target), nodeGivesUp, 1), nodeTicks, 20), nodeTicks, 20), nodeSays, nil))
	for _, b := range scopedScripts(begin, limits, target) {
		f.Add(b)
	}
	f.Add(kit.Step(kit.Step(kit.Step(served, nodeHears, closed), nodeAcquires, 0), nodeSays, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := kit.Script(b)
		rated := requestLimit(t, "x.org", "10/s", 4, limit.Queue{})
		up := kit.Limit(t, "up", 3, limit.Queue{Timeout: time.Second, Size: 5})
		up.Requests = rated.Requests
		reports := scopeLimit(t, limit.ScopeUser, "u", 1)
		reports.Report, reports.Requests = true, rated.Requests
		n := NewNode("a", "1", Expiry(s.Byte()%3), limit.NewTable(1, 1, []limit.Limit{up, rated, reports,
			scopeLimit(t, limit.ScopeClient, "*", 1), scopeLimit(t, limit.ScopeTotal, "", 2)}))
		(&nodeScript{t: t, n: n}).play(s)
	})
}
