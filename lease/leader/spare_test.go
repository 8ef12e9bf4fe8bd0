package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// Once it was regretted that a node's last unit went to others, it stays for a while after the node
// has drawn nothing more, however long the node had kept others idle before.
func TestLastUnitStaysAfterRegret(t *testing.T) {
	const unit = limit.Shares / 10
	d := newDesk(t, rateLimit(t, "50/s", 10))
	d.join(1, "rare", "1")
	d.join(2, "greedy", "2")
	pass := func(d *desk, by time.Duration) {
		for end := d.now + by; d.now < end; {
			d.now += 100 * time.Millisecond
			for _, p := range d.alloc.order {
				p.seen = d.now
			}
			d.turn()
		}
	}
	held := func() int64 { return d.state.GrantOf(d.alloc.conns[1].ID, totalRequests) / unit }
	fetched := func() bool { // whether all is asked back of the node
		return d.alloc.conns[1].demands[totalRequests].sent.slots == 0
	}
	d.ask(1, &leasepb.Demand{Waiting: 2 * unit}, totalRequests)
	d.turn()
	d.ask(2, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	d.turn()
	rare := func(use int64) {
		d.ask(1, &leasepb.Demand{Held: held() * unit, InUse: use * unit, Headroom: use * unit}, totalRequests)
		d.turn()
	}
	rare(1)
	pass(d, 2*time.Second)
	if rare(0); !fetched() {
		t.Fatal("a last unit stays, though none was ever missed")
	}
	d.alloc.keys[totalRequests].patience = 4 * time.Second
	rare(1)
	pass(d, 2*time.Second)
	rare(0)
	for range 3 {
		if fetched() {
			t.Fatal("the last unit is fetched at once")
		}
		pass(d, time.Second)
	}
	if pass(d, 1500*time.Millisecond); !fetched() {
		t.Error("the last unit stays for ever")
	}
}
