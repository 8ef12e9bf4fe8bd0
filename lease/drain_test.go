package lease

import (
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
