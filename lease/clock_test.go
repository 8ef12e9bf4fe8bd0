package lease

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// The clock follows CLOCK_BOOTTIME: a machine that was suspended, whose monotonic clock stood
// still, is noticed at the next reading.
func TestClockCountsSuspension(t *testing.T) {
	const ms = time.Millisecond
	wall := int64(1_700_000_000 * time.Second)
	c := &SystemClock{}
	c.note(ms, wall, time.Hour)
	for _, step := range []struct {
		what string
		mono time.Duration
		wall time.Duration // since the first reading
		sure bool
	}{
		{"the next moment", 2 * ms, ms, true},
		{"slewed a little", 91 * ms, 94 * ms, true},
		{"an old answer", 101 * ms, 100 * ms, false},
		{"suspended for a minute", 10 * ms, time.Minute, false},
		{"suspended for as little as matters", 10 * ms, 9*ms + clockTolerance, false},
		{"the wall clock set back", 10 * ms, -time.Minute, false},
	} {
		if got := c.sure(step.mono, wall+int64(step.wall)); got != step.sure {
			t.Errorf("%s: sure %v, want %v", step.what, got, step.sure)
		}
	}
	if now := c.note(10*ms, wall+int64(time.Minute), time.Hour+time.Minute+9*ms); now != time.Hour+time.Minute+9*ms {
		t.Errorf("after a minute's suspension the clock shows %v", now)
	}
	if !c.sure(11*ms, wall+int64(time.Minute+ms)) {
		t.Error("the kernel would be asked again at once")
	}
	// An answer that says less than is known already does not turn the clock back.
	if now := c.note(12*ms, wall+int64(time.Minute+2*ms), time.Hour); now != time.Hour+time.Minute+11*ms {
		t.Errorf("the clock went back to %v", now)
	}
}

// What the clock shows is CLOCK_BOOTTIME, however many read it, and it never goes back.
func TestClockAgreesWithTheKernel(t *testing.T) {
	c := NewSystemClock()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last time.Duration
			for range 20_000 {
				before := bootTime()
				now := c.Now()
				after := bootTime()
				if now < last {
					t.Errorf("the clock went back from %v to %v", last, now)
				}
				if now < before-clockTolerance || now > after+clockTolerance+time.Second {
					t.Errorf("the clock shows %v between %v and %v", now, before, after)
				}
				last = now
			}
		})
	}
	wg.Wait()
}

func BenchmarkClock(b *testing.B) {
	c := NewSystemClock()
	for b.Loop() {
		c.Now()
	}
}

// A process that was stopped past its lease admits nothing and reads nothing when it wakes, before
// any timer has run.
func TestFrozenProcess(t *testing.T) {
	clock := &manualClock{}
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	table := limit.NewTable(1, 1, []limit.Limit{kit.Limit(t, "up", 5, limit.Queue{})})
	m.node.setLimits(0, table)
	m.node.StreamUp(0)
	m.node.Outgoing(0)
	welcome := &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)}
	if err := m.node.Receive(0, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: welcome}}); err != nil {
		t.Fatal(err)
	}
	grant := &leasepb.Assign{Grants: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 2}}}
	if err := m.node.Receive(0, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: grant}}); err != nil {
		t.Fatal(err)
	}
	s, err := acquire(m, t.Context(), to(t, "up"), newHolder())
	if err != nil || !s.Live() {
		t.Fatalf("acquire: %v", err)
	}
	clock.now.Store(int64(11 * time.Second))
	if s.Live() {
		t.Error("a slot is live past its lease")
	}
	if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrNoLease) {
		t.Errorf("admitted past the lease: %v", err)
	}
	s.Park()
	if s.Unpark() {
		t.Error("a parked connection was reused past the lease")
	}
}

// A wall clock that has jumped ahead ends the lease: the other clock may have stood still.
func TestClockJumpFences(t *testing.T) {
	n := NewNode("a", "1", ExpiryClose, nil)
	n.sess.begin(1, 1, 10*time.Second, 0)
	n.Tick(time.Second, time.Second)
	n.Tick(2*time.Second, 2*time.Second+clockJump)
	if !n.sess.live() {
		t.Fatal("a step within the margin fenced")
	}
	n.Tick(3*time.Second, 3*time.Second-time.Hour)
	if !n.sess.live() {
		t.Fatal("a step backwards fenced")
	}
	n.Tick(4*time.Second, 4*time.Second+time.Hour)
	if n.sess.live() {
		t.Fatal("a wall clock that jumped ahead did not fence")
	}
}
