package lease

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

func rateLimit(t testing.TB, rate string, burst int64) *limit.Limit {
	t.Helper()
	r, err := limit.ParseRate(rate, burst)
	if err != nil {
		t.Fatal(err)
	}
	p, err := limit.ParsePattern("up")
	if err != nil {
		t.Fatal(err)
	}
	return &limit.Limit{Pattern: p, Connections: limit.Unlimited, Requests: r, Source: limit.SourceAPI}
}

const token = float64(limit.TokenGrains)

// take takes n grains, or nothing.
func (b *bucket) take(now time.Duration, n float64) bool {
	if !b.has(now, n) {
		return false
	}
	b.level -= n
	return true
}

func TestBucketFillsSlowerThanItsRate(t *testing.T) {
	var b bucket
	fill, size := partOf(rateLimit(t, "10/s", 10), limit.Requests, limit.Shares)
	b.resize(time.Hour, fill, size)
	if b.take(time.Hour, token) {
		t.Fatal("a bucket that is new gives a token")
	}
	if b.take(time.Hour+100*time.Millisecond, token) {
		t.Error("the first token comes as early as it might: clocks run apart")
	}
	at, ever := b.until(token)
	if !ever || at > time.Hour+101*time.Millisecond {
		t.Errorf("the first token comes at %v, %v", at, ever)
	}
	if b.take(at-2, token) || !b.take(at, token) {
		t.Error("the token is not there at the time that was said")
	}
	for range 10 {
		if !b.take(3*time.Hour, token) {
			t.Fatal("a long time does not fill the bucket to its size")
		}
	}
	if b.take(3*time.Hour, token) {
		t.Error("a long time fills the bucket above its size")
	}
	if b.take(2*time.Hour, token) {
		t.Error("a clock that goes back gives a token")
	}
}

func TestWholeUnitsHoldWholeTokens(t *testing.T) {
	for burst := int64(1); burst <= 3000; burst++ {
		l := rateLimit(t, "7/s", burst)
		shares, units := l.UnitShares(limit.Requests), l.Units(limit.Requests)
		if units*shares > limit.Shares {
			t.Fatalf("burst %d: %d units of %d shares are more than there are", burst, units, shares)
		}
		if (units+1)*shares <= limit.Shares {
			t.Fatalf("burst %d: there are shares for more than %d units", burst, units)
		}
		for k := int64(1); k <= min(units, 7); k++ {
			if _, size := partOf(l, limit.Requests, k*shares); size < float64(k)*token {
				t.Fatalf("burst %d: %d units hold %v grains", burst, k, size)
			}
		}
	}
}

// grains taken at a moment
type draw struct {
	at time.Duration
	n  float64
}

// checkWindows judges every window that ends now. Each node may have drawn a token that lacked a
// grain.
func checkWindows(t *rapid.T, l *limit.Limit, now time.Duration, draws []draw, nodes int) {
	sum := 0.0
	for i := len(draws) - 1; i >= 0; i-- {
		sum += draws[i].n
		window := now - draws[i].at
		most := float64(l.BurstGrains(limit.Requests)) + l.PerSecond(limit.Requests)*window.Seconds()
		if sum > most+float64(slack*nodes) {
			t.Fatalf("%v grains in %v, at most %v", sum, window, most)
		}
	}
}

// TestNoWindowIsAboveTheRate: units go to and fro between nodes, with their levels or without; in
// no window of time is more taken than rate*t + burst.
func TestNoWindowIsAboveTheRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		burst := rapid.Int64Range(1, 12).Draw(rt, "burst")
		l := rateLimit(t, rapid.SampledFrom([]string{"0.5/s", "5/s", "50/s"}).Draw(rt, "rate"), burst)
		unit, units := l.UnitShares(limit.Requests), l.Units(limit.Requests)
		nodes := make([]bucket, 3)
		held := make([]int64, len(nodes))
		free, freeLevel := units, l.BurstGrains(limit.Requests)
		var now time.Duration
		var draws []draw
		type ticket struct {
			node int
			draw draw
			receipt
		}
		var tickets []ticket
		resize := func(i int) {
			fill, size := partOf(l, limit.Requests, held[i]*unit)
			nodes[i].resize(now, fill, size)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"wait": func(rt *rapid.T) { now += time.Duration(rapid.IntRange(0, 2e9).Draw(rt, "ns")) },
			"take": func(rt *rapid.T) {
				if nodes[rapid.IntRange(0, 2).Draw(rt, "node")].take(now, token) {
					draws = append(draws, draw{now, token})
				}
			},
			"take, and see": func(rt *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(rt, "node")
				n := float64(rapid.Int64Range(1, 3*limit.TokenGrains).Draw(rt, "grains"))
				if n = min(n, nodes[i].whole(now)); n > 0 {
					nodes[i].level -= n
					tickets = append(tickets, ticket{i, draw{now, n}, nodes[i].receipt()})
				}
			},
			"use": func(rt *rapid.T) {
				if len(tickets) > 0 {
					at := rapid.IntRange(0, len(tickets)-1).Draw(rt, "ticket")
					draws = append(draws, tickets[at].draw)
					slices.SortFunc(draws, func(x, y draw) int { return cmp.Compare(x.at, y.at) })
					tickets = slices.Delete(tickets, at, at+1)
				}
			},
			"give back": func(rt *rapid.T) {
				if len(tickets) > 0 {
					at := rapid.IntRange(0, len(tickets)-1).Draw(rt, "ticket")
					nodes[tickets[at].node].giveBack(now, tickets[at].receipt, tickets[at].draw.n)
					tickets = slices.Delete(tickets, at, at+1)
				}
			},
			"grant": func(rt *rapid.T) {
				i, k := rapid.IntRange(0, 2).Draw(rt, "node"), rapid.Int64Range(0, free).Draw(rt, "units")
				if k == 0 {
					return
				}
				level := freeLevel * k / free
				free, freeLevel, held[i] = free-k, freeLevel-level, held[i]+k
				resize(i)
				nodes[i].put(float64(level))
			},
			"release": func(rt *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(rt, "node")
				k := rapid.Int64Range(0, held[i]).Draw(rt, "units")
				if k == 0 {
					return
				}
				level := nodes[i].leave(now, float64(k)/float64(held[i]), false)
				if rapid.Bool().Draw(rt, "lost") {
					level = 0
				}
				free, freeLevel, held[i] = free+k, freeLevel+level, held[i]-k
				resize(i)
			},
			"": func(rt *rapid.T) { checkWindows(rt, l, now, draws, len(nodes)) },
		})
	})
}

// The same for requests, whose tokens move whole or in parts, with the log that keeps the levels of
// free units. Not all of the bursts divide the shares evenly.
func TestNoWindowHasMoreTokens(t *testing.T) {
	key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"}
	rapid.Check(t, func(rt *rapid.T) {
		burst := rapid.SampledFrom([]int64{1, 3, 5, 6, 7, 12, 13, 20, 29, 60, 700, 1001}).Draw(rt, "burst")
		l := rateLimit(t, rapid.SampledFrom([]string{"0.5/s", "50/s"}).Draw(rt, "rate"), burst)
		unit := l.UnitShares(limit.Requests)
		state := fsm.NewState()
		var index uint64
		apply := func(c fsm.Command) fsm.Result {
			index++
			r := state.Apply(index, 1, c)
			if r.Err != nil {
				rt.Fatal(r.Err)
			}
			return r
		}
		apply(&fsm.PutLimit{Limit: *l})
		nodes := make([]bucket, rapid.IntRange(1, 3).Draw(rt, "nodes"))
		sessions := make([]uint64, len(nodes))
		for i := range sessions {
			sessions[i] = apply(&fsm.OpenSession{Term: 1, Node: strconv.Itoa(i), Identity: "i"}).Session
		}
		held := func(i int) int64 { return state.GrantOf(sessions[i], key) }
		var now time.Duration
		var draws []draw
		resize := func(i int, shares int64) {
			fill, size := partOf(l, limit.Requests, shares)
			nodes[i].resize(now, fill, size)
		}
		adjust := func(i int, units, level int64) (moved int64) {
			a := fsm.Adjustment{Session: sessions[i], Key: key, Delta: units * unit, Level: level}
			return apply(&fsm.Adjust{Term: 1, Batch: index, Adjustments: []fsm.Adjustment{a}}).Adjusted[0].Level
		}
		anyNode := func(rt *rapid.T) int { return rapid.IntRange(0, len(nodes)-1).Draw(rt, "node") }
		rt.Repeat(map[string]func(*rapid.T){
			"wait": func(rt *rapid.T) {
				now += time.Duration(rapid.Float64Range(0, 2).Draw(rt, "tokens") / l.PerSecond(limit.Requests) * token * float64(time.Second))
			},
			"wait for a token": func(rt *rapid.T) {
				if at, ever := nodes[anyNode(rt)].until(token); ever {
					now = max(now, at)
				}
			},
			"wait for all": func(rt *rapid.T) {
				i := anyNode(rt)
				if at, ever := nodes[i].until(nodes[i].size); ever {
					now = max(now, at)
				}
			},
			"take": func(rt *rapid.T) {
				for i := anyNode(rt); nodes[i].take(now, token); {
					draws = append(draws, draw{now, token})
				}
			},
			"grant": func(rt *rapid.T) {
				i, free := anyNode(rt), l.WholeUnits(limit.Requests, limit.Shares-state.Granted(key))
				k := rapid.Int64Range(0, free).Draw(rt, "units")
				if rapid.Bool().Draw(rt, "all") {
					k = free
				}
				level := adjust(i, k, 0)
				resize(i, held(i))
				nodes[i].put(float64(level))
			},
			"release": func(rt *rapid.T) {
				i := anyNode(rt)
				units := l.WholeUnits(limit.Requests, held(i))
				k := rapid.Int64Range(0, units).Draw(rt, "units")
				if rapid.Bool().Draw(rt, "all") {
					k = units
				}
				if k > 0 {
					level := nodes[i].leave(now, float64(k)/float64(units), rapid.Bool().Draw(rt, "whole"))
					resize(i, held(i)-k*unit)
					adjust(i, -k, level)
				}
			},
			"": func(rt *rapid.T) { checkWindows(rt, l, now, draws, len(nodes)) },
		})
	})
}

// What was taken and not used goes back whole where there was room for it all the time, also when
// units have come meanwhile or the burst has grown; as far as there was room, where it would have
// run over; and as much of it as the units that stayed, where others have left.
func TestGivingBack(t *testing.T) {
	const n = 1000.0
	for name, c := range map[string]struct {
		between func(b *bucket)
		want    float64
	}{
		"at once":            {func(*bucket) {}, n},
		"after a while":      {func(b *bucket) { b.settle(time.Hour + 3) }, n},
		"units have come":    {func(b *bucket) { b.resize(time.Hour, 2, 20_000); b.put(500) }, n},
		"a larger burst":     {func(b *bucket) { b.resize(time.Hour, 1, 50_000) }, n},
		"it has filled":      {func(b *bucket) { b.settle(time.Hour + 8500) }, 500},
		"others have filled": {func(b *bucket) { b.put(8700); b.take(time.Hour, 9000) }, 300},
		"a half has left":    {func(b *bucket) { b.leave(time.Hour, 0.5, false); b.resize(time.Hour, 0.5, 5000) }, n / 2},
		"all has left": {func(b *bucket) {
			b.leave(time.Hour, 1, false)
			b.resize(time.Hour, 0, 0)
			b.resize(time.Hour, 1, 10_000)
		}, 0},
		"a smaller burst": {func(b *bucket) { b.resize(time.Hour, 1, 9000) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b bucket
			b.resize(time.Hour, 1, 10_000)
			b.put(2000)
			b.take(time.Hour, n)
			r := b.receipt()
			c.between(&b)
			before := b.level
			b.giveBack(b.at, r, n)
			if got := b.level - before; math.Abs(got-c.want) > 1e-6 {
				t.Errorf("%v of %v go back, want %v", got, n, c.want)
			}
		})
	}
}

func TestDrawMeter(t *testing.T) {
	var d drawMeter
	now := time.Hour
	for range 40 {
		now += 50 * time.Millisecond
		d.add(now, 5)
	}
	if rate := d.lately(now); rate < 90 || rate > 110 {
		t.Errorf("100 a second is measured as %v", rate)
	}
	if rate := d.lastSecond(now); rate < 90 || rate > 110 {
		t.Errorf("100 a second are shown as %v", rate)
	}
	if rate := d.lately(now + 750*time.Millisecond); rate != 0 {
		t.Errorf("after most of a second of nothing the rate is %v", rate)
	}
}

// One draw after a silence is shown as about one a second, for about a second.
func TestDrawMeterShowsOneDraw(t *testing.T) {
	var d drawMeter
	const begun = time.Hour
	d.add(begun, 1)
	for _, after := range []time.Duration{0, 200 * time.Millisecond, 400 * time.Millisecond, 700 * time.Millisecond} {
		if rate := d.lastSecond(begun + after); rate < 1 || rate > 4.0/3 {
			t.Errorf("%v later the rate is %v", after, rate)
		}
	}
	if rate := d.lastSecond(begun + time.Second); rate != 0 {
		t.Errorf("a second later the rate is %v", rate)
	}
}

// Bytes go back just after they were drawn, be it in the next interval. Once the one before is
// forgotten, that is not shown as a rate below zero.
func TestDrawMeterShowsNothingBelowZero(t *testing.T) {
	var d drawMeter
	const begun = time.Hour
	d.add(begun, 1)
	d.add(begun+drawInterval-1, 65536)
	d.add(begun+drawInterval+1, -65536)
	for after := time.Duration(0); after < 2*time.Second; after += drawInterval / 5 {
		if rate := d.lastSecond(begun + drawInterval + 1 + after); rate < 0 {
			t.Errorf("%v later the rate is %v", after, rate)
		}
	}
}

func BenchmarkBucketTake(b *testing.B) {
	var k bucket
	fill, size := partOf(rateLimit(b, "10000000/s", 0), limit.Requests, limit.Shares)
	k.resize(1, fill, size)
	now := time.Hour
	for b.Loop() {
		now += 200
		k.take(now, token)
	}
}

// What counts of the flows that wait follows their number within a few seconds, however it was
// counted up.
func TestHungryFlowsFollow(t *testing.T) {
	for _, step := range []time.Duration{time.Millisecond, 300 * time.Millisecond, 7 * time.Second} {
		p := newPool(limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"})
		now := time.Hour
		pass := func(n int32, d time.Duration) {
			p.flowing.pass(now, p.flows.n)
			p.flows.n = n
			for end := now + d; now < end; now += step {
				p.hungry(now)
			}
		}
		pass(3, 0)
		if got := p.hungry(now); got != 3 {
			t.Errorf("at the beginning %v, want 3", got)
		}
		for _, n := range []int32{3, 50, 1, 0} {
			pass(n, 14*time.Second)
			if got := p.hungry(now); math.Abs(got-float64(n)) > 0.01 {
				t.Errorf("by %v: %d flows count %v", step, n, got)
			}
		}
		if step > hungryWindow {
			continue
		}
		for range 50 { // half of the time
			pass(1, 50*time.Millisecond)
			pass(0, 50*time.Millisecond)
		}
		if got := p.hungry(now); step == time.Millisecond && math.Abs(got-0.5) > 0.1 {
			t.Errorf("one half of the time counts %v", got)
		}
	}
}
