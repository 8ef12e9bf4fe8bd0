package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limit"
)

// A client that leaves the queue of a rate tends to come again, as one that is refused does: units
// don't go to its node and back, with two entries, each time.
func TestGivingUpCostsNoEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := startCluster(t, requestLimit(t, "up", "0.5/s", 11, limit.Queue{Timeout: 2 * time.Second, Size: 100}))
		nodes := startThree(t, cl)
		subject := &limit.Subject{Host: to(t, "up")}
		ctx, cancel := context.WithCancel(t.Context())
		for _, name := range []string{"b", "c"} {
			for range 5 {
				go func() {
					for ctx.Err() == nil {
						_ = nodes[name].Take(ctx, subject, 0)
					}
				}()
			}
		}
		time.Sleep(30 * time.Second) // the burst is used up, and turns are long
		before, gaveUp := cl.entries(), 0
		for begun := time.Now(); time.Since(begun) < 20*time.Second; {
			short, end := context.WithTimeout(t.Context(), 16*time.Millisecond)
			if nodes["a"].Take(short, subject, 0) != nil {
				gaveUp++
			}
			end()
			time.Sleep(120 * time.Millisecond)
		}
		if n := cl.entries() - before; gaveUp < 100 || n > 40 {
			t.Errorf("%d entries for %d clients that gave up", n, gaveUp)
		}
		cancel()
		synctest.Wait()
	})
}

// A request that a limit in mode report would have refused is as one that was refused, too.
func TestReportingCostsNoEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := requestLimit(t, "up", "0.5/s", 12, limit.Queue{})
		l.Report = true
		cl := startCluster(t, l)
		nodes := startThree(t, cl)
		subject := &limit.Subject{Host: to(t, "up")}
		ask := func(times int) {
			for i := range times {
				if err := nodes[string(rune('a'+i%3))].Take(t.Context(), subject, 0); err != nil {
					t.Fatalf("a limit that only reports refuses: %v", err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		ask(600) // the burst is used up
		before := cl.entries()
		ask(400)
		if n := cl.entries() - before; n > 40 {
			t.Errorf("%d entries for 400 requests", n)
		}
	})
}
