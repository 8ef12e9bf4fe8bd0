package lease

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// heldSlots is a node in a session, with plenty of slots in hand for each of some hosts.
func heldSlots(b *testing.B, hosts int) (*Manager, []limit.Target) {
	clock := NewSystemClock()
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	m.node.setLimits(0, limit.NewTable(1, 1, []limit.Limit{configLimit(b, "*.example.com", 1000, limit.Queue{})}))
	m.node.sess.begin(1, 1, time.Hour, clock.Now())
	m.node.welcomed = true
	m.node.openGate()
	targets := make([]limit.Target, hosts)
	for i := range targets {
		targets[i] = to(b, fmt.Sprintf("host-%d.example.com:443", i))
		m.node.grant(limit.HostConnections(targets[i].Host), 1000)
	}
	return m, targets
}

// admit acquires and releases slots, each goroutine with a slot of its own.
func admit(b *testing.B, m *Manager, targets []limit.Target) {
	h := newHolder()
	var at atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		s := new(Slot)
		for i := int(at.Add(1)) * 7919; pb.Next(); i += 31 {
			if err := m.Acquire(context.Background(), s, targets[i%len(targets)], h); err != nil {
				b.Error(err)
				return
			}
			s.Release()
		}
	})
}

// Admission and release of a slot that the node holds: with -cpu 1,2, all on one host.
func BenchmarkAdmitOneHost(b *testing.B) {
	m, targets := heldSlots(b, 1)
	admit(b, m, targets)
}

// The same, each processor on a host of its own.
func BenchmarkAdmitOwnHost(b *testing.B) {
	m, targets := heldSlots(b, 64)
	h := newHolder()
	var at atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		s, target := new(Slot), targets[at.Add(1)]
		for pb.Next() {
			if err := m.Acquire(context.Background(), s, target, h); err != nil {
				b.Error(err)
				return
			}
			s.Release()
		}
	})
}

// The same for a few busy hosts among many that the node holds slots for: the cost must not grow
// with their number. (Going through all of them at random measures the processor's caches: each has
// its counts somewhere else in memory.)
func BenchmarkAdmitAmongHosts(b *testing.B) {
	for _, hosts := range []int{1, 100, 10_000, 100_000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			m, targets := heldSlots(b, hosts)
			var busy []limit.Target
			for i := range min(hosts, 16) {
				busy = append(busy, targets[i*len(targets)/min(hosts, 16)])
			}
			admit(b, m, busy)
		})
	}
}

// busyLeader is a leader with some nodes, each of which has connections to some of the hosts, up to
// a limit that leaves room for more.
func busyLeader(b *testing.B, nodes, hosts, holders int) (a *Allocator, st *fsm.State, apply func(fsm.Command) fsm.Result) {
	st = fsm.NewState()
	index := uint64(0)
	apply = func(c fsm.Command) fsm.Result {
		index++
		return st.Apply(index, 2, c)
	}
	apply(&fsm.Init{ClusterID: "test", TTL: 10 * time.Second, Limits: []limit.Limit{configLimit(b, "*.example.com", 100, limit.Queue{})}})
	a = NewAllocator(0, 2, st)
	now := time.Second
	commit := func() {
		a.Tick(now)
		for cmd := a.Next(now, st); cmd != nil; cmd = a.Next(now, st) {
			a.Applied(now, st, apply(cmd))
		}
		a.Take()
	}
	for i := range nodes {
		conn := uint64(i + 1)
		a.hello(now, st, conn, &leasepb.Hello{Protocol: protocolVersion, Node: fmt.Sprintf("node-%d", i), Identity: "1"})
		a.proof(conn)
		commit()
	}
	for i := range nodes {
		a.update(now, uint64(i+1), &leasepb.Update{Demands: useOf(nodes, hosts, holders, i, 1), LimitsIndex: st.Table().Index})
		commit()
	}
	return a, st, apply
}

// useOf is what node i reports: each host is in use on some nodes.
func useOf(nodes, hosts, holders, i int, inUse int64) (all []*leasepb.Demand) {
	for h := range hosts {
		if (i+nodes-h%nodes)%nodes < holders {
			key := fsmpb.KeyOf(limit.HostConnections(fmt.Sprintf("host-%d.example.com", h)))
			all = append(all, &leasepb.Demand{Key: key, Held: inUse, InUse: inUse, Waiting: 1})
		}
	}
	return all
}

// One round of the leader's: every host's use has changed on every node that uses it, and all is
// decided anew. 100 nodes, 10,000 busy hosts, each in use on 3 of them.
func BenchmarkAllocatorRound(b *testing.B) {
	const nodes, hosts, holders = 100, 10_000, 3
	a, st, _ := busyLeader(b, nodes, hosts, holders)
	now := 2 * time.Second
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for _, p := range a.order {
			for _, d := range p.demands {
				d.waiting = 1 - d.waiting
				a.mark(d.c)
			}
		}
		a.Take()
		now += time.Millisecond
		for _, p := range a.order {
			p.seen = now
		}
		b.StartTimer()
		for len(a.dirty) > 0 {
			a.adjust(now, st)
		}
	}
}

// What the leader spends on time alone at each message, while some keys are to be planned again at
// a later moment.
func BenchmarkTickWhileKeysWait(b *testing.B) {
	for _, keys := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			a, _, _ := busyLeader(b, 3, keys, 3)
			for i, c := range a.contests {
				a.wakeAt(c, time.Hour+time.Duration(i))
			}
			for b.Loop() {
				a.Tick(0)
				a.NextWake(0)
			}
		})
	}
}

// A wildcard's limit is lowered and raised over 100,000 hosts with slots. Admissions of held slots
// follow by themselves; all else waits for the longest time for which the core of the node, or of
// the leader of three nodes, is busy with it without a pause: µs-stall, the median over the
// changes.
func BenchmarkWildcardChange(b *testing.B) {
	const hosts, nodes = 100_000, 3
	table := func(index uint64) *limit.Table {
		n := 1000 + int64(index%2)*500
		return limit.NewTable(index, 1, []limit.Limit{configLimit(b, "*.example.com", n, limit.Queue{})})
	}
	b.Run("node", func(b *testing.B) {
		m, _ := heldSlots(b, hosts)
		index, stalls := uint64(1), []time.Duration{}
		for b.Loop() {
			index++
			next := table(index)
			longest := busy(func() { m.do(func(now time.Duration) { m.node.setLimits(now, next) }) })
			for len(m.node.regoverning) > 0 {
				longest = max(longest, busy(func() { m.do(func(now time.Duration) { m.node.Tick(now, m.cfg.Clock.Wall()) }) }))
			}
			stalls = append(stalls, longest)
		}
		reportStall(b, stalls)
	})
	b.Run("leader", func(b *testing.B) {
		a, st, apply := busyLeader(b, nodes, hosts, nodes)
		stalls, n := []time.Duration{}, int64(0)
		now := 2 * time.Second
		for b.Loop() {
			n++
			apply(&fsm.PutLimit{Limit: configLimit(b, "*.example.com", 1000+n%2*500, limit.Queue{})})
			longest := busy(func() { a.LimitsChanged(st) })
			for more := true; more; {
				now += time.Millisecond
				var cmd fsm.Command
				longest = max(longest, busy(func() { a.Tick(now); cmd = a.Next(now, st); a.Take() }))
				if more = cmd != nil || len(a.review)+len(a.dirty) > 0; cmd != nil {
					res := apply(cmd)
					longest = max(longest, busy(func() { a.Applied(now, st, res) }))
				}
			}
			stalls = append(stalls, longest)
		}
		reportStall(b, stalls)
	})
}

// busy is the processor time that f takes: what others do on the machine meanwhile does not stall
// it for long, and is not meant.
func busy(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime()
	f()
	return threadTime() - began
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func reportStall(b *testing.B, stalls []time.Duration) {
	slices.Sort(stalls)
	b.ReportMetric(float64(stalls[len(stalls)/2].Microseconds()), "µs-stall")
}
