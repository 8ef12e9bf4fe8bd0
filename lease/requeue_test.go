package lease

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// Requests that wait, for a slot or for a token, go by the queue that their limit has now, from when
// they began to wait.
func TestWaitersGoByTheNewQueue(t *testing.T) {
	queue := func(timeout time.Duration, size int) limit.Queue { return limit.Queue{Timeout: timeout, Size: size} }
	const soon = 200 * time.Millisecond // the leader answers an ask
	for name, c := range map[string]struct {
		from, to  limit.Queue
		at, until time.Duration // of the change and of the end, since the wait began
		want      error
	}{
		"shorter":           {queue(12*time.Second, 9), queue(2*time.Second, 9), time.Second, 2 * time.Second, ErrQueueTimeout},
		"shorter than ever": {queue(12*time.Second, 9), queue(2*time.Second, 9), 5 * time.Second, 5 * time.Second, ErrQueueTimeout},
		"longer":            {queue(2*time.Second, 9), queue(6*time.Second, 9), time.Second, 6 * time.Second, ErrQueueTimeout},
		"without":           {queue(12*time.Second, 9), limit.Queue{}, time.Second, time.Second, ErrOverLimit},
		"smaller":           {queue(4*time.Second, 9), queue(4*time.Second, 1), time.Second, 4 * time.Second, ErrQueueTimeout},
		"the same":          {queue(4*time.Second, 9), queue(4*time.Second, 9), time.Second, 4 * time.Second, ErrQueueTimeout},
	} {
		for _, kind := range []string{"slots", "tokens"} {
			for _, moves := range []bool{false, true} {
				t.Run(name+", "+kind+map[bool]string{true: ", of another pattern"}[moves], func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						of := func(pattern string, q limit.Queue) (l limit.Limit) {
							if l = kit.Limit(t, pattern, 1, q); kind == "tokens" {
								l = requestLimit(t, pattern, "1/h", 1, q)
							}
							l.Shared = pattern == "*.up" // so that another pattern has another count
							return l
						}
						cl := startCluster(t, of("*.up", c.from))
						m := startOne(t, cl)
						subject := &limit.Subject{Host: to(t, "a.up")}
						enter := func() error {
							if kind == "tokens" {
								return m.Take(t.Context(), subject, 0)
							}
							_, err := acquire(m, t.Context(), subject.Host, newHolder())
							return err
						}
						if err := enter(); err != nil {
							t.Fatal(err)
						}
						type end struct {
							err   error
							after time.Duration
						}
						ends := make(chan end, 5)
						began := time.Now()
						for range cap(ends) {
							go func() {
								err := enter()
								ends <- end{err, time.Since(began)}
							}()
						}
						time.Sleep(c.at)
						next := of("*.up", c.to)
						if moves {
							next = of("a.up", c.to)
						}
						if _, err := cl.Propose(t.Context(), 1, &fsm.PutLimit{Limit: next}); err != nil {
							t.Fatal(err)
						}
						for range cap(ends) {
							e := <-ends
							if moves && kind == "tokens" && (e.err == nil || name == "smaller" && errors.Is(e.err, ErrQueueFull)) {
								continue // the new count has a token of its own, and places for those who come now
							}
							if !errors.Is(e.err, c.want) || e.after < c.until || e.after > c.until+soon {
								t.Errorf("%v after %v; want %v after %v", e.err, e.after, c.want, c.until)
							}
						}
					})
				})
			}
		}
	}
}

// A request that waits for the leader's answer when its limit gets a queue takes a place in it.
func TestAskersJoinANewQueue(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, kit.Limit(t, "up", 1, limit.Queue{}))
	var w *Waiter
	m.do(func(now time.Duration) {
		w, _ = m.node.Acquire(now, NewSlot(to(t, "up"), newHolder()), func(err error) { t.Errorf("answered: %v", err) })
	})
	said(m) // the ask
	var left time.Duration
	w.Retime(func(d time.Duration) { left = d })
	next := kit.Limit(t, "up", 1, limit.Queue{Timeout: 7 * time.Second, Size: 1})
	m.do(func(now time.Duration) {
		m.node.setLimits(now, limit.NewTable(2, 1, []limit.Limit{next}))
		m.node.answered(now, w.pool, &leasepb.Answer{Ask: w.ask})
		if err := m.node.Check(); err != nil {
			t.Error(err)
		}
	})
	if left != 7*time.Second || !w.queued {
		t.Errorf("%v are left, in the queue %v; want 7s, true", left, w.queued)
	}
}
