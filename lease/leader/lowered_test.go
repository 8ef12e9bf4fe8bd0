package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// sentTo is what a node has been told to come down to.
func (d *desk) sentTo(conn uint64, host string) int64 {
	return d.alloc.conns[conn].demands[limit.HostConnections(host)].sent.slots
}

// TestGrantThroughAMerge, where all nodes have said what they have open before the entry comes, but
// after it was made.
func TestGrantThroughAMergeThatAllHaveHeardOf(t *testing.T) {
	d, one := deskOfTwo(t, kit.Limit(t, "*", 9, patient))
	d.wish(2, "up:443", &leasepb.Demand{Held: 10, InUse: 10})
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	for i := range gatherFrom { // so many changes that the next entry waits
		d.wish(2, "h"+string(rune('a'+i)), &leasepb.Demand{Waiting: 1})
	}
	cmd := d.alloc.Next(d.now, d.state)
	d.apply(&fsm.DeleteLimit{Pattern: one.Pattern})
	d.alloc.LimitsChanged(d.now, d.state)
	d.wish(2, "up:443", &leasepb.Demand{})
	d.wish(2, "up", &leasepb.Demand{InUse: 10})
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	d.alloc.NoteCommit(10 * time.Millisecond)
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if n := heardOf(d.turn(), 1, "up"); n != 0 {
		t.Errorf("node a hears of %d slots, while 10 connections are open: the limit is 10", n)
	}
}

// TestRestThroughAMerge, for a grant that was on its way.
func TestRestThroughAMergeWithAGrantOnItsWay(t *testing.T) {
	d, one := deskOfTwo(t)
	d.join(3, "b", "b") // the process has started again
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	cmd := d.alloc.Next(d.now, d.state)
	d.apply(&fsm.DeleteLimit{Pattern: one.Pattern})
	d.alloc.LimitsChanged(d.now, d.state)
	d.wish(3, "up", &leasepb.Demand{})
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	d.now += 10 * time.Millisecond
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if n := heardOf(d.turn(), 1, "up"); n != 0 {
		t.Errorf("node a hears of %d slots; b's 10 former ones may be open: the limit is 10", n)
	}
}

// The patience with nodes that have yet to speak begins anew with each change of limits, but does
// not last for ever.
func TestGatePatienceBeginsAnew(t *testing.T) {
	all, one := kit.Limit(t, "up", 10, patient), kit.Limit(t, "up:443", 10, patient)
	others := []limit.Limit{all, one}
	for i := range 70 {
		others = append(others, kit.Limit(t, fmt.Sprintf("h%d", i), 9, patient))
	}
	d := newDesk(t, others...)
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.wish(2, "up:443", &leasepb.Demand{InUse: 10})
	d.turn()
	d.wish(2, "up:443", &leasepb.Demand{Held: 10, InUse: 10})
	remove := func(l limit.Limit) { // and node b has heard of the limits before only
		known := d.state.Table().Index
		d.apply(&fsm.DeleteLimit{Pattern: l.Pattern})
		d.alloc.LimitsChanged(d.now, d.state)
		d.wish(1, "up", &leasepb.Demand{Waiting: 10})
		d.alloc.update(d.now, 2, &leasepb.Update{LimitsIndex: known})
		d.turn()
		d.now += 100 * time.Millisecond
		d.alloc.order[0].seen, d.alloc.order[1].seen = d.now, d.now
	}
	for _, l := range others[2:13] {
		remove(l)
	}
	remove(one)
	if n := d.granted(1); n != 0 {
		t.Errorf("node a has %d slots; b has 10 open, and has not said so since the limits changed 100 ms ago: the limit is 10", n)
	}
	for _, l := range others[13:] {
		remove(l)
	}
	if n := d.granted(1); n != 10 {
		t.Errorf("after seven seconds of changes of limits node a has %d slots; want 10", n)
	}
}

// While a key waits for all nodes to speak, connections that fit are not closed.
func TestIdleStaysWhileTheGateIsClosed(t *testing.T) {
	all, one := kit.Limit(t, "up", 20, patient), kit.Limit(t, "up:443", 10, patient)
	d := newDesk(t, all, one)
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.join(3, "c", "c")
	d.wish(1, "up", &leasepb.Demand{Parked: 5})
	d.wish(2, "up:443", &leasepb.Demand{InUse: 10})
	d.turn()
	d.wish(1, "up", &leasepb.Demand{Held: 5, Parked: 5})
	d.wish(2, "up:443", &leasepb.Demand{Held: 10, InUse: 10})
	d.turn()
	d.apply(&fsm.DeleteLimit{Pattern: one.Pattern})
	d.alloc.LimitsChanged(d.now, d.state)
	d.wish(1, "up", &leasepb.Demand{Held: 5, Parked: 5})
	d.wish(2, "up", &leasepb.Demand{InUse: 10})
	d.turn()
	if n := d.sentTo(1, "up"); n >= 0 {
		t.Errorf("a is to come down to %d, and closes its idle connections: 15 are open, the limit is 20 (granted %d)", n, d.granted(1))
	}
}

// A grant that was on its way while the limit was lowered brings no more than there is room for
// beside what others hold, also where the next plan, and with it what all are to come down to, has
// to wait.
func TestGrantThroughALoweredLimit(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 10, patient), kit.Limit(t, "*", 99, patient))
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.uses(2, "up", 5)
	d.wish(1, "up", &leasepb.Demand{Waiting: 5})
	for i := range gatherFrom { // so many changes that the next entry waits
		d.wish(2, fmt.Sprint("h", i), &leasepb.Demand{Waiting: 1})
	}
	cmd := d.alloc.Next(d.now, d.state)
	res := d.apply(cmd)
	d.apply(&fsm.PutLimit{Limit: kit.Limit(t, "up", 5, patient)})
	d.alloc.LimitsChanged(d.now, d.state)
	d.alloc.NoteCommit(10 * time.Millisecond)
	d.alloc.Applied(d.now, d.state, res)
	out := d.turn()
	if n := heardOf(out, 1, "up"); n != 0 {
		t.Errorf("node a hears of %d slots, and is to come down to %d, while b has 5 open: the limit is 5", n, d.sentTo(1, "up"))
	}
	d.now += 10 * time.Millisecond
	d.turn()
	if n := d.granted(2); n != 5 || d.granted(1) != 0 {
		t.Errorf("then a has %d slots, and b %d; want 0 and 5", d.granted(1), n)
	}
}

// What rests of a process that has started again counts for a lowered limit, too: until the upstream
// has seen its connections end, nobody opens one in the place of another that has ended.
func TestRestUnderALoweredLimit(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 10, patient))
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.uses(1, "up", 5)
	d.uses(2, "up", 5)
	d.apply(&fsm.PutLimit{Limit: kit.Limit(t, "up", 5, patient)})
	d.alloc.LimitsChanged(d.now, d.state)
	d.wish(1, "up", &leasepb.Demand{Held: 5, InUse: 5})
	d.wish(2, "up", &leasepb.Demand{Held: 5, InUse: 5})
	d.turn()
	if n := d.sentTo(1, "up"); n != 0 {
		t.Fatalf("a is to come down to %d, while 10 are open and the limit is 5; want 0", n)
	}
	d.now += 100 * time.Millisecond
	d.join(3, "b", "b")
	if n := d.sentTo(1, "up"); n != 0 {
		t.Errorf("a is to come down to %d, while b's 5 former ones may be open; want 0", n)
	}
	d.now += takeOverRest
	d.turn()
	if n := d.sentTo(1, "up"); n >= 0 {
		t.Errorf("then a is to come down to %d; want that it may keep its 5", n)
	}
}
