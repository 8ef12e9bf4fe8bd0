package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

func reportLimit(t *testing.T, pattern string, n int64) limit.Limit {
	t.Helper()
	l := kit.Limit(t, pattern, n, limit.Queue{})
	l.Report = true
	return l
}

// A limit that only reports closes nothing, whatever the leader asks for or takes away: no
// connection that is kept for reuse while others have exceeded the limit, none above a target, none
// that the log knows nothing of.
func TestReportSeversNothing(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 1, reportLimit(t, "up", 1))
	holders, _ := parkEach(t, m, m, m)
	m.do(func(now time.Duration) {
		for _, msg := range m.node.Outgoing(now) {
			for _, d := range msg.GetUpdate().GetDemands() {
				if d.InUse < 0 {
					t.Errorf("the node says %v", d)
				}
			}
		}
	})
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
		Targets: []*leasepb.Target{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Seq: 1, Slots: 0, Contended: true, Evict: true}}}}})
	m.do(func(now time.Duration) {
		m.node.correct(now, []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up"))}})
	})
	for i, h := range holders {
		if why := h.severed(); why != 0 {
			t.Errorf("connection %d is to be given up: %v", i, why)
		}
	}
}

// An idle connection that a limit would have had closed takes no place under a limit that only
// reports, and the leader does not wait for its end: what exceeds the limit is counted at once.
func TestReportPassesOverIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startOne(t, startCluster(t, reportLimit(t, "up", 1)))
		_, idle := parkEach(t, m)
		const rounds, each = 3, 5
		for range rounds {
			var slots []*Slot
			for range each {
				slots = append(slots, mustAcquire(t, m, "up"))
			}
			time.Sleep(100 * time.Millisecond)
			for _, s := range slots {
				s.Release()
			}
			time.Sleep(time.Second)
		}
		use, _ := m.Use(limit.HostConnections("up"))
		if want := uint64(rounds * (each - 1)); use.WouldReject != want {
			t.Errorf("%d of %d would have been refused; want %d", use.WouldReject, rounds*each, want)
		}
		idle[0].Release()
	})
}

// A request that still waits under a limit that only reports, when that is removed, is forgotten.
func TestReportingLimitIsRemovedUnderWaiters(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, reportLimit(t, "up", 1))
	mustAcquire(t, m, "up")
	m.do(func(now time.Duration) { m.node.setLimits(now, limit.NewTable(9, 9, nil)) })
	if err := m.node.Check(); err != nil {
		t.Error(err)
	}
	if use, _ := m.Use(limit.HostConnections("up")); use.Waiting != 0 || use.InUse != 1 {
		t.Errorf("%+v", use)
	}
}

// The rate now is what passes: under a limit that only reports, also what passes above it. The
// demand that the leader hears of is of what the limit would give.
func TestRateNowCountsWhatExceeds(t *testing.T) {
	requests, bytes := requestLimit(t, "up", "10/s", 10, limit.Queue{}), pacedAt(t, 1_000_000, 64<<10)
	for name, c := range map[string]struct {
		limit limit.Limit
		key   limit.Key
		pass  func(*Manager, *testFlow, *limit.Subject) error // a fortieth of a second's
		want  float64
	}{
		"requests": {requests, limit.Key{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"},
			func(m *Manager, _ *testFlow, s *limit.Subject) error { return m.Take(context.Background(), s, 0) }, 40},
		"bytes": {bytes, upDownload[0], func(_ *Manager, f *testFlow, _ *limit.Subject) error {
			for left := 100_000; left > 0; {
				n := f.Take(left + 1000)
				if n == 0 {
					return errors.New("held back")
				}
				f.Put(max(n-left, 0))
				left -= n
			}
			return nil
		}, 4_000_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limit.Report = true
				m := startOne(t, startCluster(t, c.limit))
				subject := &limit.Subject{Host: to(t, "up")}
				f := newTestFlow(m, subject)
				defer f.End()
				for i := range 240 {
					if err := c.pass(m, f, subject); err != nil {
						t.Fatal(err)
					}
					time.Sleep(25 * time.Millisecond)
					if u, _ := m.Use(c.key); i >= 40 && (u.Now < 0.9*c.want || u.Now > 1.1*c.want) {
						t.Fatalf("after %d: %v a second; want about %v", i, u.Now, c.want)
					}
				}
				p := m.node.lookup(c.key)
				p.mu.Lock()
				drawn, most := p.draws.lately(m.cfg.Clock.Now()), c.limit.PerSecond(c.key.Resource)
				p.mu.Unlock()
				if drawn < 0.7*most || drawn > 1.2*most {
					t.Errorf("%v grains a second are drawn, of %v", drawn, most)
				}
				time.Sleep(2 * time.Second)
				if u, _ := m.Use(c.key); u.Now != 0 {
					t.Errorf("at rest: %v a second", u.Now)
				}
			})
		})
	}
}

// A request that a limit which only reports has let through does not wait, for a slot or a token.
func TestAdmittedRequestsDoNotWait(t *testing.T) {
	slots, tokens := reportLimit(t, "up", 1), requestLimit(t, "up", "1/h", 1, limit.Queue{})
	tokens.Report = true
	subject := &limit.Subject{Host: to(t, "up")}
	for resource, c := range map[limit.Resource]struct {
		limit limit.Limit
		enter func(*Manager) error
	}{
		limit.Connections: {slots, func(m *Manager) error {
			_, err := acquire(m, t.Context(), subject.Host, newHolder())
			return err
		}},
		limit.Requests: {tokens, func(m *Manager) error { return m.Take(t.Context(), subject, 0) }},
	} {
		m, _ := meterNode(t, nil, c.limit)
		for range 5 {
			if err := c.enter(m); err != nil {
				t.Fatal(err)
			}
		}
		key := limit.Key{Scope: limit.ScopeHost, Resource: resource, Name: "up"}
		if u, _ := m.Use(key); u.Waiting != 0 || u.Admitted != 5 {
			t.Errorf("%v: %d wait, and %d are admitted; want 0 and 5", resource, u.Waiting, u.Admitted)
		}
		if err := m.node.Check(); err != nil {
			t.Error(err)
		}
	}
}
