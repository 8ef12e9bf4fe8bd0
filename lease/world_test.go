package lease

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// world runs the real cores of nodes and leader, and the real FSM, on a virtual clock and network, in one
// goroutine: the same seed gives the same run. The upstream is part of it, and judges.
type world struct {
	t       testing.TB
	rng     *rand.Rand
	now     time.Duration
	seq     uint64
	events  eventQueue
	state   *fsm.State
	index   uint64
	term    uint64
	alloc   *allocator
	leadGen int // rises when the leader changes: what was meant for the former is void
	nodes   []*wnode
	up      map[string]int
	peak    map[string]int
	use     map[string]*meter // time-weighted
	caps    map[string]int
	verify  []func()
	busy    bool // a verification is on its way
	entries int
	commit  time.Duration
	rtt     time.Duration
	wake    time.Duration // the leader's alarm
}

type meter struct {
	last time.Duration
	area time.Duration
}

type wevent struct {
	at  time.Duration
	seq uint64
	f   func()
}
type eventQueue []wevent

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(wevent)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// wnode is one process and its workers.
type wnode struct {
	w        *world
	name     string
	identity string
	n        *node
	life     int // rises with every crash
	conn     uint64
	connGen  int
	lastIn   time.Duration // streams keep their order
	lastOut  time.Duration
	cut      bool
	served   map[string]int
	refused  map[string]int
	expired  int
	noLease  int
}

func (x *wnode) Now() time.Duration  { return x.w.now }
func (x *wnode) Wall() time.Duration { return x.w.now }

func newWorld(t testing.TB, seed uint64, nodes int, expiry Expiry, limits ...fsm.Limit) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), state: fsm.NewState(), term: 1,
		up: map[string]int{}, peak: map[string]int{}, use: map[string]*meter{}, caps: map[string]int{},
		commit: 2 * time.Millisecond, rtt: 400 * time.Microsecond,
	}
	w.apply(&fsm.Init{ClusterID: "test", TTL: 3 * time.Second, Limits: limits})
	for _, l := range limits {
		if l.Capped() {
			w.caps[l.Pattern.String()] = int(l.Connections)
		}
	}
	w.newLeader()
	for i := range nodes {
		x := &wnode{w: w, name: string(rune('a' + i)), served: map[string]int{}, refused: map[string]int{}}
		w.nodes = append(w.nodes, x)
		x.boot(expiry)
	}
	return w
}

func (w *world) apply(c fsm.Command) fsm.Result {
	w.index++
	r := w.state.Apply(w.index, w.term, c)
	if err := w.state.Check(); err != nil {
		w.t.Fatalf("t=%v: the state breaks an invariant: %v", w.now, err)
	}
	return r
}

func (w *world) at(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.events, wevent{w.now + d, w.seq, f})
}

func (w *world) run(d time.Duration) {
	end := w.now + d
	for len(w.events) > 0 && w.events[0].at <= end {
		e := heap.Pop(&w.events).(wevent)
		w.now = e.at
		e.f()
	}
	w.now = end
}

// jitter is a delay around half a round trip.
func (w *world) jitter() time.Duration {
	return w.rtt/4 + time.Duration(w.rng.Int64N(int64(w.rtt/2)+1))
}

// The leader's shell.

func (w *world) newLeader() {
	w.leadGen++
	w.term++
	w.alloc = newAllocator(w.now, w.term, w.state)
	w.verify, w.busy, w.wake = nil, false, 0
	w.pump()
}

// depose leaves the cluster without a leader for a while.
func (w *world) depose(d time.Duration) {
	w.leadGen++
	w.alloc = nil
	for _, x := range w.nodes {
		x.hangUp()
	}
	w.at(d, w.newLeader)
}

func (w *world) pump() {
	if w.alloc == nil {
		return
	}
	gen := w.leadGen
	w.alloc.tick(w.now)
	if cmd := w.alloc.next(w.now, w.state); cmd != nil {
		w.entries++
		began := w.now
		w.at(w.commit/2+time.Duration(w.rng.Int64N(int64(w.commit))), func() {
			if gen != w.leadGen {
				return // lost with its leader
			}
			res := w.apply(cmd)
			w.alloc.noteCommit(w.now - began)
			w.alloc.applied(w.now, w.state, res)
			w.pump()
		})
	}
	for _, o := range w.alloc.take() {
		w.deliver(o)
	}
	if len(w.verify) > 0 && !w.busy {
		w.busy = true
		batch := w.verify
		w.verify = nil
		w.at(w.rtt+w.jitter(), func() {
			if gen != w.leadGen {
				return
			}
			w.busy = false
			for _, f := range batch {
				f()
			}
			w.pump()
		})
	}
	w.alarm()
}

// alarm wakes the leader when its core asks for it.
func (w *world) alarm() {
	gen, wake := w.leadGen, max(w.alloc.nextWake(w.now), w.now+100*time.Microsecond)
	if w.wake > w.now && w.wake <= wake {
		return
	}
	w.wake = wake
	w.at(wake-w.now, func() {
		if gen == w.leadGen && w.wake == wake {
			w.wake = 0
			w.pump()
		}
	})
}

func (w *world) deliver(o outbound) {
	for _, x := range w.nodes {
		if x.conn == o.conn && x.conn != 0 {
			x.fromLeader(o)
		}
	}
}

func (x *wnode) fromLeader(o outbound) {
	w, gen, life := x.w, x.connGen, x.life
	at := max(w.now+w.jitter(), x.lastIn)
	x.lastIn = at
	w.at(at-w.now, func() {
		if x.connGen != gen || x.life != life || x.cut {
			return
		}
		if o.msg != nil {
			if err := x.n.receive(w.now, o.msg); err != nil {
				x.hangUp()
				return
			}
		}
		if o.end {
			x.hangUp()
			return
		}
		x.after()
	})
}

// The node's shell.

func (x *wnode) boot(expiry Expiry) {
	if x.identity == "" {
		x.identity = fmt.Sprintf("%s-%d", x.name, x.w.rng.Uint64())
	}
	x.n = newNode(x.name, x.identity, expiry)
	x.life++
	life := x.life
	var tick func()
	tick = func() {
		if x.life != life {
			return
		}
		x.n.tick(x.w.now, x.w.now)
		x.after()
		wait := min(max(x.n.nextWake(x.w.now)-x.w.now, time.Millisecond), tickEvery)
		x.w.at(wait, tick)
	}
	tick()
	x.dial()
}

func (x *wnode) dial() {
	w, life := x.w, x.life
	w.at(10*time.Millisecond+w.jitter(), func() {
		if x.life != life || x.n.attached || x.n.parting {
			return
		}
		if w.alloc == nil || x.cut {
			x.dial()
			return
		}
		x.connGen++
		w.seq++
		x.conn = w.seq
		x.lastIn, x.lastOut = 0, 0
		x.n.streamUp(w.now)
		x.after()
	})
}

func (x *wnode) hangUp() {
	if !x.n.attached {
		return
	}
	w, conn, gen := x.w, x.conn, w2gen(x)
	x.connGen++
	x.conn = 0
	x.n.streamDown(w.now)
	x.after()
	w.at(w.jitter(), func() {
		if w.alloc != nil && gen == w.leadGen {
			w.alloc.gone(conn)
			w.pump()
		}
	})
	x.dial()
}

func w2gen(x *wnode) int { return x.w.leadGen }

// after carries out the core's effects.
func (x *wnode) after() {
	for _, s := range x.n.takeSevers() {
		s.slot.holder.Sever(s.reason)
	}
	if x.n.reset && x.n.attached {
		x.hangUp()
		return
	}
	for _, m := range x.n.outgoing(x.w.now) {
		x.toLeader(m)
	}
}

func (x *wnode) toLeader(m *leasepb.NodeMessage) {
	w, conn, gen, lead := x.w, x.conn, x.connGen, x.w.leadGen
	at := max(w.now+w.jitter(), x.lastOut)
	x.lastOut = at
	w.at(at-w.now, func() {
		if x.connGen != gen || lead != w.leadGen || w.alloc == nil || x.cut {
			return
		}
		arrived := w.now
		switch m := m.Message.(type) {
		case *leasepb.NodeMessage_Hello:
			w.verify = append(w.verify, func() {
				if x.conn == conn {
					w.alloc.hello(w.now, w.state, conn, m.Hello)
				}
			})
		case *leasepb.NodeMessage_KeepAlive:
			w.verify = append(w.verify, func() { w.alloc.keepAlive(conn, m.KeepAlive.Seq, arrived) })
		case *leasepb.NodeMessage_Update:
			w.alloc.update(w.now, conn, m.Update)
		case *leasepb.NodeMessage_Bye:
			w.alloc.bye(conn)
		}
		w.pump()
	})
}

// crash ends the process: the upstream sees its connections end a moment later.
func (x *wnode) crash() {
	w, conn, gen := x.w, x.conn, x.w.leadGen
	x.life++
	x.connGen++
	x.conn = 0
	x.n.attached = false
	for _, p := range x.n.all {
		for s := p.head; s != nil; s = s.next {
			s.holder.(*wconn).die()
		}
	}
	w.at(w.jitter(), func() {
		if conn != 0 && w.alloc != nil && gen == w.leadGen {
			w.alloc.gone(conn)
			w.pump()
		}
	})
}

// sever cuts the node off from everybody but the upstream; nobody is told.
func (x *wnode) partition() { x.cut = true }

func (x *wnode) heal() {
	x.cut = false
	x.hangUp() // what was lost on the way broke the stream
	x.dial()
}

// wconn is one connection of a worker.
type wconn struct {
	x    *wnode
	host string
	slot *Slot
	open bool
	dead bool
	life int
	done func()
}

// request is one worker's: acquire, hold, end, then again.
func (x *wnode) request(host string, hold time.Duration, next func(served bool)) {
	w := x.w
	target, err := fsm.ParseTarget(host, 443)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &wconn{x: x, host: host, life: x.life, done: func() { next(true) }}
	c.slot = &Slot{target: target, holder: c}
	answered := func(err error) {
		w.at(0, func() {
			if err == nil {
				c.dial(hold)
				return
			}
			switch err {
			case ErrQueueTimeout:
				x.expired++
			case ErrNoLease:
				x.noLease++
			default:
				x.refused[host]++
			}
			next(false)
		})
	}
	waiter, err := x.n.acquire(w.now, c.slot, x, answered)
	switch {
	case waiter != nil:
		life := x.life
		w.at(waiter.patience, func() {
			if x.life == life {
				x.n.expire(w.now, waiter)
				x.after()
			}
		})
	case err != nil:
		answered(err)
	default:
		w.at(0, func() { c.dial(hold) })
	}
	x.after()
}

func (c *wconn) dial(hold time.Duration) {
	w := c.x.w
	if c.open || c.dead || c.life != c.x.life {
		return
	}
	w.at(w.jitter(), func() {
		if c.dead || c.life != c.x.life || c.slot.severed.Load() || c.slot.guarded.Load() && !c.x.n.gate.admits(c.x) {
			c.release(false)
			return
		}
		c.open = true
		w.opened(c.host, 1)
		w.at(hold, func() {
			if !c.dead && c.life == c.x.life {
				c.end(true)
			}
		})
	})
}

// end closes the connection; the slot is free once the upstream has seen it and said so.
func (c *wconn) end(served bool) {
	w := c.x.w
	c.dead = true
	w.at(w.jitter(), func() {
		w.opened(c.host, -1)
		w.at(w.jitter(), func() {
			if c.life == c.x.life {
				c.release(served)
			}
		})
	})
}

func (c *wconn) release(served bool) {
	c.dead = true
	if served {
		c.x.served[c.host]++
	}
	c.x.n.release(c.x.w.now, c.slot)
	c.x.after()
	c.done()
}

// die is the kernel closing a dead process's socket.
func (c *wconn) die() {
	if c.open && !c.dead {
		c.x.w.at(c.x.w.jitter(), func() { c.x.w.opened(c.host, -1) })
	}
	c.dead = true
}

// Sever implements Holder.
func (c *wconn) Sever(Reason) {
	if c.open && !c.dead {
		c.end(false)
	}
}

func (w *world) opened(host string, d int) {
	m := w.use[host]
	if m == nil {
		m = &meter{last: w.now}
		w.use[host] = m
	}
	m.area += time.Duration(w.up[host]) * (w.now - m.last)
	m.last = w.now
	w.up[host] += d
	w.peak[host] = max(w.peak[host], w.up[host])
	if cap, ok := w.caps[host]; ok && d > 0 && w.up[host] > cap {
		w.t.Fatalf("t=%v: %d connections to %s, limit %d", w.now, w.up[host], host, cap)
	}
}

// work starts a worker that goes on for ever.
func (x *wnode) work(host string, hold, pause time.Duration) {
	life := x.life
	var again func(bool)
	again = func(served bool) {
		if x.life != life {
			return
		}
		wait := time.Duration(0)
		if !served {
			wait = pause/2 + time.Duration(x.w.rng.Int64N(int64(pause)+1))
		}
		x.w.at(wait, func() {
			if x.life == life {
				x.request(host, hold, again)
			}
		})
	}
	x.w.at(time.Duration(x.w.rng.Int64N(int64(hold))), func() { again(true) })
}

func (w *world) mean(host string, from, area time.Duration) float64 {
	m := w.use[host]
	return float64(m.area+time.Duration(w.up[host])*(w.now-m.last)-area) / float64(w.now-from)
}

func (w *world) area(host string) time.Duration {
	m := w.use[host]
	if m == nil {
		return 0
	}
	return m.area + time.Duration(w.up[host])*(w.now-m.last)
}

func limit(t testing.TB, pattern string, n int64, q fsm.Queue) fsm.Limit {
	p, err := fsm.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return fsm.Limit{Pattern: p, Connections: n, Queue: q, Source: fsm.SourceConfig}
}

var seeds = flag.Int("seeds", 20, "seeds of each random world")

func jain(xs []int) float64 {
	var sum, squares float64
	for _, x := range xs {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / (float64(len(xs)) * squares)
}

// With more demand than slots, all slots are in use and nodes get equally, also where there are fewer slots than nodes.
func TestContendedUseAndFairness(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 10, 25} {
		for _, q := range []fsm.Queue{{}, {Timeout: 2 * time.Second, Size: 100}} {
			t.Run(fmt.Sprintf("limit=%d/queue=%v", n, q.Enabled()), func(t *testing.T) {
				w := newWorld(t, 7, 3, ExpiryClose, limit(t, "up", n, q))
				for i := range 64 {
					w.nodes[i%3].work("up", 30*time.Millisecond, 4*time.Millisecond)
				}
				w.run(2 * time.Second)
				from, area, entries := w.now, w.area("up"), w.entries
				start := []int{}
				for _, x := range w.nodes {
					start = append(start, x.served["up"])
				}
				w.run(10 * time.Second)
				use := w.mean("up", from, area) / float64(n)
				got := []int{}
				for i, x := range w.nodes {
					got = append(got, x.served["up"]-start[i])
				}
				t.Logf("use %.3f, jain %.4f, served %v, entries %d, peak %d", use, jain(got), got, w.entries-entries, w.peak["up"])
				if use < 0.95 {
					t.Errorf("mean use %.3f of the limit, want at least 0.95", use)
				}
				if j := jain(got); j < 0.95 {
					t.Errorf("Jain's index %.3f over %v, want at least 0.95", j, got)
				}
			})
		}
	}
}
