package gossip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// Whatever happens to the members, the list is sorted and as new as one made afresh, a member that
// is looked up is the same as in the list, and the live ones are counted right.
func TestMembersIndex(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	alive := 0
	ms := newMembers("self", func(n int) time.Duration { alive = n; return time.Second })
	for range 5000 {
		name := fmt.Sprint("node-", r.IntN(12))
		now = now.Add(time.Duration(r.IntN(500)) * time.Millisecond)
		switch r.IntN(8) {
		case 0, 1:
			leads := func(m *clusterpb.Meta) { m.LeadsTerm = r.Uint64N(20) }
			ms.here(name, "127.0.0.1:2", metaOf(byte(r.IntN(3)), leads), r.IntN(2) == 0, now)
		case 2:
			ms.gone(name, now)
		case 3:
			ms.goodbye(name, metaOf(byte(r.IntN(3))))
		case 4:
			ms.heard(name, now)
		case 5:
			if m, ok := ms.get(name, now); ok {
				ms.detach(m.ServerID())
			}
		case 6:
			if m, ok := ms.get(name, now); ok {
				ms.reattach(m.ServerID())
			}
		default:
			if r.IntN(100) == 0 {
				now = now.Add(forgetAfter)
			}
		}
		want := 0
		for _, e := range ms.sorted {
			if !e.departed {
				want++
			}
		}
		all := ms.list(now)
		if alive != want || len(all) != len(ms.sorted) {
			t.Fatalf("%d of %d members are alive, counted as %d of %d", want, len(ms.sorted), alive, len(all))
		}
		if !slices.IsSortedFunc(all, func(a, b Member) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatal("the list is not sorted")
		}
		if fresh := ms.makeRoster(now); !reflect.DeepEqual(fresh.all, all) || fresh.leader.Name != ms.look(now).leader.Name {
			t.Fatalf("the list is out of date: %+v, want %+v", all, fresh.all)
		}
		for _, m := range all {
			if one, ok := ms.get(m.Name, now); !ok || !reflect.DeepEqual(one, m) {
				t.Fatalf("looked up %+v, listed %+v", one, m)
			}
		}
	}
	if _, ok := ms.get("nobody", now); ok {
		t.Error("an unknown member is found")
	}
}

// A list that was handed out stays as it is, whatever happens to the members.
func TestListIsImmutable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ms := newMembers("self", func(int) time.Duration { return time.Second })
	ms.here("a", "127.0.0.1:1", metaOf(1), true, now)
	ms.here("c", "127.0.0.1:2", metaOf(2), true, now)
	all := ms.list(now)
	before := slices.Clone(all)
	if again := ms.list(now.Add(time.Millisecond)); &again[0] != &all[0] {
		t.Error("the list was made anew though nothing has changed")
	}
	ms.here("b", "127.0.0.1:3", metaOf(3), true, now)
	ms.gone("a", now)
	ms.detach(all[1].ServerID())
	ms.list(now.Add(time.Hour))
	if !reflect.DeepEqual(all, before) {
		t.Errorf("the list has changed to %+v", all)
	}
}

// The members stay bounded where each has a new name, and the live ones are never forgotten.
func TestMembersAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ms := newMembers("self", func(int) time.Duration { return time.Second })
	ms.here("alive", "127.0.0.1:1", metaOf(1), true, now)
	for i := range maxMembers + 10 {
		name := fmt.Sprint("node-", i)
		ms.here(name, "127.0.0.1:2", metaOf(2), true, now)
		now = now.Add(time.Millisecond)
		ms.gone(name, now)
	}
	_, first := ms.get("node-0", now)
	_, alive := ms.get("alive", now)
	if n := len(ms.list(now)); n != maxMembers || first || !alive {
		t.Errorf("%d members, want %d; the first to go is remembered: %v, the live one: %v", n, maxMembers, first, alive)
	}
}

// Looking one member up costs no more where there are many.
func BenchmarkMemberLookup(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			now := time.Now()
			ms := newMembers("self", func(int) time.Duration { return time.Second })
			for i := range n {
				ms.here(fmt.Sprint("node-", i), "127.0.0.1:2", metaOf(1), true, now)
			}
			b.ReportAllocs()
			for b.Loop() {
				ms.get("node-5", now)
			}
		})
	}
}

// A server whose removal has failed is followed again: its address is taken to the Raft
// configuration as before.
func TestReattach(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ms := newMembers("self", func(int) time.Duration { return time.Second })
	ms.here("b", "127.0.0.1:2", metaOf(1), true, now)
	m, _ := ms.get("b", now)
	ms.takeChanged()
	ms.detach(m.ServerID())
	if m, _ := ms.get("b", now); !m.Detached {
		t.Fatal("it is not detached")
	}
	ms.reattach("b/other")
	if m, _ := ms.get("b", now); !m.Detached {
		t.Error("another server's removal brought it back")
	}
	ms.reattach(m.ServerID())
	if m, _ := ms.get("b", now); m.Detached || !slices.Equal(ms.takeChanged(), []string{"b"}) {
		t.Error("it is still detached, or nobody looks at it")
	}
}

func TestMembersHealth(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ms := newMembers("self", func(int) time.Duration { return 2 * time.Second })
	health := func(after time.Duration) Health {
		m, _ := ms.get("b", now.Add(after))
		return m.Health
	}
	ms.here("self", "127.0.0.1:9", metaOf(9), true, now)
	ms.here("b", "127.0.0.1:2", metaOf(1), true, now)
	if health(time.Second) != HealthAlive || health(3*time.Second) != HealthSuspect {
		t.Error("silence makes a suspect, and nothing less")
	}
	if m, _ := ms.get("self", now.Add(time.Hour)); m.Health != HealthAlive {
		t.Error("a node suspects itself")
	}
	ms.heard("b", now.Add(3*time.Second))
	if health(3*time.Second) != HealthAlive {
		t.Error("an answer did not clear the suspect")
	}
	ms.gone("b", now.Add(4*time.Second))
	if health(5*time.Second) != HealthDead {
		t.Error("gone without a word is dead")
	}
	ms.here("b", "127.0.0.1:2", metaOf(1), true, now.Add(6*time.Second))
	ms.goodbye("b", metaOf(2, func(m *clusterpb.Meta) { m.SessionLeft = 5 }))
	ms.gone("b", now.Add(7*time.Second))
	if health(7*time.Second) != HealthDead {
		t.Error("a goodbye of another identity was believed")
	}
	ms.here("b", "127.0.0.1:2", metaOf(1), true, now.Add(8*time.Second))
	ms.goodbye("b", metaOf(1, func(m *clusterpb.Meta) { m.SessionLeft = 7 }))
	ms.here("b", "127.0.0.1:2", metaOf(1), false, now.Add(8*time.Second)) // an older message, later
	ms.gone("b", now.Add(9*time.Second))
	if m, _ := ms.get("b", now.Add(9*time.Second)); m.Health != HealthLeft || m.SessionLeft != 7 {
		t.Errorf("after a goodbye: %+v", m)
	}
	ms.here("b", "127.0.0.1:2", metaOf(1), true, now.Add(10*time.Second))
	if m, _ := ms.get("b", now.Add(10*time.Second)); m.Health != HealthAlive || m.SessionLeft != 0 || m.Detached {
		t.Errorf("after its return: %+v", m)
	}
	if got := ms.takeChanged(); len(got) != 2 || len(ms.takeChanged()) != 0 {
		t.Errorf("changed: %v", got)
	}
	ms.gone("b", now)
	ms.here("c", "127.0.0.1:3", metaOf(3), true, now.Add(forgetAfter+time.Hour))
	if _, ok := ms.get("b", now.Add(forgetAfter+time.Hour)); ok {
		t.Error("a long dead node is not forgotten")
	}
}

func TestHintedLeaderIsTheLatestThatIsAlive(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ms := newMembers("self", func(int) time.Duration { return time.Second })
	if leader := ms.look(now).leader; leader.Name != "" {
		t.Errorf("%q leads, though nobody says so", leader.Name)
	}
	for name, term := range map[string]uint64{"a": 3, "b": 5, "c": 9, "d": 0} {
		ms.here(name, name, metaOf(1, func(m *clusterpb.Meta) { m.LeadsTerm, m.RpcAddr = term, name+":1" }), true, now)
	}
	ms.heard("a", now.Add(2*time.Second))
	ms.gone("c", now)
	now = now.Add(2 * time.Second)
	if b, _ := ms.get("b", now); b.Health != HealthSuspect {
		t.Fatalf("b is %s", b.Health)
	}
	if leader := ms.look(now).leader; leader.Name != "b" || leader.RPCAddr != "b:1" || leader.LeadsTerm != 5 {
		t.Errorf("%q at %q in term %d", leader.Name, leader.RPCAddr, leader.LeadsTerm)
	}
}

// Members that change at the same time are passed on in one call, so that work for all of them is
// done once.
func TestChangesArePassedOnTogether(t *testing.T) {
	t.Parallel()
	ms := newMembers("self", func(int) time.Duration { return time.Second })
	calls := make(chan [2][]Member, 2)
	for i := range 100 {
		ms.here(fmt.Sprintf("node-%02d", i), "127.0.0.1:2", metaOf(1), true, time.Now())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&Gossip{members: ms}).Follow(ctx, func(changed, all []Member) { calls <- [2][]Member{changed, all} })
	}()
	if first := (<-calls)[0]; len(first) != 100 || first[0].Name != "node-00" || first[99].Name != "node-99" {
		t.Errorf("%d of 100 members in the first call", len(first))
	}
	ms.gone("node-42", time.Now())
	second := <-calls
	if changed := second[0]; len(changed) != 1 || changed[0].Name != "node-42" || changed[0].Health != HealthDead || len(second[1]) != 100 {
		t.Errorf("one member has changed, passed on: %v of %d", changed, len(second[1]))
	}
	cancel()
	<-done
}
