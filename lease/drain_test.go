package lease

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// Those that wait when a node begins to drain are answered at once, and so are those that come
// then. Once it drains no more, they wait again and get what comes free.
func TestNobodyWaitsForADrainingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := kit.Limit(t, "slow", limit.Unlimited, limit.Queue{Timeout: time.Hour, Size: 3})
		slow.Requests = limit.Rate{Thousandths: 1000, Per: time.Hour, Burst: 1}
		up := kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 3})
		c := startCluster(t, up, slow)
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		held, err := acquire(m, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		token := func() error { return m.Take(t.Context(), &limit.Subject{Host: to(t, "slow")}, 0) }
		if err := token(); err != nil {
			t.Fatal(err)
		}
		slot := func() error {
			s, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if err == nil {
				s.Release()
			}
			return err
		}
		answers := make(chan error, 2)
		go func() { answers <- slot() }()
		go func() { answers <- token() }()
		synctest.Wait()
		began := time.Now()
		m.Drain()
		m.Drain()
		for _, err := range []error{<-answers, <-answers, slot(), token()} {
			if err != ErrDraining || time.Since(began) != 0 {
				t.Errorf("%v after %v, want ErrDraining at once", err, time.Since(began))
			}
		}
		m.Undrain()
		m.Undrain()
		go func() { answers <- slot() }()
		synctest.Wait()
		held.Release()
		if err := <-answers; err != nil {
			t.Errorf("once it drains no more: %v", err)
		}
	})
}

// The connections of a node that drains move their bytes as before, and the log does not grow for
// them. Once they have ended, the node holds nothing.
func TestDrainingNodePacesAsBefore(t *testing.T) {
	const rate, lasts = 10_000_000, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, pacedAt(t, rate, rate))
		m := startOne(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		var total atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			runFlow(ctx, m, &limit.Subject{Host: to(t, "up")}, 64<<10, func(n int) { total.Add(int64(n)) })
		}()
		time.Sleep(lasts)
		m.Drain()
		moved, entries := total.Load(), c.entries()
		time.Sleep(lasts)
		used := float64(total.Load()-moved) / (rate * lasts.Seconds())
		if more := c.entries() - entries; used < 0.95 || more > 10 {
			t.Errorf("while it drains, a flow moves %.2f of the rate, for %d log entries", used, more)
		}
		cancel()
		<-done
		time.Sleep(idleBuckets*time.Second + 2*drawInterval)
		if u, _ := m.Use(upDownload[0]); u.Granted > 0 {
			t.Errorf("a drained node without connections holds %d", u.Granted)
		}
	})
}

// A limit that only reports counts nothing more because its node drains: units are asked for as
// before, and stay while bytes pass, be it with pauses.
func TestDrainCountsNothingAsHeldBack(t *testing.T) {
	const rate, lasts = 10_000_000, 12 * time.Second
	for _, flow := range []struct {
		bytes int
		every time.Duration
	}{{4 << 10, 100 * time.Millisecond}, {4 << 10, 700 * time.Millisecond}, {64 << 10, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			l := pacedAt(t, rate, rate)
			l.Report = true
			c := startCluster(t, l)
			m := startOne(t, c)
			f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
			defer f.End()
			pass := func() (counted, entries uint64) {
				u, _ := m.Use(upDownload[0])
				before := c.entries()
				for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(flow.every) {
					for left := flow.bytes; left > 0; {
						n := f.Take(left)
						if n == 0 {
							t.Fatal("a limit that only reports holds bytes back")
						}
						left -= n
					}
				}
				after, _ := m.Use(upDownload[0])
				return after.WouldReject - u.WouldReject, c.entries() - before
			}
			pass()
			staying, _ := pass()
			m.Drain()
			draining, entries := pass()
			if draining > staying+2 || entries > 50 {
				t.Errorf("%+v: %d pieces are counted while the node drains, %d before; %d log entries", flow, draining, staying, entries)
			}
		})
	}
}

// What a node's connections have moved bytes with until just now goes back with its session.
func TestPartingNodeKeepsNoBandwidth(t *testing.T) {
	m, clock := meterNode(t, upDownload, pacedAt(t, 1_000_000, 64<<10))
	f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
	m.pass(clock, time.Second)
	if f.Take(4096) == 0 {
		t.Fatal("nothing of a full bucket")
	}
	f.End()
	m.Drain()
	if releases, _, _ := said(m); releases > 0 {
		t.Errorf("%d shares go back while the connection may go on", releases)
	}
	m.do(m.node.Part)
	if releases, _, bye := said(m); releases != limit.Shares || !bye {
		t.Errorf("%d shares go back, with a goodbye: %v; want all %d, true", releases, bye, limit.Shares)
	}
}
