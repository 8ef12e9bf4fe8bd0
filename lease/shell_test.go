package lease

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

func TestManagerAcquiresAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 2, limit.Queue{}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		s1, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		s2, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrOverLimit) {
			t.Fatalf("a third of 2 connections: %v, want ErrOverLimit", err)
		}
		s1.Release()
		s1.Release() // a second time must not free a second slot
		s3, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrOverLimit) {
			t.Fatalf("releasing twice freed two slots: %v", err)
		}
		s2.Release()
		s3.Release()
		if _, err := acquire(m, t.Context(), to(t, "free.example"), newHolder()); err != nil {
			t.Fatalf("a host without a limit: %v", err)
		}
	})
}

func TestQueueIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: 2 * time.Second, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		first, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 3)
		var waiters sync.WaitGroup
		for i := range 3 {
			waiters.Go(func() {
				s, err := acquire(m, t.Context(), up, newHolder())
				if err != nil {
					t.Errorf("waiter %d: %v", i, err)
					return
				}
				order <- i
				s.Release()
			})
			synctest.Wait()
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrQueueFull) {
			t.Fatalf("a fourth waiter in a queue of 3: %v", err)
		}
		first.Release()
		for want := range 3 {
			if got := <-order; got != want {
				t.Fatalf("waiter %d was served in place of %d", got, want)
			}
		}
		waiters.Wait()
	})
}

// The places of a queue are for requests over the limit: those that come together, before the leader
// has said what is free, do not take them from each other. The places may be on the way of slots
// or of tokens.
func TestQueueHoldsOnlyWhatIsOver(t *testing.T) {
	q := limit.Queue{Timeout: 2 * time.Second, Size: 2}
	for name, l := range map[string]limit.Limit{"slots": kit.Limit(t, "up", 5, q), "tokens": requestLimit(t, "up", "1/h", 5, q)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startOne(t, startCluster(t, l))
				subject := &limit.Subject{Host: to(t, "up")}
				enter := func() error {
					if name == "tokens" {
						return m.Take(t.Context(), subject, 0)
					}
					_, err := acquire(m, t.Context(), subject.Host, newHolder())
					return err
				}
				answers := make(chan error, 20)
				for range cap(answers) {
					go func() { answers <- enter() }()
				}
				time.Sleep(time.Second)
				admitted, full := 0, 0
				for len(answers) > 0 {
					switch err := <-answers; {
					case err == nil:
						admitted++
					case errors.Is(err, ErrQueueFull):
						full++
					default:
						t.Errorf("refused with %v", err)
					}
				}
				if admitted != 5 || full != 13 {
					t.Errorf("of 20 requests, %d are admitted and %d refused; want 5 and 13, and 2 that wait", admitted, full)
				}
				began := time.Now()
				if err := enter(); !errors.Is(err, ErrQueueFull) || time.Since(began) > 0 {
					t.Errorf("a request behind a full queue: %v after %v; want it refused at once", err, time.Since(began))
				}
				time.Sleep(2 * time.Second)
				if len(answers) != 2 {
					t.Errorf("%d requests have waited", len(answers))
				}
				for len(answers) > 0 {
					if err := <-answers; !errors.Is(err, ErrQueueTimeout) {
						t.Errorf("a request in the queue: %v", err)
					}
				}
			})
		})
	}
}

func TestQueueTimesOutAndCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: 2 * time.Second, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		s, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrQueueTimeout) {
			t.Fatalf("waiting too long: %v", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %v in a queue of 2s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := acquire(m, ctx, up, newHolder()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a client that went away: %v", err)
		}
		for _, h := range m.Uses() {
			if h.Waiting != 0 || h.InUse != 1 {
				t.Errorf("%s: %d waiting, %d in use; want 0 and 1", h.Key, h.Waiting, h.InUse)
			}
		}
		s.Release()
	})
}

// A node that is cut off resets its connections before its deadline, and its slots are used
// elsewhere only after it.
func TestCutOffNodeFencesBeforeReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 3}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(a, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		c.setCut("a", true)
		cut := time.Now()
		var fencedAfter time.Duration
		go func() {
			<-h.done
			fencedAfter = time.Since(cut)
			if s.Live() {
				t.Error("a severed slot is live")
			}
			s.Release()
		}()
		s2, err := acquire(b, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		reused := time.Since(cut)
		t.Logf("fenced %v after the cut, reused after %v", fencedAfter, reused)
		if h.severed() != SeverFenced || fencedAfter >= 3*time.Second || fencedAfter == 0 {
			t.Errorf("severed for %v after %v, want fenced within the ttl", h.severed(), fencedAfter)
		}
		if reused < fencedAfter || reused > 4*time.Second {
			t.Errorf("reused after %v: want after the fence, within ttl + 1 s", reused)
		}
		if _, err := acquire(a, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrNoLease) {
			t.Errorf("a fenced node admitted: %v", err)
		}
		if got := a.Session().State; got != "fenced" {
			t.Errorf("session %s, want fenced", got)
		}
		free, err := acquire(a, t.Context(), to(t, "free.example"), newHolder())
		if err != nil || !free.Live() {
			t.Errorf("a fenced node refused a host without a limit: %v", err)
		}
		if want, got := []string{"a fenced: 1 severed", "a expired: 1 slots"}, c.hasTold(); !slices.Equal(got, want) {
			t.Errorf("the hooks were told %q, want %q", got, want)
		}
		c.setCut("a", false)
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		s2.Release()
	})
}

func TestNameOfALiveNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t)
		a, stopA := c.start(t, "a", "1")
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		twin := NewManager(ManagerConfig{Name: "a", Identity: "2", Connect: c.connect("a"), Clock: bubbleClock{time.Now()}, Log: hclog.NewNullLogger()})
		if err := twin.Run(ctx); !errors.Is(err, ErrNameTaken) {
			t.Fatalf("a second node of the same name: %v, want ErrNameTaken", err)
		}
		if got := a.Session().State; got != "live" {
			t.Errorf("the first one's session is %s", got)
		}
		// Once the first has gone without a goodbye, a third waits its session out.
		_ = stopA()
		gone := time.Now()
		d, _ := c.start(t, "a", "3")
		if err := d.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(gone); took < 2*time.Second || took > 6*time.Second {
			t.Errorf("another identity got the name after %v, want about ttl + margin", took)
		}
	})
}

func TestGoodbyeFreesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 3}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		s, err := acquire(a, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		a.Drain()
		s.Release()
		id, err := a.Goodbye(t.Context())
		if err != nil || id == 0 {
			t.Fatalf("goodbye of session %d: %v", id, err)
		}
		began := time.Now()
		if _, err := acquire(b, t.Context(), to(t, "up"), newHolder()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("the slot was usable after %v", took)
		}
	})
}

// A new leader takes over without a connection being lost, and grants again.
func TestSessionsSurviveALeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 2, limit.Queue{Timeout: time.Minute, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(m, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		id := m.Session().ID
		c.depose()
		if m.await(t.Context(), func() bool { return !m.node.welcomed() }) != nil {
			t.Fatal("the stream outlived its leader")
		}
		c.lead(t, 2)
		if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); err != nil {
			t.Fatal(err)
		}
		if got := m.Session().ID; got != id || h.severed() != 0 {
			t.Errorf("session %d became %d, severed %v", id, got, h.severed())
		}
		s.Release()
	})
}

// Without a verified leadership nobody is answered: a stream that would wait for ever ends, and a
// lease runs out.
func TestUnverifiedLeaderAnswersNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 2, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(a, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		c.setVerify(errors.New("deposed"))
		b, _ := c.start(t, "b", "2")
		select {
		case <-h.done:
		case <-time.After(10 * time.Second):
			t.Fatal("a node went on past its lease")
		}
		s.Release()
		if got := a.Session().State; got != leasepb.SessionFenced {
			t.Errorf("session %s without a verified answer, want fenced", got)
		}
		if got := b.Session().State; got != leasepb.SessionNone {
			t.Errorf("session %s was opened without a verified answer", got)
		}
		c.setVerify(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := errors.Join(a.WaitLive(ctx), b.WaitLive(ctx)); err != nil {
			t.Fatal(err)
		}
	})
}

// A log that takes nothing for a while delays grants and loses nothing.
func TestFullDiskDelaysGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 2, limit.Queue{Timeout: time.Minute, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.setFull(true)
		time.AfterFunc(5*time.Second, func() { c.setFull(false) })
		began := time.Now()
		s, err := acquire(m, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("granted after %v, want just after the disk had room again", took)
		}
		s.Release()
	})
}

// Kept-alive connections count, and are the first to go when somebody waits.
func TestParkedConnectionsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		for i, m := range []*Manager{a, b} {
			h := newHolder()
			s, err := acquire(a, t.Context(), to(t, "up"), h)
			if err != nil {
				t.Fatal(err)
			}
			s.Park()
			if i == 0 && !s.Unpark() {
				t.Fatal("a parked slot that nobody wants can't be used again")
			}
			s.Park()
			go func() {
				<-h.done
				if s.Unpark() {
					t.Error("a slot that was asked for can be used again")
				}
				s.Release()
			}()
			synctest.Wait() // for the leader to hear that it is parked: the other node's request must not overtake that
			next, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatalf("node %d: a parked connection was not given up: %v", i, err)
			}
			if h.severed() != SeverWanted {
				t.Errorf("severed for %v", h.severed())
			}
			next.Release()
		}
	})
}

// Nobody is refused, on this node or another, for a slot whose connection is closing, or half
// closed.
func TestClosingSlotIsWaitedFor(t *testing.T) {
	t.Run("closing", func(t *testing.T) { testClosingSlot(t, (*Slot).Closing) })
	t.Run("half closed", func(t *testing.T) { testClosingSlot(t, (*Slot).HalfClosed) })
}

func testClosingSlot(t *testing.T, closes func(*Slot)) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		for i, m := range []*Manager{a, b, b, a} {
			holder := []*Manager{a, a, b, b}[i]
			s, err := acquire(holder, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrOverLimit) {
				t.Fatalf("case %d: over the limit: %v", i, err)
			}
			closes(s)
			if use, _ := holder.Use(limit.HostConnections("up")); use.InUse != 1 || use.Idle != 0 {
				t.Errorf("case %d: %d in use, %d idle; want 1 in use", i, use.InUse, use.Idle)
			}
			time.AfterFunc(30*time.Millisecond, s.Release)
			next, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatalf("case %d: a closing slot was not waited for: %v", i, err)
			}
			next.Release()
			time.Sleep(time.Second) // of virtual time: refusals are forgotten
		}
	})
}

// A half-closed connection that goes on is waited for no longer, also by who waits already.
func TestHalfClosedSlotLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 1, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		s, err := acquire(a, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range []*Manager{a, b, a} {
			s.HalfClosed()
			began := time.Now()
			time.AfterFunc(100*time.Millisecond, s.Lasts)
			_, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if took := time.Since(began); !errors.Is(err, ErrOverLimit) || took < 100*time.Millisecond || took > 300*time.Millisecond {
				t.Errorf("case %d: %v after %v", i, err, took)
			}
		}
		if use, _ := a.Use(limit.HostConnections("up")); use.InUse != 1 || use.Idle != 0 {
			t.Errorf("%+v", use)
		}
		s.Release()
	})
}
