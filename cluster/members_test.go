package cluster

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever happens to the members, one that is looked up is as it stands in the list, which is
// sorted, and the number of those alive is counted right.
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
			ms.here(name, "127.0.0.1:2", metaOf(byte(r.IntN(3))), r.IntN(2) == 0, now)
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
		for _, e := range ms.byName {
			if !e.departed {
				want++
			}
		}
		all := ms.list(now)
		if alive != want || len(all) != len(ms.byName) {
			t.Fatalf("%d of %d members are alive, counted as %d of %d", want, len(ms.byName), alive, len(all))
		}
		if !slices.IsSortedFunc(all, func(a, b Member) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatal("the list is not sorted")
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
	if m, _ := ms.get("b", now); !m.detached {
		t.Fatal("it is not detached")
	}
	ms.reattach("b/other")
	if m, _ := ms.get("b", now); !m.detached {
		t.Error("another server's removal brought it back")
	}
	ms.reattach(m.ServerID())
	if m, _ := ms.get("b", now); m.detached || !slices.Equal(ms.takeChanged(), []string{"b"}) {
		t.Error("it is still detached, or nobody looks at it")
	}
}

// What is remembered of members' addresses goes with them.
func TestDepartedAddressesAreForgotten(t *testing.T) {
	t.Parallel()
	c := &Cluster{peers: &peers{}}
	had := map[string]string{}
	for i := range 100 {
		all := []Member{{Name: "a", RPCAddr: "127.0.0.1:1"}, {Name: fmt.Sprint("b-", i), RPCAddr: fmt.Sprint("127.0.0.1:", i+2)}}
		c.dropDeparted(had, all)
		if len(had) != 2 {
			t.Fatalf("%d addresses are remembered of 2 members", len(had))
		}
	}
}
