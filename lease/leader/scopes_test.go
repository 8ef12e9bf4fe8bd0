package leader

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// scoped is a limit on connections of a scope.
func scoped(t testing.TB, scope limit.Scope, pattern string, n int64) limit.Limit {
	t.Helper()
	p, err := scope.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: n, Source: limit.SourceConfig}
}

func (d *desk) ask(conn uint64, m *leasepb.Demand, key limit.Key) {
	m.Key = fsmpb.KeyOf(key)
	d.alloc.update(d.now, conn, &leasepb.Update{Demands: []*leasepb.Demand{m}, LimitsIndex: d.state.Table().Index})
}

// Slots of every scope are shared out alike.
func TestScopesAreSharedOutAlike(t *testing.T) {
	d := newDesk(t, scoped(t, limit.ScopeTotal, "", 6), scoped(t, limit.ScopeClient, "10.0.0.0/8", 6),
		scoped(t, limit.ScopeUser, "*", 6), scoped(t, limit.ScopeKey, "tenant/*", 6), kit.Limit(t, "up", 6, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	for _, key := range []limit.Key{
		limit.HostConnections("up"),
		{Scope: limit.ScopeTotal, Resource: limit.Connections},
		{Scope: limit.ScopeClient, Resource: limit.Connections, Name: "10.0.0.7"},
		{Scope: limit.ScopeUser, Resource: limit.Connections, Name: "ann"},
		{Scope: limit.ScopeKey, Resource: limit.Connections, Name: "tenant/7"},
	} {
		d.ask(1, &leasepb.Demand{Waiting: 9}, key)
		d.ask(2, &leasepb.Demand{Waiting: 9}, key)
		d.turn()
		a, b := d.state.GrantOf(d.alloc.conns[1].ID, key), d.state.GrantOf(d.alloc.conns[2].ID, key)
		if a != 3 || b != 3 {
			t.Errorf("%s: %d and %d slots are granted, want 3 and 3", key, a, b)
		}
	}
}

// A rate that is limited from now on waits for nobody: nothing is open that counts. Slots wait
// until every node has said what it has open.
func TestNewRateWaitsForNobody(t *testing.T) {
	total := limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections}
	d := newDesk(t)
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	l := rateLimit(t, "1/s", 5)
	l.Connections, l.Source = 5, limit.SourceAPI
	d.apply(&fsm.PutLimit{Limit: l})
	d.alloc.LimitsChanged(d.now, d.state)
	d.ask(1, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	d.ask(1, &leasepb.Demand{Waiting: 5}, total) // node b goes by the limits before
	d.turn()
	if rate, slots := d.state.Granted(totalRequests), d.state.Granted(total); rate != limit.Shares || slots != 0 {
		t.Errorf("%d shares and %d slots are granted, want all and none", rate, slots)
	}
}

// What a take-over freed of a rate rests, as slots do.
func TestSharesRestAfterTakeOver(t *testing.T) {
	d := newDesk(t, rateLimit(t, "1/s", 4))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	d.ask(1, &leasepb.Demand{Waiting: limit.Shares / 2}, totalRequests)
	d.turn()
	d.join(3, "a", "1") // the process has started again
	d.ask(2, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	d.turn()
	if n := d.state.Granted(totalRequests); n != limit.Shares/2 {
		t.Errorf("%d shares are granted at once, want those that nobody had", n)
	}
	d.now += takeOverRest
	d.turn()
	if n := d.state.Granted(totalRequests); n != limit.Shares {
		t.Errorf("%d shares are granted after the rest, want all", n)
	}
}

// Under a limit that only reports nothing is closed for connections above what is granted, and they
// go before nobody.
func TestReportEvictsNothing(t *testing.T) {
	for _, report := range []bool{false, true} {
		l := kit.Limit(t, "up", 4, limit.Queue{})
		l.Report, l.Evict = report, true
		d := newDesk(t, l)
		d.join(1, "a", "1")
		d.join(2, "b", "2")
		d.demand(1, &leasepb.Demand{InUse: 9})
		d.demand(2, &leasepb.Demand{Waiting: 2})
		evict := false
		for _, o := range d.turn() {
			for _, target := range o.Msg.GetAssign().GetTargets() {
				evict = evict || target.Evict
			}
		}
		if got := d.granted(2); evict == report || (got == 2) != report {
			t.Errorf("report %v: %d slots go to who waits; connections are closed: %v", report, got, evict)
		}
	}
}

// Nor where such a limit is lowered: nodes come down as connections end.
func TestReportEvictsNothingWhenLowered(t *testing.T) {
	for _, report := range []bool{false, true} {
		l := kit.Limit(t, "up", 4, limit.Queue{})
		l.Report, l.Evict, l.Source = report, true, limit.SourceAPI
		d := newDesk(t, l)
		d.join(1, "a", "1")
		d.demand(1, &leasepb.Demand{Waiting: 4})
		d.turn()
		d.demand(1, &leasepb.Demand{Held: 4, InUse: 4})
		l.Connections = 2
		d.apply(&fsm.PutLimit{Limit: l})
		d.alloc.LimitsChanged(d.now, d.state)
		for _, heard := range []bool{false, true} { // until then its slots may have become idle
			if heard {
				d.demand(1, &leasepb.Demand{Held: 4, InUse: 4})
			}
			d.turn()
			sent := d.alloc.conns[1].demands[limit.HostConnections("up")].sent
			if want := heard && !report; sent.slots != 2 || sent.evict != want {
				t.Errorf("report %v, heard %v: the node is to come down to %d, and closes connections: %v, want 2 and %v", report, heard, sent.slots, sent.evict, want)
			}
		}
	}
}

// The end of a session tells slots from rates.
func TestEndTellsSlotsFromRates(t *testing.T) {
	l := rateLimit(t, "1/s", 4)
	l.Connections = 5
	d := newDesk(t, l)
	d.join(1, "a", "1")
	d.ask(1, &leasepb.Demand{Waiting: limit.Shares}, totalRequests)
	d.ask(1, &leasepb.Demand{Waiting: 3}, limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections})
	d.turn()
	var end SessionEnd
	lead := &leadership{alloc: d.alloc, logger: hclog.NewNullLogger(), server: &Server{OnEnd: func(e SessionEnd) { end = e }}}
	id := d.alloc.conns[1].ID
	cmd := &fsm.CloseSessions{Term: 1, Sessions: []uint64{id}, Reason: fsm.CloseExpired}
	lead.noteEnds(d.now+time.Second, cmd, d.apply(cmd))
	if end.Slots != 3 || end.Rates != 1 {
		t.Errorf("%d slots and %d rates came back, want 3 and 1", end.Slots, end.Rates)
	}
}

// A limit that was written with evict closes what that write put above it, and nothing that another
// limit's end brings much later.
func TestEvictionIsOfOneWrite(t *testing.T) {
	for _, later := range []bool{false, true} {
		wide := kit.Limit(t, "*.x.org", 3, limit.Queue{})
		wide.Shared, wide.Evict, wide.Source = true, true, limit.SourceAPI
		narrow := kit.Limit(t, "a.x.org", 10, limit.Queue{})
		narrow.Source = limit.SourceAPI
		d := newDesk(t)
		write := []limit.Limit{narrow, wide}
		if later {
			write = []limit.Limit{wide, narrow}
		}
		for _, l := range write {
			d.apply(&fsm.PutLimit{Limit: l})
		}
		d.alloc.LimitsChanged(d.now, d.state)
		if later {
			d.now += d.state.TTL() + evictSlack + time.Millisecond
			d.apply(&fsm.DeleteLimit{Pattern: narrow.Pattern})
			d.alloc.LimitsChanged(d.now, d.state)
		}
		d.join(1, "a", "1")
		key := limit.HostConnections("*.x.org")
		d.ask(1, &leasepb.Demand{InUse: 8}, key)
		d.turn()
		if sent := d.alloc.conns[1].demands[key].sent; sent.evict == later {
			t.Errorf("connections come later: %v; they are closed: %v", later, sent.evict)
		}
	}
}
