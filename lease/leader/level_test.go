package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// handOver lets node a hold all units of a rate, of which the first grant was full, and give them
// back with a level while node b waits for them.
func handOver(t *testing.T, level int64) *desk {
	d := newDesk(t, rateLimit(t, "1/s", 4))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	key := fsmpb.KeyOf(totalRequests)
	d.alloc.update(d.now, 1, &leasepb.Update{LimitsIndex: 1, Demands: []*leasepb.Demand{{Key: key, Waiting: limit.Shares}}})
	if got := grantsOf(d.turn(), 1); got.Slots != limit.Shares || got.Level != 4*limit.TokenGrains {
		t.Fatalf("the first grant is %v; want all shares, full", got)
	}
	d.alloc.update(d.now, 2, &leasepb.Update{LimitsIndex: 1, Demands: []*leasepb.Demand{{Key: key, Waiting: limit.Shares}}})
	d.alloc.update(d.now, 1, &leasepb.Update{LimitsIndex: 1,
		Releases: []*leasepb.Holding{{Key: key, Slots: limit.Shares / 2, Level: level}, {Key: key, Slots: limit.Shares / 2, Level: level}},
		Demands:  []*leasepb.Demand{{Key: key}},
	})
	return d
}

type granted struct{ Slots, Level int64 }

// grantsOf is what a node is granted, in all.
func grantsOf(out []Outbound, conn uint64) (sum granted) {
	for _, o := range out {
		for _, g := range o.Msg.GetAssign().GetGrants() {
			if o.Conn == conn {
				sum.Slots += g.Slots
				sum.Level += g.Level
			}
		}
	}
	return sum
}

// What is left in the shares of a rate goes with them into the log and out of it, and no more than
// they hold.
func TestLevelGoesAlong(t *testing.T) {
	for level, want := range map[int64]int64{0: 0, 1234: 2468, limit.TokenGrains: 2 * limit.TokenGrains, 1 << 62: 4 * limit.TokenGrains, -5: 0} {
		d := handOver(t, level)
		if got := grantsOf(d.turn(), 2); got.Slots != limit.Shares || got.Level != want {
			t.Errorf("with twice %d grains in them, %d shares go out with %d, want %d with %d", level, got.Slots, got.Level, limit.Shares, want)
		}
	}
}

// An entry that had no effect loses no level.
func TestVoidEntryKeepsLevel(t *testing.T) {
	d := handOver(t, 1000)
	if cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust); !ok || cmd.Adjustments[0].Level != 2000 {
		t.Fatalf("proposed: %v", cmd)
	}
	d.alloc.Applied(d.now, d.state, fsm.Result{Err: fsm.ErrRepeated})
	if got := grantsOf(d.turn(), 2); got.Slots != limit.Shares || got.Level != 2000 {
		t.Errorf("%d shares go out with %d grains, want %d with 2000", got.Slots, got.Level, limit.Shares)
	}
}

// What a node no longer states in its hello comes back empty: it may have been used.
func TestUnstatedComesBackEmpty(t *testing.T) {
	d := handOver(t, 0)
	d.turn()
	id := d.alloc.conns[2].ID
	d.alloc.Gone(2)
	d.alloc.hello(d.now, d.state, 3, &leasepb.Hello{Protocol: leasepb.Version, Node: "b", Identity: "2", Session: id, LimitsVersion: leasepb.LimitsVersion})
	d.turn()
	d.alloc.update(d.now, 3, &leasepb.Update{LimitsIndex: 1})
	d.turn()
	if n, level := d.state.Granted(totalRequests), d.state.FreeLevel(totalRequests); n != 0 || level != 0 {
		t.Errorf("%d shares stay granted, and %d grains came back", n, level)
	}
}

// A connection has no level: an entry with one would need servers that know of rates.
func TestSlotsHaveNoLevel(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
	d.join(1, "a", "1")
	d.demand(1, &leasepb.Demand{Waiting: 2})
	d.turn()
	d.alloc.update(d.now, 1, &leasepb.Update{Releases: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 2, Level: 7}}})
	cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust)
	if !ok || fsm.VersionOf(cmd) != 1 {
		t.Errorf("%v needs log version %d", cmd, fsm.VersionOf(cmd))
	}
}

// A change of the burst moves nothing: what nodes hold counts in whole units of the new size, and
// nobody is granted more than the rest holds.
func TestChangedBurstMovesNothing(t *testing.T) {
	d := newDesk(t, rateLimit(t, "10/s", 3))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	key := fsmpb.KeyOf(totalRequests)
	third := limit.Shares / 3
	d.alloc.update(d.now, 1, &leasepb.Update{LimitsIndex: 1, Demands: []*leasepb.Demand{{Key: key, Waiting: third}}})
	if got := grantsOf(d.turn(), 1); got.Slots != third {
		t.Fatalf("%d shares granted, want %d", got.Slots, third)
	}
	l := rateLimit(t, "10/s", 10)
	l.Source = limit.SourceAPI
	d.apply(&fsm.PutLimit{Limit: l})
	d.alloc.LimitsChanged(d.now, d.state)
	d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: key, Held: third, InUse: third}}})
	d.alloc.update(d.now, 2, &leasepb.Update{Demands: []*leasepb.Demand{{Key: key, Waiting: limit.Shares}}})
	if got := grantsOf(d.turn(), 2); got.Slots != limit.Shares/10*6 {
		t.Errorf("%d shares are granted beside a third of them, want six tenths of %d", got.Slots, limit.Shares)
	}
	tenth := []*leasepb.Holding{{Key: key, Slots: third - 3*limit.Shares/10}} // of no use to node a now
	d.alloc.update(d.now, 1, &leasepb.Update{Releases: tenth, Demands: []*leasepb.Demand{{Key: key, Held: 3 * limit.Shares / 10, InUse: 3 * limit.Shares / 10}}})
	if got := grantsOf(d.turn(), 2); got.Slots != limit.Shares/10 {
		t.Errorf("%d shares are granted of a tenth that is free", got.Slots)
	}
}

// What an older log says of the levels is passed on only once a unit that lay free since would have
// filled: what has been taken since that log may be in it still.
func TestLevelsOfAnOlderLog(t *testing.T) {
	for _, c := range []struct {
		after  time.Duration
		change string // of the rate, 4 s after the log was doubted
		want   int64
	}{
		{0, "", 0}, {4 * time.Second, "", 0}, {5 * time.Second, "", 2000},
		{5 * time.Second, "2/s", 0}, {6 * time.Second, "2/s", 0}, {7 * time.Second, "2/s", 2000},
	} {
		after, want := c.after, c.want
		d := handOver(t, 1000)
		d.alloc.Distrust(d.now)
		begun := d.now
		if c.change != "" {
			d.now += 4 * time.Second
			d.apply(&fsm.PutLimit{Limit: rateLimit(t, c.change, 4)})
			d.alloc.LimitsChanged(d.now, d.state)
		}
		d.now = begun + after
		for _, p := range d.alloc.order {
			p.seen = d.now
		}
		if got := grantsOf(d.turn(), 2); got.Slots != limit.Shares || got.Level != want {
			t.Errorf("after %v, %d shares go out with %d grains, want %d with %d", after, got.Slots, got.Level, limit.Shares, want)
		}
	}
}

// Units that were fetched for requests which have gone by the time they come back go to their node
// again, where they fill up; in the log they would not. Full ones, and what a node gives back of
// itself, lie free.
func TestFetchedInVainGoesBack(t *testing.T) {
	key := fsmpb.KeyOf(totalRequests)
	for name, c := range map[string]struct {
		level  int64
		wanted bool // whom it was fetched for wants it still
		told   bool // the node has heard that it may keep its units, in the same moment
		knows  bool // and has said so
		goesTo uint64
	}{
		"half full":         {level: 2 * limit.TokenGrains, goesTo: 1},
		"empty":             {goesTo: 1},
		"revoked at once":   {level: 2 * limit.TokenGrains, told: true, goesTo: 1},
		"full":              {level: 4 * limit.TokenGrains},
		"of its own accord": {level: 2 * limit.TokenGrains, knows: true},
		"wanted still":      {level: 2 * limit.TokenGrains, wanted: true, goesTo: 2},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, rateLimit(t, "1/s", 4))
			d.join(1, "a", "1")
			d.join(2, "b", "2")
			d.ask(1, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
			d.turn()
			d.ask(1, &leasepb.Demand{Held: limit.Shares}, totalRequests)
			d.turn()
			d.ask(2, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
			told := targetOf(d.turn(), 1)
			if told == nil || told.Slots != 0 {
				t.Fatalf("the units are not fetched: %v", told)
			}
			seq := told.Seq
			if !c.wanted {
				d.ask(2, &leasepb.Demand{}, totalRequests)
				if told = targetOf(d.turn(), 1); told == nil || told.Slots != leasepb.NoTarget {
					t.Fatalf("the units are still fetched: %v", told)
				}
			}
			if c.told || c.knows {
				seq = told.Seq
			}
			if c.knows {
				d.ask(1, &leasepb.Demand{Held: limit.Shares, TargetSeq: seq}, totalRequests)
			}
			d.alloc.update(d.now, 1, &leasepb.Update{LimitsIndex: 1,
				Releases: []*leasepb.Holding{{Key: key, Slots: limit.Shares, Level: c.level}},
				Demands:  []*leasepb.Demand{{Key: key, TargetSeq: seq}},
			})
			out := d.turn()
			for conn := uint64(1); conn <= 2; conn++ {
				var want granted
				if conn == c.goesTo {
					want = granted{limit.Shares, c.level}
				}
				if got := grantsOf(out, conn); got != want {
					t.Errorf("node %d has %+v, want %+v", conn, got, want)
				}
			}
		})
	}
}

// A node that leaves gives back at once what it is granted. Units that were fetched from it go back
// to it once at most.
func TestFetchedInVainGoesBackOnce(t *testing.T) {
	key := fsmpb.KeyOf(totalRequests)
	d := newDesk(t, rateLimit(t, "1/s", 4))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.ask(1, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	d.turn()
	d.ask(1, &leasepb.Demand{Held: limit.Shares}, totalRequests)
	d.turn()
	d.ask(2, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	told := targetOf(d.turn(), 1)
	d.ask(2, &leasepb.Demand{}, totalRequests)
	times := 0
	for range 5 {
		d.alloc.update(d.now, 1, &leasepb.Update{LimitsIndex: 1,
			Releases: []*leasepb.Holding{{Key: key, Slots: limit.Shares}},
			Demands:  []*leasepb.Demand{{Key: key, TargetSeq: told.Seq}},
		})
		out := d.turn()
		if grantsOf(out, 1).Slots == 0 {
			break
		}
		times++
		if newer := targetOf(out, 1); newer != nil {
			told = newer
		}
	}
	if times != 1 {
		t.Errorf("they go back %d times", times)
	}
}

// targetOf is the last target that a node is told.
func targetOf(out []Outbound, conn uint64) (last *leasepb.Target) {
	for _, o := range out {
		for _, t := range o.Msg.GetAssign().GetTargets() {
			if o.Conn == conn {
				last = t
			}
		}
	}
	return last
}

// A level that is distrusted stays so where the key comes under another limit, older than the
// leader.
func TestDistrustThroughAMerge(t *testing.T) {
	wide, narrow := clientRate(t, "10/s", 10), clientRate(t, "1/h", 10)
	narrow.Pattern = limittest.Scoped(limit.ScopeClient, clientKey(1).Name)
	d := newDesk(t, wide)
	d.apply(&fsm.PutLimit{Limit: narrow})
	d.alloc = NewAllocator(d.now, 1, d.state)
	d.alloc.Hold(d.now + 4*time.Second)
	d.alloc.Distrust(d.now + 4*time.Second)
	d.now += 20 * time.Second
	d.join(1, "a", "a")
	d.apply(&fsm.DeleteLimit{Pattern: narrow.Pattern})
	d.alloc.LimitsChanged(d.now, d.state)
	d.say(1, []limit.Key{clientKey(1)}, 1, func(limit.Key) int64 { return 0 })
	if g := grantsOf(d.turn(), 1); g.Level != 0 {
		t.Errorf("%d grains go out at once: under 1/h nearly nothing has come in, and 10/s holds only now", g.Level)
	}
}
