package lease

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// stallMeter measures the longest turn of the core.
type stallMeter struct{ longest time.Duration }

func (s *stallMeter) do(f func()) { s.longest = max(s.longest, kit.Busy(f)) }

// manyNames is a node that one name after another is asked of, in virtual time, with a leader that
// grants what it asks.
type manyNames struct {
	t     testing.TB
	n     *Node
	now   time.Duration
	stall stallMeter
	most  int  // pools at once
	mute  bool // nothing reaches the leader
}

func newManyNames(t testing.TB, limits ...limit.Limit) *manyNames {
	n := NewNode("a", "1", ExpiryClose, limit.NewTable(1, 1, limits))
	x := &manyNames{t: t, n: n, now: time.Hour}
	n.StreamUp(x.now)
	n.Outgoing(x.now)
	x.hear(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{
		Welcome: &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)}}})
	return x
}

func (x *manyNames) hear(m *leasepb.LeaderMessage) {
	x.stall.do(func() {
		if err := x.n.Receive(x.now, m); err != nil {
			x.t.Fatal(err)
		}
	})
}

// leader takes what the node says, and grants.
func (x *manyNames) leader() {
	for x.n.pending(x.now) && !x.mute {
		var out []*leasepb.NodeMessage
		x.stall.do(func() { out = x.n.Outgoing(x.now) })
		for _, m := range out {
			if k := m.GetKeepAlive(); k != nil {
				x.hear(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: k.Seq}}})
			}
			as := &leasepb.Assign{}
			for _, d := range m.GetUpdate().GetDemands() {
				if d.Waiting > 0 {
					as.Grants = append(as.Grants, &leasepb.Holding{Key: d.Key, Slots: d.Waiting})
				}
			}
			if len(as.Grants) > 0 {
				x.hear(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: as}})
			}
		}
	}
}

// pass lets time pass, as the shell does.
func (x *manyNames) pass(d time.Duration) {
	for end := x.now + d; x.now < end; {
		x.now = min(end, max(x.n.NextWake(x.now), x.now+minTick))
		x.stall.do(func() { x.n.Tick(x.now, x.now) })
		x.leader()
		x.most = max(x.most, len(x.n.all))
	}
}

// use opens and ends a connection to a host.
func (x *manyNames) use(host string) {
	s := NewSlot(limit.Target{Host: host, Port: 443}, newHolder())
	if ok, _ := x.n.TryAcquire(s, fixedClock(x.now)); !ok {
		admitted := false
		var w *Waiter
		var err error
		w, err = x.n.Acquire(x.now, s, func(err error) { admitted = err == nil })
		if w == nil && err == nil {
			admitted = true
		}
		x.leader()
		if !admitted {
			x.t.Fatalf("%s is refused: %v", host, err)
		}
	}
	if !x.n.TryRelease(s) {
		x.n.Release(x.now, s)
	}
	x.most = max(x.most, len(x.n.all))
}

type fixedClock time.Duration

func (c fixedClock) Now() time.Duration { return time.Duration(c) }

func (c fixedClock) Wall() time.Duration { return time.Duration(c) }

// Clients ask for names at the rate of a million in ten minutes, with and without a limit. The node
// remembers as many as its bound says, and those in use; a name that is used again and again keeps
// its totals; the core is never busy for long; and afterwards all is forgotten.
func TestManyNames(t *testing.T) {
	const seconds = names * 600 / 1_000_000
	for _, c := range []struct {
		name   string
		limits []limit.Limit
		most   int
	}{
		{"without a limit", nil, maxBare + 1},
		{"with a limit", []limit.Limit{kit.Limit(t, "*", 25, limit.Queue{})}, maxBare + 6*names/seconds},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newManyNames(t, c.limits...)
			before := heapSize()
			for second := range seconds {
				for i := range names / seconds {
					x.use(fmt.Sprintf("host-%d-%d.example.com", second, i))
				}
				x.use("busy.example.com")
				x.pass(time.Second)
			}
			grown := heapSize() - before
			t.Logf("%d names: %d pools at most, %d MB, the core busy for %v at most", names, x.most, grown>>20, x.stall.longest)
			if x.most > c.most {
				t.Errorf("%d pools at once, want %d at most", x.most, c.most)
			}
			if x.stall.longest > longestStall {
				t.Errorf("the core was busy for %v in one go", x.stall.longest)
			}
			if use, _ := x.n.Use(x.now, limit.HostConnections("busy.example.com")); use.Admitted != seconds {
				t.Errorf("of a host that is used all the time %d admissions are remembered", use.Admitted)
			}
			if err := x.n.Check(); err != nil {
				t.Error(err)
			}
			x.pass(forgetAfter + 2*forgetAfter/looksToForget)
			if len(x.n.all) != 0 {
				t.Errorf("%d pools are left", len(x.n.all))
			}
			if err := x.n.AtRest(); err != nil {
				t.Error(err)
			}
		})
	}
}

// client begins a request of one client among many, with its slot, and ends it.
func (x *manyNames) client(i int) {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	s := &limit.Subject{Client: limit.ClientOf(a), Host: limit.Target{Host: "up", Port: 443}}
	r := NewRequest(s, nil)
	x.n.Enter(r)
	for slot := r.Next(); slot != nil; slot = r.Next() {
		if ok, _ := x.n.TryAcquire(slot, fixedClock(x.now)); !ok {
			if _, err := x.n.Acquire(x.now, slot, func(error) {}); err != nil {
				x.t.Fatal(err)
			}
			x.leader()
		}
		r.Got(slot)
	}
	for _, slot := range r.Leave() {
		if slot != nil && !x.n.TryRelease(slot) {
			x.n.Release(x.now, slot)
		}
	}
}

// A limit on each client for itself, and very many of them, each of which comes once: what the node
// remembers of each is little, it forgets it, and the core is never busy for long.
func TestManyClients(t *testing.T) {
	const seconds = 60
	x := newManyNames(t, scopeLimit(t, limit.ScopeClient, "*", 20))
	before := heapSize()
	var most int64
	for second := range seconds {
		for i := second * clients / seconds; i < (second+1)*clients/seconds; i++ {
			x.client(i)
		}
		if second%15 == 14 {
			most = max(most, heapSize()-before)
		}
		x.pass(time.Second)
	}
	t.Logf("%d clients in a minute: %d B for each, %d pools at most, the core is busy for %v at most", clients, most/clients, x.most, x.stall.longest)
	if most > clients*perClient || x.stall.longest > longestStall {
		t.Errorf("%d B for each client, want at most %d; the core is busy for %v", most/clients, perClient, x.stall.longest)
	}
	x.pass(forgetAfter + 2*forgetAfter/looksToForget)
	if len(x.n.all) != 0 {
		t.Errorf("%d pools are left after ten minutes", len(x.n.all))
	}
}

// All clients come at once, so that slots of each are held: none is remembered ten minutes later.
func TestClientsAtOnceAreForgotten(t *testing.T) {
	x := newManyNames(t, scopeLimit(t, limit.ScopeClient, "*", 20))
	before := heapSize()
	for i := range clients {
		x.client(i)
	}
	each := (heapSize() - before) / clients
	t.Logf("%d clients at once: %d B for each", clients, each)
	if each > perHeldClient {
		t.Errorf("%d B for each client, want at most %d", each, perHeldClient)
	}
	x.pass(forgetAfter + 2*forgetAfter/looksToForget)
	if n := len(x.n.all); n != 0 {
		t.Errorf("%d pools are left after ten minutes", n)
	}
}

func heapSize() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A bare pool that anything refers to is not forgotten, however many others are asked for.
func TestNeededPoolIsKept(t *testing.T) {
	for name, need := range map[string]func(x *manyNames, key limit.Key){
		"open connection": func(x *manyNames, key limit.Key) {
			if _, err := x.n.Acquire(x.now, NewSlot(limit.Target{Host: key.Name, Port: 443}, newHolder()), nil); err != nil {
				x.t.Fatal(err)
			}
		},
		"waiter": func(x *manyNames, key limit.Key) {
			p := x.n.pool(x.now, key)
			x.n.lock(p)
			defer p.mu.Unlock()
			p.waiters.push(&Waiter{slot: NewSlot(limit.Target{}, nil), pool: p, done: func(error) {}})
		},
		"refusal":        func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).refused[1] = 1 },
		"put-off ask":    func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).putOff = true },
		"release unsaid": func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).releasing = 1 },
		"known demand":   func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).reported = true },
		"contention":     func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).contended = true },
		"target":         func(x *manyNames, key limit.Key) { x.n.pool(x.now, key).target = 0 },
		"change unsaid":  func(x *manyNames, key limit.Key) { x.n.mark(x.n.pool(x.now, key)); x.mute = true },
		"slot":           func(x *manyNames, key limit.Key) { x.n.grant(key, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			x := newManyNames(t)
			x.n.SetBounds(Bounds{Page: 4, Stated: 4, Bare: 8})
			key := limit.HostConnections("needed")
			need(x, key)
			p := x.n.lookup(key)
			for i := range 100 {
				x.use(fmt.Sprint("other-", i))
			}
			if x.n.lookup(key) != p {
				t.Error("it is forgotten")
			}
			if n := x.n.bare.len; n > 9 {
				t.Errorf("%d bare pools are kept", n)
			}
		})
	}
}

// A request that found a pool without the core's lock, just before that was forgotten, is counted
// in the next one.
func TestForgottenPoolAdmitsNothing(t *testing.T) {
	x := newManyNames(t)
	x.use("up")
	p := x.n.lookup(limit.HostConnections("up"))
	x.n.SetBounds(Bounds{Page: 4, Stated: 4, Bare: 0})
	x.n.trim(x.now, 4)
	x.n.trim(x.now, 4)
	if x.n.lookup(p.key) != nil {
		t.Fatal("it is not forgotten")
	}
	s := NewSlot(limit.Target{Host: "up", Port: 443}, newHolder())
	if v := p.try(x.now, s, x.n.Table(), true, &x.n.gate); v != verdictStale {
		t.Errorf("the forgotten pool answers %v", v)
	}
}

// With a slot in use of each of many keys, no event that concerns all of them keeps the core busy
// for long; and a fence severs them all without waiting for a timer.
func TestManyKeysInPages(t *testing.T) {
	x := newManyNames(t, kit.Limit(t, "*", 25, limit.Queue{}))
	slots := make([]*Slot, 0, heldKeys)
	for i := range heldKeys {
		key := limit.HostConnections(fmt.Sprintf("host-%d.example.com", i))
		x.n.grant(key, 1)
		s := NewSlot(limit.Target{Host: key.Name, Port: 443}, newHolder())
		if ok, err := x.n.TryAcquire(s, fixedClock(x.now)); !ok {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	x.stall = stallMeter{}
	longest := map[string]time.Duration{}
	walk := func(what string, f func()) {
		x.stall = stallMeter{}
		f()
		for x.n.Walking() {
			x.stall.do(func() { x.n.Walk(x.now) })
		}
		longest[what] = x.stall.longest
		if x.stall.longest > longestStall {
			t.Errorf("%s keeps the core busy for %v", what, x.stall.longest)
		}
	}
	walk("sweep", func() { x.pass(time.Second) })
	walk("stream's end", func() { x.stall.do(func() { x.n.StreamDown(x.now) }) })
	walk("hello", func() { x.n.StreamUp(x.now) })
	var stated, messages int
	for x.n.pending(x.now) && !x.n.welcomed() {
		var out []*leasepb.NodeMessage
		x.stall.do(func() { out = x.n.Outgoing(x.now) })
		for _, m := range out {
			messages++
			stated += len(m.GetHello().GetHoldings()) + len(m.GetHoldings().GetHoldings())
		}
	}
	if longest["hello"] = x.stall.longest; stated != heldKeys || messages != (heldKeys+maxStated-1)/maxStated {
		t.Errorf("%d keys are stated in %d messages", stated, messages)
	}
	walk("welcome", func() {
		x.hear(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true, TtlNs: 10e9}}})
	})
	walk("updates", x.leader)
	walk("drain", func() { x.stall.do(func() { x.n.Drain(x.now) }) })
	walk("fence", func() { x.stall.do(func() { x.n.Lose(x.now) }) })
	if e := x.n.Effects(x.now); len(e.Severs) != heldKeys || e.Severed != heldKeys || !e.Fenced {
		t.Errorf("%d connections are severed, %d counted, fenced: %v", len(e.Severs), e.Severed, e.Fenced)
	}
	for _, s := range slots {
		x.n.Release(x.now, s)
	}
	t.Logf("%d keys: the core is busy at most for %v", heldKeys, longest)
}

// A fence whose walk has pages left stops everything all the same: nothing is admitted, reused or
// written, and no hello asks for the next session before the walk has ended.
func TestFenceBetweenPages(t *testing.T) {
	x := newManyNames(t, kit.Limit(t, "*", 25, limit.Queue{}))
	x.n.SetBounds(Bounds{Page: 1, Stated: 1, Bare: 100})
	const hosts = 8
	var slots []*Slot
	for i := range hosts {
		key := limit.HostConnections(fmt.Sprint("host-", i))
		x.n.grant(key, 3)
		s := NewSlot(limit.Target{Host: key.Name, Port: 443}, newHolder())
		if ok, err := x.n.TryAcquire(s, fixedClock(x.now)); !ok {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	x.n.Park(slots[hosts-1])
	x.n.Lose(x.now)
	x.n.StreamDown(x.now)
	x.n.StreamUp(x.now)
	clock := fixedClock(x.now)
	for page := 0; x.n.Walking(); page++ {
		if page > 3*hosts {
			t.Fatal("the walk does not end")
		}
		for i, s := range slots {
			if x.n.Live(s, clock) {
				t.Errorf("page %d: the connection to host %d may be used", page, i)
			}
			other := NewSlot(s.target, newHolder())
			if ok, _ := x.n.TryAcquire(other, clock); ok {
				t.Errorf("page %d: host %d admits", page, i)
			}
			if w, err := x.n.Acquire(x.now, other, func(error) {}); w != nil || err != ErrNoLease {
				t.Errorf("page %d: a request to host %d is answered %v, waits: %v", page, i, err, w != nil)
			}
		}
		if x.n.Unpark(slots[hosts-1], clock) {
			t.Errorf("page %d: a parked connection is reused", page)
		}
		if x.n.pending(x.now) || len(x.n.Outgoing(x.now)) > 0 {
			t.Errorf("page %d: the node asks for a session", page)
		}
		x.n.Walk(x.now)
	}
	if n := len(x.n.Effects(x.now).Severs); n != hosts {
		t.Errorf("%d of %d connections are severed", n, hosts)
	}
	if out := x.n.Outgoing(x.now); len(out) != 1 || out[0].GetHello() == nil || len(out[0].GetHello().Holdings) > 0 {
		t.Errorf("after the walk the node says %v", out)
	}
}

// Slots that are given back while the hello is on its way in parts are said once: before their part
// was composed by not being stated, and after it with the first Update.
func TestGivenBackBetweenPartsOfHello(t *testing.T) {
	x := newManyNames(t, kit.Limit(t, "*", 25, limit.Queue{}))
	x.n.SetBounds(Bounds{Page: 1, Stated: 1, Bare: 100})
	log := map[string]int64{}
	for i := range 6 {
		key := limit.HostConnections(fmt.Sprint("host-", i))
		log[key.Name] = 3
		x.n.grant(key, 3)
	}
	x.n.StreamDown(x.now)
	x.n.StreamUp(x.now)
	giveBack := func(host string) {
		p := x.n.lookup(limit.HostConnections(host))
		x.n.lock(p)
		defer p.mu.Unlock()
		x.n.giveBack(x.now, p, 2)
	}
	giveBack("host-0") // before the hello
	stated := map[string]int64{}
	state := func() {
		for _, m := range x.n.Outgoing(x.now) {
			for _, h := range append(m.GetHello().GetHoldings(), m.GetHoldings().GetHoldings()...) {
				stated[h.Key.Name] += h.Slots
			}
		}
	}
	state()            // host-0
	giveBack("host-1") // before its part
	for range 3 {
		state()
	}
	giveBack("host-2") // after its part
	for x.n.pending(x.now) {
		state()
	}
	x.hear(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true, TtlNs: 10e9}}})
	for host, k := range stated {
		log[host] = min(log[host], k) // the leader releases the difference
	}
	for x.n.pending(x.now) || x.n.Walking() {
		x.n.Walk(x.now)
		for _, m := range x.n.Outgoing(x.now) {
			for _, r := range m.GetUpdate().GetReleases() {
				log[r.Key.Name] -= r.Slots
			}
		}
	}
	for i := range 6 {
		use, _ := x.n.Use(x.now, limit.HostConnections(fmt.Sprint("host-", i)))
		if use.Granted != log[use.Key.Name] {
			t.Errorf("%s: the node holds %d, the log grants %d", use.Key.Name, use.Granted, log[use.Key.Name])
		}
	}
	if stated["host-0"] != 1 || stated["host-1"] != 1 || stated["host-2"] != 3 {
		t.Errorf("stated: %v", stated)
	}
}
