package lease

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// A session that the leader has closed allows nothing from that moment on, however long it would
// have run.
func TestClosedSessionAllowsNothing(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 2, kit.Limit(t, "up", 5, limit.Queue{}))
	h := newHolder()
	if _, err := acquire(m, t.Context(), to(t, "up"), h); err != nil {
		t.Fatal(err)
	}
	m.do(func(now time.Duration) {
		closed := &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Closed{Closed: &leasepb.Closed{}}}
		if err := m.node.Receive(now, closed); !errors.Is(err, errSessionGone) {
			t.Errorf("the stream of a closed session goes on: %v", err)
		}
		late := m.node.Receive(now, granted(1))
		if !errors.Is(late, errSessionGone) {
			t.Errorf("a grant of a closed session was taken: %v", late)
		}
	})
	if use, _ := m.Use(limit.HostConnections("up")); h.severed() != SeverFenced || m.node.gate.admits(m.cfg.Clock) || use.Granted != 0 {
		t.Errorf("severed %v, admits %v, %d slots believed", h.severed(), m.node.gate.admits(m.cfg.Clock), use.Granted)
	}
}

// A leader that was deposed without noticing may still tell its limits, which are older than those
// that the node goes by: they don't count, unless it answers the hello: then the log is another one.
func TestLimitsDoNotGoBack(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{}))
	tell := func(index uint64) { hear(t, m, leasepb.LimitsMessage("", limit.NewTable(index, 1, nil))) }
	again := func() {
		m.do(func(now time.Duration) {
			m.node.StreamDown(now)
			m.node.StreamUp(now)
			m.node.Outgoing(now)
		})
	}
	is := func(want uint64, what string) {
		t.Helper()
		if got := m.Table().Index; got != want {
			t.Errorf("%s: the node goes by limits of index %d; want %d", what, got, want)
		}
	}
	tell(9)
	is(9, "newer ones")
	again()
	tell(7)
	is(9, "older ones")
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true}}})
	is(7, "older ones, in a log that was put back to where it has the session")
	tell(8)
	is(8, "and what follows there")
	tell(10)
	is(10, "newer ones again")
	again()
	tell(7)
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 8, TtlNs: int64(10 * time.Second)}}})
	is(7, "older ones, in a log where the session is new")
	tell(6)
	is(6, "and what follows there")
}

// A node that wakes up past its deadline fences, also where its stream comes before its timer:
// neither what it sends then, nor what it hears, brings the session back.
func TestNothingIsSaidOrHeardPastTheDeadline(t *testing.T) {
	ack := &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: 1}}}
	for name, wake := range map[string]func(*Manager, time.Duration){
		"sends": func(m *Manager, now time.Duration) {
			if out := m.node.Outgoing(now); len(out) != 0 {
				t.Errorf("it says %v", out)
			}
		},
		"hears": func(m *Manager, now time.Duration) {
			if err := m.node.Receive(now, ack); !errors.Is(err, errSessionGone) {
				t.Errorf("the stream goes on: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, clock := liveManager(t, ExpiryClose, 1, kit.Limit(t, "up", 5, limit.Queue{}))
			h := newHolder()
			if _, err := acquire(m, t.Context(), to(t, "up"), h); err != nil {
				t.Fatal(err)
			}
			clock.now.Store(int64(time.Hour))
			m.do(func(now time.Duration) { wake(m, now) })
			if st := m.Session(); st.State != leasepb.SessionFenced || h.severed() != SeverFenced {
				t.Errorf("the session is %s, the connection severed as %q", st.State, h.severed())
			}
		})
	}
}

// A new session runs from the hello, not from the welcome: the leader may have died long before
// that arrived.
func TestLeaseRunsFromTheHello(t *testing.T) {
	clock := &manualClock{}
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	m.node.StreamUp(0)
	m.node.Outgoing(0)
	clock.now.Store(int64(4 * time.Second))
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{
		Welcome: &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)}}})
	if st := m.Session(); st.ExpiresIn != 6*time.Second {
		t.Errorf("the session expires in %v, want 10s from the hello, 4s ago", st.ExpiresIn)
	}
	// An answer counts from when its keep-alive was sent, and only once.
	m.node.Outgoing(4 * time.Second)
	clock.now.Store(int64(5 * time.Second))
	for range 2 {
		hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: m.node.sess.seq}}})
		if st := m.Session(); st.ExpiresIn != 9*time.Second {
			t.Errorf("the session expires in %v, want 10s from the keep-alive, 1s ago", st.ExpiresIn)
		}
	}
}

// What a draining node gives back while it has no stream is in the difference between its hello and
// the log: said again, it would free slots that are in use.
func TestReleaseBetweenStreamsIsNotSaidTwice(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 2, kit.Limit(t, "up", 5, limit.Queue{}))
	s := mustAcquire(t, m, "up")
	mustAcquire(t, m, "up")
	m.do(func(now time.Duration) { m.node.StreamDown(now) })
	m.Drain()
	s.Release()
	m.do(func(now time.Duration) { m.node.StreamUp(now) })
	_, hello, _ := said(m)
	if len(hello.GetHoldings()) != 1 || hello.Holdings[0].Slots != 1 {
		t.Fatalf("the hello states %v, want one slot", hello.GetHoldings())
	}
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true}}})
	if releases, _, _ := said(m); releases != 0 {
		t.Errorf("%d slots released that the hello did not state", releases)
	}
}

// What is given back between the hello and its answer is of what the log does not grant, if it
// grants less than the hello stated: said as well, it would be taken from what the log grants, and
// the node would go on to believe in it.
func TestReleaseBeforeCorrectionIsNotSaid(t *testing.T) {
	for _, c := range []struct{ granted, left, released int64 }{{0, 0, 0}, {1, 1, 0}, {2, 2, 0}, {3, 2, 1}} {
		m, _ := liveManager(t, ExpiryClose, 3, kit.Limit(t, "up", 5, limit.Queue{}))
		s := mustAcquire(t, m, "up")
		mustAcquire(t, m, "up")
		mustAcquire(t, m, "up")
		m.do(func(now time.Duration) {
			m.node.StreamDown(now)
			m.node.StreamUp(now)
		})
		if _, hello, _ := said(m); len(hello.GetHoldings()) != 1 || hello.Holdings[0].Slots != 3 {
			t.Fatalf("the hello states %v, want three slots", hello.GetHoldings())
		}
		m.Drain()
		s.Release()
		hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true,
			Corrected: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: c.granted}}}}})
		releases, _, _ := said(m)
		use, _ := m.Use(limit.HostConnections("up"))
		if use.Granted != c.left || int64(releases) != c.released {
			t.Errorf("of %d granted, the node believes to hold %d and gives %d back; want %d and %d", c.granted, use.Granted, releases, c.left, c.released)
		}
	}
}

// While limits change, nobody is let through by a limit that no longer counts the host.
func TestWaitersMoveOnlyUnderNewLimits(t *testing.T) {
	shared := kit.Limit(t, "*.x.org", 3, limit.Queue{Timeout: time.Minute, Size: 9})
	shared.Shared = true
	m, _ := liveManager(t, ExpiryClose, 0, shared)
	m.do(func(time.Duration) {
		m.node.pool(0, limit.HostConnections("*.x.org")) // the first to hear of new limits
		m.node.pool(0, limit.HostConnections("a.x.org")) // known from former days
	})
	var w *Waiter
	m.do(func(now time.Duration) {
		w, _ = m.node.Acquire(now, &Slot{manager: m, target: to(t, "a.x.org"), holder: newHolder()}, func(error) {})
	})
	if w == nil {
		t.Fatal("let in without a slot")
	}
	each := shared
	each.Shared = false
	m.do(func(now time.Duration) { m.node.setLimits(now, limit.NewTable(2, 2, []limit.Limit{each})) })
	if use, _ := m.Use(limit.HostConnections("a.x.org")); use.InUse != 0 || use.Waiting != 1 {
		t.Errorf("%d in use and %d waiting without a slot granted, want 0 and 1", use.InUse, use.Waiting)
	}
}

// A process that wakes past its lease lets nobody in, though a grant lies on its stream.
func TestGrantPastTheLeaseAdmitsNobody(t *testing.T) {
	m, clock := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{Timeout: time.Minute, Size: 9}))
	var told error
	m.do(func(now time.Duration) {
		_, _ = m.node.Acquire(now, &Slot{manager: m, target: to(t, "up"), holder: newHolder()}, func(err error) { told = err })
	})
	clock.now.Store(int64(11 * time.Second))
	m.do(func(now time.Duration) {
		if err := m.node.Receive(now, granted(1)); !errors.Is(err, errSessionGone) {
			t.Errorf("a grant past the lease was taken: %v", err)
		}
	})
	if !errors.Is(told, ErrNoLease) {
		t.Errorf("who waited past the lease was told %v", told)
	}
}

// With on_expiry "drain", connections live on past the lease, and nothing new starts on them.
func TestDrainLetsConnectionsEnd(t *testing.T) {
	for expiry, live := range map[Expiry]bool{ExpiryClose: false, ExpiryDrain: true, ExpiryKeep: true} {
		m, clock := liveManager(t, expiry, 3, kit.Limit(t, "up", 5, limit.Queue{}))
		h := newHolder()
		s, err := acquire(m, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		parked := mustAcquire(t, m, "up")
		parked.Park()
		clock.now.Store(int64(11 * time.Second))
		m.do(func(now time.Duration) { m.node.Tick(now, now) })
		if s.Live() != live || (h.severed() != 0) == live {
			t.Errorf("%s: live %v, severed %v past the lease", expiry, s.Live(), h.severed())
		}
		_, err = acquire(m, t.Context(), to(t, "up"), newHolder())
		if new := expiry == ExpiryKeep; (err == nil) != new || parked.Unpark() != new {
			t.Errorf("%s: a new connection past the lease: %v", expiry, err)
		}
	}
}

// An eviction closes connections that no request uses first, and leaves as many as the limit allows.
// One that is half closed counts as the others do: it may last.
func TestEvictClosesParkedFirst(t *testing.T) {
	for target, want := range map[int64]string{
		6: "......", 5: "w.....", 3: "w.w..w", 2: "w.w.ew", 1: "w.weew", 0: "weweew",
	} {
		m, _ := liveManager(t, ExpiryClose, 6, kit.Limit(t, "up", 6, limit.Queue{}))
		var holders []*holder
		for i := range 6 {
			h := newHolder()
			s, err := acquire(m, t.Context(), to(t, "up"), h)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 || i == 2 || i == 5 {
				s.Park()
			}
			if i == 4 {
				s.HalfClosed()
			}
			holders = append(holders, h)
		}
		hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
			Targets: []*leasepb.Target{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Seq: 1, Slots: target, Contended: true, Evict: true}}}}})
		got := ""
		for _, h := range holders {
			got += map[Reason]string{0: ".", SeverWanted: "w", SeverEvicted: "e"}[h.severed()]
		}
		if got != want {
			t.Errorf("down to %d: %s are closed, want %s", target, got, want)
		}
	}
}

// A draining node keeps nothing idle, also what falls idle later.
func TestDrainClosesWhatIsParkedLater(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 2, kit.Limit(t, "up", 5, limit.Queue{}))
	h := newHolder()
	s, err := acquire(m, t.Context(), to(t, "up"), h)
	if err != nil {
		t.Fatal(err)
	}
	other := mustAcquire(t, m, "up")
	m.Drain()
	s.Park()
	if h.severed() != SeverWanted {
		t.Errorf("severed %v, want the slot wanted", h.severed())
	}
	other.Release()
	if releases, _, _ := said(m); releases != 1 {
		t.Errorf("%d slots released at once, want 1", releases)
	}
}

// A node that drains no more keeps slots and idle connections again; one that has said goodbye does
// not.
func TestUndrainKeepsSlotsAgain(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 2, kit.Limit(t, "up", 5, limit.Queue{}))
	h := newHolder()
	s, err := acquire(m, t.Context(), to(t, "up"), h)
	if err != nil {
		t.Fatal(err)
	}
	other := mustAcquire(t, m, "up")
	m.Drain()
	m.Undrain()
	s.Park()
	if reason := h.severed(); reason != 0 {
		t.Errorf("severed %v, want the idle connection kept", reason)
	}
	other.Release()
	if releases, _, _ := said(m); releases != 0 {
		t.Errorf("%d slots released, want the free one kept", releases)
	}
	mustAcquire(t, m, "up").Release()
	m.do(m.node.Part)
	m.Undrain()
	if h.severed() != SeverWanted {
		t.Errorf("severed %v after the goodbye, want the slot wanted", h.severed())
	}
	if releases, _, _ := said(m); releases != 1 {
		t.Errorf("%d slots released after the goodbye, want the free one", releases)
	}
}

// The session is not ended by consent while something still uses it, and nothing starts once it is
// to end.
func TestGoodbyeWaitsForTheLastRelease(t *testing.T) {
	m, clock := liveManager(t, ExpiryClose, 2, kit.Limit(t, "up", 5, limit.Queue{}))
	s := mustAcquire(t, m, "up")
	clock.now.Store(int64(4 * time.Second))
	said(m) // a keep-alive among it
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if id, err := m.Goodbye(ctx); id != 0 || err == nil {
		t.Errorf("session %d was given back while a connection uses it: %v", id, err)
	}
	if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrDraining) {
		t.Errorf("admitted after the goodbye: %v", err)
	}
	if _, _, bye := said(m); bye {
		t.Error("the leader was told while a connection uses the session")
	}
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: m.node.sess.seq}}})
	if m.node.gate.admits(m.cfg.Clock) {
		t.Error("a keep-alive's answer opened the gate again")
	}
	s.Release()
	if _, _, bye := said(m); !bye {
		t.Error("the leader was not told after the last release")
	}
}

// Where the log grants less than the node states, the newest connections beyond it are fenced;
// adopted ones stay.
func TestCorrectionFencesTheDifference(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 3, kit.Limit(t, "up", 5, limit.Queue{}))
	var holders []*holder
	for range 3 {
		h := newHolder()
		if _, err := acquire(m, t.Context(), to(t, "up"), h); err != nil {
			t.Fatal(err)
		}
		holders = append(holders, h)
	}
	m.do(func(now time.Duration) {
		m.node.StreamDown(now)
		m.node.StreamUp(now)
		m.node.Outgoing(now)
	})
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 7, Resumed: true,
		Corrected: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 1}}}}})
	for i, h := range holders {
		if fenced := i > 0; (h.severed() == SeverFenced) != fenced {
			t.Errorf("connection %d severed %v", i, h.severed())
		}
	}
	if use, _ := m.Use(limit.HostConnections("up")); use.Granted != 1 {
		t.Errorf("%d slots believed, the log grants 1", use.Granted)
	}
}

// A keep-alive that is due and stuck in the stream does not make the timer spin.
func TestDueKeepAliveDoesNotSpin(t *testing.T) {
	m, clock := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{}))
	clock.now.Store(int64(5 * time.Second))
	m.do(func(now time.Duration) {
		m.node.Tick(now, now)
		if at := m.node.NextWake(now); at <= now {
			t.Errorf("to be woken %v ago", now-at)
		}
	})
}

// A host that is refused for long without ever being let in is not forgotten while its refusals are
// counted.
func TestRefusedHostIsNotForgotten(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{}))
	m.do(func(now time.Duration) {
		p := m.node.pool(now, limit.HostConnections("up"))
		p.lock()
		m.node.noteRefused(now, p)
		p.mu.Unlock()
		m.node.Outgoing(now)
		m.node.second(now + 2*forgetAfter)
		if m.node.lookup(p.key) != p {
			t.Error("forgotten with a refusal in hand")
		}
	})
}

// A draining node wants nothing for requests that it has refused: what came for them would go back
// at once, and come again.
func TestDrainingNodeWantsNothing(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 5, limit.Queue{}))
	for _, drains := range []bool{false, true} {
		m.do(func(now time.Duration) {
			p := m.node.pool(now, limit.HostConnections("up"))
			if drains {
				m.node.Drain(now)
			}
			m.node.lock(p)
			defer p.mu.Unlock()
			m.node.noteRefused(now, p)
			if d := m.node.demand(now, p); (d.Refused == 0) != drains {
				t.Errorf("draining %v: %d refused", drains, d.Refused)
			}
		})
	}
}

// A request is refused as over the limit only where the leader has said so: one that is not
// answered has no lease.
func TestUnansweredIsNotOverLimit(t *testing.T) {
	for _, queue := range []limit.Queue{{}, {Timeout: time.Second, Size: 3}} {
		m, clock := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 3, queue))
		var got error
		var w *Waiter
		m.do(func(now time.Duration) {
			w, _ = m.node.Acquire(now, NewSlot(to(t, "up"), newHolder()), func(err error) { got = err })
		})
		if w == nil {
			t.Fatal("the request does not wait")
		}
		clock.now.Store(int64(w.Patience(0)))
		m.do(func(now time.Duration) { m.node.Expire(now, w) })
		want := ErrNoLease
		if queue.Enabled() {
			want = ErrQueueTimeout
		}
		if !errors.Is(got, want) {
			t.Errorf("queue %v: answered %v, want %v", queue.Enabled(), got, want)
		}
	}
}
