package connlimit

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestQueueOrder: with a total of 1, those who wait come in the order in which they arrived, and
// nobody who comes later gets in between.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := Config{Connections: Limits{Total: AtMost(1), Wait: time.Hour}}
		l := newLimiter(t, config)
		b := l.conns
		held, err := b.acquire(t.Context(), netAddr(from("192.0.2.1").RemoteAddr()), 0)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 100)
		var slots [20]Slot
		for i := range slots {
			go func() {
				addr := netAddr(from("192.0.2.2").RemoteAddr())
				s, err := b.acquire(t.Context(), addr, 0)
				if err != nil {
					t.Error(err)
				}
				slots[i] = s
				order <- i
			}()
			synctest.Wait()
		}
		for i := range slots {
			if i == 0 {
				held.Free()
			} else {
				slots[i-1].Free()
			}
			if got := <-order; got != i {
				t.Fatalf("number %d got the slot; want %d", got, i)
			}
		}
		slots[len(slots)-1].Free()
		// A higher limit lets those in who wait.
		held, _ = b.acquire(t.Context(), netAddr(from("192.0.2.1").RemoteAddr()), 0)
		go func() { b.acquire(t.Context(), netAddr(from("192.0.2.3").RemoteAddr()), 0); order <- 99 }()
		synctest.Wait()
		config.Connections.Total = AtMost(2)
		if err := l.SetConfig(config); err != nil {
			t.Fatal(err)
		}
		if got := <-order; got != 99 {
			t.Errorf("%d got in", got)
		}
		held.Free()
	})
}

// TestQueueIsServed: a slot that comes free while another goroutine has the queue's lock is handed
// on by that one.
func TestQueueIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, Config{Connections: Limits{Total: AtMost(1), Wait: time.Hour}})
		b, addr := l.conns, netip.MustParseAddr("192.0.2.1")
		held, err := b.acquire(t.Context(), addr, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error, 1)
		go func() { _, err := b.acquire(t.Context(), addr, 0); got <- err }()
		synctest.Wait()
		start := time.Now()
		b.queue.mu.Lock()
		held.Free()
		b.queue.unlock()
		if err := <-got; err != nil || time.Since(start) > 0 {
			t.Errorf("served after %v, %v; want at once", time.Since(start), err)
		}
	})
}

// TestBlockedDoNotWait: behind a limit of 0 nothing waits, also while others wait for theirs; those
// that wait when the limit becomes 0 are refused then.
func TestBlockedDoNotWait(t *testing.T) {
	block := netip.MustParsePrefix("192.0.2.8/32")
	for name, c := range map[string]struct {
		limits Limits
		scope  Scope
	}{
		"its client": {Limits{Networks: []Network{{Prefix: block, PerClient: AtMost(0)}}}, ScopeClient},
		"network":    {Limits{Networks: []Network{{Prefix: block, Total: AtMost(0)}}}, ScopeNetwork},
		"all":        {Limits{Total: AtMost(0)}, ScopeTotal},
	} {
		synctest.Test(t, func(t *testing.T) {
			limits := Limits{Total: AtMost(1), Wait: time.Hour, MaxWaiting: 2}
			l := newLimiter(t, Config{Connections: limits})
			ctx, leave := context.WithCancel(t.Context())
			defer synctest.Wait()
			defer leave()
			held, err := l.conns.acquire(ctx, netip.MustParseAddr("192.0.2.1"), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Free()
			start := time.Now()
			go l.conns.acquire(ctx, netip.MustParseAddr("192.0.2.2"), 0)
			synctest.Wait()
			waiting := make(chan error, 1)
			go func() { _, err := l.conns.acquire(ctx, block.Addr(), 0); waiting <- err }()
			synctest.Wait()

			c.limits.Wait, c.limits.MaxWaiting = time.Hour, 2
			if c.scope != ScopeTotal {
				c.limits.Total = AtMost(1)
			}
			if err := l.SetConfig(Config{Connections: c.limits}); err != nil {
				t.Fatal(err)
			}
			if e := refusedBy(t, <-waiting, c.scope); !e.Blocked() || time.Since(start) > 0 {
				t.Errorf("%s blocked while it waits: %v after %v", name, e, time.Since(start))
			}
			_, err = l.conns.acquire(ctx, block.Addr(), 0)
			if e := refusedBy(t, err, c.scope); !e.Blocked() || time.Since(start) > 0 {
				t.Errorf("%s blocked before: %v after %v", name, e, time.Since(start))
			}
			want := Counters{Open: 1, Accepted: 1, Refused: 2, Waiting: 1}
			if c.scope == ScopeTotal { // the other one is blocked, too
				want.Refused, want.Waiting = 3, 0
			}
			synctest.Wait()
			if got := l.Stats().Connections; got != want {
				t.Errorf("%s: %+v; want %+v", name, got, want)
			}
		})
	}
}

// TestQueueLeavesNothing: one who goes away at the moment of being served gives the slot back.
func TestQueueLeavesNothing(t *testing.T) {
	l := newLimiter(t, Config{Connections: Limits{Total: AtMost(1), Wait: time.Hour}})
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 100 {
		slot, err := l.conns.queue.wait(gone, netip.MustParseAddr("192.0.2.1"), l.conns.rules.Load(), 0)
		if err == nil {
			slot.Free()
		} else if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if s := l.Stats().Connections; s.Open != 0 || s.Waiting != 0 {
		t.Errorf("%+v; want nothing left", s)
	}
}
