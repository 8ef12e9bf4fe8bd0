package lease

import (
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// userLimit is a limit that only reports, on connections of scope user.
func userLimit(t *testing.T, pattern string, shared bool) limit.Limit {
	t.Helper()
	l := scopeLimit(t, limit.ScopeUser, pattern, 5)
	l.Shared, l.Report = shared, true
	return l
}

// A request ends while new limits are about to move its slot, and its memory is another request's
// at once: the slot stays where that one has put it.
func TestSlotIsReusedWhileItMoves(t *testing.T) {
	all := userLimit(t, "*", true)
	n := NewNode("a", "1", ExpiryClose, limit.NewTable(1, 1, []limit.Limit{userLimit(t, "alice", false), all}))
	after := limit.NewTable(2, 2, []limit.Limit{all})
	n.gate.open(math.MaxInt64)
	for _, name := range []string{"alice", "*"} {
		n.grant(limit.Key{Scope: limit.ScopeUser, Resource: limit.Connections, Name: name}, 5)
	}
	admit := func(r *Request) {
		t.Helper()
		n.Enter(r)
		s := r.Next()
		if ok, err := n.tryAcquire(0, s, n.table.Load()); !ok {
			t.Fatalf("not admitted: %v", err)
		}
		r.Got(s)
	}
	bob, alice := &limit.Subject{User: "bob"}, &limit.Subject{User: "alice"}
	stays, r := NewRequest(bob, newHolder()), NewRequest(alice, newHolder())
	moves := NewRequest(alice, newHolder())
	for _, each := range []*Request{stays, r, moves} {
		admit(each)
	}

	// The first half of what setLimits does.
	n.table.Store(after)
	pools := slices.Clone(n.all)
	moved := make([]moving, len(pools))
	for i, p := range pools {
		moved[i] = n.applyTable(time.Second, p, after)
	}
	for _, s := range r.Leave() {
		if s != nil && !n.TryRelease(s) {
			t.Fatal("the core must be asked")
		}
	}
	r.subject = bob
	admit(r)
	for i, p := range pools {
		n.moveSlots(time.Second, p, moved[i].slots, after)
	}
	for _, p := range pools {
		want := map[string]int64{"alice": 0, "*": 3}[p.key.Name]
		listed := int64(0)
		for s := p.head; s != nil && listed < 10; s = s.next {
			listed++
		}
		if p.open != want || listed != want {
			t.Errorf("user %s: %d are open, %d in the list; want %d", p.key.Name, p.open, listed, want)
		}
	}
}

// Who waits where a limit of 0 is uncovered is refused at once, also where nothing was counted
// under that yet.
func TestUncoveredBlockRefusesWhoWaits(t *testing.T) {
	wide := kit.Limit(t, "*.x.org", 0, limit.Queue{})
	wide.Shared = true
	n := inSession(1, 1, wide, kit.Limit(t, "a.x.org", 1, limit.Queue{Timeout: time.Hour, Size: 1}))
	target := to(t, "a.x.org")
	n.grant(limit.HostConnections("a.x.org"), 1)
	if ok, err := n.tryAcquire(0, NewSlot(target, newHolder()), n.table.Load()); !ok {
		t.Fatal(err)
	}
	var answer error
	if w, err := n.Acquire(0, NewSlot(target, newHolder()), func(err error) { answer = err }); w == nil {
		t.Fatalf("it does not wait: %v", err)
	}
	n.setLimits(0, limit.NewTable(2, 2, []limit.Limit{wide}))
	if !errors.Is(answer, ErrBlocked) {
		t.Errorf("who waits hears %v; want that the limit is 0", answer)
	}
}

// The log was put back, and with it the limits: a request that still goes by the newer ones can't
// keep the core from going by the older.
func TestOlderLimitsAreKept(t *testing.T) {
	up := func(slots int64) limit.Limit { return kit.Limit(t, "up", slots, limit.Queue{}) }
	n := inSession(5, 1, up(3))
	newer := n.table.Load()
	for _, host := range []string{"up", "free"} {
		n.pool(0, limit.HostConnections(host))
	}
	n.setLimits(0, limit.NewTable(3, 1, []limit.Limit{up(0)}))
	for _, host := range []string{"up", "free"} {
		s := NewSlot(to(t, host), newHolder())
		if _, err := n.tryAcquire(0, s, newer); err != nil {
			t.Fatal(err)
		}
		_, err := n.Acquire(0, NewSlot(to(t, host), newHolder()), func(error) {})
		if blocked := host == "up"; errors.Is(err, ErrBlocked) != blocked {
			t.Errorf("%s: %v; want it blocked: %v", host, err, blocked)
		}
	}
}

// Of the connections that a first limit finds open, those that nobody uses are closed where there
// is no slot for them: they would serve requests above the limit for as long as they are kept.
func TestFirstLimitClosesWhatIsParkedAboveIt(t *testing.T) {
	for slots, want := range map[int64]int{0: 4, 2: 2, 3: 1, 4: 0} {
		synctest.Test(t, func(t *testing.T) {
			c := startCluster(t)
			a, _ := c.start(t, "a", "1")
			b, _ := c.start(t, "b", "2")
			if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
				t.Fatal(err)
			}
			holders, parked := parkEach(t, a, b, a, b)
			for _, s := range parked {
				t.Cleanup(s.Release)
			}
			if _, err := c.Propose(t.Context(), 1, &fsm.PutLimit{Limit: kit.Limit(t, "up", slots, limit.Queue{})}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			closed := 0
			for _, h := range holders {
				if h.severed() == SeverWanted {
					closed++
				}
			}
			if closed != want {
				t.Errorf("with a limit of %d, %d of 4 are closed, want %d", slots, closed, want)
			}
		})
	}
}

// A limit is removed and put back before the leader has planned its key again: what the leader told
// the node before still holds, because the leader tells it only what changes.
func TestTargetOutlivesItsLimit(t *testing.T) {
	up := kit.Limit(t, "up", 10, limit.Queue{})
	n := inSession(1, 1, up)
	key := limit.HostConnections("up")
	n.grant(key, 5)
	tell := &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 1, Slots: 3, Contended: true}
	if err := n.assigned(0, &leasepb.Assign{Targets: []*leasepb.Target{tell}}); err != nil {
		t.Fatal(err)
	}
	n.setLimits(1, limit.NewTable(2, 2, nil))
	n.setLimits(2, limit.NewTable(3, 3, []limit.Limit{up}))
	n.grant(key, 5)
	if ok, err := n.tryAcquire(3, NewSlot(to(t, "up"), newHolder()), n.table.Load()); ok || err != nil {
		t.Errorf("admitted above the target: %v, %v", ok, err)
	}
	p := n.lookup(key)
	n.lock(p)
	n.settle(4, p)
	if p.granted != 0 {
		t.Errorf("%d idle slots are kept while others wait for some", p.granted)
	}
	p.mu.Unlock()
}

// A limit that is set on what is open gives slots to the connections that are open already. One that
// is not open yet must get its own.
func TestNotCoveredUntilThereIsRoom(t *testing.T) {
	n := inSession(1, 1)
	slots := make([]*Slot, 3)
	for i := range slots {
		slots[i] = NewSlot(to(t, "up"), newHolder())
		if w, err := n.Acquire(0, slots[i], nil); w != nil || err != nil {
			t.Fatal("a host without a limit must be waited for", err)
		}
	}
	covered := func(want bool, when string) {
		t.Helper()
		if got := n.Covered(slots[2]); got != want {
			t.Errorf("covered: %v %s", got, when)
		}
	}
	covered(true, "without a limit")
	n.setLimits(1, limit.NewTable(2, 2, []limit.Limit{kit.Limit(t, "up", 2, limit.Queue{})}))
	covered(false, "with 3 in use and no slot")
	key := limit.HostConnections("up")
	n.grant(key, 2)
	covered(false, "with 3 in use and 2 slots")
	n.Release(2, slots[0])
	covered(true, "with 2 in use and 2 slots")
	tell := &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 1, Slots: 1}
	if err := n.assigned(3, &leasepb.Assign{Targets: []*leasepb.Target{tell}}); err != nil {
		t.Fatal(err)
	}
	covered(false, "while one of the 2 slots is to go to what is open elsewhere")
	n.Release(4, slots[1])
	n.Release(4, slots[2])
	tell = &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 2, Slots: leasepb.NoTarget}
	if err := n.assigned(5, &leasepb.Assign{Targets: []*leasepb.Target{tell}}); err != nil {
		t.Fatal(err)
	}
	n.grant(key, 1)
	slots[2] = NewSlot(to(t, "up"), newHolder())
	if ok, err := n.tryAcquire(1+targetsWithin, slots[2], n.table.Load()); !ok {
		t.Fatal(err)
	}
	tell = &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 3, Slots: 0}
	if err := n.assigned(7, &leasepb.Assign{Targets: []*leasepb.Target{tell}}); err != nil {
		t.Fatal(err)
	}
	covered(true, "on a slot that it got under limits which had long been known, and which is wanted elsewhere")
}

// TestNothingStartsAboveALoweredLimit: a node that holds more than a lowered limit allows starts
// nothing, also before the leader has said who is to come down.
func TestNothingStartsAboveALoweredLimit(t *testing.T) {
	n := inSession(1, 1)
	n.setLimits(0, limit.NewTable(1, 1, []limit.Limit{kit.Limit(t, "up", 5, limit.Queue{})}))
	key := limit.HostConnections("up")
	n.grant(key, 4)
	first, second := NewSlot(to(t, "up"), newHolder()), NewSlot(to(t, "up"), newHolder())
	if ok, err := n.tryAcquire(1, first, n.table.Load()); !ok {
		t.Fatal(err)
	}
	n.setLimits(2, limit.NewTable(2, 1, []limit.Limit{kit.Limit(t, "up", 3, limit.Queue{})}))
	if ok, _ := n.tryAcquire(3, second, n.table.Load()); ok {
		t.Fatal("a connection was admitted on 4 slots; the limit is 3")
	}
	tell := &leasepb.Target{Key: fsmpb.KeyOf(key), Seq: 1, Slots: 3}
	if err := n.assigned(4, &leasepb.Assign{Targets: []*leasepb.Target{tell}}); err != nil {
		t.Fatal(err)
	}
	if ok, err := n.tryAcquire(5, second, n.table.Load()); !ok {
		t.Errorf("on the 3 slots that are left, none was: %v", err)
	}
}
