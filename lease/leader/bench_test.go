package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// busyLeader is a leader with some nodes, each of which has connections to some of the hosts, up to
// a limit that leaves room for more.
func busyLeader(b *testing.B, nodes, hosts, holders int) (a *Allocator, st *fsm.State, apply func(fsm.Command) fsm.Result) {
	st = fsm.NewState()
	index := uint64(0)
	apply = func(c fsm.Command) fsm.Result {
		index++
		return st.Apply(index, 2, c)
	}
	apply(&fsm.Init{ClusterID: "test", TTL: 10 * time.Second, Limits: []limit.Limit{kit.Limit(b, "*.example.com", 100, limit.Queue{})}})
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
		a.hello(now, st, conn, &leasepb.Hello{Protocol: leasepb.Version, Node: fmt.Sprintf("node-%d", i), Identity: "1"})
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

// A wildcard's limit is lowered and raised over 100,000 hosts with slots of three nodes. µs-stall
// is the longest time for which the core is busy with it without a pause: the median of the
// changes.
func BenchmarkWildcardChange(b *testing.B) {
	const hosts, nodes = 100_000, 3
	a, st, apply := busyLeader(b, nodes, hosts, nodes)
	stalls, n := []time.Duration{}, int64(0)
	now := 2 * time.Second
	for b.Loop() {
		n++
		apply(&fsm.PutLimit{Limit: kit.Limit(b, "*.example.com", 1000+n%2*500, limit.Queue{})})
		longest := kit.Busy(func() { a.LimitsChanged(now, st) })
		for more := true; more; {
			now += time.Millisecond
			var cmd fsm.Command
			longest = max(longest, kit.Busy(func() { a.Tick(now); cmd = a.Next(now, st); a.Take() }))
			if more = cmd != nil || len(a.review)+len(a.dirty) > 0; cmd != nil {
				res := apply(cmd)
				longest = max(longest, kit.Busy(func() { a.Applied(now, st, res) }))
			}
		}
		stalls = append(stalls, longest)
	}
	kit.ReportStall(b, stalls)
}
