package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// A client is new once, and again when it has not been seen for an hour.
func TestResolvingClients(t *testing.T) {
	var r resolving
	now := time.Unix(1e9, 0)
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	to := func(host string) limit.Target {
		target, err := limit.ParseTarget(host, 443)
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	for _, step := range []struct {
		client byte
		after  time.Duration
		first  bool
	}{
		{1, 0, true}, {1, time.Second, false}, {2, 0, true}, {1, resolvingFor - time.Second, false}, {2, time.Second, true}, {1, 0, false},
	} {
		now = now.Add(step.after)
		if first := r.note(at(step.client), to("203.0.113.7"), now); first != step.first {
			t.Errorf("%+v: first is %t", step, first)
		}
	}
	list := r.list(now)
	if len(list) != 2 || list[0].Client != at(1) || list[0].Requests != 4 || list[1].Requests != 1 || list[0].Destination != "203.0.113.7:443" {
		t.Errorf("listed: %+v", list)
	}
	if list := r.list(now.Add(resolvingFor)); len(list) != 0 {
		t.Errorf("listed an hour later: %+v", list)
	}
}

// A crowd of clients takes no more memory: those seen longest ago make room.
func TestResolvingClientsAreBounded(t *testing.T) {
	var r resolving
	now := time.Unix(1e9, 0)
	for i := range 3 * maxResolving {
		now = now.Add(time.Millisecond)
		r.note(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), limit.Target{Host: "203.0.113.7", Port: 80}, now)
	}
	list := r.list(now)
	if len(list) != maxResolving || len(r.clients) != maxResolving {
		t.Fatalf("%d clients are listed, %d in memory; want %d", len(list), len(r.clients), maxResolving)
	}
	last := 3*maxResolving - 1
	if list[0].Client != netip.AddrFrom4([4]byte{10, 0, byte(last >> 8), byte(last)}) {
		t.Errorf("the first of the list is %v, not the latest client", list[0].Client)
	}
}
