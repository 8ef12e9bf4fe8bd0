package lease

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// heldSlots is a node in a session, with plenty of slots in hand for each of some hosts.
func heldSlots(b *testing.B, hosts int) (*Manager, []limit.Target) {
	clock := NewSystemClock()
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	m.node.setLimits(0, limit.NewTable(1, 1, []limit.Limit{kit.Limit(b, "*.example.com", 1000, limit.Queue{})}))
	m.node.sess.begin(1, 1, time.Hour, clock.Now())
	m.node.stream.phase = streamWelcome
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

// A wildcard's limit is lowered and raised over 100,000 hosts with slots. Admissions of held slots
// follow by themselves; all else waits for the longest time for which the core is busy with it
// without a pause: µs-stall, the median over the changes.
func BenchmarkWildcardChange(b *testing.B) {
	const hosts = 100_000
	table := func(index uint64) *limit.Table {
		n := 1000 + int64(index%2)*500
		return limit.NewTable(index, 1, []limit.Limit{kit.Limit(b, "*.example.com", n, limit.Queue{})})
	}
	m, _ := heldSlots(b, hosts)
	index, stalls := uint64(1), []time.Duration{}
	for b.Loop() {
		index++
		next := table(index)
		longest := kit.Busy(func() { m.do(func(now time.Duration) { m.node.setLimits(now, next) }) })
		for len(m.node.regoverning) > 0 {
			longest = max(longest, kit.Busy(func() { m.do(func(now time.Duration) { m.node.Tick(now, m.cfg.Clock.Wall()) }) }))
		}
		stalls = append(stalls, longest)
	}
	kit.ReportStall(b, stalls)
}
