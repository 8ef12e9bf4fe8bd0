package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
)

// TestSessionsOfTheFormerLeader: a new leader waits for who was lost with the former one from that
// one's last moment on, and for whom it has heard itself from then.
func TestSessionsOfTheFormerLeader(t *testing.T) {
	const ttl = 3 * time.Second
	for what, c := range map[string]struct {
		told  bool
		gap   time.Duration
		heard time.Duration // when the node's keep-alive arrives; 0: it does not
		until time.Duration // when the session ends, since the term began
	}{
		"nobody knows":              {until: ttl + leasepb.Margin},
		"a short gap":               {told: true, gap: 1200 * time.Millisecond, until: ttl + leasepb.Margin - 1200*time.Millisecond},
		"a leader that led on":      {told: true, gap: -time.Second, until: ttl + leasepb.Margin},
		"a gap longer than the ttl": {told: true, gap: time.Hour, until: time.Second},
		"one that is heard":         {told: true, gap: 1200 * time.Millisecond, heard: time.Second, until: time.Second + ttl + leasepb.Margin},
		"heard at the beginning":    {told: true, gap: 1200 * time.Millisecond, heard: 1, until: 1 + ttl + leasepb.Margin},
	} {
		t.Run(what, func(t *testing.T) {
			d := newDesk(t)
			d.join(1, "a", "1")
			d.succeed()
			if c.heard > 0 {
				d.alloc.hello(d.now, d.state, 1, &leasepb.Hello{
					Protocol: leasepb.Version, Node: "a", Identity: "1", Session: d.alloc.order[0].ID, LimitsVersion: leasepb.LimitsVersion,
				})
				d.alloc.keepAlive(1, 1, c.heard)
			}
			if c.told {
				d.alloc.LastLed(-c.gap)
				d.alloc.LastLed(0) // whoever knows less takes nothing back
			}
			d.now = c.until
			d.turn()
			if len(d.state.Sessions()) != 1 {
				t.Fatal("the session has ended too early")
			}
			if wake := d.alloc.NextWake(d.now); wake != d.now+1 {
				t.Errorf("the leader wakes %v later, want at once", wake-d.now)
			}
			d.now++
			d.turn()
			if len(d.state.Sessions()) != 0 {
				t.Errorf("the session goes on")
			}
		})
	}
}
