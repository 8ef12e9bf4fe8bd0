package leader

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// fairest looks at every way to share capacity among demands, which are sorted, and returns the one
// that is max-min fair by the definition: sorted, the least share is as large as it can be, then
// the next, and so on.
func fairest(capacity int64, demands []int64) []int64 {
	var best []int64
	shares := make([]int64, len(demands))
	var try func(i int, left int64)
	try = func(i int, left int64) {
		if i == len(demands) {
			sorted := slices.Sorted(slices.Values(shares))
			if best == nil || slices.Compare(sorted, best) > 0 {
				best = sorted
			}
			return
		}
		for shares[i] = range min(demands[i], left) + 1 {
			try(i+1, left-shares[i])
		}
	}
	try(0, max(capacity, 0))
	return best
}

// checkDivision verifies what divide promises: each share, and one more for any so many of those
// who lack something, is within the demands, uses up what there is, and can't be made fairer.
func checkDivision(t interface{ Fatalf(string, ...any) }, capacity int64, demands []int64) (total []int64) {
	shares, parts := divide(capacity, demands, nil)
	extra := leftOver(t, capacity, demands, shares, parts)
	total = slices.Clone(shares)
	lacking := int64(0)
	for i, d := range demands {
		if shares[i] < d {
			if lacking++; lacking <= extra {
				total[i]++
			}
		}
	}
	var used, wanted int64
	for i, d := range demands {
		if total[i] < 0 || total[i] > max(d, 0) {
			t.Fatalf("%d among %v: %v", capacity, demands, total)
		}
		used += total[i]
		wanted += max(d, 0)
	}
	if used != min(max(capacity, 0), wanted) {
		t.Fatalf("%d among %v: %v uses %d", capacity, demands, total, used)
	}
	for i, d := range demands {
		for j := range demands {
			if total[i] < d && total[j] > total[i]+1 {
				t.Fatalf("%d among %v: %v, where %d could give to %d", capacity, demands, total, j, i)
			}
			// Before the extras nobody who lacks anything has less than another.
			if shares[i] < d && shares[j] > shares[i] {
				t.Fatalf("%d among %v: shares %v are uneven", capacity, demands, shares)
			}
		}
	}
	return total
}

// leftOver is how many slots are to go round in turns. Each is due in parts to those who lack one.
func leftOver(t interface{ Fatalf(string, ...any) }, capacity int64, demands, shares []int64, parts []float64) (extra int64) {
	lacking, due := int64(0), 0.0
	extra = max(capacity, 0)
	for i, d := range demands {
		extra -= shares[i]
		due += parts[i]
		if shares[i] < d {
			lacking++
		} else if parts[i] != 0 {
			t.Fatalf("%d among %v: shares %v, and %v of one more", capacity, demands, shares, parts)
		}
		if parts[i] < 0 || parts[i] >= 1 {
			t.Fatalf("%d among %v: shares %v, and %v of one more", capacity, demands, shares, parts)
		}
	}
	if lacking == 0 {
		return 0
	}
	if extra < 0 || extra > 0 && extra >= lacking || math.Abs(due-float64(extra)) > 1e-6 {
		t.Fatalf("%d among %v: shares %v, and %v of one more, which makes %d for %d", capacity, demands, shares, parts, extra, lacking)
	}
	return extra
}

// With weights, whoever lacks anything has, with the part of a slot that is due to it, as much for
// its weight as anybody else, or more.
func TestDivideByWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "nodes")
		demands := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(-2, 9), rapid.Int64Range(0, 1000)), n, n).Draw(t, "demands")
		weights := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(1, 4), rapid.Int64Range(1, 1<<30)), n, n).Draw(t, "weights")
		capacity := rapid.OneOf(rapid.Int64Range(-5, 60), rapid.Int64Range(0, 1_000_000)).Draw(t, "capacity")
		shares, parts := divide(capacity, demands, weights)
		leftOver(t, capacity, demands, shares, parts)
		level := func(i int) float64 { return (float64(shares[i]) + parts[i]) / float64(weights[i]) }
		for i, d := range demands {
			if shares[i] < 0 || shares[i] > max(d, 0) {
				t.Fatalf("%d among %v by %v: %v", capacity, demands, weights, shares)
			}
			for j := range demands {
				if shares[i] < d && level(j) > level(i)*(1+1e-9) {
					t.Fatalf("%d among %v by %v: %v and %v of one more, where %d could give to %d", capacity, demands, weights, shares, parts, j, i)
				}
			}
		}
	})
}

// Every way to want up to 6 slots, for up to four nodes, and every capacity up to 12, against
// looking at all divisions.
func TestDivideIsMaxMinFair(t *testing.T) {
	cases := 0
	for nodes := range 5 {
		demands := make([]int64, nodes)
		var each func(i int)
		each = func(i int) {
			if i < nodes {
				for demands[i] = range int64(7) {
					each(i + 1)
				}
				return
			}
			for capacity := int64(-1); capacity <= 12; capacity++ {
				got := slices.Sorted(slices.Values(checkDivision(t, capacity, demands)))
				// Who wants what does not matter to the shares: one order is enough to search.
				if slices.IsSorted(demands) && !slices.Equal(got, fairest(capacity, demands)) {
					t.Fatalf("%d among %v: %v, fairest is %v", capacity, demands, got, fairest(capacity, demands))
				}
				if order := slices.Sorted(slices.Values(demands)); !slices.Equal(got, slices.Sorted(slices.Values(checkDivision(t, capacity, order)))) {
					t.Fatalf("%d among %v: the order of the nodes matters", capacity, demands)
				}
				cases++
			}
		}
		each(0)
	}
	if want := 14 * (1 + 7 + 49 + 343 + 2401); cases != want {
		t.Errorf("%d cases were tried, not %d", cases, want)
	}
}

func TestDivideManyDemands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		demand := rapid.OneOf(rapid.Int64Range(-2, 3), rapid.Int64Range(0, 1000), rapid.Int64Range(0, 1<<40))
		demands := rapid.SliceOfN(demand, 0, 60).Draw(t, "demands")
		capacity := rapid.OneOf(rapid.Int64Range(-5, 60), rapid.Int64Range(0, 1_000_000), rapid.Int64Range(0, 1<<45)).Draw(t, "capacity")
		checkDivision(t, capacity, demands)
	})
}

// What a node is granted is not asked back in the same breath: it would go to and fro, with an
// entry each time, and whoever waits would not get it either.
func TestGrantIsNotAskedBackAtOnce(t *testing.T) {
	grants := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 0))
		queue := limit.Queue{}
		if rng.IntN(2) == 0 {
			queue = limit.Queue{Timeout: time.Minute, Size: 9}
		}
		d := newDesk(t, kit.Limit(t, "up", 1+rng.Int64N(6), queue))
		key := limit.HostConnections("up")
		nodes := 2 + rng.Uint64N(4)
		for n := range nodes {
			d.join(n+1, string(rune('a'+n)), "1")
		}
		for range 40 {
			conn := 1 + rng.Uint64N(nodes)
			held := d.granted(conn)
			used := rng.Int64N(held + 1)
			u := &leasepb.Update{}
			if used < held && rng.IntN(2) == 0 {
				u.Releases = []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: held - used}}
				held = used
			}
			u.Demands = []*leasepb.Demand{{Key: fsmpb.KeyOf(key), Held: held, InUse: used, Waiting: rng.Int64N(3), Refused: rng.Int64N(3)}}
			d.alloc.update(d.now, conn, u)
			for _, r := range d.alloc.decide(d.now, d.state, d.alloc.contest(key), d.state.Table().Governing(key)).rows {
				if r.add == 0 {
					continue
				}
				if grants++; r.target >= 0 && r.target < r.held {
					t.Fatalf("seed %d: node %s is granted %d, has %d with them, and is to come down to %d", seed, r.d.peer.Node, r.add, r.held, r.target)
				}
			}
			d.turn()
			d.now += time.Duration(rng.IntN(200)) * time.Millisecond
			for n := range nodes {
				d.alloc.keepAlive(n+1, 0, d.now)
			}
		}
	}
	if grants < 1000 {
		t.Errorf("%d grants were looked at, want 1000", grants)
	}
}
