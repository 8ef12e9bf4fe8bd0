package lease

import (
	"math"
	"slices"
	"testing"
	"time"

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
