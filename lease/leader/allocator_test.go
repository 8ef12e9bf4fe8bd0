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

// An old hello must not release what was granted since: only once the node speaks on the stream is
// it known to be the newest. Then what it does not state is released, and nothing of what it does.
func TestOldHelloReleasesNothing(t *testing.T) {
	key := limit.HostConnections("up")
	for _, stated := range []int64{0, 1, 2} {
		d := newDesk(t, kit.Limit(t, "up", 5, limit.Queue{}))
		d.join(1, "a", "1")
		id := d.alloc.conns[1].ID
		d.demand(1, &leasepb.Demand{Waiting: 2})
		d.turn()
		old := &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: id}
		if stated > 0 {
			old.Holdings = []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: stated}}
		}
		d.alloc.hello(d.now, d.state, 2, old)
		d.turn()
		if g := d.state.GrantOf(id, key); g != 2 {
			t.Fatalf("a hello alone left %d of 2 slots", g)
		}
		d.alloc.update(d.now, 2, &leasepb.Update{LimitsIndex: 1}) // it was the newest after all
		d.turn()
		if g := d.state.GrantOf(id, key); g != stated {
			t.Errorf("%d slots are granted, and the node holds %d", g, stated)
		}
	}
}

// An old hello must not take a session over: its sender must answer first. A newer hello of the
// same process voids it.
func TestOldHelloTakesNothingOver(t *testing.T) {
	d := newDesk(t)
	d.join(1, "a", "1")
	id := d.alloc.conns[1].ID
	fresh := &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1"}
	d.alloc.hello(d.now, d.state, 2, fresh)
	d.turn()
	if _, open := d.state.Session(id); !open {
		t.Fatal("a hello alone took the session over")
	}
	d.alloc.hello(d.now, d.state, 3, fresh)
	ended := false
	for _, o := range d.turn() {
		ended = ended || o.Conn == 2 && o.End
	}
	if !ended {
		t.Error("the former stream was left waiting")
	}
	d.alloc.proof(2)
	d.turn()
	if _, open := d.state.Session(id); !open {
		t.Error("a hello that a newer one had voided took the session over")
	}
	d.alloc.proof(3)
	d.turn()
	if p := d.alloc.conns[3]; p == nil || p.ID == id {
		t.Error("the newest stream got no session")
	}
}

// A node that was silent for long is passed over; when it is heard again, it gets what it asked
// for, without asking again.
func TestSilentNodeIsServedWhenHeardAgain(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 9}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.demand(2, &leasepb.Demand{Waiting: 1})
	d.turn()
	d.demand(1, &leasepb.Demand{Waiting: 1})
	d.turn()
	d.now += 2500 * time.Millisecond // neither is heard
	d.alloc.Gone(2)
	d.alloc.Left(Farewell{Node: "someone else", Session: d.alloc.order[1].ID})
	if d.alloc.order[1].closing {
		t.Error("another node's farewell ends a session")
	}
	d.alloc.Left(Farewell{Node: d.alloc.order[1].Node, Session: d.alloc.order[1].ID})
	d.turn()
	if g := d.granted(1); g != 0 {
		t.Fatalf("%d slots were granted to a silent node", g)
	}
	d.alloc.keepAlive(1, 1, d.now)
	d.turn()
	if g := d.granted(1); g != 1 {
		t.Errorf("%d slots granted to a node that is heard again and waits, want 1", g)
	}
}

// An ask that the limits have overtaken is forgotten.
func TestAskUnderNoLimitIsForgotten(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 0, limit.Queue{}))
	d.join(1, "a", "1")
	d.demand(1, &leasepb.Demand{Waiting: 1, Ask: 1})
	p, _ := limit.ParsePattern("up")
	d.apply(&fsm.DeleteLimit{Pattern: p})
	d.alloc.LimitsChanged(d.now, d.state)
	d.turn()
	d.demand(1, &leasepb.Demand{})
	d.turn()
	if err := d.alloc.AtRest(); err != nil {
		t.Error(err)
	}
}

// One entry stays within bounds, however many keys change.
func TestEntriesAreBounded(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "*", 5, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	for i := range 3 * leasepb.MaxBatch {
		host := "h" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))
		for conn := range uint64(2) {
			d.alloc.update(d.now, conn+1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: fsmpb.KeyOf(limit.HostConnections(host)), Waiting: 1}}})
		}
	}
	entries := 0
	for cmd := d.alloc.Next(d.now, d.state); cmd != nil; cmd = d.alloc.Next(d.now, d.state) {
		if n := len(cmd.(*fsm.Adjust).Adjustments); n > leasepb.MaxBatch+2 {
			t.Fatalf("an entry of %d adjustments", n)
		}
		entries++
		d.alloc.Applied(d.now, d.state, d.apply(cmd))
	}
	if g := d.state.Granted(limit.HostConnections("haaa")); g < 2 || entries < 3 {
		t.Errorf("%d slots granted in %d entries", g, entries)
	}
}

// A new leader lets slots rest: a take-over may have freed them a moment before.
func TestNewLeaderLetsSlotsRest(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 9}))
	d.succeed()
	d.join(1, "a", "1")
	d.demand(1, &leasepb.Demand{Waiting: 1})
	d.now = takeOverRest - 1
	d.turn()
	if g := d.granted(1); g != 0 {
		t.Errorf("%d slots granted at once by a new leader", g)
	}
	d.now = takeOverRest
	d.turn()
	if g := d.granted(1); g != 1 {
		t.Errorf("%d slots granted after the rest, want 1", g)
	}
}

// A grant that was on its way while the limit was lowered is not used as long as slots rest for
// which the lower limit has no room beside it. The log knows nothing of rest.
func TestGrantThroughALoweredLimitRests(t *testing.T) {
	queue := limit.Queue{Timeout: time.Minute, Size: 9}
	d := newDesk(t, kit.Limit(t, "up", 3, queue))
	for conn, node := range []string{"a", "b", "c"} {
		d.join(uint64(conn+1), node, node)
	}
	d.demand(1, &leasepb.Demand{InUse: 1})
	d.demand(2, &leasepb.Demand{InUse: 1})
	d.turn()
	d.join(4, "b", "b") // the process has started again
	d.demand(3, &leasepb.Demand{Waiting: 1})
	cmd := d.alloc.Next(d.now, d.state)
	d.apply(&fsm.PutLimit{Limit: kit.Limit(t, "up", 2, queue)})
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if g := d.granted(3); g != 1 {
		t.Fatalf("the log grants %d slots; want 1, or this tests nothing", g)
	}
	heard := grantsOf(d.alloc.Take(), 3).Slots + grantsOf(d.turn(), 3).Slots
	d.now += takeOverRest - 1
	heard += grantsOf(d.turn(), 3).Slots
	if heard != 0 {
		t.Errorf("node c hears of %d slots; one of a's is open, and b's former one may be: the limit is 2", heard)
	}
	d.now++
	if heard := grantsOf(d.turn(), 3).Slots; heard != 1 || d.granted(3) != 1 {
		t.Errorf("after the rest node c hears of %d slots, and the log grants it %d; want 1", heard, d.granted(3))
	}
}

// Where nobody has granted anything yet, nothing can have been freed: the first connection of a
// cluster, or of a node that is alone, does not wait.
func TestFirstLeaderGrantsAtOnce(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 9}))
	d.now = 0
	d.join(1, "a", "1")
	d.demand(1, &leasepb.Demand{Waiting: 1})
	d.turn()
	if g := d.granted(1); g != 1 {
		t.Errorf("%d slots granted by a cluster's first leader, want 1", g)
	}
}

// A node is told what was granted, not what was asked for.
func TestNodeIsToldWhatWasApplied(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 5, limit.Queue{}))
	d.join(1, "a", "1")
	d.demand(1, &leasepb.Demand{Waiting: 3})
	cmd := d.alloc.Next(d.now, d.state).(*fsm.Adjust)
	asked := cmd.Adjustments[0].Delta
	res := fsm.Result{Adjusted: []fsm.Adjustment{cmd.Adjustments[0]}}
	res.Adjusted[0].Delta = 1
	d.alloc.Applied(d.now, d.state, res)
	for _, o := range d.alloc.Take() {
		for _, g := range o.Msg.GetAssign().GetGrants() {
			if g.Slots != 1 {
				t.Errorf("told of %d slots, the log gave 1 of %d", g.Slots, asked)
			}
		}
	}
}

// What a hello states is compared with the log only once the entry on its way has been applied: it
// may hold the very release that makes the difference.
func TestHelloWaitsForTheEntryOnItsWay(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 5, limit.Queue{}))
	d.join(1, "a", "1")
	id, key := d.alloc.conns[1].ID, limit.HostConnections("up")
	d.demand(1, &leasepb.Demand{Waiting: 3})
	d.turn()
	if g := d.granted(1); g != 3 {
		t.Fatalf("%d slots granted, want 3", g)
	}
	one := []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 1}}
	d.alloc.update(d.now, 1, &leasepb.Update{Releases: one, Demands: []*leasepb.Demand{{Key: fsmpb.KeyOf(key), Held: 2, InUse: 2}}})
	cmd := d.alloc.Next(d.now, d.state)
	d.alloc.Gone(1)
	two := []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 2}}
	d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: id, Holdings: two})
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	d.alloc.update(d.now, 2, &leasepb.Update{Demands: []*leasepb.Demand{{Key: fsmpb.KeyOf(key), Held: 2, InUse: 2}}})
	for _, o := range d.turn() {
		if g := o.Msg.GetAssign().GetGrants(); len(g) > 0 {
			t.Errorf("granted anew: %v", g) // in place of what was released twice
		}
	}
	if g := d.state.GrantOf(id, key); g != 2 {
		t.Errorf("%d slots granted to a node that holds and uses 2", g)
	}
}

// After an entry that changed much, the next one waits a commit for more, and takes all that has
// come. After one that changed little, as where a slot changes hands, it goes at once.
func TestBusyLeaderGathers(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "*", 5, limit.Queue{}))
	d.join(1, "a", "1")
	ask := func(from, hosts int) {
		u := &leasepb.Update{LimitsIndex: d.state.Table().Index}
		for i := range hosts {
			key := fsmpb.KeyOf(limit.HostConnections(fmt.Sprintf("host-%d", from+i)))
			u.Demands = append(u.Demands, &leasepb.Demand{Key: key, Waiting: 1})
		}
		d.alloc.update(d.now, 1, u)
	}
	commit := func() (adjustments int) {
		t.Helper()
		cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust)
		if !ok {
			t.Fatal("no entry is proposed")
		}
		d.alloc.NoteCommit(800 * time.Microsecond)
		d.alloc.Applied(d.now, d.state, d.apply(cmd))
		return len(cmd.Adjustments)
	}
	ask(0, gatherFrom-1)
	commit()
	ask(100, gatherFrom)
	commit() // the small one did not make it wait
	ask(200, 1)
	wake := d.alloc.NextWake(d.now)
	if cmd := d.alloc.Next(d.now, d.state); cmd != nil || wake != d.now+d.alloc.commit {
		t.Fatalf("the next entry is %v, the next look in %v; want none, and a commit: %v", cmd, wake-d.now, d.alloc.commit)
	}
	ask(300, 2)
	d.now = wake
	if n := commit(); n != 3 {
		t.Errorf("the entry has %d adjustments; want what was asked before and during the wait, 3", n)
	}
	if ask(400, 1); commit() != 1 {
		t.Error("the wait outlived its cause")
	}
}

// Who asks whether anything is free is told no in time, though a node that holds a slot says
// nothing of what it does with it. Who is granted what it waits for leaves nothing to be looked at
// later.
func TestAskIsAnsweredInTime(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.demand(1, &leasepb.Demand{Waiting: 1, Ask: 1})
	if d.turn(); d.granted(1) != 1 || len(d.alloc.waking) != 0 {
		t.Fatalf("node a has %d slots; %d keys are to be looked at later; want 1, and none", d.granted(1), len(d.alloc.waking))
	}
	begun := d.now
	d.demand(2, &leasepb.Demand{Waiting: 1, Ask: 1})
	answered := func() bool {
		for _, o := range d.turn() {
			if o.Conn == 2 && len(o.Msg.GetAssign().GetAnswers()) > 0 {
				return true
			}
		}
		return false
	}
	for !answered() {
		if d.now > begun+askPatience {
			t.Fatalf("node b has no answer after %v", d.now-begun)
		}
		d.now = max(d.alloc.NextWake(d.now), d.now+time.Microsecond)
	}
	if d.now != begun+askPatience {
		t.Errorf("node b was answered after %v; want %v", d.now-begun, askPatience)
	}
}

// Nobody is told that nothing is free while a slot is about to be granted, however long the log
// takes: the request would be refused below the limit.
func TestSlowLogRefusesNobody(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{}), kit.Limit(t, "other", 1, limit.Queue{}))
	d.join(1, "a", "1")
	d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: fsmpb.KeyOf(limit.HostConnections("other")), Waiting: 1, Ask: 1}}})
	slow := d.alloc.Next(d.now, d.state)
	d.demand(1, &leasepb.Demand{Waiting: 1, Ask: 1})
	d.now += 2 * askPatience
	d.alloc.Tick(d.now)
	d.alloc.Applied(d.now, d.state, d.apply(slow))
	next := d.alloc.Next(d.now, d.state)
	d.now += askPatience
	d.alloc.Tick(d.now)
	answers := func() (n int) {
		for _, o := range d.alloc.Take() {
			n += len(o.Msg.GetAssign().GetAnswers())
		}
		return n
	}
	if n := answers(); n != 0 {
		t.Errorf("%d answers before the slot was granted, want none", n)
	}
	d.alloc.Applied(d.now, d.state, d.apply(next))
	d.turn()
	if n := answers(); n != 0 || d.granted(1) != 1 {
		t.Errorf("%d answers with the grant, and %d slots granted; want 0 and 1", n, d.granted(1))
	}
	d.demand(1, &leasepb.Demand{Held: 1, InUse: 1, Waiting: 1, Ask: 2})
	if d.alloc.Next(d.now, d.state); answers() != 1 {
		t.Error("no answer though the only slot is in use")
	}
}

// While a new leader grants nothing, what is asked for is no shortage: nodes would give their slots
// back as soon as they have no use for them, and ask again, for a second.
func TestHeldBackIsNoShortage(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 4, limit.Queue{}))
	d.succeed()
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.now = d.alloc.notBefore - 1
	d.demand(1, &leasepb.Demand{Waiting: 2, Ask: 1})
	contended := func() (contended bool) {
		for _, o := range d.turn() {
			for _, target := range o.Msg.GetAssign().GetTargets() {
				contended = contended || target.Contended
			}
		}
		return contended
	}
	if contended() || d.granted(1) != 0 {
		t.Errorf("%d slots are granted, or the key counts as contended", d.granted(1))
	}
	d.demand(2, &leasepb.Demand{Waiting: 3, Ask: 1})
	if !contended() {
		t.Error("five requests for four slots are no contention")
	}
	if d.now = d.alloc.notBefore; contended() || d.granted(1)+d.granted(2) != 4 {
		t.Errorf("afterwards %d and %d slots of 4 are granted", d.granted(1), d.granted(2))
	}
}

// Keys are looked at when they asked to be, each at the earliest moment that it asked for.
func TestWakes(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "*", 1, limit.Queue{}))
	a := d.alloc
	key := func(i int) *contest { return a.contest(limit.HostConnections(fmt.Sprintf("host-%d", i))) }
	for i, at := range []time.Duration{50, 20, 90, 40, 70} {
		a.wakeAt(key(i), at)
	}
	a.wakeAt(key(2), 10) // earlier
	a.wakeAt(key(1), 80) // later: not so
	for i, want := range []struct {
		at  time.Duration
		key int
	}{{10, 2}, {20, 1}, {40, 3}, {50, 0}, {70, 4}} {
		if err := a.Check(); err != nil {
			t.Fatal(err)
		}
		if at := a.NextWake(0); at != want.at {
			t.Fatalf("wake %d is at %v; want %v", i, at, want.at)
		}
		a.Tick(want.at - 1)
		if len(a.dirty) != 0 {
			t.Fatalf("%s is looked at before %v", a.dirty[0].key, want.at)
		}
		a.Tick(want.at)
		if len(a.dirty) != 1 || a.dirty[0] != key(want.key) {
			t.Fatalf("at %v %d keys are looked at; want host-%d", want.at, len(a.dirty), want.key)
		}
		a.dirty[0].dirty, a.dirty = false, a.dirty[:0]
	}
}

// A slot that is on its way to a request that waits is not asked back before the node has had it,
// and the request is not refused meanwhile: it would lie idle with one node after the other.
func TestGrantOnItsWayStays(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 2, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.demand(1, &leasepb.Demand{Waiting: 1})
	d.turn()
	d.demand(1, &leasepb.Demand{Held: 1, InUse: 1, Waiting: 1, Ask: 1})
	cmd := d.alloc.Next(d.now, d.state)
	d.demand(2, &leasepb.Demand{Waiting: 1, Ask: 1})
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if d.granted(1) != 2 {
		t.Fatalf("node a has %d slots, want both", d.granted(1))
	}
	for _, o := range d.turn() {
		as := o.Msg.GetAssign()
		for _, target := range as.GetTargets() {
			if o.Conn == 1 && target.Slots != leasepb.NoTarget {
				t.Errorf("node a is to come down to %d before it has what it was granted", target.Slots)
			}
		}
		if len(as.GetAnswers()) > 0 {
			t.Errorf("node %d is told that nothing is free", o.Conn)
		}
	}
	d.demand(1, &leasepb.Demand{Held: 2, InUse: 2})
	asked := false
	for _, o := range d.turn() {
		for _, target := range o.Msg.GetAssign().GetTargets() {
			asked = asked || o.Conn == 1 && target.Slots == 1
		}
	}
	if !asked {
		t.Error("node a keeps both slots while b waits")
	}
}

// A node keeps the number of the last target that it knows of a key, also when the leader has
// forgotten the key. It must not seem to know the first target of the next contention: its word of
// what lies idle would be taken for a new one.
func TestTargetsAreNotNumberedAnew(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 1, limit.Queue{}))
	key := limit.HostConnections("up")
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	contend := func() (seq uint64) {
		d.demand(1, &leasepb.Demand{Waiting: 1})
		d.turn()
		d.demand(1, &leasepb.Demand{Held: 1, InUse: 1})
		d.demand(2, &leasepb.Demand{Waiting: 1, Ask: 1})
		d.turn()
		return d.alloc.conns[1].demands[key].seq
	}
	first := contend()
	d.alloc.update(d.now, 1, &leasepb.Update{
		Releases:    []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 1}},
		Demands:     []*leasepb.Demand{{Key: fsmpb.KeyOf(key)}},
		LimitsIndex: d.state.Table().Index,
	})
	d.demand(2, &leasepb.Demand{})
	for d.alloc.keys[key] != nil {
		d.turn()
		if d.now += 100 * time.Millisecond; d.now > time.Minute {
			t.Fatal("the leader does not forget the key")
		}
	}
	if again := contend(); first == 0 || again <= first {
		t.Errorf("the target of the next contention has the number %d, that of the one before %d", again, first)
	}
}
