package leader

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// desk is an allocator whose log takes every entry at once.
type desk struct {
	t     *testing.T
	state *fsm.State
	index uint64
	alloc *Allocator
	now   time.Duration
}

func newDesk(t *testing.T, limits ...limit.Limit) *desk {
	d := &desk{t: t, state: fsm.NewState()}
	d.apply(&fsm.Init{ClusterID: "test", TTL: 3 * time.Second, Limits: limits})
	d.alloc = NewAllocator(0, 1, d.state)
	d.now = time.Second // past the rest of a new leader
	return d
}

// succeed puts a new leader in the place of one that has granted before.
func (d *desk) succeed() {
	d.apply(&fsm.Adjust{Term: 1, Batch: 1})
	d.now = 0
	d.alloc = NewAllocator(d.now, 1, d.state)
}

func (d *desk) apply(c fsm.Command) fsm.Result {
	d.index++
	return d.state.Apply(d.index, 1, c)
}

// turn lets the leader do what there is to do, and returns what it says.
func (d *desk) turn() (out []Outbound) {
	d.alloc.Tick(d.now)
	for cmd := d.alloc.Next(d.now, d.state); cmd != nil; cmd = d.alloc.Next(d.now, d.state) {
		d.alloc.Applied(d.now, d.state, d.apply(cmd))
	}
	return d.alloc.Take()
}

// join opens a session on a stream.
func (d *desk) join(conn uint64, node, identity string) {
	d.t.Helper()
	d.joinAs(conn, &leasepb.Hello{Protocol: leasepb.Version, Node: node, Identity: identity, LimitsVersion: leasepb.LimitsVersion})
}

func (d *desk) joinAs(conn uint64, h *leasepb.Hello) {
	d.t.Helper()
	d.alloc.hello(d.now, d.state, conn, h)
	d.turn()
	d.alloc.proof(conn)
	d.turn()
	d.alloc.update(d.now, conn, &leasepb.Update{LimitsIndex: d.state.Table().Index})
}

func (d *desk) demand(conn uint64, m *leasepb.Demand) {
	m.Key = fsmpb.KeyOf(limit.HostConnections("up"))
	d.alloc.update(d.now, conn, &leasepb.Update{Demands: []*leasepb.Demand{m}, LimitsIndex: d.state.Table().Index})
}

func (d *desk) granted(conn uint64) int64 {
	return d.state.GrantOf(d.alloc.conns[conn].ID, limit.HostConnections("up"))
}
