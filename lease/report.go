package lease

import (
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
)

// mark notes that the leader has yet to hear of a pool. Before the leader's welcome it does
// nothing: the welcome marks all that the leader must hear of.
func (n *Node) mark(p *pool) {
	if n.welcomed() && !n.isDirty(p) {
		p.marked = n.era.streams
		n.stream.dirty = append(n.stream.dirty, p)
	}
}

// isDirty reports whether a pool is among the dirty ones. A mark made on an earlier stream is void.
func (n *Node) isDirty(p *pool) bool { return p.marked == n.era.streams }

// update takes up to maxBatch dirty keys. The limits are acknowledged with the last of them, so
// that the leader knows our demands under these limits when it hears that we go by them.
func (n *Node) update(now time.Duration) *leasepb.NodeMessage {
	st := &n.stream
	k := min(len(st.dirty), leasepb.MaxBatch)
	u := &leasepb.Update{}
	for _, p := range st.dirty[:k] {
		n.lock(p)
		p.marked = 0
		if p.releasing > 0 {
			u.Releases = append(u.Releases, &leasepb.Holding{Key: fsmpb.KeyOf(p.key), Slots: p.releasing, Level: p.leaving})
			p.releasing, p.leaving = 0, 0
		}
		if d := n.demand(now, p); d != nil {
			u.Demands = append(u.Demands, d)
		}
		p.mu.Unlock()
	}
	st.dirty = append(st.dirty[:0], st.dirty[k:]...)
	if len(st.dirty) == 0 && n.acks() {
		st.ackDue = false
		u.LimitsIndex = n.table.Load().Index
	}
	return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: u}}
}

// acks reports whether the node may acknowledge its limits: not while the walk has yet to mark
// demands.
func (n *Node) acks() bool { return n.stream.ackDue && !n.Walking() }

// demand says what a pool wants; nil where the leader need not know. Needs the pool's lock.
func (n *Node) demand(now time.Duration, p *pool) *leasepb.Demand {
	if !p.capped() && !p.reported {
		return nil
	}
	d := &leasepb.Demand{Key: fsmpb.KeyOf(p.key), Held: p.granted, TargetSeq: p.targetSeq}
	switch {
	case p.capped() && p.key.Resource.IsRate():
		n.rateDemand(now, p, d)
	case p.capped():
		d.InUse = max(p.open-p.parked-p.taken-p.ghosts, 0) // a ghost may be parked already
		if !p.limit.Report {
			d.Parked = p.parked + p.taken
		}
		d.Waiting = p.waiters.len()
		if !n.leaving() { // else nobody may come again
			d.Refused = p.refused[0] + p.refused[1]
			if d.Waiting > 0 {
				d.Headroom = min(max((p.open+d.Waiting)/4, 1), 32)
			}
		}
		d.Ask = n.askFor(now, p)
	}
	p.reported = d.Held > 0 || p.open > 0 || d.Waiting > 0 || d.Refused > 0
	return d
}
