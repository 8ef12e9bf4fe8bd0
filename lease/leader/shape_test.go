package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// What the leader knows and the log does not, while limits change: what is open without a slot, what
// rests, and what is on its way.

var patient = limit.Queue{Timeout: time.Minute, Size: 99}

// wish is demand for another host.
func (d *desk) wish(conn uint64, host string, m *leasepb.Demand) {
	m.Key = fsmpb.KeyOf(limit.HostConnections(host))
	d.alloc.update(d.now, conn, &leasepb.Update{Demands: []*leasepb.Demand{m}, LimitsIndex: d.state.Table().Index})
}

// uses lets a node open so many connections to a host, with slots.
func (d *desk) uses(conn uint64, host string, n int64) {
	d.wish(conn, host, &leasepb.Demand{InUse: n})
	d.turn()
	d.wish(conn, host, &leasepb.Demand{Held: n, InUse: n})
	d.turn()
}

// heardOf is how many slots of a host a node is told of.
func heardOf(out []Outbound, conn uint64, host string) (n int64) {
	for _, o := range out {
		for _, g := range o.Msg.GetAssign().GetGrants() {
			if o.Conn == conn && g.Key.Name == host {
				n += g.Slots
			}
		}
	}
	return n
}

// Where a limit of its own is taken away from a port, its connections count under the host's, some of
// which is granted already. Nothing more is, until all nodes have said what they have open.
func TestMergedKeysWaitForTheNodes(t *testing.T) {
	all, one := kit.Limit(t, "up", 5, patient), kit.Limit(t, "up:443", 10, patient)
	d := newDesk(t, all, one)
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.wish(1, "up", &leasepb.Demand{InUse: 5, Waiting: 10})
	d.wish(2, "up:443", &leasepb.Demand{InUse: 10})
	d.turn()
	d.wish(1, "up", &leasepb.Demand{Held: 5, InUse: 5, Waiting: 10})
	d.wish(2, "up:443", &leasepb.Demand{Held: 10, InUse: 10})
	d.turn()
	all.Connections = 16
	d.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{all}})
	d.alloc.LimitsChanged(d.now, d.state)
	if n := heardOf(d.turn(), 1, "up"); n != 0 {
		t.Errorf("node a hears of %d more slots before b has said that it has 10 open: 15 are, and the limit is 16", n)
	}
	d.wish(1, "up", &leasepb.Demand{Held: 5, InUse: 5, Waiting: 10})
	d.wish(2, "up", &leasepb.Demand{InUse: 10})
	out := d.turn()
	if a, b := heardOf(out, 1, "up"), heardOf(out, 2, "up"); a != 1 || b != 10 {
		t.Errorf("then node a hears of %d more slots, and b of %d; want 1 and 10", a, b)
	}
}

// deskOfTwo has node b use all of a port's limit, which is returned beside the host's of the same
// number; the others are given.
func deskOfTwo(t *testing.T, others ...limit.Limit) (*desk, limit.Limit) {
	t.Helper()
	one := kit.Limit(t, "up:443", 10, patient)
	d := newDesk(t, append(others, kit.Limit(t, "up", 10, patient), one)...)
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.wish(2, "up:443", &leasepb.Demand{InUse: 10})
	d.turn()
	return d, one
}

// The same for a grant that was on its way.
func TestGrantThroughAMerge(t *testing.T) {
	d, one := deskOfTwo(t)
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	cmd := d.alloc.Next(d.now, d.state)
	d.apply(&fsm.DeleteLimit{Pattern: one.Pattern})
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if n := heardOf(d.alloc.Take(), 1, "up"); n != 0 {
		t.Errorf("node a hears of %d slots, while 10 connections are open: the limit is 10", n)
	}
}

// Slots that rest do so under the key that they count under now.
func TestRestThroughAMerge(t *testing.T) {
	d, one := deskOfTwo(t)
	d.join(3, "b", "b") // the process has started again
	d.apply(&fsm.DeleteLimit{Pattern: one.Pattern})
	d.alloc.LimitsChanged(d.now, d.state)
	d.wish(3, "up", &leasepb.Demand{})
	d.wish(1, "up", &leasepb.Demand{Waiting: 10})
	if n := heardOf(d.turn(), 1, "up"); n != 0 {
		t.Errorf("node a hears of %d slots; b's 10 former ones may be open: the limit is 10", n)
	}
	d.now += takeOverRest
	if n := heardOf(d.turn(), 1, "up"); n != 10 {
		t.Errorf("after the rest node a hears of %d slots; want 10", n)
	}
}

// An entry that covers open connections and grants to others too, and meets a limit that was lowered
// meanwhile, is cut at the grants.
func TestCoverGoesBeforeGrants(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 5, patient), kit.Limit(t, "*", 9, patient))
	d.join(1, "a", "a")
	d.join(2, "b", "b")
	d.demand(2, &leasepb.Demand{InUse: 10}) // a first limit on 10 open connections
	d.turn()
	d.demand(2, &leasepb.Demand{Held: 5, InUse: 10})
	d.demand(1, &leasepb.Demand{Waiting: 3})
	d.turn()
	d.apply(&fsm.PutLimit{Limit: kit.Limit(t, "up", 13, patient)})
	d.alloc.LimitsChanged(d.now, d.state)
	for i := range gatherFrom { // so many changes that the next entry waits, which would take it back
		d.wish(2, "h"+string(rune('a'+i)), &leasepb.Demand{Waiting: 1})
	}
	cmd := d.alloc.Next(d.now, d.state)
	d.apply(&fsm.PutLimit{Limit: kit.Limit(t, "up", 8, patient)})
	d.alloc.NoteCommit(10 * time.Millisecond)
	d.alloc.Applied(d.now, d.state, d.apply(cmd))
	if n := heardOf(d.turn(), 1, "up"); n != 0 || d.granted(2) != 8 {
		t.Errorf("node a hears of %d slots, and b has %d, while 10 connections are open: the limit is 8", n, d.granted(2))
	}
}

// Only keys that may count more than is known wait for all nodes to speak: those of a new limit, and
// those of a scope in which a limit has gone or counts otherwise. So limits that are added all the
// time, one for each tenant, delay nobody else.
func TestWhoWaitsForTheNodes(t *testing.T) {
	shared := kit.Limit(t, "*.x.org", 9, patient)
	shared.Shared = true
	client := kit.Limit(t, "other", 9, patient)
	client.Pattern = limittest.Scoped(limit.ScopeClient, "10.0.0.1")
	reported := kit.Limit(t, "old", 9, patient)
	reported.Report = true
	for name, c := range map[string]struct {
		change fsm.Command
		waits  bool
	}{
		"another limit is new":       {&fsm.PutLimit{Limit: kit.Limit(t, "other", 9, patient)}, false},
		"another scope's is new":     {&fsm.PutLimit{Limit: client}, false},
		"another limit is raised":    {&fsm.PutLimit{Limit: kit.Limit(t, "old", 10, patient)}, false},
		"its own limit is raised":    {&fsm.PutLimit{Limit: kit.Limit(t, "up", 10, patient)}, false},
		"another limit goes":         {&fsm.DeleteLimit{Pattern: kit.Limit(t, "old", 9, patient).Pattern}, true},
		"another limit is shared":    {&fsm.PutLimit{Limit: shared}, true},
		"another limit only reports": {&fsm.PutLimit{Limit: reported}, true},
	} {
		t.Run(name, func(t *testing.T) {
			unshared := shared
			unshared.Shared = false
			d := newDesk(t, kit.Limit(t, "up", 9, patient), kit.Limit(t, "old", 9, patient), unshared)
			d.join(1, "a", "a")
			d.join(2, "b", "b")
			d.wish(1, "up", &leasepb.Demand{InUse: 1})
			d.turn()
			d.apply(c.change)
			d.alloc.LimitsChanged(d.now, d.state)
			d.wish(1, "up", &leasepb.Demand{Held: d.granted(1), InUse: 1, Waiting: 5}) // node b has not spoken
			if n := heardOf(d.turn(), 1, "up"); (n == 0) != c.waits {
				t.Errorf("node a hears of %d more slots", n)
			}
			d.now += gatePatience
			d.alloc.order[0].seen, d.alloc.order[1].seen = d.now, d.now
			d.turn()
			if g := d.granted(1); g < 6 {
				t.Errorf("after %v node a has %d slots, want 6", gatePatience, g)
			}
		})
	}
}

// What the gate remembers of new limits is bounded by time, and a limit that goes and comes again is
// a new one.
func TestGateForgets(t *testing.T) {
	up, other := kit.Limit(t, "up", 9, patient), kit.Limit(t, "other", 9, patient)
	key := limit.HostConnections("up")
	g := gate{}
	table := func(index uint64, ls ...limit.Limit) *limit.Table { return limit.NewTable(index, index, ls) }
	g.follow(0, time.Minute, table(1))
	g.follow(time.Second, time.Minute, table(2, up))
	g.follow(2*time.Second, time.Minute, table(3))
	g.follow(59*time.Second, time.Minute, table(4, up))
	g.follow(62*time.Second, time.Minute, table(5, up, other))
	if since := g.since(key, &up); since != 4 {
		t.Errorf("the key counts since table %d, want 4", since)
	}
	g.follow(130*time.Second, time.Minute, table(6, up))
	if len(g.fresh)+len(g.order) > 0 || g.since(key, &up) != 6 { // other has gone: its connections may count here
		t.Errorf("%d limits are remembered; the key counts since table %d", len(g.fresh), g.since(key, &up))
	}
}
