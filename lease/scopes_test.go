package lease

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

func addr(t *testing.T, s string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// begin is a request in hand of a client.
func begin(t *testing.T, m *Manager, client string) (*Request, error) {
	t.Helper()
	r := new(Request)
	a := limit.ClientOf(addr(t, client))
	return r, m.Begin(t.Context(), r, &limit.Subject{Client: a, User: "u", Host: to(t, "up")}, newHolder())
}

func scopeLimit(t *testing.T, scope limit.Scope, pattern string, n int64) limit.Limit {
	t.Helper()
	p, err := scope.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: n, Source: limit.SourceConfig}
}

func TestRequestsCountInEachScope(t *testing.T) {
	for _, c := range []struct {
		limit limit.Limit
		other bool // another client is let in
	}{
		{scopeLimit(t, limit.ScopeClient, "*", 2), true},
		{scopeLimit(t, limit.ScopeClient, "10.0.0.0/8", 2), true},
		{scopeLimit(t, limit.ScopeUser, "u", 2), false},
		{scopeLimit(t, limit.ScopeTotal, "", 2), false},
	} {
		t.Run(c.limit.Name(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := startCluster(t, c.limit)
				nodes := startThree(t, cl)
				first, err := begin(t, nodes["a"], "10.0.0.7")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := begin(t, nodes["b"], "10.0.0.7"); err != nil {
					t.Fatal(err)
				}
				var refused *LimitError
				_, err = begin(t, nodes["c"], "10.0.0.7")
				if !errors.As(err, &refused) || refused.Key.Scope != c.limit.Pattern.Scope() {
					t.Fatalf("a third of 2 requests: %v", err)
				}
				if other, err := begin(t, nodes["c"], "10.0.0.8"); (err == nil) != c.other {
					t.Errorf("another client's: %v", err)
				} else if err == nil {
					other.End()
				}
				first.End()
				first.End()
				if _, err := begin(t, nodes["c"], "10.0.0.7"); err != nil {
					t.Errorf("after one has ended: %v", err)
				}
			})
		})
	}
}

// A limit that is set while requests are in hand counts them, closes none, and lets no others in
// until enough of them have ended.
func TestFirstLimitCountsRequestsInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := startCluster(t)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		var held []*Request
		for range 3 {
			r, err := begin(t, m, "10.0.0.7")
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, r)
		}
		if _, err := cl.Propose(t.Context(), 1, &fsm.PutLimit{Limit: scopeLimit(t, limit.ScopeClient, "*", 3)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !held[0].Limited() || !held[0].Live() {
			t.Errorf("limited %v, live %v", held[0].Limited(), held[0].Live())
		}
		if _, err := begin(t, m, "10.0.0.7"); !errors.Is(err, ErrOverLimit) {
			t.Fatalf("a fourth beside three that were there before: %v", err)
		}
		held[0].End()
		if _, err := begin(t, m, "10.0.0.7"); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
	})
}

// A request's memory that is used again knows nothing of its former use: one whose client was
// counted, and severed, is served where nothing counts it any more.
func TestRequestIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted := scopeLimit(t, limit.ScopeClient, "*", 2)
		cl := startCluster(t, counted)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := begin(t, m, "10.0.0.7")
		if err != nil {
			t.Fatal(err)
		}
		counted.Connections, counted.Evict, counted.Source = 0, true, limit.SourceAPI
		if _, err := cl.Propose(t.Context(), 1, &fsm.PutLimit{Limit: counted}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if r.Live() || !r.Limited() {
			t.Fatalf("a request above a limit that evicts: live %v, limited %v", r.Live(), r.Limited())
		}
		r.End()
		for range 2 { // the API's, and the one below it
			if _, err := cl.Propose(t.Context(), 1, &fsm.DeleteLimit{Pattern: counted.Pattern}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if err := m.Begin(t.Context(), r, r.subject, newHolder()); err != nil {
			t.Fatal(err)
		}
		if !r.Live() || r.Limited() {
			t.Errorf("where no limit is: live %v, limited %v", r.Live(), r.Limited())
		}
	})
}

// A limit that only reports refuses nothing, and counts what it would have refused.
func TestReportRefusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slots := limit.Limit{Connections: 2, Report: true, Source: limit.SourceConfig}
		slots.Pattern, _ = limit.ParsePattern("up")
		rate := requestLimit(t, "rated", "1/h", 2, limit.Queue{})
		rate.Report = true
		cl := startCluster(t, slots, rate)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			if err := m.Take(t.Context(), &limit.Subject{Host: to(t, "rated")}, 0); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, key := range []limit.Key{limit.HostConnections("up"), {Scope: limit.ScopeHost, Resource: limit.Requests, Name: "rated"}} {
			if use, ok := m.Use(key); !ok || use.WouldReject != 3 || use.Admitted != 5 || use.Rejected != 0 {
				t.Errorf("%v: %+v", key, use)
			}
		}
	})
}
